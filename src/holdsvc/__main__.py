"""`python -m holdsvc`."""

from holdsvc.commands.cli import main

main()
