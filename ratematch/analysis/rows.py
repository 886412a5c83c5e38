"""What the records of a load say beyond its figures: how noisy its rates are, and where its requests' time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from ratematch.engines import find_engine
from ratematch.errors import CatalogError, ResultsError
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.match.feasibility import Links
from ratematch.match.noise import Noise, batch_means
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.measured import Measured
from ratematch.measure.measurement import Measurement
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.store import layout
from ratematch.store.folder import ExperimentFolder, Results, StoredLoad
from ratematch.store.records import read_records


def measured_in_detail(results: Results) -> list[Measured]:
    """Every finished load with its figures, the noise of its rates and the breakdown of its time, where known.

    Raises:
        ResultsError: records that cannot be read.
    """
    rows: list[Measured] = []
    for path in results.folders():
        folder = ExperimentFolder(path.path)
        experiment = folder.read()
        for stored in folder.loads():
            row = Measured(experiment, stored.load, stored.measurement, layout=find_layout(experiment))
            records = stored.folder / layout.RECORDS
            if stored.measurement.valid and records.exists():
                row = replace(row, noise=read_noise(records, stored.measurement))
            rows.append(replace(row, breakdown=_read_breakdown(stored, experiment)))
    return rows


def find_layout(experiment: Experiment) -> str:
    """How the KV cache of the measured servers lies; empty for engines that only other tools' results are of."""
    try:
        engine = find_engine(experiment.engine.name)
        return engine.kv_layout(experiment.deployment.groups[-1], experiment.engine.version)
    except (CatalogError, ValueError):
        return ""


def _read_breakdown(stored: StoredLoad, experiment: Experiment) -> Breakdown | None:
    """Where the time went: by the sums of the servers' counters where the load kept them, else request by request."""
    stages = stored.run.stages
    if stages is None:
        return read_perf_metrics(stored.folder / layout.PERF_METRICS, stored.load, experiment.engine.name)
    return Breakdown(
        num=stages.num,
        dispatch_s=0.0,
        ctx_queue_s=stages.ctx_queue_s,
        prefill_s=stages.prefill_s,
        kv_transfer_s=stages.kv_transfer_s,
        gen_queue_s=stages.gen_queue_s,
        decode_s=stages.decode_s,
        kv_posting=stages.kv_posting,
        kv_descriptors=stages.kv_descriptors,
        kv_b=stages.kv_b,
    )


def find_gpus_per_node(results: Results) -> int | None:
    """GPUs of a node of the cluster that was measured on; ``None`` when there are several sizes, or none is known."""
    folders = [folder for folder in results.folders() if (folder.path / layout.CLUSTER).exists()]
    sizes = {folder.cluster().gpus_per_node for folder in folders}
    return sizes.pop() if len(sizes) == 1 else None


def find_links(measured: Sequence[Measured]) -> Links | None:
    """What KV transfers go over, where the catalog knows model and GPU.

    The KV format is the servers' own where one is set, else bf16: the larger, so no transfer is too short.
    """
    experiment = measured[0].experiment
    try:
        model, gpu = load_model(experiment.model), load_gpu(experiment.gpu)
    except CatalogError:
        return None
    formats = {
        str(group.options.get("kv_cache_config", {}).get("dtype", "auto"))
        for row in measured
        for group in row.experiment.deployment.groups
    }
    return Links(model, gpu, "fp8" if formats == {"fp8"} else "bf16")


def read_noise(records: Path, figures: Measurement) -> Noise | None:
    """Noise of a load's token rate (requests, where each has one token) by batches of its steady window."""
    window, latency = figures.window, figures.e2el_ms
    if window is None or latency is None:
        return None
    instants: list[float] = []
    amounts: list[float] = []
    for record in read_records(records):
        if record.outcome != "ok" or not record.osl:
            continue
        chunks = record.chunk_ns or ([record.last_token_ns] if record.last_token_ns is not None else [])
        instants += [(instant - window.start_ns) / 1e9 for instant in chunks]
        amounts += [record.osl / len(chunks)] * len(chunks) if chunks else []
    return batch_means(np.array(instants), np.array(amounts), 0.0, window.seconds, latency.mean / 1000)


def read_perf_metrics(path: Path, load: Load, engine: str) -> Breakdown | None:
    """Mean stages of a load's requests without warm-up, first wave and drain; ``None`` where nothing is stored.

    Raises:
        ResultsError: the file is there and cannot be read.
        CatalogError: the file is there, and ``engine``, whose servers wrote the records, is not known.
    """
    if not path.exists():
        return None
    try:
        with pa.CompressedInputStream(str(path), "zstd") as file:
            lines = file.read().splitlines()
        records: list[dict[str, Any]] = [msgspec.json.decode(line) for line in lines]
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ResultsError(f"{path}: not readable ({error}); move it away to do without it") from error
    wave = load.concurrency if isinstance(load, Concurrency) else 0
    return find_engine(engine).read_breakdown(records, skip_first=load.warmup + wave, skip_last=wave)
