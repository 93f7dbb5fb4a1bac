"""The base of every error that is meant for a person rather than for a debugger."""


class PlatformError(Exception):
    """An expected problem: its text says what was wrong, with which value, where, and what to do next.

    The command line prints the text alone, without a traceback.
    """
