"""`python -m secfl`."""

from secfl.cli import main

main()
