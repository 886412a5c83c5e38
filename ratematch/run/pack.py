"""The name that :mod:`ratematch.campaign.jobs.pack` had in 0.1: jobs queued under it still run, for one release."""

from __future__ import annotations

from ratematch.campaign.jobs.pack import run_pack as run_pack
