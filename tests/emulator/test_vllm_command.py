"""The command line of the emulated ``vllm serve``: what it takes, what it refuses, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import AbstractContextManager

import pytest

from ratematch.emulator.vllm.command import main
from ratematch.emulator.vllm.flags import dashed, parser, whole_number
from ratematch.emulator.vllm.logs import START_FAILURES
from ratematch.engines.vllm.contract import KNOWN_LINES, serve_flags

from ..ports import free_port, free_ports
from . import servers
from .servers import wait_healthy

MODEL = "qwen3-30b-a3b"


def read(*words: str, version: str = "0.32") -> dict[str, object]:
    return vars(parser(version).parse_args(["serve", MODEL, *dashed(words)]))


def test_only_what_was_typed_is_in_the_result() -> None:
    assert read() == {"subparser": "serve", "model_tag": MODEL}


def test_values_are_read_as_the_engine_reads_them() -> None:
    told = read(
        *("--max_num_seqs", "64", "--max-model-len", "8k", "-tp", "2", "--no-enable-prefix-caching"),
        *("--kv-transfer-config", '{"kv_role": "kv_both"}', "--served-model-name", "a", "b", "--block-size=128"),
    )
    assert told["max-num-seqs"] == 64 and told["max-model-len"] == 8000
    assert told["tensor-parallel-size"] == 2 and told["enable-prefix-caching"] is False
    assert told["kv-transfer-config"] == {"kv_role": "kv_both"}
    assert told["served-model-name"] == ["a", "b"] and told["block-size"] == 128


@pytest.mark.parametrize(("text", "number"), [("7", 7), ("2k", 2000), ("2K", 2048), ("1.5k", 1500), ("auto", "auto")])
def test_whole_numbers_have_units(text: str, number: int | str) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("version", KNOWN_LINES)
def test_every_flag_of_the_contract_is_known(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser(version).parse_args(["serve", "--help"])
    text = capsys.readouterr().out
    assert [name for name in serve_flags(version) if f"--{name}" not in text] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no-such-flag", "3"], "unrecognized arguments: --no-such-flag 3"),
        (["--max-num-seqs", "many"], "--max-num-seqs"),
        (["--kv-transfer-config", "{"], "--kv-transfer-config"),
        (["--max-num"], "unrecognized arguments: --max-num"),
    ],
)
def test_a_mistake_ends_with_status_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", MODEL, *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_flags_that_count_as_known_are_left_out_with_their_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RATEMATCH_EMULATED_UNCHECKED", "new_flag,other")
    with pytest.raises(SystemExit):
        main(["serve", "no-such-model", "--new-flag", "1", "2", "--port", "3", "--no-other", "--new-flag=5"])
    assert "non-default args: {'port': 3, 'model_tag': 'no-such-model'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-model-len", "10000000"], "1 validation error for VllmConfig"),
        (["--num-gpu-blocks-override", "10"], "Engine core initialization failed"),
    ],
)
def test_settings_that_do_not_work_end_with_status_1(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", MODEL, *words])
    assert ended.value.code == 1 and message in capsys.readouterr().out


def test_an_unknown_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATEMATCH_EMULATED_VERSION", "1.2")
    with pytest.raises(SystemExit, match=r"vLLM version '1.2' is not known"):
        main(["serve", MODEL])


# ------------------------------------------------------------------------------------------- real processes


def process(*words: str, **env: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """``python -m ratematch.emulator.vllm serve ...``; killed at the end if it still runs."""
    env = {"RATEMATCH_EMULATED_GPU": "h200", "RATEMATCH_EMULATED_LOAD_S": "0", **env}
    return servers.process("serve", MODEL, "--host", "127.0.0.1", *words, module="ratematch.emulator.vllm", **env)


@pytest.mark.slow
def test_a_server_ends_in_order_and_addresses_in_use_end_others() -> None:
    port, other, side = free_ports(3)
    transfer = ("--kv-transfer-config", json.dumps({"kv_connector": "NixlConnector", "kv_role": "kv_producer"}))
    env = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side)}
    with process("--port", str(port), *transfer, **env) as server:
        wait_healthy(port)
        with process("--port", str(port)) as second, process("--port", str(other), *transfer, **env) as third:
            out, _ = second.communicate(timeout=30)
            assert second.returncode == 1 and "Address already in use" in out
            out, _ = third.communicate(timeout=30)
            assert third.returncode == 1 and "in use" in out.lower()
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=30)
        assert server.returncode == 0 and "Application startup complete." in out


@pytest.mark.slow
@pytest.mark.parametrize("fault", sorted(START_FAILURES))
def test_a_server_that_cannot_start_tells_the_cause(fault: str) -> None:
    with process("--port", str(free_port()), RATEMATCH_EMULATED_FAULT=f"die_at_start={fault}") as server:
        out, _ = server.communicate(timeout=30)
    assert server.returncode == 1
    assert START_FAILURES[fault] in out and "Engine core initialization failed" in out
