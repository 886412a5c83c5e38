"""Iteration lines of a worker's log (``print_iter_log``), in every format seen since TensorRT-LLM 1.0.

Fields moved and were renamed between versions, ``srun -l`` puts ``N: `` in front and the logger a date: each field is
found by its own pattern, and no order is relied on (contract, section 5.4). Late 1.3 and 1.4 may print a count as the
value that holds it (``tensor(256)``, ``np.int64(256)``), or not at all, and add ``'cached_kv_tokens'``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from ratematch.measure.serverlog import LogSpan
from ratematch.plan.deployment import ServerGroup

DROP_FIRST, DROP_LAST = 50, 10
"""Iterations left out at both ends of a span when it is long enough (contract, section 5.5)."""

_NUMBER = r"\s*[=:]\s*(?:[A-Za-z_][\w.]*\(\[?\s*)?([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
"""A number, bare or as ``repr`` shows one that a library holds: ``tensor(256)``, ``np.int64(256)``."""
_ITER = re.compile(r"\biter" + _NUMBER)
_RANK = re.compile(r"\bglobal_rank" + _NUMBER)
_SCHEDULED = re.compile(r"\bnum_scheduled_requests" + _NUMBER)
_HOST_MS = re.compile(r"\bhost_step_time" + _NUMBER + r"\s*ms")
_DEVICE_MS = re.compile(r"\bprev_device_step_time" + _NUMBER + r"\s*ms")
_ELAPSED_S = re.compile(r"\belapsed_time" + _NUMBER + r"\s*s")
_CTX_REQUESTS = re.compile(r"'num_ctx_requests'" + _NUMBER)
_CTX_TOKENS = re.compile(r"'num_ctx_tokens'" + _NUMBER)
_GEN_TOKENS = re.compile(r"'num_generation_tokens'" + _NUMBER)
_KV_UTIL = re.compile(r"\bkv_cache_util" + _NUMBER)


@dataclass(frozen=True)
class IterationLine:
    """One iteration of one rank. Under attention DP the counts are that rank's own.

    ``host_step_ms``: time of this iteration on the host (``elapsed_time`` in 1.0). ``prev_device_step_ms``: device
    time of the iteration *before*; ``None`` in the first, where the log says N/A. ``num_generation_tokens`` counts
    scheduled tokens, drafts included, not accepted ones. Counts are ``None`` where the line does not have them.
    """

    iteration: int
    rank: int
    num_scheduled: int
    num_ctx_requests: int | None
    num_ctx_tokens: int | None
    num_generation_tokens: int | None
    host_step_ms: float | None
    prev_device_step_ms: float | None
    kv_cache_util: float | None


@dataclass(frozen=True)
class StepTime:
    """Generation steps of one span of the log. ``step_ms``: median. ``iterations``: how many it is taken from.

    ``num_scheduled``: requests of the rank in each of them.
    """

    step_ms: float
    iterations: int
    num_scheduled: int
    mean_ms: float


def parse_line(line: str) -> IterationLine | None:
    """The iteration in ``line``; ``None`` for any other line, however garbled."""
    iteration, scheduled = _ITER.search(line), _SCHEDULED.search(line)
    if iteration is None or scheduled is None:
        return None
    host_ms = _float(_HOST_MS, line)
    elapsed_s = _float(_ELAPSED_S, line)
    return IterationLine(
        iteration=int(float(iteration[1])),
        rank=_count(_RANK, line) or 0,
        num_scheduled=int(float(scheduled[1])),
        num_ctx_requests=_count(_CTX_REQUESTS, line),
        num_ctx_tokens=_count(_CTX_TOKENS, line),
        num_generation_tokens=_count(_GEN_TOKENS, line),
        host_step_ms=host_ms if host_ms is not None else None if elapsed_s is None else elapsed_s * 1000,
        prev_device_step_ms=_float(_DEVICE_MS, line),
        kv_cache_util=_float(_KV_UTIL, line),
    )


def parse_lines(lines: Iterable[str]) -> Iterator[IterationLine]:
    """Every iteration line among ``lines``, in order."""
    return (parsed for line in lines if (parsed := parse_line(line)) is not None)


def _float(pattern: re.Pattern[str], line: str) -> float | None:
    match = pattern.search(line)
    return float(match[1]) if match else None


def _count(pattern: re.Pattern[str], line: str) -> int | None:
    value = _float(pattern, line)
    return None if value is None else int(value)


def read_step_time(lines: Sequence[IterationLine], expected: int | None = None) -> StepTime | None:
    """Step time at full batch: iterations of rank 0 that only generate, at ``expected`` requests of this rank.

    Without ``expected``, or when no iteration had that many, the largest batch seen counts as full. The device time
    of iteration k stands in the line of k + 1, so a line counts only when the one before it ran the same batch; where
    no device time is printed (1.0) the host's stands in. The first 50 and last 10 are left out when more than twice
    as many are there. ``None`` when no generation step is in ``lines``.
    """
    steps = [line for line in lines if line.rank == 0]
    sizes = {line.num_scheduled for line in steps if _only_generates(line)}
    if not sizes:
        return None
    full = expected if expected in sizes else max(sizes)
    times: list[float] = []
    for before, line in pairwise(steps):
        at_full = _only_generates(before) and before.num_scheduled == full and line.iteration == before.iteration + 1
        time_ms = line.prev_device_step_ms if line.prev_device_step_ms is not None else before.host_step_ms
        if at_full and time_ms is not None:
            times.append(time_ms)
    if len(times) > 2 * (DROP_FIRST + DROP_LAST):
        times = times[DROP_FIRST:-DROP_LAST]
    return StepTime(median(times), len(times), full, fmean(times)) if times else None


def _only_generates(line: IterationLine) -> bool:
    """Without a count of generation tokens, what is scheduled and no prompt generates; without counts of prompts
    nothing can be said."""
    context = [count for count in (line.num_ctx_requests, line.num_ctx_tokens) if count is not None]
    if not context or any(context):
        return False
    generated = line.num_scheduled if line.num_generation_tokens is None else line.num_generation_tokens
    return generated > 0


def read_log(text: str, group: ServerGroup, in_flight: int | None = None) -> LogSpan | None:
    """:func:`read_span` for a worker of ``group``."""
    return read_span(text, group.mapping.dp_ranks, in_flight)


def has_iterations(text: str) -> bool:
    """Is there any iteration line?"""
    return any(True for _ in parse_lines(text.splitlines()))


def is_trtllm_log(text: str) -> bool:
    """Is this a log of a TensorRT-LLM process?"""
    return "TensorRT-LLM" in text or "tensorrt_llm" in text


def read_span(text: str, dp_ranks: int, in_flight: int | None = None) -> LogSpan | None:
    """Steps of one generating worker in ``text``, a part of its log; ``None`` when it holds no generation step.

    ``in_flight``: requests the worker was given to hold, which makes in_flight / dp_ranks of them a full rank.
    """
    expected = in_flight // dp_ranks if in_flight and in_flight % dp_ranks == 0 else None
    step = read_step_time(list(parse_lines(text.splitlines())), expected)
    if step is None:
        return None
    held = step.num_scheduled * dp_ranks
    # One rank's log stands for all of them, but fewer requests than ranks leave some empty.
    return LogSpan(step.step_ms, step.iterations, min(held, in_flight) if in_flight else held, step.mean_ms)


_GIVEN_UP = re.compile(
    r"Failed to initialize executor\b|Executor worker returned error|MPI_ABORT was invoked on rank"
)
"""What is written once a rank could not be set up: the others, or the HTTP process, may wait for it for ever."""


def has_given_up(text: str) -> bool:
    """Does it say that its executor could not be set up, so that the server will never be ready?"""
    return _GIVEN_UP.search(text) is not None
