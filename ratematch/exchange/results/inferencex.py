"""InferenceX result rows (``agg_*.json`` and the public API), both ways. Latencies in seconds, rates per GPU.

``tput_per_gpu`` counts input and output tokens over all GPUs; ``output_tput_per_gpu`` counts output tokens over the
decode GPUs only where prefill and decode are apart, and ``input_tput_per_gpu`` input tokens over the prefill GPUs.
Precision, recipe and image are not ours to say: ``null``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ratematch.errors import CatalogError, UserError
from ratematch.exchange.results.fields import count, describe, flag, number, positive, section, text
from ratematch.exchange.results.foreign import ForeignLoad, Hints, Servers, Tool, list_missing, make_stats
from ratematch.exchange.results.wholerun import APART, RunFigures, measure_run
from ratematch.inputs.catalog import load_gpu
from ratematch.measure.measurement import Measurement
from ratematch.measure.stats import Stats
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.parallelism import Parallelism

TOOL: Tool = "InferenceX"
KEYS = (
    "hw", "model", "conc", "isl", "osl", "disagg", "spec_decoding", "tput_per_gpu", "output_tput_per_gpu",
    "mean_ttft", "mean_tpot", "mean_e2el",
)  # fmt: skip
"""Keys that a complete row has."""
API_KEYS = {"hardware": "hw", "spec_method": "spec_decoding"}
"""Names of the public API, and those of the files; the API nests figures under ``metrics`` besides."""
NAMES = {"mean": "mean", "std": "std", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
"""Our names of what a distribution holds, and theirs."""
NO_DRAFTS = ("", "none", "off", "stp", "false")
MOST_GPUS = 100_000
SUM_APART = 0.02
"""Input and output rates are parts of the total, computed from the same counts: they add up but for rounding."""
BELOW, ABOVE = 0.80, 1.05
"""Requests in flight by rate and latency over ``conc``: 86 public points, of 10 requests a slot, lie in 0.84 to 1.
Above 1 there is nothing to explain but rounding."""


def is_row(content: Any) -> bool:
    """Is this an InferenceX row, by its shape?"""
    if not isinstance(content, dict) or not {"hw", "hardware"} & set(content):
        return False
    metrics = content.get("metrics")
    return "tput_per_gpu" in content or (isinstance(metrics, dict) and "tput_per_gpu" in metrics)


def read_row(row: Mapping[str, Any], file: str, place: str = "") -> ForeignLoad:
    """One row. Requests/s are not in it: by Little's law they are ``conc`` / mean end-to-end latency.

    Raises:
        UserError: a figure that is no number, a layout that is none, GPUs or rates that do not add up.
    """
    where = f"{file}{f': {place}' if place else ''}"
    row = _flatten(row, where)
    layout = _read_layout(row, where)
    rates = _read_rates(row, layout, where)
    conc, e2el = count(row, "conc", where), positive(row, "mean_e2el", where)
    req_s = conc / e2el if conc and e2el else None
    stats = {f"{name}_ms": _read_stats(row, name, where) for name in ("ttft", "tpot", "itl", "e2el")}
    osl = rates.output / req_s if rates.output is not None and req_s else None
    isl = rates.input / req_s if rates.input is not None and req_s else None
    missing = list_missing(row, KEYS)
    asked_osl, held = positive(row, "osl", where), _in_flight(row, rates.output, where)
    figures = RunFigures(
        num_requests=count(row, "num_prompts", where),  # ratematch writes it; InferenceX does not
        num_failed=None,
        stats=stats,
        req_s=req_s,
        tok_s=rates.output,
        isl=isl,
        osl=osl,
        contradictions=tuple(_contradictions(row, held, osl, asked_osl, where)),
        notes=tuple(_notes(held)),
    )
    drafts = str(row.get("spec_decoding") or "none").strip().lower()
    emulated = row.get("emulated")
    hints = Hints(
        model=text(row, "model", where),
        gpu=_read_gpu(text(row, "hw", where)),
        engine=_read_engine(row, where),
        isl=positive(row, "isl", where),
        osl=asked_osl,
        concurrency=conc or None,
        ctx=layout.ctx,
        gen=layout.gen,
        agg=layout.agg,
        mtp=0 if drafts in NO_DRAFTS else count(row, "num_draft_tokens", where, 100),  # the latter by ratematch
        emulated=emulated if isinstance(emulated, bool) else None,
        precision=text(row, "precision", where),
    )
    if hints.mtp is None:
        missing = (*missing, "number of draft tokens (spec_decoding does not tell it)")
    return ForeignLoad(
        TOOL,
        file,
        hints,
        place,
        figures=measure_run(figures, TOOL),
        missing=missing,
        drafted=drafts not in NO_DRAFTS,
        ctx_gpus=layout.ctx_gpus,
        gen_gpus=layout.gen_gpus,
    )


def _flatten(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row with the names of the files, and without nesting."""
    flat = {**row, **section(row, "metrics", where)}
    for theirs, ours in API_KEYS.items():
        if flat.get(ours) is None and theirs in flat:
            flat[ours] = flat[theirs]
    return flat


