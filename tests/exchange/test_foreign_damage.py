"""Files of other tools with anything in them: one line says what is wrong and where, and nothing is left behind."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main

from .foreign_files import (
    AIC_AGG,
    AIC_DISAGG,
    AIPERF_SUMMARY,
    INFERENCEX_AGG,
    INFERENCEX_DISAGG,
    SA_BENCH,
    aiperf_line,
)
from .foreign_runs import AIC_CELL, AIC_CELL_HEAD, DASHBOARD_HEAD, api_row, dashboard_line, serving_run, sglang_run

OPTIONS = (
    *("--agg", "DEP8", "--mtp", "3", "--concurrency", "64", "--model", "deepseek-r1", "--gpu", "h200"),
    *("--engine", "trtllm-serve/1.2", "--real", "--workload", "1024/64"),
)


def run(folder: Path, name: str, content: str | bytes) -> Result:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    where = ("-o", folder / "rates.csv") if name.endswith(".csv") else ("--into", folder / "in")
    options = () if name.endswith(".csv") else OPTIONS
    argv = [str(word) for word in ("import", "results", folder / name, *where, *options)]
    return CliRunner().invoke(main, argv)


def refused(result: Result, *parts: str) -> None:
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, result.exception
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("ratematch: ")]
    assert "unexpected" not in line and len(line) < 1000, line
    for part in parts:
        assert part in result.stderr, result.stderr


def record_with(**metrics: Any) -> str:
    line = aiperf_line(0)
    return json.dumps({**line, "metrics": {**line["metrics"], **metrics}})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_prompts": -1e308}, "num_prompts is -1e+308, below 0"),
        ({"num_prompts": 10**400}, "num_prompts is 1000"),
        ({"completed": 2.5}, "completed is 2.5, not a count"),
        ({"completed": True}, "completed is True, not a number"),
        ({"mean_ttft_ms": [1]}, "mean_ttft_ms is a list, not a number"),
        ({"mean_tpot_ms": 1e-320}, "mean_tpot_ms is 1e-320: no such figure can be"),
        ({"mean_ttft_ms": "\u00b2"}, "mean_ttft_ms is '\u00b2', not a number"),
        ({"mean_ttft_ms": "9" * 5000}, "no such figure can be"),
        ({"model_id": ["a"]}, "model_id is a list, not text"),
        ({"model_id": "A" * 5000}, "model_id is no name"),
        ({"model_id": "a\nb"}, "model_id is no name"),
        ({"model_id": "\ud800"}, "model_id is no name"),
        ({"max_concurrency": {"a": 1}}, "max_concurrency is an object, not a number"),
        ({"percentiles_ttft_ms": [[1, 2, 3]]}, "percentiles_ttft_ms"),
        ({"percentiles_ttft_ms": [["x", 2]]}, "a percentile is 'x', not a number"),
        ({"request_rate": "fast"}, "request_rate is 'fast', not a number"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_with_its_field(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    refused(run(tmp_path, "run.json", json.dumps({**serving_run(), **changes})), "run.json", says)
    assert not (tmp_path / "in").exists(), "nothing is left behind"


def test_infinity_in_place_of_a_figure_is_an_unknown_one(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        "run.json",
        json.dumps({**serving_run(), "max_concurrency": float("inf"), "p99_ttft_ms": float("nan")}),
    )
    assert result.exit_code == 0, "the option says its concurrency"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("deep.json", "[" * 100_000, "nested too deeply"),
        ("deep.json", '{"a":' * 100_000, "nested too deeply"),
        ("digits.json", '{"completed": ' + "9" * 5000 + "}", "not valid JSON that can be read"),
        ("cut.json", json.dumps(serving_run())[:-3], "cut.json:1: not valid JSON"),
        ("text.json", "hello", "not valid JSON"),
        ("empty.json", "", "none of the tools"),
        ("list.json", "[]", "none of the tools"),
        ("bytes.json", b"\xff\xfe", "is no UTF-8 text"),
        ("metrics.json", json.dumps({**INFERENCEX_AGG, "metrics": [1]}), "metrics is a list, not an object"),
        ("metrics.jsonl", json.dumps({**aiperf_line(0), "metrics": {"time_to_first_token": 5}}), ":1: time_to_first"),
        ("metadata.jsonl", json.dumps({**aiperf_line(0), "metadata": [1]}), ":1: metadata is a list"),
        ("start.jsonl", json.dumps({"metadata": {"request_start_ns": 2**70}, "metrics": {}}), "request_start_ns is"),
        ("gaps.jsonl", record_with(inter_chunk_latency={"value": [1, "x"], "unit": "ms"}), ":1: inter_chunk"),
        ("gaps.jsonl", record_with(inter_chunk_latency={"value": [1e308], "unit": "s"}), ":1: inter_chunk"),
        ("gaps.jsonl", record_with(inter_chunk_latency={"value": [[1]], "unit": "ms"}), ":1: inter_chunk"),
        ("long.jsonl", record_with(request_latency={"value": 1e12, "unit": "s"}), "no request takes as long"),
        ("unit.jsonl", record_with(request_latency={"value": 1, "unit": ["ms"]}), "has the unit a list"),
        ("e.jsonl", json.dumps({"metadata": {"request_start_ns": 9, "request_end_ns": 8}, "metrics": {}}), "before"),
        ("second.jsonl", json.dumps(aiperf_line(0)) + "\n{}", ":2: no record of AIPerf"),
        ("summary.json", json.dumps({**AIPERF_SUMMARY, "request_count": 5}), "request_count is 5, not an object"),
        ("config.json", json.dumps({**AIPERF_SUMMARY, "input_config": [1]}), "input_config is a list"),
        ("models.json", json.dumps({**AIPERF_SUMMARY, "input_config": {"models": "m"}}), "models are 'm'"),
        ("phases.json", json.dumps({**AIPERF_SUMMARY, "input_config": {"phases": {"a": 1}}}), "phases is an object"),
        ("cell.csv", AIC_AGG.replace("2000.0", "x" * 200_000), "not CSV that can be read"),
        ("count.csv", AIC_AGG.replace(",8,8,1,1,1,8,", ",8,inf,1,1,1,8,"), "no tp"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_why_on_one_line(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    refused(run(tmp_path, name, content), name, says)


@pytest.mark.parametrize("broken", ["{", "", "[1", json.dumps({**AIPERF_SUMMARY, "input_config": 5}), "[" * 50_000])
def test_a_broken_summary_beside_the_records_is_named(tmp_path: Path, broken: str) -> None:
    (tmp_path / "profile_export_aiperf.json").write_text(broken)
    result = run(tmp_path, "profile_export.jsonl", "".join(json.dumps(aiperf_line(k)) + "\n" for k in range(4)))
    refused(result, "profile_export_aiperf.json", "it stands beside profile_export.jsonl")


def test_devices_and_folders_are_no_files_of_results(tmp_path: Path) -> None:
    for path, says in (("/dev/zero", "is a device"), (str(tmp_path), "cannot be read")):
        result = CliRunner().invoke(main, ["import", "results", path, "--into", str(tmp_path / "in"), *OPTIONS])
        assert result.exit_code in (1, 2) and "unexpected" not in result.stderr and "Traceback" not in result.stderr
        if result.exit_code == 1:
            assert says in result.stderr


# ------------------------------------------------------------------------------------------------------ by chance

ANY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 10**400, 1e308, -1e308, 1e-320, float("nan"), float("inf"),
    -float("inf"), "", "x", "nan", "inf", "1e400", "\u00b2", "\uff11", "../../x", "a/b", "\x00", "\x1b[31mRED",
    "\ud800", [], {}, [[]], [1, "x", None], {"a": 1}, {"avg": "x"}, [[1]], [[None, None]], "true", "A" * 5000, "=1+1",
)  # fmt: skip
WHOLE: tuple[Any, ...] = (
    AIPERF_SUMMARY, serving_run(), sglang_run(), SA_BENCH, INFERENCEX_DISAGG, INFERENCEX_AGG, api_row(),
    [INFERENCEX_AGG, INFERENCEX_DISAGG],
)  # fmt: skip
TABLES = (AIC_DISAGG, AIC_AGG, AIC_CELL_HEAD + AIC_CELL, DASHBOARD_HEAD + dashboard_line())


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*before, key)
        if isinstance(part, dict | list):
            yield from paths(part, (*before, key))


def changed(value: Any, chance: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(chance.choice([1, 1, 2, 4])):
        *way, last = chance.choice(list(paths(value)))
        part = value
        for step in way:
            part = part[step]
        if chance.random() < 0.8:
            part[last] = copy.deepcopy(chance.choice(ANY))
        else:
            del part[last]
    return value


def changed_table(text: str, chance: random.Random) -> str:
    lines = [line.split(",") for line in text.splitlines()]
    for _ in range(chance.choice([1, 1, 2])):
        line = chance.choice(lines)
        line[chance.randrange(len(line))] = str(chance.choice([v for v in ANY if v != "\ud800" and v != 10**400]))
    return "\n".join(",".join(line) for line in lines)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_stands_in_a_file_is_read_or_refused_on_one_line(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for turn in range(60):
        folder = tmp_path / str(turn)
        folder.mkdir()
        kind = chance.random()
        if kind < 0.6:
            content = json.dumps(changed(chance.choice(WHOLE), chance))
            result = run(folder, "run.json", content)
        elif kind < 0.8:
            lines = [aiperf_line(k) for k in range(3)]
            content = "\n".join(json.dumps(line) for line in [*lines, changed(aiperf_line(3), chance)])
            result = run(folder, "run.jsonl", content)
        else:
            content = changed_table(chance.choice(TABLES), chance)
            result = run(folder, "run.csv", content)
        unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
        assert not unexpected and "unexpected" not in result.stderr, (seed, turn, content[:2000], result.stderr)
