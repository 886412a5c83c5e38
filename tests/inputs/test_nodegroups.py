"""Profiles of mixed clusters: one file, a group of its nodes named behind a colon."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.errors import ClusterError
from ratematch.inputs.find import read_cluster

RACK = """\
name: rack
groups:
  hopper:
    gpu: h200
    gpus_per_node: 8
    nodes: 12
    slurm: {sbatch: [--constraint=h200]}
    environment: {TOKEN: !secret env:SOME_TOKEN, SIZE: large}
  small: {gpu: h100, gpus_per_node: 4, nodes: 30, numactl: -m 0}
slurm: {partition: batch, account: llm}
environment: {SIZE: any, NAME: x}
"""


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "slurm" / "clusters" / "rack.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(RACK)
    return path


def test_a_group_is_laid_over_the_profile(rack: Path) -> None:
    hopper, small = read_cluster("rack:hopper"), read_cluster(f"{rack}:small")
    assert (hopper.name, hopper.gpu, hopper.gpus_per_node, hopper.nodes) == ("rack-hopper", "h200", 8, 12)
    assert (small.name, small.gpu, small.gpus_per_node, small.nodes) == ("rack-small", "h100", 4, 30)
    assert hopper.slurm.partition == small.slurm.partition == "batch" and hopper.slurm.account == "llm"
    assert (hopper.slurm.sbatch, small.slurm.sbatch) == (("--constraint=h200",), ())
    assert hopper.environment["SIZE"] == "large" and small.environment == {"SIZE": "any", "NAME": "x"}
    assert hopper.environment["NAME"] == "x" and small.numactl == ("-m", "0")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rack", "which group of nodes is meant? (write the profile's name:group: hopper, small)"),
        ("rack:hoper", "did you mean hopper?"),
        ("rack:", "there is no cluster profile 'rack:'"),
        ("nowhere:hopper", "there is no cluster profile 'nowhere:hopper'"),
        ("laptop:hopper", "the profile has no groups"),
    ],
)
def test_what_is_not_clear_is_one_line(rack: Path, name: str, says: str) -> None:
    with pytest.raises(ClusterError) as refused:
        read_cluster(name)
    assert says in str(refused.value).replace(": write", " (write") or says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("gpus_per_node: 8", "gpus_per_node: many", 5),
        ("gpu: h200", "gpu: h2000", 4),
        ("sbatch: [--constraint=h200]", "partitoin: x", 7),
        ("nodes: 12", "name: other", 6),
        ("nodes: 30", "nodes: -1", 9),
        ("slurm: {partition: batch", "slurm: {partition: [1]", 10),
    ],
)
def test_a_problem_of_a_group_has_its_own_line(rack: Path, old: str, new: str, line: int) -> None:
    rack.write_text(RACK.replace(old, new, 1))
    with pytest.raises(ClusterError, match=f"rack.yaml:{line}"):
        read_cluster("rack:small" if line == 9 else "rack:hopper")


def test_a_sweep_names_a_group(rack: Path) -> None:
    done = CliRunner().invoke(main, ["plan", "quickstart.yaml", "--cluster", "rack:small", "--set", "ifb.axes.mtp=0"])
    assert done.exit_code == 0, done.output
    assert "h100 (rack-small)" in done.output