@dataclass(frozen=True)
class _Layout:
    """Servers of a row, ``None`` where it has only their GPUs: ``ctx_gpus``, ``gen_gpus`` where prefill and decode
    are apart."""

    ctx: Servers | None = None
    gen: Servers | None = None
    agg: Servers | None = None
    ctx_gpus: int | None = None
    gen_gpus: int | None = None

    @property
    def gpus(self) -> int:
        return self.agg.gpus if self.agg is not None else (self.ctx_gpus or 0) + (self.gen_gpus or 0)


def _read_layout(row: Mapping[str, Any], where: str) -> _Layout:
    if not flag(row, "disagg"):
        prefix = _prefix_of_aggregated(row, where)
        agg = _read_servers(row, prefix, where)
        # For rows of before it knew GPUs, the API counts tp x ep, which are the same ranks.
        known = (agg.gpus, agg.mapping.tp * agg.mapping.ep) if prefix else (agg.gpus,)
        for key in ("num_gpus", f"num_{prefix}gpu") if prefix else ("num_gpus",):
            _check_gpus(row, key, known, where)
        return _Layout(agg=agg)
    _refuse_two_kinds(row, where)
    if row.get("prefill_tp") is None and row.get("decode_tp") is None:
        ctx_gpus, gen_gpus = (count(row, f"num_{role}_gpu", where, MOST_GPUS) for role in ("prefill", "decode"))
        if not ctx_gpus or not gen_gpus:
            raise UserError(f"{where}: no prefill_tp and no num_prefill_gpu: not a row with its GPUs")
        _check_gpus(row, "num_gpus", (ctx_gpus + gen_gpus,), where)
        return _Layout(ctx_gpus=ctx_gpus, gen_gpus=gen_gpus)
    ctx, gen = _read_servers(row, "prefill_", where), _read_servers(row, "decode_", where)
    for key, servers in (("num_prefill_gpu", ctx), ("num_decode_gpu", gen)):
        _check_gpus(row, key, (servers.gpus,), where)
    _check_gpus(row, "num_gpus", (ctx.gpus + gen.gpus,), where)
    return _Layout(ctx=ctx, gen=gen, ctx_gpus=ctx.gpus, gen_gpus=gen.gpus)


def _prefix_of_aggregated(row: Mapping[str, Any], where: str) -> str:
    """Of the keys that hold the layout of an aggregated server: on one node they have none; over several nodes it
    stands as the prefill server, with a decode ``tp`` of 0. The API has it as both, with 0 workers of either."""
    if row.get("tp") is not None:
        return ""
    return "decode_" if count(row, "decode_tp", where, MOST_GPUS) else "prefill_"


def _refuse_two_kinds(row: Mapping[str, Any], where: str) -> None:
    """Raises UserError: prefill and decode ran on GPUs of two kinds, whose rates per GPU are of neither."""
    ctx, gen = (_read_gpu(text(row, f"{role}_hw", where)) for role in ("prefill", "decode"))
    if ctx and gen and ctx != gen:
        raise UserError(
            f"{where}: prefill on {ctx} and decode on {gen}: only deployments of one kind of GPU are taken"
        )


def _check_gpus(row: Mapping[str, Any], key: str, known: tuple[int, ...], where: str) -> None:
    gpus = count(row, key, where, MOST_GPUS)
    if gpus and gpus not in known:
        raise UserError(f"{where}: {key} is {gpus}, and the layout makes {known[0]}")


