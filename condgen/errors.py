"""The one exception that is meant for the person at the keyboard."""


class UsageError(Exception):
    """What was asked for cannot be done; the message names the cause and the way out, in one line.

    The command line prints the message alone and exits with 1; any other exception is a bug and keeps its traceback.
    """
