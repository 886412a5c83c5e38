"""How many GPUs a request rate needs: the answer keeps its limits in virtual time, and says how sure it is."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ratematch.campaign.precheck import expand_sweep
from ratematch.inputs.find import read_sweep
from ratematch.match.question import Question
from ratematch.simulate import sizing
from ratematch.simulate.sizing import Sizing, size_sweep
from tests.support.sites import read

SWEEP = Path(__file__).parents[2] / "sweeps" / "deepseek-r1.yaml"
FEW = (
    "workloads=[{isl: 4096, osl: 128}]",
    "ctx.axes={mapping: [DEP4], mtp: [1]}",
    "gen.axes={mapping: [TEP4], mtp: [1]}",
    "ifb.axes={mapping: [TEP4], mtp: [1]}",
)
OPTIONS = [word for key in FEW for word in ("--set", key)]


def sized(workload: str = FEW[0], **question: Any) -> Sizing:
    sweep, _ = read_sweep(str(SWEEP), (workload, *FEW[1:]), None)
    return size_sweep(sweep, expand_sweep(sweep).experiments, Question(percentile=99, draws=0, **question))


def test_the_answer_keeps_its_limits_in_virtual_time_and_grows_with_the_rate() -> None:
    few, many = (sized(ttft_ms=2000, tpot_ms=20, request_rate=rate).workloads[0] for rate in (6.0, 40.0))
    for each in (few, many):
        assert each.answer is not None and not each.answer.broken
        assert each.answer.ttft_limit_ms <= 2000 and each.answer.tpot_limit_ms <= 20
        assert each.low is not None and each.high is not None and each.low <= each.answer.gpus <= each.high
        assert each.plans[0].gpus <= each.answer.gpus and each.aggregated is not None
    assert few.answer is not None and many.answer is not None and few.answer.gpus < many.answer.gpus


def test_a_server_more_where_queueing_theory_is_too_kind() -> None:
    """A limit just below what the smallest deployment gives in virtual time: the next one has more ctx servers."""
    tight = sized(ttft_ms=2000, request_rate=20.0).workloads[0].runs[0].ttft_limit_ms * 0.98
    runs = sized(ttft_ms=tight, request_rate=20.0).workloads[0].runs
    assert len(runs) > 1 and "TTFT" in runs[0].broken[0]
    for slow, next_one in pairwise(runs):
        assert slow.broken and (next_one.ctx, next_one.gen) > (slow.ctx, slow.gen)
    assert not runs[-1].broken and runs[-1].ttft_limit_ms <= tight


def test_requests_that_take_long_are_no_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, requests are sent for some times as long as one takes."""
    monkeypatch.setattr(sizing, "MOST_REQUESTS", 2000)
    (run,) = sized("workloads=[{isl: 64, osl: 1024}]", ttft_ms=2000, request_rate=100.0).workloads[0].runs
    assert not run.broken and run.requests > 2000


def test_more_servers_are_tried_for_limits_only() -> None:
    """All tokens of an answer of two come at once, however many servers there are."""
    (run,) = sized("workloads=[{isl: 10, osl: 2}]", ttft_ms=2000, request_rate=100.0).workloads[0].runs
    assert any("answers came at once" in reason for reason in run.broken)


def test_no_answer_where_no_server_is_so_fast() -> None:
    none = sized(tpot_ms=0.5, request_rate=5.0).workloads[0]
    assert none.answer is None and not none.plans and not none.runs and none.aggregated is None


def test_it_is_said_what_was_predicted_what_was_simulated_and_how_sure(tmp_path: Path) -> None:
    ask = (
        "size",
        str(SWEEP),
        *OPTIONS,
        "--request-rate",
        "6",
        "--at",
        "50",
        "--ttft-ms",
        "2000",
        "--percentile",
        "99",
    )
    code, out, _ = read(tmp_path, *ask)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("PREDICTED")
    assert "6 requests/s, p99 TTFT 2000 ms, p99 TPOT 20 ms (50.0 tok/s/user)" in lines[1]
    assert "ISL/OSL 4096/128: " in lines[3] and " GPUs (" in lines[3] and "NVLink domain of 72" in lines[3]
    assert "95 %: " in lines[4] and "SIMULATED" in lines[5] and "90 % of public rows" in lines[5]
    assert "aggregated serving would take" in out and "82 rows" in out
    content = json.loads(read(tmp_path, *ask, "--json")[1])
    workload = content["workloads"]["4096/128"]
    assert content["predicted"] is True and all(run["simulated"] for run in workload["simulated"])
    assert workload["gpus_low"] <= workload["gpus"] and workload["answer"] in lines[3]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (("gen=null", "e2e=null"), "no gen server of the sweep"),
        (("workloads=[{isl: 4096, osl: 128, turns: 3}]",), "no ctx server and no gen server of the sweep"),
    ],
)
def test_servers_without_a_forecast_are_named(tmp_path: Path, keys: tuple[str, ...], why: str) -> None:
    more = [word for key in keys for word in ("--set", key)]
    code, out, _ = read(tmp_path, "size", str(SWEEP), *OPTIONS[:4], *OPTIONS[6:], *more, "--request-rate", "6")
    assert code == 0 and f": no answer: {why} can be forecast for it" in out


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--request-rate", "6", "--isl", "100"), "give both"),
        (("--request-rate", "6", "--at", "50", "--tpot-ms", "20"), "give one of them"),
        ((), "--request-rate"),
    ],
)
def test_half_a_question_is_refused(tmp_path: Path, options: tuple[str, ...], why: str) -> None:
    code, _, said = read(tmp_path, "size", str(SWEEP), *OPTIONS, *options)
    assert code == 1 and why in said
