"""``--help``: every verb under a heading, whole sentences, and only bounds that somebody may meet."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.cli.helppage import SECTIONS, shorten_help


def page(*words: str) -> str:
    done = CliRunner().invoke(main, [*words, "--help"], env={"COLUMNS": "110"})
    assert done.exit_code == 0
    return done.stdout


def test_every_verb_stands_once_under_a_heading() -> None:
    placed = [name for names in SECTIONS.values() for name in names]
    assert sorted(placed) == sorted(main.commands)
    assert all(f"{heading}:" in page() for heading in SECTIONS)


@pytest.mark.parametrize("words", [(), ("import",), ("export",)])
def test_no_sentence_ends_in_dots(words: tuple[str, ...]) -> None:
    assert "..." not in page(*words).partition("Options:")[2]


def test_options_are_listed_without_arguments_and_without_huge_bounds() -> None:
    for name, command in main.commands.items():
        if isinstance(command, click.Group) or not command.add_help_option:
            continue
        text = page(name).partition("Options:")[2]
        assert "000000" not in text and "RANGE " not in text, name
        assert "\n  RESULTS\n" not in text and "\n  SWEEP\n" not in text, name
        options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
        assert all(max(option.opts, key=len) in text for option in options), name


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Of nodes.  [1<=x<=1000000]", "Of nodes."),
        ("Length.  [default: 4.0; 0.1<=x<=10000]", "Length.  [default: 4.0; 0.1<=x<=10000]"),
        ("Length.  [default: 3.2; 0<=x<=1000000.0]", "Length.  [default: 3.2]"),
        ("Rate.  [0<x<=1e+09; required]", "Rate.  [required]"),
        ("Share.  [0<=x<1]", "Share.  [0<=x<1]"),
        ("Nodes.  [x>=1]", "Nodes.  [x>=1]"),
    ],
)
def test_bounds_that_nobody_meets_are_not_shown(given: str, shown: str) -> None:
    assert shorten_help("--x INTEGER RANGE", given) == ("--x INTEGER", shown)
