"""Completion in a real bash, with the line that docs/first-front.md and docs/schemas.md give."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ratematch

ROOT = Path(ratematch.__file__).parents[1]


def line_of(page: str) -> str:
    """What the page has people type for bash."""
    (line,) = re.findall(
        r"^eval .*_RATEMATCH_COMPLETE=bash_source.*$", (ROOT / "docs" / page).read_text(), re.MULTILINE
    )
    return str(line)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With the command in PATH as pip installs it: completion goes by its name."""
    (entry,) = re.findall(r'^ratematch = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    script = tmp_path / "ratematch"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {entry[0]} import {entry[1]}\nsys.exit({entry[1]}())\n")
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_bash_completes_verbs_options_and_their_values(environment: dict[str, str]) -> None:
    typed = ["ratematch sw", "ratematch export d", "ratematch sweep --max-", "ratematch sweep --executor s"]
    script = f"{line_of('first-front.md')}\n"
    script += "words=($(complete -p ratematch)); function=${words[-2]}\n"
    for line in typed:
        words = shlex.split(line)
        # What bash does when Tab is pressed after the line.
        script += f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=()\n"
        script += '$function ratematch; echo "${COMPREPLY[@]}"\n'
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert line_of("schemas.md").split("#")[0].strip() == line_of("first-front.md")
    assert [set(line.split()) for line in done.stdout.splitlines()] == [
        {"sweep"}, {"deployment"}, {"--max-jobs", "--max-gpu-hours"}, {"slurm", "simulate"},
    ]  # fmt: skip
