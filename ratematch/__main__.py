"""``python -m ratematch``."""

from ratematch.cli import main

if __name__ == "__main__":  # imported again, under another name, by processes that simulate
    main()
