"""The verdict on a load: may it stand on a front, and what should the reader know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.columns import ABSENT, Columns, columns_of
from ratematch.measure.inwindow import InWindow
from ratematch.measure.metrics import are_complete, is_complete
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats
from ratematch.measure.streams import judge_streams
from ratematch.measure.window import Window
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.workload import Workload


@dataclass(frozen=True)
class Limits:
    """Where a warning becomes a reason against a load. Shares are 0..1.

    ``failed``: share of requests without a full answer. ``wrong_osl``: share of answers with another length than
    asked for. ``isl_drift``: relative difference of the prompt length the server counted. ``cached``: share of prompt
    tokens answered from the prefix cache; 1: they may all be. ``little``: how far from 1 Little's ratio may be.
    ``requests``: fewest requests in the window without a warning. ``slots``: how far the mean in flight may stay
    below the concurrency asked for. ``behind``: in open loop, by which share the requests/s served may stay below
    those that arrived. ``send_lag_ms``: how late the client may send at the 99th percentile. ``cpu_share``: CPU of
    one sending process, of a core, from which on it is taken for the bottleneck. ``loop_lag_ms``: lateness of its
    timers at the 99th percentile. ``late_sends``: share of requests sent late; with full CPU or a late loop they are
    a reason, alone a warning (in open loop latency counts the lateness). ``drift``: how far mean latencies of the
    window's halves may lie apart. ``ttft``: is TTFT one of the load's figures; bounds of it are given then only.
    """

    failed: float = 0.01
    wrong_osl: float = 0.01
    isl_drift: float = 0.02
    cached: float = 0.01
    little: float = 0.05
    requests: int = 10
    slots: float = 0.05
    behind: float = 0.1
    send_lag_ms: float = 10.0
    cpu_share: float = 0.9
    loop_lag_ms: float = 20.0
    late_sends: float = 0.05
    drift: float = 0.05
    ttft: bool = True


DEFAULT_LIMITS = Limits()

_NO_USAGE = "no usage chunk"
_NO_TOKENS = "0 tokens, by its usage"
_NO_CHUNKS = "no chunk that carries a token (it came whole, or in fields that are not known)"


@dataclass(frozen=True)
class Verdict:
    """``reasons`` forbid the load on a front; ``warnings`` do not."""

    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class Evidence:
    """What a verdict looks at beside the records themselves.

    ``window``: the steady one, and what happened ``inside`` it. ``send_lag_ms``: how late requests were sent.
    ``client``: how well the client kept up, ``None`` = not known. ``latency_drift``: of the window's second half
    against its first, as a share.
    """

    window: Window | None
    inside: InWindow
    send_lag_ms: Stats | None
    client: ClientHealth | None
    latency_drift: float | None


def judge(
    records: Sequence[RequestRecord],
    load: Load,
    workload: Workload,
    evidence: Evidence,
    limits: Limits = DEFAULT_LIMITS,
) -> Verdict:
    """Everything that is wrong with a load, in words with the figures that show it."""
    records = columns_of(records)
    answers = records.take(are_complete(records))
    if not len(answers):
        return Verdict((_no_answer(records),), ())
    findings = [
        *_judge_answers(records, answers, workload, limits),
        *_judge_load(load, evidence, limits),
        *_judge_overload(load, evidence.inside, limits),
        *_judge_client(evidence.client, len(records), limits),
        *judge_streams(answers, evidence.inside.answers, closed=isinstance(load, Concurrency), ttft=limits.ttft),
        *_judge_drift(evidence.latency_drift, load, limits),
    ]
    return Verdict(
        reasons=tuple(text for severe, text in findings if severe),
        warnings=tuple(text for severe, text in findings if not severe),
    )


def _no_answer(records: Sequence[RequestRecord]) -> str:
    if not records:
        return "no request was sent"
    errors = sorted({why for record in records if (why := _why_incomplete(record)) is not None})
    return f"none of {len(records)} requests has a full answer with usage: {'; '.join(errors[:3])}"


def _why_incomplete(record: RequestRecord) -> str | None:
    """Why an answer counts in no figure; ``None`` when it does."""
    if record.outcome != "ok":
        return record.error or record.outcome
    if record.osl is None:
        return _NO_USAGE
    if record.osl == 0:
        return _NO_TOKENS
    if record.first_token_ns is None:
        return record.stream_note or _NO_CHUNKS
    return None if is_complete(record) else "no instants"


def _judge_answers(
    records: Columns, answers: Columns, workload: Workload, limits: Limits
) -> Iterator[tuple[bool, str]]:
    """(severe, text) of everything wrong with the single requests."""
    total, num = len(records), len(answers)
    ended = records.text("outcome").equal("ok")
    odd = records.take(ended & (~are_complete(records) | (records.ints("osl") == 0)))
    incomplete = Counter(_why_incomplete(record) for record in odd)
    del incomplete[None]
    if without_usage := incomplete.pop(_NO_USAGE, 0):
        yield True, f"{without_usage} of {total} answers have no usage: their token counts are unknown"
    for why, count in sorted(incomplete.items(), key=str):
        yield count / total > limits.failed, f"{count} of {total} answers: {why}"
    failed = total - num - without_usage - incomplete.total()
    if failed:
        others = records.take(~ended)
        outcomes = sorted({record.outcome for record in others})
        errors = Counter(record.error for record in others if record.error)
        detail = f" ({', '.join(outcomes)})" if outcomes else ""
        detail += f": {errors.most_common(1)[0][0]}" if errors else ""
        yield failed / total > limits.failed, f"{failed} of {total} requests failed{detail}"
    wrong = int((answers.ints("osl") != answers.ints("osl_requested")).sum())
    if wrong:
        text = f"{wrong} of {num} answers have another output length than asked for (is ignore_eos on?)"
        yield wrong / num > limits.wrong_osl, text
    yield from _judge_prompts(answers, workload, limits)
    yield from _judge_cached(answers, workload, limits)


def _judge_cached(answers: Columns, workload: Workload, limits: Limits) -> Iterator[tuple[bool, str]]:
    """Prompt tokens from the prefix cache, as answers report them, beyond those that prompts are meant to share."""
    if workload.turns > 1 or workload.file or limits.cached >= 1:
        return
    sent, reported = answers.ints("isl"), answers.ints("isl_reported")
    cached = int(answers.ints("cached_tokens")[answers.known("cached_tokens")].sum())
    prompts = int(np.where(sent != 0, sent, np.where(reported == ABSENT, 0, reported)).sum())
    if cached and (share := cached / max(1, prompts) - workload.prefix_share) > 0:
        more = " more than wanted" if workload.prefix_share else ""
        text = f"{share:.1%} of the prompt tokens{more} came from the prefix cache: prefill looks faster than it is"
        yield share > limits.cached, text


def _judge_prompts(answers: Columns, workload: Workload, limits: Limits) -> Iterator[tuple[bool, str]]:
    lengths = answers.ints("isl")
    sent = float(np.mean(lengths))
    fixed = workload.isl_ratio == 1 and workload.isl_spread is None and workload.mean_isl is not None
    if fixed and abs(sent - workload.isl) > limits.isl_drift * workload.isl:
        yield True, f"prompts have {sent:.0f} tokens, the workload says {workload.isl}"
    if not lengths.all():
        yield False, "prompts were sent as text that nobody counted: ISL is what the server says"
    both = (lengths != 0) & answers.known("isl_reported")
    if not both.any() and lengths.any():
        yield False, "the server reports no prompt length: ISL is not checked"
        return
    if not both.any():
        return
    drift = float(np.mean((answers.ints("isl_reported") - lengths)[both]))
    if abs(drift) > 0:
        # One token more is the beginning-of-sequence token that some servers add.
        text = f"the server counts {drift:+.1f} prompt tokens against what was sent (a chat template or tokenizer?)"
        yield abs(drift) > max(1.0, limits.isl_drift * sent), text


def _judge_load(load: Load, evidence: Evidence, limits: Limits) -> Iterator[tuple[bool, str]]:
    """(severe, text) of everything wrong with the load as a whole."""
    window, in_flight, little = evidence.window, evidence.inside.in_flight, evidence.inside.little
    send_lag_ms = evidence.send_lag_ms
    if window is None or window.seconds <= 0 or window.num_requests == 0:
        yield True, "no request ended inside the window: nothing to take rates from"
        return
    if not window.steady:
        too_short = isinstance(load, Concurrency) and load.num_requests < 2 * load.concurrency
        yield too_short, f"not steady: {window.rule}; send more requests (5 x concurrency or more)"
    if window.num_requests < limits.requests:
        yield False, f"only {window.num_requests} requests ended in the window: means are rough, percentiles rougher"
    if isinstance(load, Concurrency) and in_flight is not None and window.steady:
        below = 1 - in_flight / load.concurrency
        if below > limits.slots:
            yield False, f"{in_flight:.1f} requests in flight, {load.concurrency} asked for: slots stood empty"
    if little is not None and abs(little - 1) > limits.little:
        text = f"Little's law is off by {little - 1:+.1%}: rate and latencies in the window do not belong together"
        # In open loop a queue may grow or shrink inside the window, which is a finding and not a fault.
        yield isinstance(load, Concurrency), text
    if send_lag_ms is not None and send_lag_ms.p99 > limits.send_lag_ms:
        yield False, f"the client sent late: {send_lag_ms.p99:.1f} ms at the 99th percentile"


def _judge_overload(load: Load, inside: InWindow, limits: Limits) -> Iterator[tuple[bool, str]]:
    """Open loop only: beyond capacity the queue grows as long as the load lasts, and TTFT says how long that was."""
    req_s, arrived_req_s = inside.req_s, inside.arrived_req_s
    if isinstance(load, Concurrency) or not req_s or not arrived_req_s:
        return
    if req_s < (1 - limits.behind) * arrived_req_s:
        yield True, f"overloaded: {arrived_req_s:.3g} requests/s arrived, {req_s:.3g} were served; the queue grew"


def _judge_client(client: ClientHealth | None, total: int, limits: Limits) -> Iterator[tuple[bool, str]]:
    """Was the client itself the bottleneck? Without its health there is no finding."""
    if client is None:
        return
    share = client.cpu_share / client.processes
    lag_ms = client.loop_lag_p99_ms
    late = client.late_sends / max(1, total)
    signs = []
    if share > limits.cpu_share:
        signs.append(f"{share:.0%} of a core in each sending process")
    if lag_ms > limits.loop_lag_ms:
        signs.append(f"its timers {lag_ms:.0f} ms late at the 99th percentile")
    if not signs:
        return
    if late > limits.late_sends:
        signs.append(f"{late:.0%} of requests sent more than {client.late_ms:g} ms late")
    yield len(signs) > 1, f"the client is saturated: {', '.join(signs)}; use more processes or another machine"


def _judge_drift(latency_drift: float | None, load: Load, limits: Limits) -> Iterator[tuple[bool, str]]:
    if latency_drift is not None and abs(latency_drift) > limits.drift and isinstance(load, Concurrency):
        text = f"not settled: latencies of the window's second half are {latency_drift:+.0%} against its first"
        yield False, f"{text}; send more requests"
