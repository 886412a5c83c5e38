"""GPUs of this machine for profiles with `auto`: found by nvidia-smi, refused clearly where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratematch.errors import CatalogError, ClusterError
from ratematch.inputs.catalog import gpu_names, load_gpu
from ratematch.inputs.find import read_cluster
from ratematch.inputs.localgpus import LocalGpus, find_gpus

KNOWN = {name: load_gpu(name).memory_b for name in gpu_names()}


def shows(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """nvidia-smi is the script, or not there at all."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    if script is not None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "nvidia-smi").chmod(0o755)


@pytest.mark.parametrize(
    ("output", "gpus"),
    [
        ("NVIDIA H200, 143771\nNVIDIA H200, 143771\n", LocalGpus("h200", 2)),
        ("NVIDIA H100 80GB HBM3, 81559\n", LocalGpus("h100", 1)),
        ("NVIDIA B200, 183359\n" * 8, LocalGpus("b200", 8)),
        ("NVIDIA B300 SXM6 AC, 275040\n" * 8, LocalGpus("b300", 8)),
        ("NVIDIA GB300, 284208\n" * 4, LocalGpus("gb300", 4)),
        ("NVIDIA GH200 480GB, 97871\n", LocalGpus("gh200", 1)),
        ("NVIDIA GH200 144G HBM3e, 147455\n", LocalGpus("gh200-144gb", 1)),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition, 97887\n" * 8, LocalGpus("rtx-pro-6000", 8)),
    ],
)
def test_kind_and_number_of_gpus(output: str, gpus: LocalGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_gpus(KNOWN, lambda: output) == gpus


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("", "no GPU: nvidia-smi shows none"),
        ("No devices were found\n", "no GPU: nvidia-smi shows none"),
        ("NVIDIA H200, 143771\nNVIDIA H100 NVL, 95830\n", "different GPUs"),
        ("NVIDIA GeForce RTX 4090, 24564\n", "RTX 4090 is not in the catalog"),
        ("NVIDIA A100-SXM4-80GB, 81920\n", "A100-SXM4-80GB is not in the catalog"),
        ("NVIDIA H100 NVL, 95830\n", "has 100 GB here, and h100 in the catalog has 86: another variant"),
    ],
)
def test_what_cannot_be_measured_is_refused(output: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(CatalogError, match=why):
        find_gpus(KNOWN, lambda: output)


def test_hidden_gpus_would_be_given_to_servers_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(CatalogError, match="CUDA_VISIBLE_DEVICES=1 hides"):
        find_gpus(KNOWN, lambda: "NVIDIA H200, 143771\nNVIDIA H200, 143771\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert find_gpus(KNOWN, lambda: "NVIDIA H200, 143771\nNVIDIA H200, 143771\n").count == 2


def test_the_local_profile_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shows(tmp_path, monkeypatch, "echo NVIDIA H200, 143771; echo NVIDIA H200, 143771")
    cluster = read_cluster("local")
    assert (cluster.gpu, cluster.gpus_per_node, cluster.nodes, cluster.emulated) == ("h200", 2, 1, False)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "nvidia-smi is not on PATH"),
        ("echo NVIDIA-SMI has failed because it could not talk to the driver >&2; exit 9", "could not talk to"),
    ],
)
def test_a_machine_without_a_gpu_is_one_line(
    script: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shows(tmp_path, monkeypatch, script)
    with pytest.raises(ClusterError, match=rf"local\.yaml:\d+: gpu: this machine has no GPU.*{why}"):
        read_cluster("local")
