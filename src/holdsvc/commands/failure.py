"""How a command says that it cannot be carried out."""


class CommandError(Exception):
    """A command that cannot be carried out; the message says what to do."""
