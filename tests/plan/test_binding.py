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
        (
            "load_cores: 3\n",
            "processes on laptop",
            {"numactl": "none", "driver and load generator": "3 cores of their own"},
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
    assert "senders" in str(binding) or "slurm" not in more
    code, out, _ = read(site, "plan", "mini", "--explain")
    assert code == 0 and "driver and load generator" in " ".join(out.split())


def test_a_plan_of_real_servers_names_the_cores_of_the_load_generator(tmp_path: Path) -> None:
    site = make_site(tmp_path, mini=IFB_ONLY)
    profile = site / "slurm" / "clusters" / "laptop.yaml"
    profile.write_text(profile.read_text().replace("emulated: true\n", "") + "slurm: {senders: 4}\n")
    code, out, err = read(site, "plan", "mini", "--explain", "--json")
    assert code == 0, err
    settings = {each["key"]: each for each in json.loads(out)["binding"]["settings"]}
    own = settings["driver and load generator"]
    assert own["value"] == "5 cores of their own" and "servers would keep less than 16" in own["why"]
    code, out, err = read(site, "render", "mini", "-o", "rendered")
    assert code == 0, err
    script = (site / out.strip() / "run.sh").read_text()
    assert '\nexport RATEMATCH_LOAD_APART="5 16 RATEMATCH_RUN=$RATEMATCH_RUN"\n' in script
    profile.write_text(profile.read_text() + "load_cores: 0\n")
    code, out, err = read(site, "render", "mini", "-o", "shared")
    assert code == 0 and "RATEMATCH_LOAD_APART" not in (site / out.strip() / "run.sh").read_text(), err
