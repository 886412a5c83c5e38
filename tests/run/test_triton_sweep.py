"""A whole sweep on a real ``tritonserver``, to the three fronts; what it would refuse before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ratematch.engines.triton.render import STAND_INS
from tests.support import triton
from tests.support.sites import alive, check_fronts, folders, make_site, read, run

MINI = """\
name: mini
about: The smallest sweep that walks the whole path, on Triton (legacy).
model: llama-3.1-405b
engine: {name: triton, version: "1.2"}
cluster: laptop
workloads:
  - {isl: 256, osl: 8}
budget: {max_gpus: 2}
ctx:
  axes: {mapping: TP1}
  loads: {concurrency: [2], min_requests: 24, requests_per_slot: 6}
gen:
  axes: {mapping: TP1, mtp: [0]}
  loads: {concurrency: [4], min_requests: 24, requests_per_slot: 6}
ifb:
  axes: {mapping: TP1}
  loads: {concurrency: [4], min_requests: 24, requests_per_slot: 6}
e2e:
  deployments: 1
  loads: {around: [1.0], min_requests: 24, requests_per_slot: 6}
"""


def site_of(path: Path, mini: str = MINI) -> Path:
    """A site with GPUs that hold so large a model alone: its steps are long, and a busy machine keeps them."""
    site = make_site(path, mini=mini)
    profile = site / "slurm" / "clusters" / "laptop.yaml"
    profile.write_text(profile.read_text().replace("gb200", "gb300"))
    return site


@pytest.mark.slow
@triton.needed
def test_from_a_sweep_file_to_the_three_fronts(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    code, out, err = run(site, "sweep", "mini.yaml", "--json", RATEMATCH_TRITON=str(triton.FOLDER))
    assert code == 0, err
    outcome = json.loads(out)
    assert outcome["emulated"] is True and any("legacy: NVIDIA deleted" in note for note in outcome["notes"])
    assert [item["stage"] for item in outcome["experiments"]] == ["ctx", "gen", "ifb", "e2e"]
    assert {item["state"] for item in outcome["experiments"]} == {"done"}
    assert alive(site) == []

    code, out, err = read(site, "pareto", "results/mini", "--json")
    assert code == 0, err
    analysis = json.loads(out)
    assert analysis["emulated"] is True and analysis["engine"].startswith("triton 1.2")
    fronts = analysis["workloads"]["256/8"]
    check_fronts(fronts, site / "results" / "mini")
    assert all(row["emulated"] for kind in ("rate_matched", "end_to_end", "ifb") for row in fronts[kind])
    assert "EMULATED" in (site / "results" / "mini" / "report" / "pareto-256-8.svg").read_text()
    for folder in folders(site):
        mark = next(folder.path.glob("launch/*/mark")).read_text().strip()
        assert not list(Path("/dev/shm").glob(f"*{mark}*")), "shared memory is clean"
    for file in site.glob("results/mini/*/loads/*/loadrun.json"):
        load = json.loads(file.read_text())
        assert load["failed"] == 0 and load["emulator"]["triton"]["busy_s"] > 0
        assert load["telemetry"]["window"]["triton"]["active"] > 0, "metrics of a port of their own"


def test_what_it_refuses_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    profile = site / "slurm" / "clusters" / "laptop.yaml"
    profile.write_text(profile.read_text().replace("emulated: true\n", "slurm: {partition: gpu}\n"))
    code, _, err = read(site, "plan", "mini.yaml")
    assert code == 1 and "names no release" in err and "release_paths: {triton: FOLDER}" in err


def test_a_missing_engine_is_refused_with_its_command_before_anything_starts(tmp_path: Path) -> None:
    site = site_of(tmp_path, MINI.replace("llama-3.1-405b", "{name: llama-3.1-405b, path: WEIGHTS}"))
    (site / "weights").mkdir()
    sweep, profile = site / "sweeps" / "mini.yaml", site / "slurm" / "clusters" / "laptop.yaml"
    sweep.write_text(sweep.read_text().replace("WEIGHTS", str(site / "weights")))
    real = f"command: [/bin/true]\nnumactl: ''\nrelease_paths: {{triton: {STAND_INS}}}\n"
    profile.write_text(profile.read_text().replace("emulated: true\n", real).replace("nodes: 4", "nodes: 1"))
    code, out, err = read(site, "sweep", "mini.yaml", "--executor", "local")
    assert code == 1 and out == "" and not (site / "results").exists()
    folder = site / "weights" / "engines" / "gb300-1.2-tp1pp1-b32-t8192"
    assert f"ctx: there is no engine in {folder}" in err and f"--output_dir {folder}" in err
    assert err.count("trtllm-build") >= 3, "of each role, once"
