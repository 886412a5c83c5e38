"""The name that :mod:`ratematch.campaign.jobs.member` had in 0.1: jobs queued under it still run, for one release."""

from __future__ import annotations

import sys

from ratematch.campaign.jobs.member import main

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
