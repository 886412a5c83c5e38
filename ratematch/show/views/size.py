"""How many GPUs a request rate needs, for a terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ratematch.match.openloop import describe_limits
from ratematch.plan.cluster import Cluster
from ratematch.plan.memory import default_precision
from ratematch.plan.sweep import Sweep
from ratematch.show import style
from ratematch.show.console import print_table, show_value
from ratematch.show.views.predict import basis_in_words

if TYPE_CHECKING:  # `show` draws what it is handed
    from ratematch.simulate.sizing import Run, Sized, Sizing

MOST_SLOW = 3
"""Deployments that did not keep the limits which are named."""
MOST_PLANS = 6
"""Smallest deployments that are listed, one of each pair of servers; the JSON has all."""


def size_to_json(sizing: Sizing, sweep: Sweep) -> dict[str, Any]:
    """Everything as plain JSON values; ``predicted`` is always true, runs are ``simulated``."""
    question = sizing.question
    return {
        "predicted": True,
        "model": sweep.model.name,
        "cluster": sweep.cluster.name,
        "gpu": sweep.cluster.gpu,
        "request_rate": question.request_rate,
        "ttft_ms": question.ttft_ms,
        "tpot_ms": question.tpot_ms,
        "percentile": question.percentile or "mean",
        "workloads": {each.workload: _sized_to_json(each, sizing, sweep.cluster) for each in sizing.workloads},
        "basis": basis_in_words(sizing.prediction),
    }


def _sized_to_json(sized: Sized, sizing: Sizing, cluster: Cluster) -> dict[str, Any]:
    runs = [{**asdict(run), "simulated": True} for run in sized.runs]
    if (answer := sized.answer) is not None:
        ends = {name: _within(answer, name, sizing) for name in ("ttft", "tpot")}
        runs[-1] |= {f"{name}_limit_ms_within": ends[name] for name in ends}
    return {
        "answer": answer.label if answer else None,
        "gpus": answer.gpus if answer else None,
        "gpus_low": sized.low,
        "gpus_high": sized.high,
        "nodes": _nodes(answer.gpus, cluster) if answer else None,
        "aggregated": dict(zip(("servers", "gpus_at_least"), sized.aggregated, strict=True))
        if sized.aggregated
        else None,
        "simulated": runs,
        "plans": [asdict(plan) for plan in sized.plans],
    }


def _nodes(gpus: int, cluster: Cluster) -> int:
    return -(-gpus // cluster.gpus_per_node)


def _within(run: Run, name: str, sizing: Sizing) -> tuple[float, float]:
    """Where public deployments were measured that were predicted so."""
    intervals = sizing.prediction.basis.accuracy.intervals["disagg"]
    low, high = intervals["ttft_ms" if name == "ttft" else "tpot_ms"]
    value = run.ttft_limit_ms if name == "ttft" else run.tpot_limit_ms
    return value * low, value * high


def print_size(sizing: Sizing, sweep: Sweep, console: Console) -> None:
    """The answer for each workload first: GPUs, nodes and racks, how sure, what it was in virtual time; then what it
    was chosen from, and what it stands on."""
    question, cluster = sizing.question, sweep.cluster
    console.print(Text(style.PREDICTED_TEXT, "bold yellow"), soft_wrap=True)
    formats = " and ".join(default_precision(sweep.model_under(name), sweep.gpu) for name in sweep.precisions)
    about = f"{sweep.model.name} in {formats} on {cluster.gpu} ({cluster.name}): {question.request_rate:g} requests/s"
    speed = f" ({show_value(1000 / question.tpot_ms)} tok/s/user)" if question.tpot_ms else ""
    _say(f"{about}, {describe_limits(question.constraints)}{speed}", console)
    for sized in sizing.workloads:
        console.print()
        _print_answer(sized, sizing, sweep, console)
    console.print()
    for line in basis_in_words(sizing.prediction):
        _say(line, console)


def _say(line: str, console: Console, look: str = "") -> None:
    console.print(Text(line, look), soft_wrap=True)


def _print_answer(sized: Sized, sizing: Sizing, sweep: Sweep, console: Console) -> None:
    cluster = sweep.cluster
    answer = sized.answer
    if answer is None:
        why = "in virtual time no deployment kept them" if sized.runs else "no pair of these servers keeps them"
        missing = " and no ".join(f"{stage} server" for stage in sized.lacking)
        text = f": no {missing} of the sweep can be forecast for it" if missing else f" within the limits: {why}"
        _say(f"ISL/OSL {sized.workload}: no answer{text}", console, "bold")
    else:
        _say(
            f"ISL/OSL {sized.workload}: {answer.gpus} GPUs ({_places(answer.gpus, cluster)}): {answer.label}",
            console,
            "bold",
        )
        _say(f"  95 %: {_range(sized)} GPUs, if all servers are as much faster or slower as they may be", console)
        if answer.gpus > sweep.max_gpus:
            _say(f"  that is more than the {sweep.max_gpus} GPUs of the sweep's budget", console, "yellow")
        _say(f"  {_describe_answer(answer, sizing)}", console)
    if slow := [run for run in sized.runs if run.broken]:
        tried = "; ".join(f"{run.label} ({', '.join(run.broken)})" for run in slow[:MOST_SLOW])
        more = f"; and {len(slow) - MOST_SLOW} more" if len(slow) > MOST_SLOW else ""
        _say(f"  SIMULATED, and not kept by: {tried}{more}", console)
    if sized.aggregated:
        label, gpus = sized.aggregated
        _say(f"  aggregated serving would take {gpus} GPUs at least: {label}, without what queues for them", console)
    if not sized.plans:
        return
    console.print()
    limits = describe_limits(sizing.question.constraints)
    at = limits.split(" ", 1)[0] if limits != "no limit" else "mean"
    columns = ("deployment", "GPUs", "TTFT ms", at, "TPOT ms", at, "ctx load", "gen load")
    rows = [
        (
            *(plan.label, plan.gpus, plan.ttft_ms, plan.ttft_limit_ms, plan.tpot_ms, plan.tpot_limit_ms),
            *(f"{plan.ctx_load:.0%}", f"{plan.gen_load:.0%}"),
        )
        for plan in sized.plans[:MOST_PLANS]
    ]
    more = f" ({MOST_PLANS} of {len(sized.plans)} pairs)" if len(sized.plans) > MOST_PLANS else ""
    print_table(f"smallest deployment of each pair of servers, by queueing theory{more}", columns, rows, console)


def _places(gpus: int, cluster: Cluster) -> str:
    nodes = _nodes(gpus, cluster)
    text = f"{nodes} nodes of {cluster.gpus_per_node}" if nodes > 1 else f"a node of {cluster.gpus_per_node}"
    if cluster.slurm.segment and cluster.slurm.segment > 1:
        racks = -(-nodes // cluster.slurm.segment)
        size = cluster.slurm.segment * cluster.gpus_per_node
        text += f", {racks} NVLink domains of {size}" if racks > 1 else f" in one NVLink domain of {size}"
    return text


def _range(sized: Sized) -> str:
    low = "-" if sized.low is None else str(sized.low)
    if sized.low == sized.high:
        return f"{low} too"
    return f"{low} to {sized.high}" if sized.high is not None else f"{low} or more (slowest: none found)"


def _describe_answer(run: Run, sizing: Sizing) -> str:
    percentile = sizing.question.percentile or "mean"
    at = "mean" if percentile == "mean" else f"p{percentile}"
    start = f"SIMULATED with {run.requests:,} requests"
    parts, open_ = [], []
    for name, value, limit in (
        ("TTFT", run.ttft_limit_ms, sizing.question.ttft_ms),
        ("TPOT", run.tpot_limit_ms, sizing.question.tpot_ms),
    ):
        low, high = _within(run, name.lower(), sizing)
        parts.append(
            f"{at} {name} {show_value(value)} ms (90 % of public rows: {show_value(low)} to {show_value(high)})"
        )
        if limit is not None and high > limit:
            open_.append(name)
    verdict = f"; {' and '.join(open_)} may still be over: measure before you promise" if open_ else ""
    return f"{start}: {', '.join(parts)}{verdict}"
