"""The command as a launcher sees it: arguments, exit codes, sockets and logs of real processes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.emulator.trtllm.command import cli
from tests.ports import free_ports

from .servers import DISAGG, process, refuses, wait_bound, wait_healthy, write_yaml

SMALL = "qwen3-30b-a3b"


def run(*args: str, **env: str) -> Result:
    return CliRunner().invoke(cli, list(args), env=env, prog_name="trtllm-serve")


def ask(port: int, **more: Any) -> bytes:
    body = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 8, "ignore_eos": True, **more}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return bytes(answer.read())


# ------------------------------------------------------------------------------------------------ refusals


def test_a_missing_model_path_is_one_line_and_status_1() -> None:
    result = run("/no/such/model")
    assert result.exit_code == 1
    assert "no such file or directory" in result.output
    assert result.output.count("\n") == 1


def test_an_unknown_key_ends_the_process_before_it_binds(tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "w.yaml", {"kv_cache_confg": {}})
    result = run(SMALL, "--extra_llm_api_options", config)
    assert result.exit_code == 1
    assert "kv_cache_confg: unknown key in 1.2; did you mean kv_cache_config?" in result.output


def test_an_unknown_option_is_a_usage_error() -> None:
    assert run(SMALL, "--no_such_option").exit_code == 2
    assert run("disaggregated").exit_code == 2
    other = run("disaggregated_mpi_worker", "-c", "x.yaml")
    assert other.exit_code == 2 and "not emulated" in other.output


def test_options_of_later_versions_are_unknown_to_1_2() -> None:
    early = run("/no/such/model", "--no-telemetry")
    assert early.exit_code == 2 and "No such option" in early.output
    later = run("/no/such/model", "--no-telemetry", RATEMATCH_EMULATED_VERSION="main")
    assert later.exit_code == 1 and "no such file" in later.output


def test_a_wrong_orchestrator_file_is_refused(tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "o.yaml", {"context_servers": {"num_instances": 2, "urls": ["a:1"]}})
    result = run("disaggregated", "-c", config)
    assert result.exit_code == 1
    assert "Number of hostnames (1) should be equal to the number of instances (2)" in result.output


def test_a_taken_port_is_reported_in_the_engines_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(SMALL, "--host", "127.0.0.1", "--port", str(port))
    assert result.exit_code == 1
    assert f"RuntimeError: Failed to bind socket to 127.0.0.1:{port}: " in result.output


def test_every_option_of_the_contract_is_accepted() -> None:
    flags = (
        "--host=h --port=1 --backend=pytorch --tp_size=1 --tensor_parallel_size=1 --pp_size=1 --cp_size=1 "
        "--ep_size=1 --cluster_size=1 --gpus_per_node=4 --max_batch_size=1 --max_num_tokens=1 --max_seq_len=1 "
        "--max_beam_width=1 --kv_cache_free_gpu_memory_fraction=0.5 --kv_cache_dtype=fp8 "
        "--server_role=context --reasoning_parser=auto --tool_parser=auto --tokenizer=t --custom_tokenizer=t "
        "--served_model_name=n --chat_template=c --revision=r --hf_revision=r --trust_remote_code "
        "--enable_chunked_prefill --allow_request_chat_template --num_postprocess_workers=1 "
        "--num_serve_frontends=1 --num_input_processor_workers=1 --num_media_load_workers=1 "
        "--generation-config=auto --log_level=debug --otlp_traces_endpoint=e "
        "--fail_fast_on_attention_window_too_large --custom_module_dirs=d --middleware=m --report_addr=a "
        "--post_processor_hook=p --media_io_kwargs={} --video_pruning_rate=0.1 --no-telemetry "
        "--agent_percentage=0.1 --agent_types=x --grpc --enable_visual_gen --visual_gen_args=v "
        "--enable_attention_dp --disagg_cluster_uri=http://a:1"
    )
    result = run("serve", "/no/such/model", *flags.split(), RATEMATCH_EMULATED_VERSION="main")
    assert result.exit_code == 1, result.output
    assert "no such file or directory" in result.output
    assert "option tool_parser is accepted and changes nothing here" in result.output


# ------------------------------------------------------------------------------------------------ life


@pytest.mark.slow
def test_a_worker_refuses_while_it_loads_serves_and_dies_by_the_signal() -> None:
    [port] = free_ports(1)
    args = (SMALL, "--host", "127.0.0.1", "--port", str(port))
    with process(*args, RATEMATCH_EMULATED_LOAD_S="3s") as child:
        wait_bound(port)
        assert refuses(port), "bound, but not listening"
        early = run(*args)
        assert early.exit_code == 1 and f"Failed to bind socket to 127.0.0.1:{port}" in early.output
        wait_healthy(port)
        assert b'"completion_tokens":8' in ask(port)
        child.send_signal(signal.SIGTERM)
        output, _ = child.communicate(timeout=10)
    assert child.returncode == -signal.SIGTERM
    assert "Application startup complete" in output
    with process(*args) as again:
        wait_healthy(port)
        assert again.poll() is None, "lingering connections do not keep the next server off the port"


@pytest.mark.slow
def test_start_up_faults() -> None:
    [port] = free_ports(1)
    args = (SMALL, "--host", "127.0.0.1", "--port", str(port))
    with process(*args, RATEMATCH_EMULATED_FAULT="die_at_start") as child:
        output, _ = child.communicate(timeout=30)
        assert child.returncode == 1
        assert "Executor creation failed due to insufficient GPU memory" in output
    with process(*args, RATEMATCH_EMULATED_FAULT="never_ready", RATEMATCH_EMULATED_LOAD_S="0") as child:
        time.sleep(1.5)
        assert child.poll() is None and refuses(port)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=10)
        assert child.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_a_killed_worker() -> None:
    [port] = free_ports(1)
    args = (SMALL, "--host", "127.0.0.1", "--port", str(port))
    with process(*args, RATEMATCH_EMULATED_FAULT="die_after=500ms") as child:
        wait_healthy(port)
        child.communicate(timeout=20)
        assert child.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_hanging_worker_is_healthy_and_silent() -> None:
    [port] = free_ports(1)
    args = (SMALL, "--host", "127.0.0.1", "--port", str(port))
    with process(*args, RATEMATCH_EMULATED_FAULT="hang") as child:
        wait_healthy(port)
        body = json.dumps({"model": "m", "prompt": "a", "max_tokens": 2}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body)
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(request, timeout=1)
        wait_healthy(port)
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=10)
        assert child.returncode == 1 and "Aborted!" in output


@pytest.mark.slow
def test_a_gate_that_memory_keeps_shut_ends_the_process(tmp_path: Path) -> None:
    [port] = free_ports(1)
    content = {**DISAGG, "kv_cache_config": {"enable_block_reuse": False, "max_tokens": 64}}
    args = (SMALL, "--host", "127.0.0.1", "--port", str(port), "--config", write_yaml(tmp_path / "w.yaml", content))
    modes = {"TRTLLM_DISAGG_BENCHMARK_GEN_ONLY": "1", "TLLM_BENCHMARK_REQ_QUEUES_SIZE": "4"}
    with process(*args, **modes) as child, ThreadPoolExecutor(4) as pool:
        wait_healthy(port)
        handed = {"request_type": "generation_only", "ctx_request_id": 1}
        answers = [pool.submit(ask, port, disaggregated_params=handed) for _ in range(4)]
        output, _ = child.communicate(timeout=20)
        assert all(answer.exception(timeout=20) for answer in answers)
    assert child.returncode == 1
    assert "RuntimeError: Insufficient KV cache for gen-only benchmark mode" in output


@pytest.mark.slow
def test_three_processes_answer_like_one(tmp_path: Path) -> None:
    ctx, gen, port = free_ports(3)
    config = write_yaml(tmp_path / "worker.yaml", {**DISAGG, "print_iter_log": True})
    orchestrator = write_yaml(
        tmp_path / "orchestrator.yaml",
        {
            "hostname": "127.0.0.1",
            "port": port,
            "context_servers": {"num_instances": 1, "urls": [f"127.0.0.1:{ctx}"]},
            "generation_servers": {"num_instances": 1, "urls": [f"127.0.0.1:{gen}"]},
        },
    )
    worker = (SMALL, "--host", "127.0.0.1", "--config", config)
    with (
        process("disaggregated", "-c", orchestrator, "-t", "60", "-r", "60") as front,
        process(*worker, "--port", str(ctx)) as first,
        process(*worker, "--port", str(gen)) as second,
    ):
        wait_healthy(port)
        raw = ask(port, stream=True, stream_options={"include_usage": True})
        assert raw.endswith(b"data: [DONE]\n\n") and b'"completion_tokens":8' in raw
        outputs = []
        for child in (front, first, second):
            child.send_signal(signal.SIGTERM)
            outputs.append(child.communicate(timeout=10)[0])
    assert "Waiting for servers, context: [" in outputs[0] and "All servers are ready" in outputs[0]
    assert "'num_ctx_requests': 1" in outputs[1]
    assert "'num_ctx_requests': 0" in outputs[2]


@pytest.mark.slow
def test_an_orchestrator_without_workers_gives_up(tmp_path: Path) -> None:
    absent, port = free_ports(2)
    content = {"hostname": "127.0.0.1", "port": port, "context_servers": {"urls": [f"127.0.0.1:{absent}"]}}
    with process("disaggregated", "-c", write_yaml(tmp_path / "o.yaml", content), "-t", "1") as child:
        output, _ = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "Timeout waiting for context and generation servers to be ready" in output


def test_help_runs_as_a_module() -> None:
    with process("--help") as child:
        output, _ = child.communicate(timeout=30)
    assert child.returncode == 0 and "disaggregated" in output
    assert isinstance(child, subprocess.Popen)
