"""The first hour of a new user on a cluster: the built wheel, an empty folder, the tutorial's commands as typed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import TestCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "first-front.md"
MOST_COMMANDS = 15

SMALL = {
    stage: f"{stage}.loads={{concurrency: [1, 4], requests_per_slot: 4, min_requests: 8}}"
    for stage in ("ctx", "gen", "ifb")
}
ADDED = {
    "init": ("--emulated", "--gpu", "h100", "--isl", "64", "--osl", "24"),
    "sweep": [
        *(word for loads in SMALL.values() for word in ("--set", loads)),
        *("--set", "gen.axes.mapping=TP1", "--set", "ifb.axes.mapping=TP1", "--set", "e2e.deployments=1"),
    ],
}
"""What a test adds to verbs: the emulator in place of GPUs, and fewer and shorter loads."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its wheel installs it; what it needs is in this environment already."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("ratematch-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-compile", "--target", str(folder / "site"), str(wheel)], check=True
    )
    return folder / "site"


def commands() -> list[list[str]]:
    """Every command of the tutorial's console blocks, as words; what installs is not among them."""
    blocks = re.findall(r"```console\n(.*?)```", TUTORIAL.read_text("utf-8"), re.DOTALL)
    typed = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in typed if not line.startswith(("python3", "pip", ". "))]


def test_the_tutorial_leads_from_the_wheel_to_a_report(tmp_path: Path, installed: Path, cluster: TestCluster) -> None:
    cluster.wait_idle()
    typed = commands()
    assert len(typed) <= MOST_COMMANDS and all(words[0] == "ratematch" for words in typed)
    environment = {**cluster.environment, "PYTHONPATH": str(installed), "HOME": str(tmp_path)}
    for words in typed:
        command = [sys.executable, "-m", "ratematch", *words[1:], *ADDED.get(words[1], ())]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    (report,) = tmp_path.glob("**/report.html")
    assert "EMULATED" in report.read_text("utf-8")
    assert not cluster.jobs()
