"""A few inputs of each kind, the same in every run: each works or is refused. ``make fuzz`` tries many more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.kinds import load_kinds
from tests.fuzz.search import Ending, Failure, Kind, search

KINDS = load_kinds()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_input_ends_otherwise_than_it_may(kind: Kind[Any], tmp_path: Path) -> None:
    found = search(kind, 0, tmp_path, inputs=kind.few)
    assert not found.failures
    assert found.tried == kind.few
    assert found.endings["refused"], "inputs that cannot be read are among them"


def explode(given: int, _: Path) -> Ending:
    if given == 3:
        raise KeyError("three")
    if given == 4:
        raise Failure("exit code 1 without a word")
    return Ending("ok", "\x1b[1m" if given == 5 else "")


def test_what_must_not_happen_is_found(tmp_path: Path) -> None:
    found = search(Kind("numbers", lambda rng: rng.randrange(7), explode), 1, tmp_path, inputs=200)
    assert found.tried == 200 and found.endings["failed"] + found.endings["ok"] == 200
    assert sorted(found.failures) == [
        "Failure at nowhere: exit code 1 without a word",
        "KeyError at nowhere: 'three'",
        "U+001B reaches the terminal",
    ]
    again = search(Kind("numbers", lambda rng: rng.randrange(7), explode), 1, tmp_path, inputs=200)
    assert again == found
