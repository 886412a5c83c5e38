"""The table of symbols in docs/search.md names code that exists."""

from __future__ import annotations

import pkgutil
import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import ratematch.search

DOCS = Path(__file__).parents[2] / "docs" / "search.md"


def names_of_the_code() -> set[str]:
    """Every name of the modules, and of their classes with and without the name of the class."""
    names: set[str] = set()
    for info in pkgutil.iter_modules(ratematch.search.__path__):
        module = import_module(f"ratematch.search.{info.name}")
        source = Path(str(module.__file__)).read_text()
        for name, value in vars(module).items():
            names.add(name)
            if isinstance(value, type):
                members = {*vars(value), *re.findall(r"self\.(\w+)", source)}
                members |= {field.name for field in fields(value)} if is_dataclass(value) else set()
                names |= {f"{name}.{member}" for member in members} | {f".{member}" for member in members}
    return names


def test_every_name_in_the_tables_of_symbols_exists() -> None:
    section = DOCS.read_text().split("### Symbols and code")[1].split("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split(" | ")[-1])}
    assert len(named) > 30
    assert not named - names_of_the_code()
