"""What the records of a load say beyond its figures: how noisy its rates are, and where its requests' time went."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa

from ratematch.analysis.details import Detail, DetailCache
from ratematch.engines import find_engine
from ratematch.errors import CatalogError, DamagedFile
from ratematch.inputs.catalog import load_gpu, model_of
from ratematch.match.feasibility import Links
from ratematch.match.noise import Noise, batch_means
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.measured import Measured
from ratematch.measure.together import decoding_together
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, pressure_of
from ratematch.plan.transfer import TransferWork
from ratematch.store import layout
from ratematch.store.damage import Damage, readable
from ratematch.store.files import UNREADABLE, describe_damage
from ratematch.store.snapshot import Snapshot
from ratematch.store.storedload import StoredLoad


def measured_in_detail(results: Snapshot, damaged: list[Damage]) -> list[Measured]:
    """Every finished load with its figures, the noise of its rates and the breakdown of its time, where known. Loads
    that were run for a breakdown only are no rows: they give theirs to the rows of their pressure.

    A load one of whose files cannot be used is left out; the file is in ``damaged``. What was worked out of a load
    before is taken from the folder's cache while its files are the same.
    """
    cache = DetailCache.read(results.path, damaged)
    rows: list[Measured] = []
    for experiment in results.experiments:
        details: list[Measured] = []
        kv_layout = find_layout(experiment.experiment)
        for stored in experiment.loads:
            detail = cache.get(stored) or readable(partial(_read_detail, experiment.experiment, stored), damaged)
            if detail is not None:
                cache.keep(stored, detail)
                details.append(_row(experiment.experiment, stored, kv_layout, detail))
        rows += _with_breakdowns(details)
    cache.write()
    return rows


def read_details(results: Snapshot, damaged: list[Damage]) -> dict[str, Detail]:
    """What the records of every finished load say beyond its figures, by ``<experiment>/<load>``; of those that can
    be used. The others are in ``damaged``."""
    cache = DetailCache.read(results.path, damaged)
    details: dict[str, Detail] = {}
    for experiment in results.experiments:
        for stored in experiment.loads:
            detail = cache.get(stored) or readable(partial(_read_detail, experiment.experiment, stored), damaged)
            if detail is not None:
                details[f"{experiment.folder.path.name}/{stored.folder.name}"] = detail
    return details


def _with_breakdowns(rows: Sequence[Measured]) -> list[Measured]:
    """The rows of one experiment without its breakdown loads, each with the breakdown of its own pressure: the one
    that it has, else that of the breakdown load."""
    apart = {pressure_of(row.load): row.breakdown for row in rows if row.load.breakdown}
    return [
        row if row.breakdown is not None else replace(row, breakdown=apart.get(pressure_of(row.load)))
        for row in rows
        if not row.load.breakdown
    ]


def measured_without_detail(results: Snapshot, damaged: list[Damage]) -> list[Measured]:
    """The loads of :func:`measured_in_detail` with their figures alone, in a third of the time where nothing of them
    is in the cache: files with a checksum are not read further than that it is theirs.

    A load one of whose files cannot be used is left out; the file is in ``damaged``.
    """
    cache = DetailCache.read(results.path, damaged)
    rows: list[Measured] = []
    for experiment in results.experiments:
        kv_layout = find_layout(experiment.experiment)
        for stored in experiment.loads:
            known, detail = cache.get(stored), None
            if known is None and _is_sealed(stored) and not _is_warmed(experiment.experiment):
                usable = readable(partial(_check_sealed, experiment.experiment, stored), damaged) is not None
            else:
                detail = known or readable(partial(_read_detail, experiment.experiment, stored), damaged)
                usable = detail is not None
                if detail is not None:
                    cache.keep(stored, detail)
            if usable and not stored.load.breakdown:
                # How many decoded together is a figure that fronts are made of; the rest of the details is not.
                figures = Detail(None, None, detail.decoding if detail is not None else None)
                rows.append(_row(experiment.experiment, stored, kv_layout, figures))
    cache.write()
    return rows


def _row(experiment: Experiment, stored: StoredLoad, kv_layout: str, detail: Detail) -> Measured:
    return Measured(
        experiment,
        stored.load,
        stored.measurement,
        noise=detail.noise,
        breakdown=detail.breakdown,
        layout=kv_layout,
        decoding=detail.decoding,
        computed_share=_computed_share(stored, experiment),
    )


def _is_warmed(experiment: Experiment) -> bool:
    return experiment.mode == "gen_only_warmed"


def _computed_share(stored: StoredLoad, experiment: Experiment) -> float:
    """Share of each prompt that a warmed gen server computed again: what it did not find, but for the one token that
    it computes in service too."""
    warmed = stored.run.warmed
    if warmed is None:
        return 0.0
    kept = warmed.hit_rate if warmed.hit_rate is not None else warmed.expected
    return 0.0 if kept is None else max(0.0, 1 - kept - 1 / experiment.workload.isl)


def _is_sealed(stored: StoredLoad) -> bool:
    """Has every file that the details come from a checksum?"""
    return all(name in stored.sealed for name in _sources(stored))


def _sources(stored: StoredLoad) -> list[str]:
    """Files of a load that its details come from."""
    names = [layout.RECORDS] if _has_noise(stored) else []
    if stored.run.stages is None and (stored.folder / layout.PERF_METRICS).exists():
        names.append(layout.PERF_METRICS)
    return names


def _check_sealed(experiment: Experiment, stored: StoredLoad) -> bool:
    """Raises what reading the details would raise, of a load whose files have checksums."""
    for name in _sources(stored):
        if name == layout.PERF_METRICS:
            find_engine(experiment.engine.key)
        stored.read(name)
    return True


def _has_noise(stored: StoredLoad) -> bool:
    figures = stored.measurement
    rated = figures.valid and figures.window is not None and figures.e2el_ms is not None
    return rated and stored.has(layout.RECORDS)


def _read_detail(experiment: Experiment, stored: StoredLoad) -> Detail:
    """Raises DamagedFile when a file of the load cannot be used."""
    noise = read_noise(stored) if _has_noise(stored) else None
    window, decoding = stored.measurement.window, None
    if _is_warmed(experiment) and stored.measurement.valid and window is not None and stored.has(layout.RECORDS):
        decoding = decoding_together(stored.records(), window)
    return Detail(noise, _read_breakdown(stored, experiment), decoding)


def find_layout(experiment: Experiment) -> str:
    """How the KV cache of the measured servers lies; empty for engines that only other tools' results are of."""
    try:
        engine = find_engine(experiment.engine.key)
        return engine.kv_layout(experiment.deployment.groups[-1], experiment.engine.computing_version)
    except (CatalogError, ValueError):
        return ""


