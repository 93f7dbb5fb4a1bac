"""The base class of errors that are meant for people rather than for a debugger."""


class PlatformError(Exception):
    """An expected problem: its text says what was wrong, with which value, where, and what to do next.

    The command line prints the text alone, without a traceback.
    """


def first_line(error: object) -> str:
    """Return the first line of an error's text, without the rows and statements that databases quote below.

    An error without text is named by its type.
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__
