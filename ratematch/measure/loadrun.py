"""How one load ran: what stands in its ``loadrun.json`` beside the load itself.

A load that was measured here and one that another tool measured have different keys in common, as
:func:`to_json` says. Two rules hold for the file:

* A key that this version does not know is ignored. A file is never written again after it was read, so nothing is
  lost by that.
* A key that an earlier version did not write yet has its default here, and ``absent`` remembers it, so that
  :func:`to_json` gives back exactly what :func:`from_json` was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal

import msgspec

from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.jsonkeys import absent_keys, without
from ratematch.measure.serverlog import LogSpan
from ratematch.measure.servermetrics import StageTimes
from ratematch.plan.experiment import Origin, origin_keys, origin_of
from ratematch.plan.plain import parts_of, plain

TimesFrom = Literal["files", "answers", "route"]


@dataclass(frozen=True)
class Import:
    """Where an imported load comes from. ``tool``: that measured it; ``file``, its ``row`` (``None``: the whole file)
    and its ``sha256``; ``missing``: figures that the file does not have."""

    tool: str
    file: str = ""
    row: str | None = None
    sha256: str = ""
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Warming:
    """Quiet requests before the clock. ``requests``: how many were to be sent; ``failed``: of them, those without a
    full answer; ``errors``: up to three different texts of theirs; ``seconds``: until the last ended."""

    requests: int
    failed: int
    seconds: float
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmedPrompts:
    """Prompts that were put into the prefix cache before the clock; fields as in :class:`Warming`.

    ``expected``: share of the prompt tokens that should be found there during the load, ``hit_rate``: that were, both
    ``None`` where it is not known.
    """

    prompts: int
    failed: int
    seconds: float
    errors: tuple[str, ...] = ()
    expected: float | None = None
    hit_rate: float | None = None


@dataclass(frozen=True)
class EmulatorTime:
    """Of one emulated server during the load: ``busy_s`` planned seconds of its steps, ``late_s`` by which they ended
    late, ``lost_s`` that it gave up catching up on."""

    busy_s: float
    late_s: float
    lost_s: float


@dataclass(frozen=True)
class TelemetrySummary:
    """What the servers reported during the load. ``iterations`` and ``perf_records``: how many of each are stored.

    ``acceptance_length``: tokens an iteration yields for a request with drafts, by the servers' own counters.
    ``problems``: servers that do not report, and why. ``window``: by server, means of its iterations in the steady
    window and their number; ``None`` without a window. ``times_from``: where the times of single requests are from:
    ``files`` of the servers, their ``answers``, or a ``route``; ``times_note``: why there are none, or not all.
    """

    iterations: int = 0
    perf_records: int = 0
    acceptance_length: float | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    window: Mapping[str, Mapping[str, float]] | None = None
    times_from: TimesFrom | None = None
    times_note: str | None = None


@dataclass(frozen=True)
class GpuMeans:
    """Means of one GPU in the steady window: power, SM clock, utilisation (%); ``None`` where it reports none."""

    power_w: float | None
    sm_mhz: float | None
    utilisation: float | None


@dataclass(frozen=True)
class GpuSummary:
    """The GPUs of the client's machine in the steady window, by index. ``power_w``: of all together."""

    gpus: Mapping[str, GpuMeans]
    power_w: float | None
    joules_per_output_token: float | None


@dataclass(frozen=True)
class Simulation:
    """``wall_s``: real seconds that the load took in virtual time."""

    wall_s: float


