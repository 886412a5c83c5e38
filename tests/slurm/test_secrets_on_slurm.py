"""A canary for a secret in a sweep on a real Slurm: servers have it, and no file, argument or record of Slurm's."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest

from tests.slurm.cluster import PROFILE, SWEEP, Site, TestCluster
from tests.support.canary import CANARY, NEEDLE, OTHER, SERVER, holders, watching_arguments

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_a_canary_is_found_nowhere_on_a_cluster(site: Site, cluster: TestCluster) -> None:
    (site.path / "server.py").write_text(SERVER)
    command = json.dumps([sys.executable, str(site.path / "server.py")])
    site.set_profile(f"{PROFILE}command: {command}\nenvironment: {{HF_TOKEN: {CANARY}}}\n")
    one = SWEEP.replace("concurrency: [1, 2, 3, 4]", "concurrency: 1")
    site.set_sweep(f"{one}  environment: {{LOGIN: !secret {json.dumps(OTHER)}}}\n")
    with watching_arguments() as seen:
        controller = site.sweep()
        # 3: so few requests are no steady load on a busy machine.
        assert controller.wait(120) in (0, 3), site.said()
    site.check_whole(1)
    (folder,) = site.folders()
    (launch,) = folder.path.glob("launch/1")
    digests = [hashlib.sha256(value.encode()).hexdigest() for value in (CANARY, OTHER)]
    assert f"digest: {' '.join(digests)}" in next(launch.glob("agg-0.log")).read_text(), "the server has both"
    assert seen == []
    assert holders(site.path, "slurm/clusters/four.yaml", "sweeps/mini.yaml") == []
    assert holders(cluster.state) == [], "Slurm has kept the script and the environment of the job"
    assert NEEDLE not in site.said()
    assert [path.lstat().st_mode & 0o077 for path in folder.path.glob("job")] == [0]
    assert not (folder.path / "secrets").exists()
