"""The command line: one module per family of commands."""


class CommandError(Exception):
    """A command that cannot be carried out; the message says what to do."""
