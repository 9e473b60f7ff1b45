"""`python -m rmqkit`."""

from rmqkit.cli import main

main()
