"""Working directories with sweeps and a cluster profile, and the command a person types, run in them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from click.testing import CliRunner

from ratematch.cli import main
from ratematch.store.folder import ExperimentFolder, Results
from tests.support.processes import processes_with

LAPTOP = """\
name: laptop
gpu: gb200
gpus_per_node: 4
nodes: 4
emulated: true
"""

MINI = """\
name: mini
about: The smallest sweep that walks the whole path.
model: deepseek-r1
cluster: laptop
workloads:
  - {isl: 256, osl: 12}
budget: {max_gpus: 8}
ctx:
  axes: {mapping: DEP4}
  loads: {concurrency: [1, 4], min_requests: 24, requests_per_slot: 6}
gen:
  axes: {mapping: TEP4, mtp: [0]}
  loads: {concurrency: [1, 4, 8], min_requests: 12, requests_per_slot: 6}
ifb:
  axes: {mapping: TEP4}
  loads: {concurrency: [1, 4, 8], min_requests: 12, requests_per_slot: 6}
e2e:
  deployments: 1
  loads: {around: [0.5, 1.0], min_requests: 24, requests_per_slot: 6}
"""
"""Loads of a second or two: with fewer requests one hiccup of a busy machine would take its verdict from a load."""

VLLM_MINI = (
    MINI.replace("deepseek-r1", 'llama-3.3-70b\nengine: {name: vllm, version: "0.32"}')
    .replace("DEP4", "TP1")
    .replace("TEP4, mtp: [0]", "TP1")
    .replace("TEP4", "TP1")
)

DYNAMO_MINI = (
    VLLM_MINI.replace('{name: vllm, version: "0.32"}', '{name: dynamo, version: "1.6.1", discovery: file}')
    .replace("[1, 4, 8]", "[4, 8]")
    .split("e2e:")[0]
    + """\
deployments:
  - ctx: {mapping: TP1, instances: 2}
    gen: {mapping: TP1, instances: 3}
    loads: {concurrency: [4, 12], min_requests: 24, requests_per_slot: 6}
"""
)
"""The same behind the real frontend, with two prefill and three decode workers of TensorRT-LLM end to end. Two loads
a stage: a hiccup of a busy machine takes its verdict from one."""

SWEEPS = {"trtllm-serve": MINI, "vllm": VLLM_MINI}


def ifb_only(text: str) -> str:
    return text[: text.index("ctx:")] + text[text.index("ifb:") : text.index("e2e:")]


def ifb_twice(text: str) -> str:
    """Two experiments, so that something is left to do when one is over."""
    one = ifb_only(text)
    return one.replace("mapping: TEP4", "mapping: [TEP4, DEP4]").replace("mapping: TP1", "mapping: [TP1, TP2]")


IFB_ONLY = ifb_only(MINI)


def make_site(path: Path, **sweeps: str) -> Path:
    """``path`` with the profile ``laptop`` and a sweep file for each of ``sweeps``, by name."""
    (path / "slurm" / "clusters").mkdir(parents=True)
    (path / "slurm" / "clusters" / "laptop.yaml").write_text(LAPTOP)
    (path / "sweeps").mkdir()
    for name, text in sweeps.items():
        (path / "sweeps" / f"{name}.yaml").write_text(text)
    return path


def ratematch(site: Path, *argv: str, **environment: str) -> subprocess.Popen[str]:
    """The command as a process of its own in ``site``, whose children :func:`alive` finds."""
    return subprocess.Popen(
        [sys.executable, "-m", "ratematch", *argv],
        cwd=site,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RATEMATCH_TEST_SITE": str(site), **environment},
    )


def run(site: Path, *argv: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of :func:`ratematch` once it has ended."""
    process = ratematch(site, *argv, **environment)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def read(site: Path, *argv: str, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """The same of a verb that nobody interrupts: run inside this process, which has imported everything."""
    with _inside(site), _signals_kept():
        done = CliRunner().invoke(main, list(argv), env=environment, catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def sweep_inside(site: Path, *argv: str, **environment: str) -> tuple[int, str, str]:
    """The same of ``sweep``, for what does not depend on the controller being a process of its own: it would import
    for a second what is loaded here. Servers and drivers are processes that :func:`alive` finds.

    Simulated jobs are forked from a server that lives as long as this process does: ``environment`` reaches the
    controller and, but for the first sweep, not them.
    """
    virtual = "simulate" in argv
    mark = {} if virtual else {"RATEMATCH_TEST_SITE": str(site)}
    return read(site, "sweep", *argv, environment={**mark, **environment})


def analyse(site: Path, results: str = "results/mini", *options: str) -> dict[str, Any]:
    """What ``pareto --json`` says, by the verb itself, without its pictures: to draw them takes two seconds. They are
    drawn after a sweep in ``tests/run/test_sweep.py``, and looked at in ``tests/show``."""
    with patch("ratematch.report.pictures.draw_pictures", return_value=[]):
        code, out, err = read(site, "pareto", results, "--json", *options)
    assert code == 0, err
    content: dict[str, Any] = json.loads(out)
    return content


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """A sweep takes SIGTERM for Ctrl-C until its process ends."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def folders(site: Path) -> list[ExperimentFolder]:
    """Experiments of the sweep ``mini``."""
    return Results(site / "results" / "mini").folders()


def measured(site: Path) -> dict[str, int]:
    """Every finished load of ``mini``, with the instant its clock started: the same instant, the same measurement."""
    files = (site / "results" / "mini").glob("*/loads/*/loadrun.json")
    return {str(file.relative_to(site)): json.loads(file.read_text())["wall_start_ns"] for file in files}


def alive(site: Path) -> list[str]:
    """Command lines of live processes that were started for ``site``."""
    return [command for _, command in processes_with(f"RATEMATCH_TEST_SITE={site}")]


def running_job(site: Path) -> int | None:
    """Process id of the job that is measuring now."""
    return next((folder.holder() for folder in folders(site) if folder.held()), None)


FRONTS = ("rate_matched", "end_to_end", "ifb")


def check_fronts(fronts: Mapping[str, Any], results: Path) -> None:
    """Each front of one workload has a point; what was found against the loads is said where one has none."""
    missing = [kind for kind in FRONTS if not fronts[kind]]
    assert not missing, (missing, {str(file.parent.relative_to(results)): why for file, why in _refused(results)})


def _refused(results: Path) -> Iterator[tuple[Path, list[str]]]:
    """Loads with reasons against them."""
    for file in results.glob("*/loads/*/measurement.json"):
        if reasons := json.loads(file.read_text())["reasons"]:
            yield file, reasons
