"""docs/rate-matching.md: every command shown prints what is shown, and the figures in its words are those printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from ratematch.cli import main

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "rate-matching.md").read_text("utf-8")
BLOCKS = re.findall(r"```console\n\$ ratematch ([^\n]*)\n([^`]*)```", DOC)


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_a_documented_command_prints_what_is_shown(command: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner(env={"COLUMNS": "100"}).invoke(main, shlex.split(command))
    assert done.exit_code == 0
    printed = [line.rstrip() for line in done.output.rstrip().splitlines()]
    assert printed == [line.rstrip() for line in shown.rstrip().splitlines()]


def test_there_are_examples_and_their_words_quote_them() -> None:
    assert len(BLOCKS) >= 3
    text = re.sub(r"```.*?```", "", DOC, flags=re.DOTALL)
    for figure in (
        "20.633",
        "48.0",
        "9.08 ms",
        "2641 tok/s/GPU",
        "7.12 requests/s",
        "9/26",
        "5282 tok/s/GPU",
        "59.9",
    ):
        assert figure in text
    rate = 20.633 * 256
    loaded = 32 + 32 * (rate - 4255.32) / (6311.64 - 4255.32)
    assert f"{loaded:.1f}" == "48.0"
    assert f"{1000 * loaded / rate:.2f}" == "9.08"


def test_every_link_within_the_page_leads_somewhere() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in DOC.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(#([^)]+)\)", DOC):
        assert target in anchors
    for target in re.findall(r"\]\((\.\./[^)#]+)\)", DOC):
        assert (ROOT / "docs" / target).exists()
