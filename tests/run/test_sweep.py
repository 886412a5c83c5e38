"""A whole sweep on the emulator, by the command a person types; and what happens when parts of it are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ratematch.run.probes import probe
from tests.ports import free_port
from tests.support.processes import wait_until
from tests.support.sites import (
    IFB_ONLY,
    LAPTOP,
    MINI,
    SWEEPS,
    alive,
    analyse,
    check_fronts,
    folders,
    ifb_only,
    ifb_twice,
    make_site,
    measured,
    ratematch,
    read,
    run,
    running_job,
    sweep_inside,
)

pytestmark = pytest.mark.slow

OUT_OF_MEMORY = {
    "trtllm-serve": ("insufficient GPU memory", "free_gpu_memory_fraction"),
    "vllm": ("the GPU ran out of memory", "gpu_memory_utilization"),
}
"""What is said of servers that do not fit, and of the option that helps."""

both_engines = pytest.mark.parametrize("engine", list(SWEEPS))


@pytest.fixture
def engine() -> str:
    """The engine of the sweep; tests of what engines have to do with run for each."""
    return "trtllm-serve"


@pytest.fixture
def site(tmp_path: Path, engine: str) -> Path:
    """A working directory with a sweep and a cluster profile."""
    return make_site(tmp_path, mini=SWEEPS[engine])


def check_whole(site: Path, *, drawn: bool) -> dict[str, Any]:
    """The sweep is finished and gives both fronts and IFB; ``drawn`` for whether their pictures are as well."""
    if drawn:
        code, out, err = read(site, "pareto", "results/mini", "--json")
        assert code == 0, err
        report = site / "results" / "mini" / "report"
        assert (report / "pareto-256-12.png").stat().st_size > 10_000
        assert "EMULATED" in (report / "pareto-256-12.svg").read_text()
        analysis: dict[str, Any] = json.loads(out)
    else:
        analysis = analyse(site)
    fronts = analysis["workloads"]["256/12"]
    check_fronts(fronts, site / "results" / "mini")
    assert all(folder.done() for folder in folders(site))
    return analysis


def check_handed_over(site: Path) -> None:
    """vLLM: decode was measured with prompts that it found, and what KV transfers took is read from the servers."""
    runs = {
        stage: [json.loads(file.read_text()) for file in site.glob(f"results/mini/{stage}-*/loads/*/loadrun.json")]
        for stage in ("gen", "e2e")
    }
    for told in runs["gen"]:
        assert told["mode"] == "gen_only_warmed"
        # 16 whole blocks of 16 are found, and one token more is computed, as in a pair.
        assert told["warmed"]["expected"] == told["warmed"]["hit_rate"] == pytest.approx(256 / 257)
    for told in runs["e2e"]:
        # 16 blocks x 80 layers x K and V, 327,680 bytes a token.
        assert told["stages"]["kv_descriptors"] == 16 * 80 * 2
        assert told["stages"]["kv_b"] == 256 * 327_680
        assert told["stages"]["kv_transfer_s"] > 0 and 0 < told["stages"]["kv_posting"] < 1


@both_engines
def test_from_a_sweep_file_to_both_fronts(site: Path, engine: str) -> None:
    code, out, err = run(site, "sweep", "mini.yaml", "--json")
    assert code == 0, err
    assert err.startswith("executor local: servers run on this machine, by cluster profile laptop")
    outcome = json.loads(out)
    assert outcome["emulated"] is True
    assert [item["stage"] for item in outcome["experiments"]] == ["ctx", "gen", "ifb", "e2e"]
    assert {item["state"] for item in outcome["experiments"]} == {"done"}
    assert alive(site) == []

    analysis = check_whole(site, drawn=engine == "trtllm-serve")  # of whichever engine, they are drawn alike
    assert analysis["emulated"] is True and analysis["engine"].startswith(engine)
    for kind in ("rate_matched", "end_to_end", "ifb"):
        for row in analysis["workloads"]["256/12"][kind]:
            assert row["emulated"] is True
            assert row["tok_s_user"] == pytest.approx(1000 / row["tpot_ms"])
            assert row["tok_s_gpu"] == pytest.approx(row["tok_s"] / row["gpus"])
            in_flight = row["req_s"] * (row["ttft_ms"] + (12 - 1) * row["tpot_ms"]) / 1000
            assert row["concurrency"] == pytest.approx(in_flight, rel=0.05), "Little's law"
    if engine == "vllm":
        check_handed_over(site)
        gaps = analysis["workloads"]["256/12"]["gaps"]
        assert gaps and all("KV transfer" in {part["name"] for part in gap["parts"]} for gap in gaps)

    before = measured(site)
    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 0, err
    assert measured(site) == before, "a finished sweep measures nothing again"

    code, out, _ = read(site, "status", "results/mini", "--json")
    status = json.loads(out)
    assert status["states"] == {"done": 4}
    assert status["loads"] == status["loads_done"] == len(before)
    assert status["gpu_hours"] > 0


def test_kill_9_of_the_controller_then_of_a_job(site: Path) -> None:
    (site / "sweeps" / "mini.yaml").write_text(ifb_twice(MINI))
    controller = ratematch(site, "sweep", "mini.yaml")
    wait_until(lambda: len(measured(site)) >= 1 and running_job(site), "a load to finish")
    controller.kill()
    controller.communicate()
    kept = measured(site)

    # The job goes on without its controller; a new controller takes it over.
    controller = ratematch(site, "sweep", "mini.yaml")
    wait_until(lambda: len(measured(site)) > len(kept) + 1 and running_job(site), "the sweep to go on")
    job = running_job(site)
    assert job is not None
    os.kill(job, signal.SIGKILL)
    _, err = controller.communicate(timeout=240)
    assert controller.returncode == 2, err
    assert "killed" in err
    wait_until(lambda: not alive(site), "the killed job's servers to end", 20)
    after_kill = measured(site)
    assert after_kill.items() >= kept.items()

    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 0, err
    assert measured(site).items() >= after_kill.items(), "what was measured is not measured again"
    assert len(measured(site)) == 6 and all(folder.done() for folder in folders(site))
    assert alive(site) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_nothing_running_and_can_be_resumed(site: Path, number: signal.Signals) -> None:
    (site / "sweeps" / "mini.yaml").write_text(ifb_twice(MINI).replace("[1, 4, 8]", "[1, 4]"))
    controller = ratematch(site, "sweep", "mini.yaml")
    wait_until(lambda: len(measured(site)) >= 1 and running_job(site), "a load to finish")
    controller.send_signal(number)
    _, err = controller.communicate(timeout=60)
    assert controller.returncode == 130, err
    assert "run the same command again" in err
    wait_until(lambda: not alive(site), "everything to end", 20)
    kept = measured(site)
    if number == signal.SIGTERM:
        return  # from here on nothing knows which signal it was
    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 0, err
    assert measured(site).items() >= kept.items()


DIES = LAPTOP + "environment: {RATEMATCH_EMULATED_FAULT: die_at_start}\n"


def test_a_server_that_dies_fails_its_experiment_with_the_reason_and_the_rest_goes_on(site: Path) -> None:
    profile = site / "slurm" / "clusters" / "laptop.yaml"
    profile.write_text(DIES)
    text = ifb_twice(MINI).replace("concurrency: [1, 4, 8]", "concurrency: [4]")
    (site / "sweeps" / "mini.yaml").write_text(text)
    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 2
    cause, remedy = OUT_OF_MEMORY["trtllm-serve"]
    assert err.count(cause) >= 2 and remedy in err, "each of both experiments has the reason"
    assert alive(site) == []
    profile.write_text(LAPTOP)
    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 0, err
    assert len(measured(site)) == 2 and all(folder.done() for folder in folders(site))


@pytest.mark.parametrize("engine", ["vllm"])
def test_a_server_of_another_engine_that_dies_fails_with_the_reason_of_that_engine(site: Path, engine: str) -> None:
    """What the sweep does then is the same for every engine: the test above."""
    (site / "slurm" / "clusters" / "laptop.yaml").write_text(DIES)
    (site / "sweeps" / "mini.yaml").write_text(ifb_only(SWEEPS[engine]))
    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 2
    assert all(word in err for word in OUT_OF_MEMORY[engine]), err
    assert alive(site) == []


@both_engines
def test_truncated_streams_are_recorded_and_not_trusted(site: Path, engine: str) -> None:
    profile = site / "slurm" / "clusters" / "laptop.yaml"
    profile.write_text(LAPTOP + "environment: {RATEMATCH_EMULATED_FAULT: truncate_stream=1.0}\n")
    (site / "sweeps" / "mini.yaml").write_text(ifb_only(SWEEPS[engine]))
    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 3, err
    assert "3 of 3 loads are not valid" in err
    code, out, err = read(site, "pareto", "results/mini")
    assert code == 3
    assert "ended without" in out and "no valid point is left" in err


@both_engines
def test_a_server_that_never_becomes_ready_is_given_up_with_its_log(site: Path, engine: str) -> None:
    profile = site / "slurm" / "clusters" / "laptop.yaml"
    profile.write_text(LAPTOP + "ready_minutes: 0.05\nenvironment: {RATEMATCH_EMULATED_FAULT: never_ready}\n")
    (site / "sweeps" / "mini.yaml").write_text(ifb_only(SWEEPS[engine]))
    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 2
    assert "agg-0 was not ready after" in err and "ready_minutes" in err
    assert alive(site) == []


def test_a_full_disk_stops_the_load_before_it_is_sent(site: Path) -> None:
    (site / "sweeps" / "mini.yaml").write_text(IFB_ONLY)
    # A limit on file size stands in for a full file system: the same call fails, for the same reason.
    process = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$0" -m ratematch sweep mini.yaml', sys.executable],
        cwd=site,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "RATEMATCH_TEST_SITE": str(site)},
        check=False,
    )
    assert process.returncode in (1, 2), process.stderr
    assert measured(site) == {}
    assert alive(site) == []
    code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 0, err
    assert len(measured(site)) == 3


def test_a_port_in_use_is_one_line(site: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        (site / "slurm" / "clusters" / "laptop.yaml").write_text(LAPTOP + f"port_base: {port}\n")
        (site / "sweeps" / "mini.yaml").write_text(IFB_ONLY)
        code, _, err = sweep_inside(site, "mini.yaml")
    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in err and "port_base" in err
    assert "Traceback" not in err
    assert alive(site) == []


def test_weights_that_are_not_there_are_told_before_anything_starts(site: Path) -> None:
    code, out, err = sweep_inside(site, "mini.yaml", "--set", "model={name: deepseek-r1, path: /no/such/weights}")
    assert code == 1
    assert err == "ratematch: mini.yaml: model: /no/such/weights does not exist " + (
        "(give the folder of the checkpoint, or model_paths in the cluster profile)\n"
    )
    assert out == "" and not (site / "results").exists()


def test_load_alone_measures_any_server_and_overwrites_nothing(site: Path) -> None:
    port = free_port()
    server = ratematch(site, "emulate", "serve", "qwen3-30b-a3b", "--port", str(port))
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: probe(f"{url}/health") is None, "the server to be ready", 30)
        argv = [
            "load",
            url,
            "--model",
            "m",
            "--concurrency",
            "1,4",
            "--num-requests",
            "24",
            "--isl",
            "64",
            "--osl",
            "64",  # long enough for what a busy machine takes between two requests to be little beside it
        ]
        code, out, err = run(site, *argv, "-o", "mine", "--json")
        assert code == 0, err
        first, second = json.loads(out)["loads"]
        assert first["num_ok"] == second["num_ok"] == 24
        assert second["in_flight"] == pytest.approx(4, rel=0.1)
        assert {path.name for path in (site / "mine" / "c4-n24-w1").iterdir()} == {
            "records.parquet",
            "warmup.parquet",
            "measurement.json",
            "benchmark_serving.json",
            "profile_export.jsonl",
            "profile_export_aiperf.json",
        }
        kept = {path: path.read_bytes() for path in (site / "mine").rglob("*") if path.is_file()}
        code, _, err = run(site, *argv, "-o", "mine")
        assert code == 0, err
        code, _, err = run(site, *argv, "--osl", "32", "-o", "mine")
        assert code == 1
        assert "nothing measured is overwritten" in err
        assert {path: path.read_bytes() for path in kept} == kept
    finally:
        server.terminate()
        server.communicate()
