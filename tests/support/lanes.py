"""Which tests stay together when several processes run them (``pytest -n 5``): one after another, in one of them.

Tests on a real Slurm go in lanes that take about equally long, each on a cluster of its own. Tests that compare
instants do not run beside each other, nor does a browser start twice; what kills a sweep again and again for most
of a minute follows it, so that it is over long before the lanes of Slurm are. What needs a machine that keeps its
times for half a minute comes when nothing else is left. All others go wherever a process is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

SLURM_LANES = 3

LAST = "calm"
"""The group that is given out when no other is left."""

TOGETHER = {
    "test_kinds.py": "timing",
    "test_modes.py": "timing",
    "test_simulated_and_emulated_figures_agree": LAST,
    "test_page_browser.py": "browser",
    "test_kills.py": "browser",
}
"""Files and tests by name: the group that they belong to."""

SECONDS = {
    "test_from_a_sweep_file_to_both_fronts_with_several_jobs_at_once": 75,
    "test_time_limit": 75,
    "test_crash_of_a_node": 50,
    "test_a_pack_is_requeued_and_then_loses_its_driver": 45,
    "test_packed_into_one_allocation": 40,
    "test_a_server_that_hangs": 38,
    "test_in_an_allocation_that_we_already_hold": 32,
    "test_cancelling_one_of_a_pack_leaves_its_neighbours": 30,
    "test_faults_in_a_pack": 28,
    "test_without_accounting": 25,
    "test_a_full_disk": 24,
    "test_detached_watched_and_cancelled": 24,
    "test_doctor_looks_at_the_real_slurm_and_probes_a_node": 7,
    "test_a_node_is_asked_what_is_installed_on_it": 5,
    "test_the_bad_node_of_four_is_found_and_kept_out": 6,
    "test_a_segment_that_this_slurm_does_not_keep_is_one_line": 3,
    "test_ctrl_c_of_the_controller": 25,
    "test_what_slurm_would_refuse_is_one_line_before_anything_is_sent": 3,
    "test_an_unknown_partition_is_one_line_before_anything_is_sent": 3,
    "test_no_slurm_here_is_one_line": 3,
}
"""About how long tests on Slurm take that do not take the usual time."""

USUAL_S = 18


def groups_of(tests: Iterable[str]) -> dict[str, str]:
    """The group of each test that has one, by node id, from the node ids of a whole run."""
    tests = list(tests)
    return dict([*_together(tests), *_slurm_lanes(tests)])


def _together(tests: list[str]) -> Iterator[tuple[str, str]]:
    for test in tests:
        file, name = _parts(test)
        if group := TOGETHER.get(name) or TOGETHER.get(file):
            yield test, group


def _slurm_lanes(tests: list[str]) -> Iterator[tuple[str, str]]:
    """Each into the lane with the least to do so far, the longest first."""
    busy_s = [0] * SLURM_LANES
    for test in sorted((test for test in tests if "tests/slurm/" in test), key=_seconds, reverse=True):
        lane = busy_s.index(min(busy_s))
        busy_s[lane] += _seconds(test)
        yield test, f"slurm {lane}"


def _seconds(test: str) -> int:
    return SECONDS.get(_parts(test)[1], USUAL_S)


def _parts(test: str) -> tuple[str, str]:
    """Names of the file and of the function in ``tests/room/test_file.py::test_name[case]``."""
    path, _, name = test.partition("::")
    return path.rpartition("/")[2], name.partition("[")[0]
