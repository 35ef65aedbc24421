"""The one exception a user can cause."""


class QsearchError(Exception):
    """A mistake in the input, said in one line that names the thing and the way out.

    The command line prints the line and exits with status 2; nothing is overwritten.
    """