def _read_servers(row: Mapping[str, Any], prefix: str, where: str) -> Servers:
    def ways(key: str) -> int:
        return count(row, f"{prefix}{key}", where, MOST_GPUS) or 1

    if not count(row, f"{prefix}tp", where, MOST_GPUS):
        raise UserError(f"{where}: no {prefix}tp: not a row with its layout")
    mapping = Parallelism(
        tp=ways("tp"),
        pp=ways("pp"),
        cp=ways("pcp_size"),
        ep=ways("ep"),
        attention_dp=flag(row, f"{prefix}dp_attention"),
    )
    if problems := mapping.problems():
        raise UserError(f"{where}: {prefix or 'aggregated '}layout: {problems[0]}")
    servers = Servers(mapping, ways("num_workers"), ways("dcp_size"))
    if servers.gpus > MOST_GPUS:
        raise UserError(f"{where}: {prefix or 'aggregated '}layout: {servers.gpus} GPUs")
    return servers


@dataclass(frozen=True)
class _Rates:
    """Tokens/s of the whole deployment, ``None`` where they are not known."""

    output: float | None
    input: float | None


def _read_rates(row: Mapping[str, Any], layout: _Layout, where: str) -> _Rates:
    """Rates per GPU times the GPUs they are per. Where prefill and decode are apart, some rows have their output rate
    per decode GPU (as the files do) and some per GPU of all: the one that adds up to the total is it.

    Raises:
        UserError: input and output do not add up to the total in any way.
    """
    total, output, given = (positive(row, f"{name}tput_per_gpu", where) for name in ("", "output_", "input_"))
    if output is None:
        return _Rates(None, None)
    ctx, gen = layout.ctx_gpus or layout.gpus, layout.gen_gpus or layout.gpus
    if total is None:
        return _Rates(output * gen, None if given is None else given * ctx)
    whole = total * layout.gpus
    for output_gpus, input_gpus in ((gen, ctx), (layout.gpus, ctx), (gen, layout.gpus), (layout.gpus, layout.gpus)):
        made = output * output_gpus
        if given is None and made <= whole * (1 + SUM_APART):
            return _Rates(made, max(0.0, whole - made))
        if given is not None and abs((made + given * input_gpus) / whole - 1) <= SUM_APART:
            return _Rates(made, whole - made)
    parts = f"{output:g} output" + (f" and {given:g} input" if given is not None else "")
    gpus = f"{layout.gpus} GPUs" + (f" ({ctx} prefill, {gen} decode)" if layout.agg is None else "")
    raise UserError(f"{where}: {parts} tokens/s/GPU do not make {total:g} in all, on {gpus}")


def _in_flight(row: Mapping[str, Any], tok_s: float | None, where: str) -> float | None:
    """Requests in flight over ``conc``; ``None`` where the row lacks what it takes.

    Latencies tell how long answers were, (E2EL - TTFT) / TPOT + 1, so output tokens/s tell how many ended a second,
    and Little's law how many there were at a time.
    """
    ttft, tpot, e2el = (positive(row, f"mean_{name}", where) for name in ("ttft", "tpot", "e2el"))
    conc = count(row, "conc", where)
    if not (ttft and tpot and e2el and e2el > ttft and conc and tok_s):
        return None
    return tok_s / ((e2el - ttft) / tpot + 1) * e2el / conc


def _notes(held: float | None) -> Iterator[str]:
    if held is not None and BELOW <= held < 1 - APART:
        yield f"Little's law is off by {held - 1:+.0%}: empty slots at the end of the run are in its rates"


def _contradictions(
    row: Mapping[str, Any], held: float | None, osl: float | None, asked_osl: float | None, where: str
) -> Iterator[str]:
    """What cannot be in a row. ``held``: see :func:`_in_flight`. ``osl``: by its rates, ``asked_osl``: as it says."""
    if osl is not None and asked_osl is not None and osl > asked_osl * (1 + APART):
        yield f"rate and latency make {osl:.5g} tokens an answer, and osl is {asked_osl:g}"
    if held is not None and not BELOW <= held <= ABOVE:
        conc = count(row, "conc", where) or 0
        text = f"{held * conc:.5g} requests in flight by rate and latency, {conc} asked for"
        yield f"Little's law is off by {held - 1:+.0%}: {text}"
    for name in ("mean", "median"):
        step, speed = positive(row, f"{name}_tpot", where), positive(row, f"{name}_intvty", where)
        if step and speed and abs(step * speed - 1) > APART:
            yield f"{name}_intvty is {speed:g} tok/s/user, and {name}_tpot {1000 * step:g} ms makes {1 / step:.5g}"


