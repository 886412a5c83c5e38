"""Real emulator processes with wrong files: how each fails, and that the diagnosis names it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from ratematch.emulator.trtllm.command import main
from ratematch.engines import find_engine
from ratematch.measure.serverlog import Diagnosis
from tests.emulator.servers import process, wait_healthy, write_yaml
from tests.ports import free_ports
from tests.support.invented import PAIR, experiment

ENGINE = find_engine("trtllm-serve")
MODEL = "qwen3-30b-a3b"
TRANSCEIVER = {"cache_transceiver_config": {"backend": "DEFAULT"}}


def diagnosed(text: str) -> Diagnosis:
    found = ENGINE.diagnose([text])
    assert found is not None, f"nothing is known of: {text}"
    return found


WRONG_FILES = pytest.mark.parametrize(
    ("version", "config", "line", "cause"),
    [
        (
            "1.2",
            {"num_serve_frontends": 2},
            "num_serve_frontends: unknown key in 1.2; it came between 1.3.0rc0 and 1.3.0rc24",
            "unknown",
        ),
        ("main", {"moe_config": {"backend": "WIDEEP"}}, "'WIDEEP' is not valid in main", "does not know"),
        (
            "main",
            {"kv_cache_config": {"onboard_blocks": True}},
            "unknown key in main; it went in 1.3",
            "unknown to this version",
        ),
        (
            "1.4.0rc4",
            {"cache_transceiver_config": {"backend": "UCX"}},
            "PYTHON, the default of 1.4.0rc4, takes backend NIXL only, and it is UCX",
            "the KV transceiver",
        ),
        (
            "1.3.0rc27",
            {"cache_transceiver_config": {"backend": "NIXL", "transceiver_runtime": "Auto"}},
            "'Auto' is not valid in 1.3.0rc27; choose from CPP, PYTHON, auto",
            "does not know",
        ),
        ("1.2", {"max_batch_sise": 4}, "did you mean max_batch_size?", "unknown to this version"),
        (
            "1.2",
            {"tensor_parallel_size": 4, "moe_expert_parallel_size": 3},
            "tp_size must equal to moe_tp_size * moe_ep_size * moe_cluster_size",
            "does not multiply to tp",
        ),
    ],
)


@WRONG_FILES
def test_a_worker_with_a_wrong_file_ends_before_it_listens(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
    config: dict[str, Any],
    line: str,
    cause: str,
) -> None:
    path = write_yaml(tmp_path / "worker.yaml", config)
    monkeypatch.setenv("RATEMATCH_EMULATED_VERSION", version)
    with pytest.raises(SystemExit) as ended:
        main([MODEL, "--port", str(free_ports(1)[0]), "--config", path])
    said = capsys.readouterr()
    output = said.out + said.err
    assert ended.value.code == 1
    assert line in output
    assert cause in diagnosed(output).cause


@pytest.mark.slow
def test_a_process_with_a_wrong_file_ends_as_its_command_does(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "worker.yaml", {"max_batch_sise": 4})
    with process(MODEL, "--port", str(free_ports(1)[0]), "--config", path) as child:
        output, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "did you mean max_batch_size?" in output and "unknown" in diagnosed(output).cause


def ask(port: int, tokens: int = 8, timeout_s: float = 30.0) -> tuple[int, str]:
    body = {"model": MODEL, "prompt": list(range(100, 164)), "max_tokens": tokens, "ignore_eos": True}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_sides_that_differ_start_and_fail_every_request(tmp_path: Path) -> None:
    """In two ways at once: the log names each."""
    ctx = {"kv_cache_config": {"dtype": "fp8"}}
    gen = {"cache_transceiver_config": {"backend": "UCX"}}
    keys = ("kv_cache_config.dtype: ctx has fp8 and gen has auto", "backend: ctx has DEFAULT and gen has UCX")
    ports = free_ports(3)
    files = [write_yaml(tmp_path / f"{k}.yaml", TRANSCEIVER | each) for k, each in enumerate((ctx, gen))]
    servers = {
        "hostname": "127.0.0.1",
        "port": ports[2],
        "context_servers": {"num_instances": 1, "urls": [f"127.0.0.1:{ports[0]}"]},
        "generation_servers": {"num_instances": 1, "urls": [f"127.0.0.1:{ports[1]}"]},
    }
    orchestrator = write_yaml(tmp_path / "orchestrator.yaml", servers)
    started = [
        (MODEL, "--host", "127.0.0.1", "--port", str(p), "--config", f) for p, f in zip(ports, files, strict=False)
    ]
    with process(*started[0]), process(*started[1]) as gen_server:
        wait_healthy(ports[0])
        wait_healthy(ports[1])
        with process("disaggregated", "-c", orchestrator):
            wait_healthy(ports[2])
            status, _ = ask(ports[2])
            direct, _ = ask(ports[1])
        assert direct == 200, "each server by itself is sound"
        gen_server.terminate()
        log, _ = gen_server.communicate(timeout=30)
    assert status >= 400
    assert "KV cache transfer of request" in log
    assert all(key in log for key in keys), log
    assert "differ in KV format" in diagnosed(log).cause


@pytest.mark.slow
def test_a_batch_larger_than_the_slots_is_waited_for_in_silence(tmp_path: Path) -> None:
    """Contract, section 9, rows 3 and 4: no error, no iteration; what is left is to know what was going on."""

    def outcomes(queue_size: str) -> tuple[list[int | None], str]:
        """Status of six requests at once (``None``: no answer in 3 s) to four slots, and the server's log."""
        [port] = free_ports(1)
        with (
            process(
                MODEL,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--config",
                path,
                TLLM_BENCHMARK_REQ_QUEUES_SIZE=queue_size,
            ) as child,
            ThreadPoolExecutor(6) as clients,
        ):
            wait_healthy(port)
            asked = [clients.submit(ask, port) for _ in range(6)]
            wait(asked, timeout=3.0)
            found = [request.result()[0] if request.done() else None for request in asked]
            # While they wait: one that gives up makes room for the fifth, and the batch is full after all.
            child.terminate()
            return found, child.communicate(timeout=30)[0]

    path = write_yaml(tmp_path / "gen.yaml", TRANSCEIVER | {"max_batch_size": 4, "print_iter_log": True})
    answered, log = outcomes("4")
    assert answered == [200] * 6 and ENGINE.has_iterations(log), "as many as the slots"
    answered, log = outcomes("5")
    assert answered == [None] * 6 and not ENGINE.has_iterations(log)
    assert ENGINE.diagnose([log]) is None, "nothing in the log tells"
    told = ENGINE.explain("never_started", experiment("gen", PAIR))
    assert "never fills" in told.cause and "concurrency" in told.remedy
