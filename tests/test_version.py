"""The version, and what the changelog says of it."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from ratematch.version import __version__

CHANGELOG = (Path(__file__).parents[1] / "CHANGELOG.md").read_text("utf-8")


def test_the_newest_dated_section_is_of_this_version() -> None:
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [re.fullmatch(r"(\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)", heading) for heading in headings[1:]]
    assert all(released)
    versions = [(entry[1], date.fromisoformat(entry[2])) for entry in released if entry]
    assert versions[0][0] == __version__
    assert [day for _, day in versions] == sorted((day for _, day in versions), reverse=True)
