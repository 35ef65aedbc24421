"""Where the benchmark images and published weights lie, when they are there."""

from pathlib import Path


def shared_data() -> Path | None:
    """The folder `../shared/data` beside the source checkout, or None where it is absent.

    It holds academic benchmark images and published weights that are not part of the package.
    """
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None
