"""Puts measurements of other tools into a results folder, or into a table of rates for ``ratematch match``.

Where figures come from stays with them: ``origin`` in ``loadrun.json``, a warning on every figure, a note on every
analysis. They enter a folder with loads of another origin only when a person says so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ratematch.errors import CatalogError, UserError
from ratematch.exchange.results import aiconfigurator, aiperf, benchmark_serving, inferencex
from ratematch.exchange.results.foreign import ForeignLoad, ForeignRate, ForeignRole, Hints, Servers, lay_over
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.inputs.ratetable import RACK_GPUS
from ratematch.match.table import COLUMNS
from ratematch.measure.loadrun import Import, LoadRun
from ratematch.measure.measurement import Measurement, measure_load
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup, Stage
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Concurrency, Constraints, Load, Rate
from ratematch.plan.workload import Workload
from ratematch.store import layout
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.records import write_records
from ratematch.store.sweeprun import SweepLimits

SUMMARY_FILE = "profile_export_aiperf.json"
EXTRA = ("origin", "predicted", "emulated", "model", "gpu", "backend")


@dataclass(frozen=True)
class Imported:
    """One load that was put into a store. ``missing``: what its file does not tell."""

    source: str
    folder: Path
    valid: bool
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """One load that was not, and why."""

    source: str
    why: str


def read_foreign(path: Path) -> tuple[list[ForeignLoad], list[ForeignRate]]:
    """What a file of AIPerf, ``benchmark_serving``, InferenceX or AIConfigurator holds; which of them is found out.

    Raises:
        UserError: it cannot be read, or is of none of them.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text") from error
    name = str(path)
    if path.suffix == ".csv":
        return [], aiconfigurator.read_rates(text, name)
    if path.suffix == ".jsonl":
        found = aiperf.read_lines(text.splitlines(), name)
        return [replace(found, hints=lay_over(_beside(path), found.hints))], []
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    rows = content if isinstance(content, list) else [content]
    if rows and all(inferencex.is_row(row) for row in rows):
        several = len(rows) > 1
        return [inferencex.read_row(r, name, f"row {k}" if several else "") for k, r in enumerate(rows, 1)], []
    if aiperf.is_summary(content):
        return [aiperf.read_summary(content, name)], []
    if benchmark_serving.is_result(content):
        return [benchmark_serving.read_result(content, name)], []
    raise UserError(
        f"{path}: of none of the tools that can be imported: AIPerf's profile_export.jsonl and "
        "profile_export_aiperf.json, benchmark_serving's result JSON, InferenceX rows, AIConfigurator's CSV"
    )


def _beside(path: Path) -> Hints:
    """What the summary that AIPerf writes beside its records says of model and load."""
    summary = path.with_name(SUMMARY_FILE)
    if not summary.exists():
        return Hints()
    content = json.loads(summary.read_text(encoding="utf-8"))
    return aiperf.read_config(content) if aiperf.is_summary(content) else Hints()


def import_results(
    paths: Sequence[Path],
    said: Hints,
    into: Path,
    *,
    stage: Stage | None = None,
    mix: bool = False,
) -> tuple[list[Imported], list[Skipped]]:
    """Put every load of ``paths`` into the results folder ``into``; ``said`` stands in the place of what files say.

    A load that lacks something nobody said is skipped, with what is missing; the others go in. A file that was
    imported before is found by its content and left as it is.

    Raises:
        UserError: a file that is of no known tool or only predicts; loads of another origin in the folder without
            ``mix``; emulated beside real ones.
    """
    loads = []
    for path in paths:
        found, rates = read_foreign(path)
        if rates:
            raise UserError(f"{path}: predicted, not measured; write a table with -o rates.csv and match that")
        loads += [(path, load) for load in found]
    results = Results(into)
    _refuse_silent_mixture(results, {load.tool for _, load in loads}, mix)
    imported: list[Imported] = []
    skipped: list[Skipped] = []
    for path, load in loads:
        hints = lay_over(load.hints, said)
        if problems := _lacks(hints, stage):
            skipped.append(Skipped(load.where, f"not known: {'; '.join(problems)}"))
            continue
        _refuse_misfit(results, _experiment(hints, stage), load.where)
        imported.append(_store(results, path, load, hints, stage))
    if imported and not (into / layout.LIMITS).exists():
        results.write_limits(SweepLimits.of(into.name, Constraints(), RACK_GPUS))
    return imported, skipped


def _refuse_silent_mixture(results: Results, tools: set[str], mix: bool) -> None:
    if mix:
        return
    there = {stored.run.tool for folder in results.folders() for stored in folder.loads()}
    if others := sorted(there - tools):
        raise UserError(
            f"{results.path}: holds loads of {', '.join(others)}; import into another folder, or say --mix to have "
            f"those of {', '.join(sorted(tools))} beside them"
        )


