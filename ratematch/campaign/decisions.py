"""What a search and matching decided, as typed values, and the files that hold them. Only here are their keys known.

=====================  =============================================================
``search.json``        servers and loads of an adaptive search
``choice.json``        end-to-end runs
``ifb_choice.json``    aggregated servers of an adaptive search
=====================  =============================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ratematch.store import layout
from ratematch.store.files import read_value, write_json
from ratematch.store.folder import Results

SEARCH = layout.SEARCH
CHOICE = layout.CHOICE
IFB_CHOICE = layout.IFB_CHOICE


class LongerRun(msgspec.Struct, frozen=True):
    """How a load is measured again for longer: its requests, and the repeat that names its folder."""

    num_requests: int
    repeat: int


class LoadDecision(msgspec.Struct, frozen=True):
    """One load of one ctx or gen server that the search decided to measure.

    ``number``: from 1, in the order of the decisions. ``start``: its server must be started for it. ``loads``: the
    concurrency, in a list of one. ``planned``: the concurrencies that are worth measuring while the server is up, as
    of now. ``expected_gain``: share of the front. ``price``: share of the front that a share of the grid's GPU-hours
    had to bring. ``knew``: numbers of the decisions whose loads were measured by then. ``longer``: the load was
    measured before, and is measured again for longer.
    """

    number: int
    workload: str
    experiment: str
    label: str
    loads: tuple[int, ...]
    expected_gain: float
    estimated_gpu_hours: float
    why: str
    start: bool = True
    planned: tuple[int, ...] = ()
    price: float = 0.0
    knew: tuple[int, ...] = ()
    longer: LongerRun | None = None


class SkippedServer(msgspec.Struct, frozen=True):
    """A server that is not measured, and why. ``workload``: empty where its job failed."""

    workload: str
    experiment: str
    label: str
    why: str


class ReservedHours(msgspec.Struct, frozen=True):
    """GPU-hours that servers leave to the end-to-end runs of one workload, at the price that both are held against.

    ``runs``: labels of the deployments that would be worth it.
    """

    gpu_hours: float
    price: float
    runs: tuple[str, ...] = ()


class WaitingRun(msgspec.Struct, frozen=True):
    """An end-to-end run that is worth its hours, and why it is not sent yet."""

    workload: str
    deployment: str
    why: str


class SearchRecord(msgspec.Struct, frozen=True):
    """All of ``search.json``.

    ``skips`` and ``runs_waiting``: of the last decision. ``up``: ids of experiments whose servers may go on with
    further loads. ``ended``: why the search ended. ``kept``: by workload; empty where no end-to-end runs compete for
    a budget.
    """

    decisions: tuple[LoadDecision, ...] = ()
    skips: tuple[SkippedServer, ...] = ()
    up: tuple[str, ...] = ()
    ended: str | None = None
    kept: dict[str, ReservedHours] = {}
    runs_waiting: tuple[WaitingRun, ...] = ()


class ChosenRun(msgspec.Struct, frozen=True):
    """One entry of ``choice.json``: a deployment to run end to end.

    ``experiment``, ``folder``: id and folder of what runs it. ``sources``: ids of its ctx and gen experiments, with
    ``ctx`` and ``gen`` instances of them. ``when``: at which time of the sweep it was chosen; ``after``: number of
    the last decision on servers then. ``expected_gain``: of the dominated area; ``share_of_front``: the same as a
    share. ``chance_on_front``: that it stays on the front. ``None``: written by a version that did not know it.
    """

    workload: str
    deployment: str
    why: str
    predicted_tok_s_user: float
    predicted_tok_s_gpu: float
    predicted_concurrency: float
    concurrencies: tuple[int, ...]
    experiment: str | None = None
    folder: str | None = None
    sources: tuple[str, ...] | None = None
    ctx: int | None = None
    gen: int | None = None
    when: str | None = None
    expected_gain: float | None = None
    share_of_front: float | None = None
    chance_on_front: float | None = None
    estimated_gpu_hours: float | None = None
    after: int | None = None


def read_search(results: Results) -> SearchRecord | None:
    """What the adaptive search in ``results`` decided so far; ``None`` where there was none."""
    file = results.path / SEARCH
    return _read(file, SearchRecord) if file.exists() else None


def write_search(results: Results, record: SearchRecord) -> None:
    write_json(results.path / SEARCH, search_to_json(record))


def search_to_json(record: SearchRecord) -> dict[str, Any]:
    """The content of ``search.json``. Without end-to-end runs that compete, it has no keys for them."""
    content: dict[str, Any] = {
        "decisions": [_to_json(decision) for decision in record.decisions],
        "ended": record.ended,
        "skips": [_to_json(skip) for skip in record.skips],
        "up": list(record.up),
    }
    if record.kept:
        content["kept"] = {workload: _to_json(hours) for workload, hours in record.kept.items()}
        content["runs_waiting"] = [_to_json(run) for run in record.runs_waiting]
    return dict(sorted(content.items()))


def read_chosen_runs(results: Results) -> list[ChosenRun]:
    """The entries of ``choice.json``; empty before anything was chosen."""
    file = results.path / CHOICE
    return _read(file, list[ChosenRun]) if file.exists() else []


def write_chosen_runs(results: Results, runs: Sequence[ChosenRun]) -> None:
    write_json(results.path / CHOICE, runs_to_json(runs))


def runs_to_json(runs: Sequence[ChosenRun]) -> list[dict[str, Any]]:
    """The content of ``choice.json``."""
    return [_to_json(run) for run in runs]


class IfbChoice(msgspec.Struct, frozen=True):
    """``ifb_choice.json``. ``measured``: labels of the aggregated servers that an adaptive sweep measures; ``skips``:
    the others; ``budget_gpu_hours``: of the sweep that decided (``None``: none, or an earlier version's file)."""

    measured: tuple[str, ...]
    skips: tuple[SkippedServer, ...]
    budget_gpu_hours: float | None = None


def read_ifb_choice(results: Results) -> IfbChoice | None:
    """``None`` before aggregated servers were chosen."""
    file = results.path / IFB_CHOICE
    return _read(file, IfbChoice) if file.exists() else None


def write_ifb_choice(results: Results, choice: IfbChoice) -> None:
    content: dict[str, Any] = {"measured": list(choice.measured), "skips": [_to_json(skip) for skip in choice.skips]}
    if choice.budget_gpu_hours is not None:
        content["budget_gpu_hours"] = choice.budget_gpu_hours
    write_json(results.path / IFB_CHOICE, content)


Content = TypeVar("Content")


def _read(file: Path, kind: type[Content]) -> Content:
    """Keys of a later version are left out.

    Raises:
        DamagedFile: it cannot be read, a key is missing, or holds something else.
    """
    return read_value(file, lambda content: msgspec.convert(content, kind))


def _to_json(value: msgspec.Struct) -> dict[str, Any]:
    """Keys in the order of the alphabet, as in every file; without those of what is not known."""
    content: dict[str, Any] = msgspec.to_builtins(value, enc_hook=float)  # numpy's floats are no builtins
    return {key: part for key, part in sorted(content.items()) if part is not None}
