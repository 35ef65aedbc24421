"""Fixtures that every test may use."""

from pathlib import Path

import pytest

from qsearch.data import shared_data as find_shared_data


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of benchmark images and published weights; the test is skipped where it is absent."""
    folder = find_shared_data()
    if folder is None:
        pytest.skip("the benchmark data folder ../shared/data is not beside this checkout")
    return folder
