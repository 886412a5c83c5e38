"""InferenceX result rows (``agg_*.json``), both ways. Their latencies are in seconds, their rates per GPU.

``tput_per_gpu`` counts input and output tokens over all GPUs; ``output_tput_per_gpu`` counts output tokens over the
decode GPUs only where prefill and decode are apart. Precision, recipe and image are not ours to say: ``null``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ratematch.errors import UserError
from ratematch.exchange.results.foreign import (
    ForeignLoad,
    Hints,
    RunFigures,
    Servers,
    Tool,
    list_missing,
    make_stats,
    measure_run,
    number,
)
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
NAMES = {"mean": "mean", "std": "std", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
"""Our names of what a distribution holds, and theirs."""
NO_DRAFTS = ("", "none", "off", "stp", "false")


def is_row(content: Any) -> bool:
    """Is this an InferenceX row, by its shape?"""
    return isinstance(content, dict) and {"hw", "tput_per_gpu"} <= {*content, *(content.get("metrics") or {})}


def read_row(row: Mapping[str, Any], file: str, place: str = "") -> ForeignLoad:
    """One row. Requests/s are not in it: by Little's law they are ``conc`` / mean end-to-end latency.

    Raises:
        UserError: a figure that is no number, or a layout that is none.
    """
    where = f"{file}{f': {place}' if place else ''}"
    row = {**row, **(row.get("metrics") or {})}  # the application's API nests what the files have flat
    layout = _read_layout(row, where)
    total, output = number(row, "tput_per_gpu", where), number(row, "output_tput_per_gpu", where)
    tok_s = None if output is None else output * layout.output_gpus
    conc, e2el = number(row, "conc", where), number(row, "mean_e2el", where)
    req_s = conc / e2el if conc and e2el else None
    stats = {f"{name}_ms": _read_stats(row, name, where) for name in ("ttft", "tpot", "itl", "e2el")}
    osl = tok_s / req_s if tok_s is not None and req_s else None
    isl = (total * layout.gpus - tok_s) / req_s if total is not None and tok_s is not None and req_s else None
    missing = list_missing(row, KEYS)
    requests = number(row, "num_prompts", where)  # ratematch writes it; InferenceX does not
    figures = RunFigures(
        num_requests=None if requests is None else int(requests),
        num_failed=None,
        stats=stats,
        req_s=req_s,
        tok_s=tok_s,
        isl=isl,
        osl=osl,
    )
    drafts = str(row.get("spec_decoding") or "none").lower()
    emulated = row.get("emulated")
    hints = Hints(
        model=str(row["model"]) if row.get("model") else None,
        gpu=str(row["hw"]).split("-")[0].lower() if row.get("hw") else None,
        engine=_read_engine(row),
        isl=number(row, "isl", where),
        osl=number(row, "osl", where),
        concurrency=int(conc) if conc else None,
        ctx=layout.ctx,
        gen=layout.gen,
        agg=layout.agg,
        mtp=0 if drafts in NO_DRAFTS else _read_drafts(row, where),
        emulated=emulated if isinstance(emulated, bool) else None,
    )
    if hints.mtp is None:
        missing = (*missing, "number of draft tokens (spec_decoding does not tell it)")
    return ForeignLoad(TOOL, file, hints, place, figures=measure_run(figures, TOOL), missing=missing)


@dataclass(frozen=True)
class _Layout:
    """Servers of a row. ``output_gpus``: GPUs that its output rate is per, the decode GPUs where they are apart."""

    ctx: Servers | None = None
    gen: Servers | None = None
    agg: Servers | None = None

    @property
    def gpus(self) -> int:
        return sum(servers.gpus for servers in (self.ctx, self.gen, self.agg) if servers is not None)

    @property
    def output_gpus(self) -> int:
        return self.gpus if self.gen is None else self.gen.gpus


def _read_layout(row: Mapping[str, Any], where: str) -> _Layout:
    if str(row.get("disagg", "")).lower() != "true":
        return _Layout(agg=_read_servers(row, "", where))
    ctx, gen = _read_servers(row, "prefill_", where), _read_servers(row, "decode_", where)
    for key, servers in (("num_prefill_gpu", ctx), ("num_decode_gpu", gen)):
        gpus = number(row, key, where)
        if gpus is not None and gpus != servers.gpus:
            raise UserError(f"{where}: {key} is {gpus:g}, and the layout makes {servers.gpus}")
    return _Layout(ctx=ctx, gen=gen)


def _read_servers(row: Mapping[str, Any], prefix: str, where: str) -> Servers:
    tp = number(row, f"{prefix}tp", where)
    if tp is None:
        raise UserError(f"{where}: no {prefix}tp: not a row with its layout")
    pp, ep = number(row, f"{prefix}pp", where) or 1, number(row, f"{prefix}ep", where) or 1
    cp = (number(row, f"{prefix}pcp_size", where) or 1) * (number(row, f"{prefix}dcp_size", where) or 1)
    adp = str(row.get(f"{prefix}dp_attention", "")).lower() == "true"
    workers = number(row, f"{prefix}num_workers", where) or 1
    mapping = Parallelism(tp=int(tp), pp=int(pp), cp=int(cp), ep=int(ep), attention_dp=adp)
    if problems := mapping.problems():
        raise UserError(f"{where}: {prefix or 'aggregated '}layout: {problems[0]}")
    return Servers(mapping, int(workers))


def _read_engine(row: Mapping[str, Any]) -> str | None:
    """``name/version``; the container's image stands for the version where nothing else does."""
    version = row.get("engine_version") or row.get("image")
    return f"{row['framework']}/{version or 'unknown'}" if row.get("framework") else None


def _read_drafts(row: Mapping[str, Any], where: str) -> int | None:
    drafts = number(row, "num_draft_tokens", where)  # written by ratematch, as an extra field
    return None if drafts is None else int(drafts)


def _read_stats(row: Mapping[str, Any], name: str, where: str) -> Stats | None:
    values = {ours: number(row, f"{theirs}_{name}", where) for ours, theirs in NAMES.items()}
    return make_stats({key: None if value is None else 1000 * value for key, value in values.items()}, 0)


def make_row(experiment: Experiment, load: Load, figures: Measurement) -> dict[str, Any] | None:
    """One aggregated or end-to-end load as a row; ``None`` for servers measured apart, which have no such row.

    Undefined figures are left out, as there; ``emulated``, ``num_draft_tokens``, ``engine_version`` and
    ``source`` are extra fields.
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
        "framework": experiment.engine.name,
        "engine_version": experiment.engine.version,
        "precision": None,
        "spec_decoding": "mtp" if deployment.mtp else "none",
        "num_draft_tokens": deployment.mtp,
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
        f"{prefix}dcp_size": 1,
        f"{prefix}ep": mapping.ep,
        f"{prefix}dp_attention": mapping.attention_dp,
    }
    return row | ({f"{prefix}num_workers": group.instances} if prefix else {})
