"""How a release's servers report: where the times of each request are, and the form of ``/metrics``.

Where the exact release candidate of a change is not known, both ways are tried in the doubtful range, and the
emulator changes at the one named here:

* Times request by request: ``GET /perf_metrics`` up to somewhere in 1.3; then with each answer, or in files. The
  change (NVIDIA's pull request 16668) was opened on 2026-07-21, between 1.3.0rc17 and 1.3.0rc27; 1.4.0rc1 has it.
* One row of ``/metrics`` per attention-DP rank: pull request 13649, of May 2026 (1.3.0rc14 is of early May).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ratematch.engines.trtllm_serve.contract import release_line

TIMES_SURELY_BY_ROUTE = 17
"""The last release candidate of 1.3 that is known to serve ``/perf_metrics``."""

TIMES_WITH_ANSWERS = 26
"""The release candidate of 1.3 from which on the emulator gives times with answers."""

ROWS_PER_RANK = 15
"""The release candidate of 1.3 from which on ``/metrics`` has a row per attention-DP rank."""

_BARE_1_3 = 17
"""The release candidate that the release line 1.3 stands for where none is named."""

_FINAL = 1_000


@dataclass(frozen=True)
class Reporting:
    """``times``: where servers hand out the times of each request: by ``route`` (``GET /perf_metrics``), with the
    ``answer`` or in files, or it is not known which (``either``). ``late``: the emulator's servers give them with
    answers. ``rows_per_rank``: ``/metrics`` has a row per attention-DP rank and iteration, else one for all.
    ``collector_costs``: ``return_perf_metrics`` switches on timing of each step, which slows what is measured."""

    times: Literal["route", "either", "answer"]
    late: bool
    rows_per_rank: bool
    collector_costs: bool


def reporting(version: str) -> Reporting:
    """How servers of ``version`` (``1.2.1``, ``1.3.0rc17``, ``1.3``, ``main``) report.

    Raises:
        ValueError: the version is not known.
    """
    minor, candidate = _place(version)
    late = minor > 3 or (minor == 3 and candidate >= TIMES_WITH_ANSWERS)
    if minor < 3 or (minor == 3 and _is_named(version) and candidate <= TIMES_SURELY_BY_ROUTE):
        times: Literal["route", "either", "answer"] = "route"
    else:
        times = "either" if minor == 3 else "answer"
    return Reporting(
        times=times,
        late=late,
        rows_per_rank=minor > 3 or (minor == 3 and candidate >= ROWS_PER_RANK),
        collector_costs=minor >= 3,
    )


def _place(version: str) -> tuple[int, int]:
    """Minor number and release candidate of a version 1.x; whatever is later than 1.3 counts as 1.4."""
    line = release_line(version)
    if line == "1.2":
        return 2, _FINAL
    if line != "1.3":
        return 4, _FINAL
    named = re.search(r"rc(\d+)", version)
    return 3, int(named[1]) if named else _FINAL if _is_named(version) else _BARE_1_3


def _is_named(version: str) -> bool:
    """Is it one release, not a whole line of them?"""
    return version.count(".") > 1