def _read_gpu(hw: str | None) -> str | None:
    """The GPU in a name of a runner, such as ``h200-nb_0`` or ``cluster:h100-dgxc``: what the catalog knows, else the
    first part."""
    if hw is None:
        return None
    parts = [part for part in re.split(r"[-_ ]", hw.rsplit(":", 1)[-1].lower()) if part]
    for part in parts:
        try:
            return load_gpu(part).name
        except CatalogError:
            continue
    return parts[0] if parts else None


def _read_engine(row: Mapping[str, Any], where: str) -> str | None:
    """``name/version``; the container's image stands for the version where nothing else does."""
    framework = text(row, "framework", where)
    version = text(row, "engine_version", where) or text(row, "image", where)
    if framework is not None and "/" in framework:
        raise UserError(f"{where}: framework is {describe(framework)}, not a name")
    return f"{framework}/{version or 'unknown'}" if framework else None


def _read_stats(row: Mapping[str, Any], name: str, where: str) -> Stats | None:
    values = {ours: number(row, f"{theirs}_{name}", where) for ours, theirs in NAMES.items()}
    return make_stats({key: None if value is None else 1000 * value for key, value in values.items()}, 0)


def make_row(experiment: Experiment, load: Load, figures: Measurement) -> dict[str, Any] | None:
    """One aggregated or end-to-end load as a row; ``None`` for servers measured apart, which have no such row.

    Undefined figures are left out, as there; ``emulated``, ``num_draft_tokens``, ``engine_version``, ``source`` and,
    where drafts were accepted by force, ``forced_acceptance`` are extra fields.
    """
    deployment = experiment.deployment
    if figures.tok_s is None or figures.isl_mean is None or figures.req_s is None:
        return None
    tokens_in = figures.req_s * figures.isl_mean
    row: dict[str, Any] = {
        "hw": experiment.gpu,
        "conc": load.concurrency if isinstance(load, Concurrency) else round(figures.in_flight or 0),
        "image": None,
        "model": experiment.model,
        "infmax_model_prefix": experiment.model,
        "framework": experiment.engine.key,
        "engine_version": experiment.engine.version,
        "precision": experiment.workload.precision or None,
        "spec_decoding": "mtp" if deployment.mtp else "none",
        "num_draft_tokens": deployment.mtp,
        **({"forced_acceptance": experiment.workload.forced_acceptance} if experiment.workload.forced else {}),
        "isl": experiment.workload.isl,
        "osl": experiment.workload.osl,
        "num_prompts": figures.num_requests,
        "emulated": experiment.emulated,
        "source": "ratematch",
    }
    if deployment.agg is not None:
        output_gpus = input_gpus = deployment.agg.gpus
        row |= {"disagg": False, "is_multinode": False, **_write_layout("", deployment.agg)}
    elif deployment.ctx is not None and deployment.gen is not None and experiment.stage == "e2e":
        input_gpus, output_gpus = deployment.ctx.gpus, deployment.gen.gpus
        row |= {"disagg": True, "is_multinode": True}
        row |= {**_write_layout("prefill_", deployment.ctx), **_write_layout("decode_", deployment.gen)}
        row |= {"num_prefill_gpu": input_gpus, "num_decode_gpu": output_gpus}
    else:
        return None
    row |= {
        "tput_per_gpu": (tokens_in + figures.tok_s) / deployment.gpus,
        "output_tput_per_gpu": figures.tok_s / output_gpus,
        "input_tput_per_gpu": tokens_in / input_gpus,
    }
    for name in ("ttft", "tpot", "itl", "e2el"):
        stats: Stats | None = getattr(figures, f"{name}_ms")
        for ours, theirs in NAMES.items() if stats else ():
            value = getattr(stats, ours)
            if value == value:  # not a NaN
                row[f"{theirs}_{name}"] = value / 1000
                if name == "tpot" and value:
                    row[f"{theirs}_intvty"] = 1000 / value
    return row


def _write_layout(prefix: str, group: ServerGroup) -> dict[str, Any]:
    mapping = group.mapping
    row = {
        f"{prefix}tp": mapping.tp,
        f"{prefix}pp": mapping.pp,
        f"{prefix}pcp_size": mapping.cp,
        f"{prefix}dcp_size": group.options.get("decode-context-parallel-size", 1),
        f"{prefix}ep": mapping.ep,
        f"{prefix}dp_attention": mapping.attention_dp,
    }
    return row | ({f"{prefix}num_workers": group.instances} if prefix else {})
