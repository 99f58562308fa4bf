"""``python -m bytebound``."""

from bytebound.cli import main

main()
