"""Which KV transceiver servers run, by their logs."""

from __future__ import annotations

import io

import pytest
import yaml

from ratematch.emulator.trtllm.command import AT_START
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.transfer import announce
from ratematch.engines.trtllm_serve.running import read_running
from ratematch.engines.trtllm_serve.transceiver import read_transceiver
from ratematch.plan.launchplan import FileSpec
from tests.engines.golden import launch

PYTHON = "[11/30/2026-14:00:00] [TRT-LLM] [I] Using KvCacheTransceiverV2\n"
OTHER = "[11/30/2026-14:00:00] [TRT-LLM] [RANK 0] [I] loaded\n"
KEY = "cache_transceiver_config.transceiver_runtime"


@pytest.mark.parametrize(
    ("log", "runs"),
    [
        (PYTHON, "PYTHON"),
        (OTHER + PYTHON, "PYTHON"),
        ("[TRT-LLM] [I] cache_transceiver is disabled", "off"),
        ("[TRT-LLM] [I] Using UCX kv-cache transceiver. If your devices are not in the same domain", "CPP"),
        ("[TRT-LLM] [W] MPI CacheTransceiver is deprecated, UCX or NIXL is recommended", "CPP"),
        (OTHER, "CPP"),
        ("[TRT-LLM] [E] nothing of the level that would tell", None),
        ("", None),
    ],
)
def test_a_log_shows_the_transceiver_or_does_not_tell(log: str, runs: str | None) -> None:
    assert read_transceiver(log) == runs


def test_what_runs_is_kept_and_held_against_the_files() -> None:
    plan = launch("transceiver-nixl", "1.4")
    right = read_running(plan, {"ctx-0": PYTHON, "gen-0": PYTHON, "orchestrator": OTHER})
    assert right.choices == {"ctx-0": {KEY: "PYTHON"}, "gen-0": {KEY: "PYTHON"}} and right.notes == ()
    wrong = read_running(plan, {"ctx-0": PYTHON, "gen-0": OTHER})
    assert wrong.choices["gen-0"] == {KEY: "CPP"}
    assert wrong.notes == (
        "gen-0: its log shows KV transceiver CPP, and gen.yaml says PYTHON",
        "servers of one deployment run different KV transceivers: ctx-0 PYTHON, gen-0 CPP",
    )
    assert read_running(plan, {"ctx-0": "", "gen-0": ""}).choices == {}


def test_what_is_left_to_the_engine_is_no_mistake() -> None:
    plan = launch("transceiver-nixl", "1.3.0rc27")
    texts = {file.path: yaml.safe_load(file.content) for file in plan.files if isinstance(file, FileSpec)}
    assert texts["gen.yaml"]["cache_transceiver_config"]["transceiver_runtime"] == "auto"
    found = read_running(plan, {"ctx-0": PYTHON, "gen-0": PYTHON})
    assert found.notes == () and found.choices["ctx-0"] == {KEY: "PYTHON"}


@pytest.mark.parametrize(("version", "runs"), [("1.2", "CPP"), ("1.3.0rc27", "CPP"), ("1.4.0rc4", "PYTHON")])
def test_the_log_of_an_emulated_worker_shows_it_as_soon_as_it_is_ready(version: str, runs: str) -> None:
    log = Log(stream=io.StringIO())
    log.info(AT_START)
    announce({"cache_transceiver_config": {"backend": "NIXL"}}, version, log)
    assert read_transceiver(log.stream.getvalue()) == runs  # type: ignore[attr-defined]
