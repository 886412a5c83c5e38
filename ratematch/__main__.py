"""``python -m ratematch``."""

from ratematch.cli import main

main()
