"""Rendered scripts, read back."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

RATEMATCH = Path(sys.executable).parent / "ratematch"
"""The command of this environment."""


def starts(script: str) -> dict[str, list[str]]:
    """Words after ``start NAME`` of each process in a run.sh, as the shell would split them."""
    joined = script.replace("\\\n", " ")
    lines = [shlex.split(line) for line in joined.splitlines() if line.startswith("start ")]
    return {words[1]: words[2:] for words in lines}
