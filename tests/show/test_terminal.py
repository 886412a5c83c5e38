"""What reaches a terminal: nothing from outside moves its cursor, and commands to type again are whole."""

from __future__ import annotations

import io
import shlex
import subprocess
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from ratematch.show.terminal import Terminal, command_line, visible

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxet\u2066\r\x00\x7f"


def test_control_characters_are_shown_as_text() -> None:
    shown = visible(HOSTILE)
    assert shown == "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202etxet\\u2066\\x0d\\x00\\x7f"
    assert visible(shown) == shown
    assert visible("tab\tline\nDépôt 日本 \U0001f680 ─") == "tab\tline\nDépôt 日本 \U0001f680 ─"
    assert visible("caf\udce9 \ud83d") == "caf\\xe9 \\ud83d"


@pytest.mark.parametrize("colour", [False, True])
def test_a_console_writes_no_control_character_of_the_text(colour: bool) -> None:
    stream = io.StringIO()
    console = Terminal(file=stream, width=200, force_terminal=colour, color_system="standard" if colour else None)
    table = Table(HOSTILE)
    table.add_row(Text(HOSTILE))
    for thing in (HOSTILE, Text(HOSTILE, "red"), table):
        console.print(thing, highlight=False, markup=False)
    text = stream.getvalue()
    assert "owned" in text and ("\x1b[31m" in text) is colour
    for ours in ("\x1b[31m", "\x1b[0m", "\x1b[1m"):
        text = text.replace(ours, "")
    assert not [char for char in text if char in "\x1b\x07\x9b\u202e\u2066\r\x00\x7f"]


@pytest.mark.parametrize(
    "path", ["plain", "a[/b]", "[red]y", "a b", "it's", "$(x);`y`", "-o", "a\nb", "a\x1b[1mb", "é🚀", "a\\b\x07"]
)
def test_a_command_to_type_again_names_the_same_path(path: str) -> None:
    line = command_line("printf", "%s", Path(path))
    assert "\x1b" not in line and "\n" not in line
    typed = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode()
    assert typed.removeprefix("./") == path
    if "$'" not in line:
        assert shlex.split(line)[2].removeprefix("./") == path
