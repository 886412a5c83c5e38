"""The binding of servers and load generator is said before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.sites import IFB_ONLY, make_site, read

SLURM = "slurm: {partition: main, tasks: gpu, senders: 4}\n"


@pytest.mark.parametrize(
    ("more", "label", "settings"),
    [
        ("", "processes on laptop", {"numactl": "none", "driver and load generator": "unbound"}),
        (
            SLURM + 'numactl: "-m 0,1"\n',
            "steps on laptop",
            {
                "tasks of a server": "one for each GPU",
                "srun --distribution": "block",
                "srun --cpu-bind": "none",
                "numactl": "-m 0,1",
                "driver and load generator": "unbound",
            },
        ),
    ],
)
def test_a_plan_explains_the_binding(tmp_path: Path, more: str, label: str, settings: dict[str, str]) -> None:
    site = make_site(tmp_path, mini=IFB_ONLY)
    profile = site / "slurm" / "clusters" / "laptop.yaml"
    profile.write_text(profile.read_text() + more)
    code, out, err = read(site, "plan", "mini", "--explain", "--json")
    assert code == 0, err
    binding = json.loads(out)["binding"]
    assert binding["of"] == label
    assert {setting["key"]: setting["value"] for setting in binding["settings"]} == settings
    assert all(setting["why"] for setting in binding["settings"])
    assert "senders" in str(binding) or not more
    code, out, _ = read(site, "plan", "mini", "--explain")
    assert code == 0 and "driver and load generator" in " ".join(out.split())
