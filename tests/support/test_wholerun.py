"""A run counts when every skip is one that is expected, and hardly a test was tried again."""

from __future__ import annotations

from tests.support.wholerun import EXPECTED_SKIPS, MOST_RERUNS, complaints, may_install

ALL_EXPECTED = [f"{reason} (and how to get it)" for reason, count in EXPECTED_SKIPS.items() for _ in range(count)]


def test_expected_skips_and_one_second_try_are_no_complaint() -> None:
    assert list(complaints(ALL_EXPECTED, MOST_RERUNS, strict=True)) == []
    assert list(complaints([], 0, strict=True)) == [], "who installs more skips less"


def test_a_skip_that_nobody_expects_is_named() -> None:
    (line,) = complaints([*ALL_EXPECTED, "NO BROWSER: no chromium", "NO BROWSER: no chromium"], 0, strict=True)
    assert line == "2 tests were skipped and 0 may be: NO BROWSER: no chromium"


def test_more_skips_than_expected_are_too_many() -> None:
    reason = next(iter(EXPECTED_SKIPS))
    (line,) = complaints([*ALL_EXPECTED, reason], 0, strict=True)
    assert line == f"{EXPECTED_SKIPS[reason] + 1} tests were skipped and {EXPECTED_SKIPS[reason]} may be: {reason}"


def test_where_nothing_may_be_installed_any_skip_is_a_matter_of_the_machine() -> None:
    assert list(complaints(["testcluster: cannot run here"] * 40, 0, strict=False)) == []


def test_more_second_tries_than_a_busy_machine_explains_fail_a_run_anywhere() -> None:
    (line,) = complaints([], MOST_RERUNS + 1, strict=False)
    assert line.startswith(f"{MOST_RERUNS + 1} tests needed a second try and {MOST_RERUNS} may")


def test_only_continuous_integration_as_root_has_no_excuse() -> None:
    assert not may_install({}) and not may_install({"CI": "false"})
