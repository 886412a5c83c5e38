"""One load sent by several processes, on one machine or on several: one schedule, one clock, one set of records.

Everybody meets in a folder that all can see (a shared file system when the processes are Slurm tasks)::

    job.json            what to send; never a header, which may hold a key (see HEADERS_ENV)
    ready-<i>           sender i is through with its warm-up
    start               the instant at which all begin, written when everybody is ready
    progress-<i>.jsonl  how sender i is doing
    drain, stop         begin no further request; end at once
    result-<i>.json     and records-<i>.parquet, warmup-<i>.parquet: what sender i leaves (while it sends, most of it
                        is in a file without a name, see LoadControl.folder); or
    failed-<i>          why it could not

Locally :func:`drive_in_processes` does all of it. In Slurm: :func:`prepare`, then
``srun -n <senders> python -m ratematch.loadgen.shards FOLDER``, and :func:`collect` meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import msgspec
import numpy as np

from ratematch.errors import RatematchError, UserError
from ratematch.loadgen.client import Target
from ratematch.loadgen.clocks import boot_id, wall_offset_ns
from ratematch.loadgen.control import LoadControl
from ratematch.loadgen.cores import keep_apart_as_asked
from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import Ended, LoadResult, Progress
from ratematch.loadgen.meeting import meet
from ratematch.loadgen.merge import SenderResult, merge_results
from ratematch.loadgen.prompts import PromptSource
from ratematch.loadgen.schedule import Shard, Share
from ratematch.measure.requesttimes import AskTimes
from ratematch.plan.experiment import load_from_json, load_to_json
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.plan.workload import RequestSpec, Workload, workload_from_json, workload_to_json
from ratematch.store.files import write_text
from ratematch.store.records import write_records
from ratematch.store.uncollected import freeze_loaded

HEADERS_ENV = "RATEMATCH_LOAD_HEADERS"
"""JSON list of [name, value]: headers reach the senders through their environment and no file."""

STREAMS_EACH = 1024
"""Requests in flight up to which one process keeps its clock (docs/load-generator.md)."""

TOK_S_EACH = 40_000
"""Output tokens a second, likewise."""

_UNWATCHED = LoadControl()

_LEAD_NS = 200_000_000
_POLL_S = 0.02


@dataclass(frozen=True)
class LoadJob:
    """A load and all that its requests are made from; the same job gives every sender the same schedule.

    ``distinct``: so many different prompts, which the job cycles through (0: no two are alike); ``block``: tokens of
    a KV block of the server that they are warmed in (0: not known), see :func:`ends_in_new_block`. ``rung``: which
    one of a ladder, whose prompts another one does not have; ``skip``: entries of the workload's file that are passed
    over."""

    target: Target
    load: Load
    workload: Workload
    vocab_size: int
    seed: int = 0
    first_seq: int = 0
    distinct: int = 0
    block: int = 0
    rung: int = 0
    skip: int = 0

    def source(self) -> PromptSource:
        """Reads the workload's files.

        Raises:
            UserError: a file or tokenizer that cannot be read.
        """
        return PromptSource(self.workload, self.vocab_size, self.seed, chat=self.target.api == "chat")

    def make_requests(self, source: PromptSource) -> tuple[Iterable[RequestSpec], list[RequestSpec]]:
        """The measured requests and those of the warm-up; no prompt is shared between any two of them, unless only
        ``distinct`` ones are wanted."""
        load = self.load
        if self.distinct:
            return self._make_repeated(source)
        after = self.first_seq + load.num_requests
        warmup = source.warmup(load.warmup, after, self.seed + 1)
        if isinstance(load, Concurrency) and load.seconds:
            return source.endless(after + load.warmup, rung=self.rung, skip=self.skip), warmup
        return source.requests(load.num_requests, self.first_seq, rung=self.rung, skip=self.skip), warmup

    def make_distinct(self, source: PromptSource) -> list[RequestSpec]:
        """The prompts that a job with ``distinct`` ones cycles through."""
        prompts = source.requests(self.distinct, self.first_seq, rung=self.rung, skip=self.skip)
        return [ends_in_new_block(prompt, self.block) for prompt in prompts] if self.block else prompts

    def _make_repeated(self, source: PromptSource) -> tuple[Iterable[RequestSpec], list[RequestSpec]]:
        load, prompts = self.load, self.make_distinct(source)
        after = self.first_seq + load.num_requests

        def repeated(first_seq: int) -> Iterator[RequestSpec]:
            for number, prompt in enumerate(cycle(prompts)):
                yield replace(prompt, seq=first_seq + number)

        warmup = list(islice(repeated(after), load.warmup))
        if isinstance(load, Concurrency) and load.seconds:
            return repeated(after + load.warmup), warmup
        return list(islice(repeated(self.first_seq), load.num_requests)), warmup


def ends_in_new_block(request: RequestSpec, block: int) -> RequestSpec:
    """The request with a prompt of whole blocks and one token: a token longer where it has whole blocks, else cut.

    A server finds whole blocks in its prefix cache, and never the last token. Of a prompt of whole blocks it computes
    all of the last one again, which takes steps of its own; of one token more than that it computes that token, as in
    service. Prompts without ids stay as they are, and those that would change by more than a hundredth of their
    length (and a token): what is computed of them is counted, and predictions are without it.
    """
    length = len(request.prompt)
    kept = length + 1 if length % block == 0 else (length - 1) // block * block + 1
    if not length or abs(kept - length) > max(1, length // 100):
        return request
    prompt = np.append(request.prompt, request.prompt[-1:]) if kept > length else request.prompt[:kept]
    return replace(request, prompt=prompt.astype(request.prompt.dtype, copy=False))


_NUMBERS = ("vocab_size", "seed", "first_seq", "distinct", "block", "rung", "skip")


def count_processes(load: Load, workload: Workload, cores: int | None = None) -> int:
    """How many senders a load needs so that none is the bottleneck: one for each 1,024 requests in flight or 40,000
    tok/s, as many as there are cores at most."""
    cores = cores or len(os.sched_getaffinity(0))
    match load:
        case Concurrency():
            needed = load.concurrency / STREAMS_EACH
        case Rate():
            needed = max(load.req_s, load.end_req_s) * workload.mean_osl / TOK_S_EACH
        case _:
            needed = 1
    return max(1, min(cores, math.ceil(needed)))


def drive_in_processes(job: LoadJob, count: int, control: LoadControl = _UNWATCHED) -> LoadResult:
    """:func:`ratematch.loadgen.drive` with ``count`` processes of this machine.

    Raises:
        UserError: a sender could not begin.
    """
    with meet() as (folder, lock):
        prepare(folder, job, count, control.folder)
        environment = os.environ | {
            HEADERS_ENV: json.dumps(job.target.headers),
            "RATEMATCH_LOAD_PARENT": str(os.getpid()),
        }
        senders = [
            subprocess.Popen(
                [sys.executable, "-m", "ratematch.loadgen.shards", str(folder), str(index)],
                env=environment,
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
            )
            for index in range(count)
        ]
        try:
            gone = partial(_ended, senders)
            return collect(folder, job.load.label, count, gone, control)
        finally:
            for sender in senders:
                sender.terminate()
            for sender in senders:
                sender.wait()


def _ended(senders: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    return [index for index, sender in enumerate(senders) if sender.poll() is not None]


def prepare(folder: Path, job: LoadJob, count: int, spill: Path | None = None) -> None:
    """Write ``job.json`` for ``count`` senders into ``folder``, which must be empty. ``spill``: the ``folder`` of
    their :class:`LoadControl`."""
    target = {item.name: getattr(job.target, item.name) for item in fields(Target)}
    del target["headers"], target["spell"]
    target["ask"] = None if job.target.ask is None else asdict(job.target.ask)
    content = {
        "count": count,
        "target": {**target, "extra_body": dict(job.target.extra_body)},
        "load": load_to_json(job.load),
        "workload": workload_to_json(job.workload),
        **{name: getattr(job, name) for name in _NUMBERS},
        "spill": None if spill is None else str(spill.absolute()),
    }
    _write(folder / "job.json", json.dumps(content))


def read_job(folder: Path) -> tuple[LoadJob, int]:
    """What :func:`prepare` wrote, with the headers from the environment."""
    content = json.loads((folder / "job.json").read_text())
    headers = tuple((name, value) for name, value in json.loads(os.environ.get(HEADERS_ENV, "[]")))
    target = content["target"]
    ask = None if target["ask"] is None else msgspec.convert(target["ask"], AskTimes)
    job = LoadJob(
        target=Target(**{**target, "ask": ask}, headers=headers),
        load=load_from_json(content["load"]),
        workload=workload_from_json(content["workload"]),
        **{name: content[name] for name in _NUMBERS},
    )
    return job, int(content["count"])


def read_spill(folder: Path) -> Path | None:
    """Where the senders keep records while they send; as :func:`prepare` wrote it."""
    spill = json.loads((folder / "job.json").read_text()).get("spill")
    return Path(spill) if spill else None


def run_shard(folder: Path, index: int, notes: tuple[str, ...] = ()) -> None:
    """Send the ``index``-th share of the job in ``folder`` and leave its records there, with ``notes``."""
    job, count = read_job(folder)
    stop, drain, over = threading.Event(), threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's: it tells us in the folder
    watcher = threading.Thread(target=_watch_folder, args=(folder, stop, drain, over), daemon=True)
    watcher.start()
    try:
        source = job.source()
        requests, warmup = job.make_requests(source)
        with (folder / f"progress-{index}.jsonl").open("w") as file:

            def write_progress(progress: Progress) -> None:
                file.write(json.dumps(asdict(progress)) + "\n")
                file.flush()

            result = drive(
                replace(job.target, spell=source.spell),
                job.load,
                requests,
                warmup,
                seed=job.seed,
                control=LoadControl(stop, drain, write_progress, folder=read_spill(folder)),
                share=Share(Shard(index, count), lambda: _wait_start(folder, index, stop)),
            )
    except RatematchError as problem:
        _write(folder / f"failed-{index}", str(problem))
        return
    finally:
        over.set()
    write_records(folder / f"records-{index}.parquet", result.records)
    write_records(folder / f"warmup-{index}.parquet", result.warmup)
    left = SenderResult(
        start_ns=result.start_ns,
        end_ns=result.end_ns,
        wall_start_ns=result.wall_start_ns,
        aborted=result.aborted,
        health=result.health,
        boot=boot_id(),
        clock_ns=wall_offset_ns(),
        notes=notes,
    )
    _write(folder / f"result-{index}.json", json.dumps(asdict(left)))


def collect(
    folder: Path, label: str, count: int, gone: Callable[[], Sequence[int]], control: LoadControl = _UNWATCHED
) -> LoadResult:
    """Let the ``count`` senders of the load called ``label`` begin together, watch them, and merge what they leave.

    ``gone``: indices of senders whose process has ended. One that ends without a result ends the load; the records of
    the others are kept, and ``aborted`` says why.

    Raises:
        UserError: a sender could not begin.
    """
    watched = _Watched(count)
    everybody = set(range(count))
    next_progress = time.monotonic() + control.progress_s
    lost: set[int] = set()
    while True:
        ended = set(gone())
        done = {k for k in everybody if (folder / f"result-{k}.json").exists()}
        if not (folder / "start").exists():
            _raise_failed(folder, count)
            if all((folder / f"ready-{k}").exists() or k in done for k in everybody):
                _write_start(folder)
        lost = {k for k in ended - done if not (folder / f"result-{k}.json").exists()}
        if (lost or control.stopped) and not (folder / "stop").exists():
            _write(folder / "stop", "")
        if control.draining and not (folder / "drain").exists():
            _write(folder / "drain", "")
        if done | lost == everybody:
            break
        if control.on_progress is not None and time.monotonic() >= next_progress:
            next_progress = time.monotonic() + control.progress_s
            control.on_progress(watched.read(folder))
        time.sleep(_POLL_S)
    if control.on_progress is not None:
        control.on_progress(watched.read(folder))
    return merge_results(folder, label, sorted(everybody - lost), sorted(lost))


def _raise_failed(folder: Path, count: int) -> None:
    for index in range(count):
        if (failed := folder / f"failed-{index}").exists():
            _write(folder / "stop", "")
            raise UserError(failed.read_text())


class _Watched:
    """The progress of all senders as one."""

    def __init__(self, count: int) -> None:
        self._places = [0] * count
        self._last: dict[int, Progress] = {}

    def read(self, folder: Path) -> Progress:
        ended: list[Ended] = []
        for index, place in enumerate(self._places):
            file = folder / f"progress-{index}.jsonl"
            if not file.exists():
                continue
            with file.open() as lines:
                lines.seek(place)
                while (line := lines.readline()).endswith("\n"):
                    self._places[index] = lines.tell()
                    content = json.loads(line)
                    if content["phase"] == "load":
                        ended += [Ended(*answer) for answer in content["ended"]]
                    self._last[index] = Progress(**{**content, "ended": ()})
        reports = list(self._last.values())
        ttft, tpot = ([p.ttft_ms for p in reports if p.ttft_ms], [p.tpot_ms for p in reports if p.tpot_ms])
        return Progress(
            phase=min((p.phase for p in reports), key=lambda phase: phase == "load", default="warm-up"),
            total=sum(p.total for p in reports),
            sent=sum(p.sent for p in reports),
            done=sum(p.done for p in reports),
            failed=sum(p.failed for p in reports),
            in_flight=sum(p.in_flight for p in reports),
            tokens=sum(p.tokens for p in reports),
            elapsed_s=max((p.elapsed_s for p in reports), default=0.0),
            ttft_ms=float(np.median(ttft)) if ttft else None,
            tpot_ms=float(np.median(tpot)) if tpot else None,
            ended=tuple(ended),
        )


def _wait_start(folder: Path, index: int, stop: threading.Event) -> int:
    _write(folder / f"ready-{index}", "")
    while not stop.is_set():
        with contextlib.suppress(OSError, ValueError):
            start = json.loads((folder / "start").read_text())
            if start["boot"] == boot_id():
                return int(start["start_ns"])
            return int(start["wall_ns"]) - wall_offset_ns()
        time.sleep(_POLL_S / 4)
    return time.monotonic_ns()


def _write_start(folder: Path) -> None:
    start_ns = time.monotonic_ns() + _LEAD_NS
    content = {"start_ns": start_ns, "wall_ns": start_ns + wall_offset_ns(), "boot": boot_id()}
    _write(folder / "start", json.dumps(content))


def _watch_folder(folder: Path, stop: threading.Event, drain: threading.Event, over: threading.Event) -> None:
    parent = os.environ.get("RATEMATCH_LOAD_PARENT")
    while not over.wait(0.1):
        if (folder / "drain").exists():
            drain.set()
        if (folder / "stop").exists() or (parent is not None and os.getppid() != int(parent)):
            stop.set()


def _write(path: Path, text: str) -> None:
    """Whole or not there, and not synced: these files live as long as the load, and a disk may take longer to sync
    than there is between ``start`` and the instant that it names."""
    write_text(path, text, sync=False)


if __name__ == "__main__":
    freeze_loaded()
    with keep_apart_as_asked() as said:
        run_shard(Path(sys.argv[1]), int(sys.argv[2] if len(sys.argv) > 2 else os.environ["SLURM_PROCID"]), said)