def _read_breakdown(stored: StoredLoad, experiment: Experiment) -> Breakdown | None:
    """Where the time went: by the sums of the servers' counters where the load kept them, else request by request."""
    stages = stored.run.stages
    return read_perf_metrics(stored, experiment.engine.key) if stages is None else Breakdown.of(stages)


def find_gpus_per_node(results: Snapshot) -> int | None:
    """GPUs of a node of the cluster that was measured on; ``None`` when there are several sizes, or none is known."""
    unknown: list[Damage] = []
    clusters = [readable(stored.folder.cluster, unknown) for stored in results.experiments]
    sizes = {cluster.gpus_per_node for cluster in clusters if cluster is not None}
    return sizes.pop() if len(sizes) == 1 else None


def find_links(measured: Sequence[Measured]) -> Links | None:
    """What KV transfers go over, where the catalog knows model and GPU.

    The KV format is the servers' own where one is set, else bf16: the larger, so no transfer is too short.
    """
    experiment = measured[0].experiment
    try:
        model, gpu = model_of(experiment), load_gpu(experiment.gpu)
    except CatalogError:
        return None
    formats = {
        str(group.options.get("kv_cache_config", {}).get("dtype", "auto"))
        for row in measured
        for group in row.experiment.deployment.groups
    }
    kv_dtype = "fp8" if formats == {"fp8"} else "bf16"
    try:
        engine = find_engine(experiment.engine.key)
    except CatalogError:  # of another tool's results
        return Links(model, gpu, kv_dtype)

    def work(ctx: ServerGroup, gen: ServerGroup, isl: int) -> TransferWork | None:
        return engine.transfer_work(model, ctx, gen, isl, experiment.engine.computing_version)

    return Links(model, gpu, kv_dtype, work=work, costs=engine.transfer_costs)


def read_noise(stored: StoredLoad) -> Noise | None:
    """Noise of a load's token rate (requests, where each has one token) by batches of its steady window.

    Raises:
        DamagedFile: its records cannot be used.
    """
    window, latency = stored.measurement.window, stored.measurement.e2el_ms
    if window is None or latency is None:
        return None
    arrivals = stored.arrivals()
    instants_s = (arrivals.instants_ns - window.start_ns) / 1e9
    return batch_means(instants_s, arrivals.tokens, 0.0, window.seconds, latency.mean / 1000)


def read_perf_metrics(stored: StoredLoad, engine: str) -> Breakdown | None:
    """Mean stages of a load's requests without warm-up, first wave and drain; ``None`` where nothing is stored.

    Raises:
        DamagedFile: the file is there and cannot be read.
        CatalogError: the file is there, and ``engine``, whose servers wrote the records, is not known.
    """
    file = stored.folder / layout.PERF_METRICS
    if not file.exists():
        return None
    content, load = stored.read(layout.PERF_METRICS), stored.load
    wave = load.concurrency if isinstance(load, Concurrency) else 0
    found = find_engine(engine)
    try:
        with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
            lines = stream.read()
        joined = stored.run.telemetry.times_from in (None, "route")
        records = _decode(lines, found.timed_request if joined and layout.PERF_METRICS in stored.sealed else dict)
        return found.read_breakdown(records, skip_first=load.warmup + wave, skip_last=wave)
    except (*UNREADABLE, pa.ArrowException) as error:
        raise DamagedFile(file, f"not readable ({describe_damage(error)})") from error


def _decode(lines: bytes, kind: type) -> list[Any]:
    """One value a line. ``kind``: what is read of each, where all of them fit it: to make objects of the rest takes
    most of the time. Only for content with a checksum: what is not looked at is not checked either."""
    if kind is not dict:
        with contextlib.suppress(msgspec.MsgspecError):
            return _decoder(kind).decode_lines(lines)
    return [msgspec.json.decode(line) for line in lines.splitlines()]


@functools.cache
def _decoder(kind: type) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)