def _refuse_misfit(results: Results, experiment: Experiment, where: str) -> None:
    """What no analysis could read together is not put together."""
    for folder in results.folders()[:1]:
        there = folder.read()
        for what, a, b in (
            ("figures", there.origin, experiment.origin),
            ("model", there.model, experiment.model),
            ("GPU", there.gpu, experiment.gpu),
            ("engine", *(f"{each.engine.name} {each.engine.version}" for each in (there, experiment))),
        ):
            if a != b:
                raise UserError(f"{where}: {what} {b}, and {results.path} holds {a}: import it into another folder")


def _lacks(hints: Hints, stage: Stage | None) -> list[str]:
    """What nobody said, each with the option that says it."""
    problems = []
    if hints.model is None:
        problems.append("model (--model)")
    if hints.gpu is None:
        problems.append("GPU (--gpu)")
    if hints.engine is None:
        problems.append("engine (--engine trtllm-serve/1.2)")
    if hints.emulated is None:
        problems.append("real or emulated servers (--real or --emulated)")
    if hints.isl is None or hints.osl is None:
        problems.append("lengths (--workload ISL/OSL)")
    if hints.concurrency is None and hints.request_rate is None:
        problems.append("load (--concurrency or --request-rate)")
    if not (hints.agg or hints.ctx or hints.gen):
        problems.append("servers (--agg, or --ctx and --gen, such as 2xDEP4)")
    elif stage in ("ctx", "gen") and not (hints.ctx if stage == "ctx" else hints.gen):
        problems.append(f"the {stage} server (--{stage})")
    elif stage == "ifb" and hints.agg is None:
        problems.append("the aggregated server (--agg)")
    elif stage == "e2e" and not (hints.ctx and hints.gen):
        problems.append("both kinds of servers (--ctx and --gen)")
    if hints.mtp is None:
        problems.append("draft tokens (--mtp, 0 for none)")
    return problems


def _store(results: Results, path: Path, load: ForeignLoad, hints: Hints, stage: Stage | None) -> Imported:
    asked, said = _load_of(load, hints), _experiment(hints, stage)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    folder, asked = _find_place(results, said, asked, digest, load.row)
    missing = load.missing
    figures = load.figures
    if figures is None:
        figures = _measure(load, asked, said.workload)
        missing = (*missing, "send-time slip (AIPerf keeps no intended instants per request)")
    elif missing:
        figures = replace(figures, warnings=(*figures.warnings, f"not in the file: {', '.join(missing)}"))
    if not folder.finished(asked):
        place = folder.load_folder(asked)
        place.mkdir(parents=True, exist_ok=True)
        if load.records:
            write_records(place / layout.RECORDS, load.records)
            write_records(place / layout.WARMUP, load.warmup)
        origin = Import(load.tool, path.name, load.row or None, digest, tuple(missing))
        # AIPerf's clock is the wall clock already.
        start_ns = load.records[0].intended_ns if load.records else None
        run = LoadRun(origin=said.origin, start_ns=start_ns, wall_start_ns=start_ns, imported=origin)
        folder.finish_load(asked, run, figures)
        folder.mark_done()
    return Imported(load.where, folder.load_folder(asked), figures.valid, missing)


def _find_place(
    results: Results, experiment: Experiment, load: Load, digest: str, row: str
) -> tuple[ExperimentFolder, Load]:
    """Where the load belongs: a repeat of one that is there takes the next number; the same file keeps its place."""
    folder = ExperimentFolder(results.path / experiment.folder)
    known = folder.read().loads if (folder.path / layout.EXPERIMENT).exists() else ()
    while folder.finished(load):
        origin = folder.stored(load).run.imported
        if origin and origin.sha256 == digest and (origin.row or "") == row:
            return folder, load
        load = replace(load, repeat=load.repeat + 1)
    loads = tuple(dict.fromkeys((*known, load)))
    return results.add(replace(experiment, loads=loads), _cluster(experiment)), load


def _measure(load: ForeignLoad, asked: Load, workload: Workload) -> Measurement:
    """The figures of imported records, by the same rules as one's own; but how late the client was is not known."""
    figures = measure_load(load.records, asked, workload)
    told = (f"imported from {load.tool}", *figures.warnings)
    return replace(figures, send_lag_ms=None, warnings=told)


def _load_of(load: ForeignLoad, hints: Hints) -> Load:
    count = len(load.records) or (load.figures.num_requests if load.figures else 0)
    if hints.concurrency is not None:
        return Concurrency(hints.concurrency, count, len(load.warmup))
    assert hints.request_rate is not None  # _lacks() saw to it
    return Rate(hints.request_rate, count, warmup=len(load.warmup))


