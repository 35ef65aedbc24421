"""The command line: one thin command per stage; the last line of standard output of each is one JSON object."""

import sys
from importlib import import_module

from qsearch.cli.app import app
from qsearch.errors import QsearchError

for _commands in ("networks", "patches", "searches", "artefacts", "devices"):
    import_module(f"{__name__}.{_commands}")  # adds its commands, in the order of the help


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    try:
        app()
    except QsearchError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(2)
