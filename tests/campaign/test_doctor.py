"""What `doctor` asks of a profile whose servers run on this very machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.campaign import doctor
from ratematch.plan.cluster import Cluster, Slurm

NO_DYNAMO = "ModuleNotFoundError: No module named 'dynamo'"
HERE = Cluster("local", "h200", gpus_per_node=2, nodes=1)


def examine(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *programs: str) -> dict[str, bool]:
    monkeypatch.setattr(doctor, "read_cluster", lambda name: cluster)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
    monkeypatch.setattr(doctor, "check_slurm", lambda cluster: [doctor.Finding("Slurm", "sbatch" in programs, "")])
    return {finding.name: finding.ok for finding in doctor.examine("local", folder=tmp_path, engine="vllm")}


def test_this_machine_needs_the_engine_and_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = examine(HERE, monkeypatch, tmp_path, "vllm")
    assert "Slurm" not in found and found["engine command"]
    assert not examine(HERE, monkeypatch, tmp_path)["engine command"]


@pytest.mark.parametrize(
    "other", [replace(HERE, nodes=2), replace(HERE, slurm=Slurm(partition="gpu"), slurm_given=True)]
)
def test_other_real_profiles_need_slurm(other: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert examine(other, monkeypatch, tmp_path, "vllm")["Slurm"] is False


@pytest.mark.parametrize(
    ("programs", "dynamo", "hint"),
    [
        (("vllm",), "", "(vllm is here: name it with --engine)"),
        (
            ("vllm", "python3"),
            "ModuleNotFoundError: No module named 'dynamo'",
            "(vllm is here: name it with --engine)",
        ),
        (("python3",), "ModuleNotFoundError: No module named 'dynamo'", "set `command` in the profile"),
        (("vllm", "tritonserver"), "", "(vllm, triton are here: name it with --engine)"),
    ],
)
def test_engines_that_are_here_are_named_and_python_alone_is_none(
    programs: tuple[str, ...], dynamo: str, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_output", lambda argv: dynamo)
    monkeypatch.setattr(doctor, "read_cluster", lambda name: HERE)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
    found = {each.name: each for each in doctor.examine("local", folder=tmp_path, engine="trtllm-serve")}
    assert not found["engine command"].ok and found["engine command"].found.endswith(hint)
