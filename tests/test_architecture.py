"""The map of the package, in its docstring, against the folders and contracts that are there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

import ratematch

ROOT = Path(ratematch.__file__).parent
PYPROJECT = ROOT.parent / "pyproject.toml"


def rooms_on_disk() -> set[str]:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    modules = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    return folders | modules


def test_the_map_in_the_package_names_every_room_once_and_no_other() -> None:
    named = re.findall(r"^``(\w+)``  ", ratematch.__doc__ or "", re.MULTILINE)
    assert sorted(named) == sorted(rooms_on_disk())


def test_nothing_is_loose_at_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "api.py",
        "errors.py",
        "version.py",
    }


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_map_stands_in_the_order_of_the_layers() -> None:
    import tomllib

    (layers,) = (
        contract
        for contract in tomllib.loads(PYPROJECT.read_text("utf-8"))["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    floor = {
        room.strip(): height
        for height, layer in enumerate(reversed(layers["layers"]))
        for room in re.split(r"[|:]", layer)
    }
    named = re.findall(r"^``(\w+)``  ", ratematch.__doc__ or "", re.MULTILINE)
    assert [floor[room] for room in named] == sorted(floor[room] for room in named)
    assert set(floor) - {"__main__"} == rooms_on_disk()


def test_every_stop_of_the_walks_is_where_the_page_says() -> None:
    page = (PYPROJECT.parent / "docs" / "architecture.md").read_text("utf-8")
    stops = re.findall(r"`(ratematch(?:\.\w+)+)(?::(\w+))?`", page)
    assert len(stops) > 30
    for module, name in stops:
        assert not name or hasattr(importlib.import_module(module), name), f"{module}:{name}"