@dataclass(frozen=True)
class LoadRun:
    """How one load ran.

    ``launch``: folder of the start of the servers that it was measured on. ``mode``: see
    :data:`ratematch.plan.experiment.Mode`. ``origin``: of its figures (``emulated`` and ``simulated`` in the file).
    ``start_ns`` and ``end_ns``: on the records' clock; ``wall_start_ns``: the Unix time at ``start_ns``. ``sent`` and
    ``failed``: requests. ``aborted``: why it ended before its last request; ``ended_early``: the rule that ended it
    sooner and whole. ``log``: by generating server. ``emulator``: by emulated server. ``connections``: those that
    were opened before the first load of the launch. ``cause`` and ``remedy``: of failed requests, where known.
    ``prometheus``: by address, means and growths in the steady window. ``imported``: where the load comes from when
    another tool measured it; hardly anything else is known then. ``beside``: what other experiments did on other GPUs
    of the same machine meanwhile, a line each. ``absent``: paths of keys that the file did not have.
    """

    launch: str = ""
    mode: str = ""
    origin: Origin = "real"
    start_ns: int | None = None
    end_ns: int | None = None
    wall_start_ns: int | None = None
    sent: int = 0
    failed: int = 0
    aborted: str | None = None
    ended_early: str | None = None
    notes: tuple[str, ...] = ()
    client: ClientHealth | None = None
    telemetry: TelemetrySummary = TelemetrySummary()
    log: Mapping[str, LogSpan] = field(default_factory=dict)
    emulator: Mapping[str, EmulatorTime] = field(default_factory=dict)
    connections: Warming | None = None
    warmed: WarmedPrompts | None = None
    cause: str | None = None
    remedy: str | None = None
    gpus: GpuSummary | None = None
    prometheus: Mapping[str, Mapping[str, int | float]] | None = None
    stages: StageTimes | None = None
    simulation: Simulation | None = None
    beside: tuple[str, ...] = ()
    imported: Import | None = None
    absent: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @property
    def tool(self) -> str:
        """The tool that measured it."""
        return self.imported.tool if self.imported else "ratematch"


IMPORTED = ("emulated", "start_ns", "wall_start_ns")
"""Keys of an imported load besides ``origin``; instants only where they are known."""
OPTIONAL = ("connections", "warmed", "cause", "remedy", "simulation")
"""Keys of a load measured here that are not written where they would be ``null``."""
IN_WINDOW = ("gpus", "prometheus", "stages")
"""Keys that are written, ``null`` too, for a load whose servers were watched over a steady window."""


WRITTEN = tuple(part.name for part in fields(LoadRun) if part.name not in ("origin", "imported", "absent"))
"""Fields of a :class:`LoadRun` that are keys of the file under their own names."""

_READ = attrgetter(*WRITTEN)


def to_json(run: LoadRun) -> dict[str, Any]:
    """The keys of ``loadrun.json`` but ``load``, as plain JSON values.

    An imported load has ``origin``, ``emulated`` and, where they are known, its instants. One measured here has the
    rest: ``log`` unless it was simulated, ``emulator`` if besides it was emulated, the keys of :data:`OPTIONAL` where
    they are not ``None``, and those of :data:`IN_WINDOW` when ``telemetry.window`` is there.
    """
    return without(plain(_written(run)), run.absent)


def _written(run: LoadRun) -> dict[str, Any]:
    """The keys of a file that lacks none, with their values as they stand in ``run``."""
    content = dict(zip(WRITTEN, _READ(run), strict=True)) | origin_keys(run.origin)
    if run.imported is not None:
        known = {key: content[key] for key in IMPORTED if content[key] is not None}
        return {"origin": run.imported, **known}
    left_out = {key for key in OPTIONAL if content[key] is None}
    if not run.beside:
        left_out |= {"beside"}
    if run.origin == "simulated":
        left_out |= {"log"}
    if run.origin != "emulated":
        left_out |= {"emulator"}
    telemetry = parts_of(run.telemetry) or {}
    unknown = {key for key in ("times_from", "times_note") if telemetry[key] is None}
    if run.telemetry.window is None:
        left_out |= {key for key in IN_WINDOW if content[key] is None}
        unknown |= {"window"}
    content["telemetry"] = {key: value for key, value in telemetry.items() if key not in unknown}
    return {key: value for key, value in content.items() if key not in left_out}


def from_json(content: Mapping[str, Any]) -> LoadRun:
    """The inverse of :func:`to_json`; the key ``load``, and any that are not known, are left aside.

    Raises:
        ValueError: the content is not that of a ``loadrun.json``.
    """
    known = {key: value for key, value in content.items() if key not in ("load", "absent", "imported")}
    known["imported"] = content.get("origin") or None
    known["origin"] = origin_of(bool(content.get("emulated")), bool(content.get("simulated")))
    run: LoadRun = msgspec.convert(known, LoadRun)
    absent = absent_keys(content, _written(run))
    return msgspec.convert(known | {"absent": absent}, LoadRun) if absent else run
