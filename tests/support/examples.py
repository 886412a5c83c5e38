"""How many examples a property is tried with: a decent number in CI, ``EXAMPLES`` times as many in ``make fuzz``."""

from __future__ import annotations

import os

TIMES = int(os.environ.get("EXAMPLES", "1"))


def examples(in_ci: int) -> int:
    """``in_ci``: of each run of all tests; a property that takes more than a second there takes too many."""
    return in_ci * TIMES
