"""Every sweep file that ships: it plans, its deployments render, and the engine's contract takes the files."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

from ratematch.campaign.precheck import expand_sweep, refuse_unlaunchable
from ratematch.engines import ENGINES
from ratematch.inputs.find import read_cluster, read_sweep
from ratematch.plan.expansion import Expansion
from ratematch.plan.sweep import Sweep
from ratematch.run.render import render

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(path.name for path in (ROOT / "sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def two_gpus(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, as nvidia-smi would show them: for sweeps of the profile `local`."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA H200, 143771\necho NVIDIA H200, 143771\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@functools.cache
def expanded(name: str, *overrides: str) -> tuple[Sweep, Expansion]:
    """A sweep file of the clone, where the tests stand, and its experiments; read once for all tests here."""
    sweep, _ = read_sweep(name, overrides)
    return sweep, expand_sweep(sweep)


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("overrides", [(), ("cluster=laptop",), ("engine.version={newest}",)])
def test_every_sweep_file_renders(name: str, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    newest = ENGINES[expanded(name)[0].engine.name].versions[-1]
    sweep, expansion = expanded(name, *(each.format(newest=repr(newest)) for each in overrides))
    assert len(sweep.about) > 100, "a sweep says why it exists and what a right answer looks like"
    written_out = {"e2e"} if sweep.deployments else set()
    assert {e.stage for e in expansion.experiments} == {"ctx", "gen", "ifb"} | written_out
    refuse_unlaunchable(sweep, expansion.experiments, here=False)


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("allocated", [True, False], ids=["slurm", "local"])
def test_every_sweep_file_is_written_down(
    name: str, allocated: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every experiment, each script one that bash can parse."""
    monkeypatch.chdir(ROOT)
    sweep, expansion = expanded(name)
    scripts = {}
    for experiment in expansion.experiments:
        for each in render(experiment, sweep.cluster, allocated=allocated):
            kind = (each.experiment.stage, each.experiment.deployment.gpus)
            scripts[kind] = each.files["run.sh"]
            assert ("job.sbatch" in each.files) is allocated
    path = tmp_path / "run.sh"
    for script in scripts.values():
        path.write_text(script)
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=20)


@pytest.mark.parametrize("path", sorted((ROOT / "slurm" / "clusters").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_cluster_profile_is_sound(path: Path) -> None:
    cluster = read_cluster(str(path))
    assert cluster.name == path.stem
    assert len(cluster.about) > 30


def test_the_study_covers_its_three_workloads_and_all_mtp_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep, expansion = expanded("deepseek-r1.yaml")
    assert [w.label for w in sweep.workloads] == ["4400/1200", "8192/256", "4096/1024"]
    gen = [e.deployment for e in expansion.experiments if e.stage == "gen"]
    assert {d.gpus for d in gen} == {4, 8, 16, 32}
    assert {d.mtp for d in gen} == {0, 1, 2, 3}
    assert all("requests" in d.reason or "slots" in d.reason for d in expansion.dropped)


@pytest.mark.parametrize("name", ["deepseek-r1", "qwen3-235b"])
def test_the_studies_baseline_is_run_as_its_owners_run_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Balancing (with attention DP) and chunked prefill, both on and off, with the numbers of the published runs."""
    monkeypatch.chdir(ROOT)
    _, expansion = expanded(f"{name}.yaml")
    seen: dict[bool, set[tuple[bool, bool]]] = {True: set(), False: set()}
    for agg in (e.deployment.agg for e in expansion.experiments if e.stage == "ifb"):
        assert agg is not None
        balance = agg.options["attention_dp_config"]
        assert (balance["timeout_iters"], balance["batching_wait_iters"]) == (60, 0)
        seen[agg.mapping.attention_dp].add((balance["enable_balance"], agg.options["enable_chunked_prefill"]))
    assert seen[True] == {(False, False), (False, True), (True, False), (True, True)}
    assert seen[False] == {(False, False), (False, True)}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_package_without_a_clone_has_it_and_its_profile(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep, text = read_sweep(name.removesuffix(".yaml"))
    assert text == (ROOT / "sweeps" / name).read_text()
    assert read_cluster(sweep.cluster.name).name == sweep.cluster.name
