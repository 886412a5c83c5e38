"""``ratematch load`` as a benchmark client: options, files, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main
from ratematch.errors import UserError
from ratematch.loadgen.options import LoadOptions
from ratematch.plan.load import Concurrency, Rate
from ratematch.store.records import read_records
from tests.loadgen.sse_server import Reply, answer_normally, full_stream, serve


def call(*argv: str) -> Result:
    return CliRunner().invoke(main, ["load", *argv], catch_exceptions=False)


def options(**given: Any) -> LoadOptions:
    return LoadOptions("http://h:8000", "m", **given)


async def in_service(reply: Reply) -> None:
    await answer_normally(reply, gap_s=0.01)  # long enough that Little's law holds on a busy machine


async def at_once(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(full_stream(reply.body))
    await reply.end()


def test_a_ladder_leaves_records_figures_and_the_files_of_others(tmp_path: Path) -> None:
    with serve(in_service) as (url, seen):
        out = tmp_path / "out"
        size = ("--num-requests", "20", "--isl", "16", "--osl", "4", "--goodput", "ttft<=10000")
        result = call(url, "--model", "m", "--concurrency", "1,2", *size, "-o", str(out), "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [load["load"]["concurrency"] for load in content["loads"]] == [1, 2]
    assert content["emulated"] is False and content["loads"][0]["good_share"] == 1.0
    for load, row in zip(("c1-n20-w1", "c2-n20-w1"), content["loads"], strict=True):
        folder = out / load
        assert {file.name for file in folder.iterdir()} == {
            "records.parquet",
            "warmup.parquet",
            "measurement.json",
            "profile_export.jsonl",
            "profile_export_aiperf.json",
            "benchmark_serving.json",
        }
        assert len(read_records(folder / "records.parquet")) == 20
        served = json.loads((folder / "benchmark_serving.json").read_text())
        assert served["completed"] == 20 and served["output_throughput"] == pytest.approx(row["tok_s_run"])
        lines = (folder / "profile_export.jsonl").read_text().splitlines()
        assert len(lines) == 21
    prompts = [tuple(body["prompt"]) for body in seen.bodies]
    assert len(set(prompts)) == 42, "no prompt twice on the whole ladder"


def test_a_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "c1-n4-w1").mkdir()
    with serve(at_once) as (url, _):
        result = call(url, "--model", "m", "--concurrency", "1", "--num-requests", "4", "-o", str(tmp_path))
    assert result.exit_code == 1 and "nothing measured is overwritten" in result.stderr


def test_nothing_valid_left_is_exit_3_though_answers_came() -> None:
    async def short(reply: Reply) -> None:
        await answer_normally(Reply({**reply.body, "max_tokens": 2}, reply.number, reply._writer))

    with serve(short) as (url, _):
        result = call(url, "--model", "m", "--concurrency", "2", "--num-requests", "20", "--osl", "4", "--isl", "16")
    assert result.exit_code == 3
    assert "another output length than asked for" in result.stdout.replace("\n", " ")
    assert "no load gave figures that may be trusted" in result.stderr


def test_an_open_loop_without_streaming() -> None:
    async def whole(reply: Reply) -> None:
        choice = {"text": "a b c d", "finish_reason": "length"}
        await reply.json(200, {"choices": [choice], "usage": {"prompt_tokens": 16, "completion_tokens": 4}})

    with serve(whole) as (url, seen):
        more = ("--isl", "16", "--osl", "4", "--no-stream", "--extra-body", '{"top_k": 5, "ignore_eos": null}')
        result = call(url, "--model", "m", "--request-rate", "200", "--num-requests", "10", *more, "--json")
    body = seen.bodies[-1]
    assert body["stream"] is False and "stream_options" not in body and "ignore_eos" not in body
    assert body["top_k"] == 5
    content = json.loads(result.stdout)["loads"][0]
    assert (content["num_requests"], content["ttft_ms"]) == (10, None)


def test_loads_from_options() -> None:
    assert options(concurrency="1,4", num_requests=8).loads(None, False) == [
        Concurrency(1, 8, 1),
        Concurrency(4, 8, 1),
    ]
    assert options(concurrency="4", duration=30.0, stagger_s=2.0, warmup=0).loads(None, False) == [
        Concurrency(4, 32, 0, seconds=30.0, stagger_s=2.0)
    ]
    rate = options(request_rate="2", ramp_to=6.0, duration=10.0, arrival="gamma", burstiness=0.5, max_in_flight=9)
    assert rate.loads(None, False) == [Rate(2.0, 40, "gamma", 1, burstiness=0.5, end_req_s=6.0, max_in_flight=9)]
    assert options(concurrency="2").loads(70, False) == [Concurrency(2, 70, 1)], "a file decides the number"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no load"),
        ({"concurrency": "1,two"}, "write numbers"),
        ({"request_rate": "0"}, "greater than 0"),
        ({"replay": "1"}, "needs --dataset"),
    ],
)
def test_wrong_ladders(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        options(**given).loads(None, False)


def test_wrong_values_are_one_line_each() -> None:
    with pytest.raises(UserError, match="--isl-spread"):
        options(isl_spread="flat").workload()
    with pytest.raises(UserError, match="--extra-body: no JSON"):
        options(extra_body="{").target()
    with pytest.raises(UserError, match="--extra-body: give a JSON object"):
        options(extra_body="[]").target()
    with pytest.raises(UserError, match="--target-ci"):
        options(target_ci="much").early()
    assert options(target_ci="2%").early().target_ci == 0.02 == options(target_ci="0.02").early().target_ci


def test_two_senders_and_a_data_set_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 20 * k, "input_length": 8 + k, "output_length": 3} for k in range(12)]
    file.write_text("\n".join(map(json.dumps, rows)))
    with serve(at_once) as (url, seen):
        trace = ("--dataset", str(file), "--replay", "1", "--isl", "64", "--osl", "8")
        result = call(url, "--model", "m", *trace, "--processes", "2", "--json")
    content = json.loads(result.stdout)["loads"][0]
    assert (content["load"]["kind"], content["num_ok"], content["client"]["processes"]) == ("trace", 12, 2)
    assert sorted(len(body["prompt"]) for body in seen.bodies) == [8 + k for k in range(12)]
