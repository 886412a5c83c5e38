"""Puts measurements of other tools into a results folder.

Where figures come from stays with them: ``origin`` in ``loadrun.json``, a warning on every figure, a note on every
analysis. They enter a folder with loads of another origin only with ``mix``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ratematch.errors import UserError
from ratematch.exchange.results.convert import list_unknown, make_cluster, make_experiment, make_load, measure
from ratematch.exchange.results.detect import read_files
from ratematch.exchange.results.foreign import ForeignLoad, Hints, lay_over
from ratematch.exchange.results.loadchecks import list_contradictions, list_findings
from ratematch.inputs.ratetable import RACK_GPUS
from ratematch.measure.loadrun import Import, LoadRun
from ratematch.plan.deployment import Stage
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Constraints, Load
from ratematch.store import layout
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.records import write_records
from ratematch.store.sweeprun import SweepLimits


@dataclass(frozen=True)
class Imported:
    """One load that was put into a store. ``missing``: what its file does not tell. ``findings``: why it is not
    valid, or what a person should know of it."""

    source: str
    folder: Path
    valid: bool
    missing: tuple[str, ...]
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """One load that was not, and why."""

    source: str
    why: str


def import_results(
    paths: Sequence[Path],
    given: Hints,
    into: Path,
    *,
    stage: Stage | None = None,
    mix: bool = False,
) -> tuple[list[Imported], list[Skipped]]:
    """Put every load of ``paths`` into the results folder ``into``; ``given`` replaces what the files say.

    A load of which something needed is not known, or that contradicts an option, is skipped, with what it is; the
    others go in. One whose figures contradict themselves goes in as not valid: it is seen, and on no front. A file
    that was imported before is recognised by its content and left as it is.

    Raises:
        UserError: the only file is of no known tool, or one only predicts; loads of another origin in the folder
            without ``mix``; the only load is one that no analysis could read together with those in the folder.
    """
    loads = []
    for path, loads_of_file, rates in read_files(paths):
        if rates:
            raise UserError(f"{path}: predicted, not measured; write a table with -o rates.csv and match that")
        loads += [(path, load) for load in loads_of_file]
    results = Results(into)
    _refuse_silent_mixture(results, {load.tool for _, load in loads if not load.refused}, mix)
    imported: list[Imported] = []
    skipped: list[Skipped] = []
    for path, load in loads:
        hints = lay_over(load.hints, given)
        if why := _why_not(load, hints, stage):
            skipped.append(Skipped(load.where, why))
        elif misfit := _find_misfit(results, make_experiment(hints, stage)):
            if len(loads) == 1:
                raise UserError(f"{load.where}: {misfit}")
            skipped.append(Skipped(load.where, misfit))
        else:
            imported.append(_store(results, path, load, hints, stage))
    if imported and not (into / layout.LIMITS).exists():
        results.write_limits(SweepLimits.of(into.name, Constraints(), RACK_GPUS))
    return imported, skipped


def _refuse_silent_mixture(results: Results, tools: set[str], mix: bool) -> None:
    if mix:
        return
    tools_there = {stored.run.tool for stored in results.now().loads}
    if others := sorted(tools_there - tools):
        raise UserError(
            f"{results.path}: holds loads of {', '.join(others)}; import into another folder, or say --mix to have "
            f"those of {', '.join(sorted(tools))} beside them"
        )


def _why_not(load: ForeignLoad, hints: Hints, stage: Stage | None) -> str:
    """Why a load cannot be taken, empty when it can."""
    if load.refused:
        return load.refused
    unknown = list_unknown(hints, stage, load.drafted)
    problems = [*([f"not known: {'; '.join(unknown)}"] if unknown else []), *list_contradictions(load, hints, stage)]
    return "; ".join(problems)


def _find_misfit(results: Results, experiment: Experiment) -> str | None:
    """Why no analysis could read a load together with those that are there."""
    for stored in results.now().experiments[:1]:
        there = stored.experiment
        for what, a, b in (
            ("figures", there.origin, experiment.origin),
            ("model", there.model, experiment.model),
            ("GPU", there.gpu, experiment.gpu),
            ("engine", there.engine.label, experiment.engine.label),
        ):
            if a != b:
                return f"{what} {b}, and {results.path} holds {a}: import it into another folder"
    return None


def _store(results: Results, path: Path, load: ForeignLoad, hints: Hints, stage: Stage | None) -> Imported:
    setting, experiment = make_load(load, hints), make_experiment(hints, stage)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    folder, setting = _find_place(results, experiment, setting, digest, load.row)
    missing = load.missing
    figures = measure(load, hints)
    if load.figures is None:
        missing = (*missing, "send-time slip (AIPerf keeps no intended instants per request)")
    elif missing:
        figures = replace(figures, warnings=(*figures.warnings, f"not in the file: {', '.join(missing)}"))
    if not folder.finished(setting):
        place = folder.load_folder(setting)
        place.mkdir(parents=True, exist_ok=True)
        if load.records:
            write_records(place / layout.RECORDS, load.records)
            write_records(place / layout.WARMUP, load.warmup)
        origin = Import(load.tool, path.name, load.row or None, digest, tuple(missing))
        # AIPerf's clock is the wall clock already.
        start_ns = load.records[0].intended_ns if load.records else None
        run = LoadRun(origin=experiment.origin, start_ns=start_ns, wall_start_ns=start_ns, imported=origin)
        folder.finish_load(setting, run, figures)
        folder.mark_done()
    return Imported(load.where, folder.load_folder(setting), figures.valid, missing, list_findings(figures))


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
    return results.add(replace(experiment, loads=loads), make_cluster(experiment)), load