def _experiment(hints: Hints, stage: Stage | None) -> Experiment:
    assert hints.model and hints.gpu and hints.engine and hints.isl and hints.osl  # _lacks() saw to it
    name, _, version = hints.engine.partition("/")
    mtp = hints.mtp or 0

    def group(role: Any, servers: Servers | None) -> ServerGroup | None:
        return None if servers is None else ServerGroup(role, servers.mapping, servers.instances, mtp)

    ctx, gen, agg = group("ctx", hints.ctx), group("gen", hints.gen), group("agg", hints.agg)
    found: Stage
    if stage == "ctx" or (stage is None and ctx is not None and gen is None):
        found, deployment = "ctx", Deployment(ctx=ctx)
    elif stage == "gen" or (stage is None and gen is not None and ctx is None):
        found, deployment = "gen", Deployment(gen=gen)
    elif ctx is not None and gen is not None:
        found, deployment = "e2e", Deployment(ctx=ctx, gen=gen)
    else:
        found, deployment = "ifb", Deployment(agg=agg)
    return Experiment(
        stage=found,
        model=_canonical(load_model, hints.model),
        model_path=hints.model,
        engine=EngineRef(name, version or "unknown"),
        gpu=_canonical(load_gpu, hints.gpu),
        cluster="imported",
        emulated=bool(hints.emulated),
        deployment=deployment,
        workload=Workload(round(hints.isl), round(hints.osl)),
        loads=(),
    )


def _canonical(find: Any, name: str) -> str:
    """The catalog's name of a model or GPU; one that it does not know keeps its own."""
    try:
        return str(find(name).name)
    except CatalogError:
        return name.rsplit("/", 1)[-1].lower()


def _cluster(experiment: Experiment) -> Cluster:
    return Cluster(
        "imported",
        experiment.gpu,
        gpus_per_node=8,
        nodes=max(1, -(-experiment.deployment.gpus // 8)),
        emulated=experiment.emulated,
        about="Not a cluster of ours: what is here was measured by another tool.",
    )


# ------------------------------------------------------------------------------------------------ rate tables


def import_rates(paths: Sequence[Path], said: Hints, role: ForeignRole | None) -> tuple[list[ForeignRate], list[str]]:
    """Rows of a rate table from ``paths``, and notes on what was left out.

    ``role``: of servers measured alone; aggregated servers are ``ifb`` by themselves.

    Raises:
        UserError: a file of no known tool, or nothing in them fits a table of rates.
    """
    rates: list[ForeignRate] = []
    notes: list[str] = []
    for path in paths:
        loads, rows = read_foreign(path)
        rates += rows
        for load in loads:
            hints = lay_over(load.hints, said)
            rate = _rate(load, hints, role)
            if isinstance(rate, str):
                notes.append(f"{load.where}: left out: {rate}")
            else:
                rates.append(rate)
            notes += [f"{load.where}: not in the file: {name}" for name in load.missing]
    if not rates:
        raise UserError("no row for a rate table: " + ("; ".join(notes) or "the files hold none"))
    return rates, notes


def _rate(load: ForeignLoad, hints: Hints, role: ForeignRole | None) -> ForeignRate | str:
    """One load as a row, or why it is none."""
    servers, own = hints.agg, role or ("ifb" if hints.agg else None)
    if own in ("ctx", "gen"):
        servers = hints.ctx if own == "ctx" else hints.gen
    if servers is None or own is None:
        return "which servers? say --role ctx, gen or ifb with --ctx, --gen or --agg"
    figures = load.figures
    if figures is None:
        asked = _load_of(load, hints) if hints.concurrency or hints.request_rate else None
        if asked is None:
            return "at which load? say --concurrency or --request-rate"
        isl, osl = round(hints.isl or 1), round(hints.osl or 1)
        figures = _measure(load, asked, Workload(isl, osl))
    if not figures.valid:
        return "not valid: " + "; ".join(figures.reasons)
    one = servers.instances
    return ForeignRate(
        own,
        servers.mapping.label,
        servers.mapping.gpus,
        isl=None if hints.isl is None else round(hints.isl),
        osl=None if hints.osl is None else round(hints.osl),
        concurrency=None if hints.concurrency is None else hints.concurrency / one,
        req_s=None if figures.req_s is None else figures.req_s / one,
        tok_s=None if figures.tok_s is None or own == "ctx" else figures.tok_s / one,
        tpot_ms=figures.tpot_ms.mean if figures.tpot_ms else None,
        ttft_ms=figures.ttft_ms.mean if figures.ttft_ms else None,
        mtp=hints.mtp,
        extra={
            "origin": load.tool,
            "predicted": "false",
            "emulated": "" if hints.emulated is None else str(hints.emulated).lower(),
            "model": hints.model or "",
            "gpu": hints.gpu or "",
        },
    )


def rates_to_rows(rates: Iterable[ForeignRate]) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """(columns, rows) of the table: the known ones first, then what is kept beside them."""
    listed = list(rates)
    extra = [name for name in EXTRA if any(name in rate.extra for rate in listed)]
    rows = [
        {name: _cell(getattr(rate, name)) for name in COLUMNS} | {name: rate.extra.get(name, "") for name in extra}
        for rate in listed
    ]
    return (*COLUMNS, *extra), rows


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
