"""What all tests share."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

# A property holds or not; how long an example takes says only how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell that starts a run in the background has all of it ignore Ctrl-C: tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that drive real processes get a second try, which the summary counts as a rerun.

    They wait for a server to start, a node to be missed or a load to end; a machine that is busy with something else
    can make each of these late once. A fault of ours fails twice. Tests of the real vLLM take minutes: no second try.
    """
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.flaky(reruns=1))
