"""The program `holdsvc`, also as `python -m holdsvc`."""

import sys

INTERRUPTED = 128 + 2
"""Exit code after Ctrl-C, as a shell reports a program that SIGINT ended."""


def main() -> None:
    """Runs the command line."""
    try:
        from holdsvc.commands import cli

        program = cli.program(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith(("holdsvc", "inventoryhold")):
            raise
        sys.exit(
            f"holdsvc: the command line needs the package {error.name}, which the base installation does not"
            " bring along: pip install 'holdsvc[server]'"
        )
    cli.main(program)


if __name__ == "__main__":
    main()
