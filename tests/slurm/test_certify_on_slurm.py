"""``doctor --certify`` on four real nodes, one of which has a GPU less than the others."""

from __future__ import annotations

import json
import os

import pytest

from tests.run.test_site import stand_in
from tests.slurm.cluster import PROFILE, Site, TestCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

NVIDIA_SMI = """\
[[ $* == *memory.total* ]] || exit 1
for gpu in 0 1 2 3; do
  [[ $gpu == 3 && $SLURMD_NODENAME == node3 ]] || echo "$gpu, NVIDIA GB200, 189471, Enabled, 0, 345, 2062"
done"""


def test_the_bad_node_of_four_is_found_and_kept_out(site: Site, cluster: TestCluster) -> None:
    tools = site.path / "tools"
    tools.mkdir()
    stand_in(tools, "nvidia-smi", NVIDIA_SMI)
    site.set_profile(PROFILE + "slurm: {partition: main}\n")
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(site.path / "cache")}
    code, out, err = site.run("doctor", "--cluster", "four", "--certify", "--nodes", "4", "--json", **environment)
    assert code == 1, out + err
    told = json.loads(out)
    problems = {node["node"]: node["problems"] for node in told["nodes"]}
    assert problems == {"node1": [], "node2": [], "node3": ["3 GPUs, the profile says 4"], "node4": []}, err
    # Each met its neighbour and the first node, by their names and over the network.
    assert all(node["network"].startswith("clock ") and "MB/s" in node["disk"] for node in told["nodes"])
    together = {check["name"]: check for check in told["checks"]}
    assert together["clocks of nodes"]["ok"] and together["NVLink domains"]["found"].startswith("not looked at")
    kept = site.path / "cache" / "ratematch" / "nodes" / "four.json"
    assert json.loads(kept.read_text()) == {"node3": "3 GPUs, the profile says 4"} and told["kept"] == str(kept)
    assert not list(site.path.glob(".ratematch-certify*")) and not cluster.jobs()
