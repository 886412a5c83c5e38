"""What a live view says of servers that are not ready."""

from __future__ import annotations

import pytest

from ratematch.show.views.status import describe_progress
from ratematch.store.progress import LOADING, REFUSED, Starting, Waiting

LOGS = "logs: Loading weights: 31 %"


def waiting(name: str, why: str, seconds: float = 12.0) -> Waiting:
    return Waiting(name, why, seconds, "Loading weights: 31 %")


@pytest.mark.parametrize(
    ("servers", "line"),
    [
        ((), "starting servers"),
        ((waiting("ctx-0", LOADING),), f"waiting for ctx-0: loading, answers 503 (12 s), it {LOGS}"),
        (
            (waiting("ctx-0", REFUSED),),
            f"waiting for ctx-0: not up yet, or dead, connection refused (12 s), it {LOGS}",
        ),
        ((waiting("ctx-0", "timed out"),), f"waiting for ctx-0: timed out (12 s), it {LOGS}"),
        ((Waiting("ctx-0", "timed out", 12.0, ""),), "waiting for ctx-0: timed out (12 s)"),
        (
            (waiting("ctx-0", LOADING, 31), waiting("gen-0", REFUSED, 30), waiting("gen-1", LOADING, 30)),
            f"waiting for ctx-0, gen-1: loading, answers 503 (31 s), ctx-0 {LOGS}; "
            f"gen-0: not up yet, or dead, connection refused (30 s), gen-0 {LOGS}",
        ),
    ],
)
def test_loading_and_absent_servers_are_told_apart(servers: tuple[Waiting, ...], line: str) -> None:
    assert describe_progress(Starting(1.0, servers)) == line
