"""`python -m holdsvc`."""

from holdsvc.cli import main

main()
