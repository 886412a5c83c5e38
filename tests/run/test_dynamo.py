"""A whole sweep behind NVIDIA Dynamo's real frontend, with emulated workers, by the command a person types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ratematch
from ratematch.loadgen.http import server_version
from tests.ports import free_ports
from tests.support.dynamo import HOSTS, needs_dynamo
from tests.support.processes import wait_until
from tests.support.sites import DYNAMO_MINI, alive, analyse, check_fronts, make_site, measured, run

pytestmark = [pytest.mark.slow, pytest.mark.dynamo, needs_dynamo]


def test_from_a_sweep_file_to_the_three_fronts_with_file_discovery(tmp_path: Path) -> None:
    site = make_site(tmp_path, mini=DYNAMO_MINI)
    code, out, err = run(site, "sweep", "mini.yaml", "--json", RATEMATCH_EMULATED_LOAD_S="0")
    assert code == 0, err
    outcome = json.loads(out)
    assert outcome["emulated"] is True
    assert {item["stage"] for item in outcome["experiments"]} == {"ctx", "gen", "ifb", "e2e"}
    assert {item["state"] for item in outcome["experiments"]} == {"done"}
    assert alive(site) == []

    analysis = analyse(site)
    fronts = analysis["workloads"]["256/12"]
    check_fronts(fronts, site / "results" / "mini")
    assert analysis["emulated"] is True and analysis["engine"] == "dynamo 1.6.1 (trtllm 1.3.0rc29)"
    for kind in ("rate_matched", "end_to_end", "ifb"):
        assert all(row["emulated"] is True for row in fronts[kind])
    check_end_to_end(site)

    before = measured(site)
    code, _, err = run(site, "sweep", "mini.yaml")
    assert code == 0, err
    assert measured(site) == before, "a finished sweep measures nothing again"


def check_end_to_end(site: Path) -> None:
    """Two prefill and three decode workers took part, each pair alike, and the frontend's trace says for how long."""
    (folder,) = (site / "results" / "mini").glob("e2e-*")
    for load in folder.glob("loads/*"):
        run_ = json.loads((load / "loadrun.json").read_text())
        assert run_["emulated"] is True
        assert run_["telemetry"]["times_from"] == "files", run_["telemetry"]
        assert set(run_["emulator"]) == {"ctx-0", "ctx-1", "gen-0", "gen-1", "gen-2"}
    provenance = json.loads(next(folder.glob("launch/*/provenance.json")).read_text())
    frontend = provenance["servers"]["frontend-0"]
    assert frontend["version"] == "1.6.1" and frontend["emulated"] is True


def test_dynamos_own_mocker_is_found_to_be_no_engine(tmp_path: Path) -> None:
    """``ratematch load`` asks the frontend; nothing of ours stands behind this one."""
    port, system = free_ports(2)
    environment = {
        **os.environ,
        **dict.fromkeys(HOSTS, "127.0.0.1"),
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(tmp_path / "discovery"),
        "DYN_EVENT_PLANE": "zmq",
        "DYN_SKIP_SGLANG_LOG_FORMATTING": "1",
        "HF_HUB_OFFLINE": "1",
    }
    model = str(Path(ratematch.__file__).parent / "data" / "dynamo_model")
    frontend = ["dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port)]
    mocker = ["dynamo.mocker", "--model-path", model, "--model-name", "m", "--engine-type", "trtllm"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *words],
            env=environment | more,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        for words, more in ((frontend, {}), (mocker, {"DYN_SYSTEM_PORT": str(system)}))
    ]
    try:
        wait_until(lambda: server_version("127.0.0.1", port).emulated, "the mocker to be listed, and found")
        assert server_version("127.0.0.1", port).version == "1.6.1"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
