"""The verdict on a load, from its records and from what the servers report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ratematch.measure.loadrun import LoadRun
from ratematch.measure.measurement import Measurement, measure_load
from ratematch.measure.records import RequestRecord
from ratematch.measure.serverlog import log_tok_s
from ratematch.measure.servermetrics import judge_figures, judge_hits
from ratematch.measure.validity import DEFAULT_LIMITS, Limits
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load

WITHOUT_TTFT = ("gen_only", "gen_only_warmed")
"""Modes in which TTFT says nothing of the servers (:func:`judge_servers`)."""

ACCEPTANCE_EDGE = 0.02
"""How near to 1 (nothing accepted) or to MTP + 1 (everything) an acceptance length is not believed."""

FORCED_WITHIN = 0.05
"""How far the acceptance length that servers count may be from the one that they are forced to: the first step of an
answer drafts nothing, and the last is cut."""

LOG_DIFFERS = 0.1
"""How far tok/s by log and by client may lie apart without a word: known bias is 7.5 % and more (contract, 5.5)."""

MISSED = 0.05
"""Share of prompt tokens that may be missing from a warmed prefix cache: 5 % of 2,048 tokens are a short step."""

EMULATOR_LATE = 0.05
"""Share of its busy time by which the emulator may end steps late before its figures are not believed."""


def measure_run(records: Sequence[RequestRecord], load: Load, experiment: Experiment, run: LoadRun) -> Measurement:
    """The figures of one load: its records, judged together with what client and servers report in ``run``."""
    figures = measure_load(records, load, experiment.workload, limits=limits_of(experiment), client=run.client)
    return judge_servers(figures, experiment, run)


def limits_of(experiment: Experiment) -> Limits:
    """Where a load is not valid: the same for all, but that warmed prompts are meant to be found in the cache, and
    that TTFT is no figure of ``gen_only`` ones."""
    cached = 1.0 if experiment.mode == "gen_only_warmed" else DEFAULT_LIMITS.cached
    return replace(DEFAULT_LIMITS, cached=cached, ttft=experiment.mode not in WITHOUT_TTFT)


def judge_servers(figures: Measurement, experiment: Experiment, run: LoadRun) -> Measurement:
    """``figures`` of the client's records, with what only the servers know and what they throw doubt on.

    An emulator that could not keep its own step times makes the load not valid: the figures would be this
    machine's, not those of the GPU it stands for. In ``gen_only`` there is no TTFT: the first requests wait for the
    whole batch, and what later ones wait for is a supply that nobody sized. In ``gen_only_warmed`` there is none
    either, because prompts come from the prefix cache and are not computed; where they were not there, the load is
    not valid.
    """
    figures = _add_servers_account(figures, experiment, run)
    iterations = list(_judge_iterations(experiment, run))
    reasons = [
        *_judge_emulator(run),
        *_judge_forced(experiment, figures),
        *_judge_prefix_cache(run),
        *_judge_expired_caches(run),
        *(text for severe, text in iterations if severe),
    ]
    warnings = (
        *figures.warnings,
        *_doubt_acceptance(experiment, figures),
        *_doubt_log(experiment, figures),
        *_doubt_connections(run),
        *(text for severe, text in iterations if not severe),
        *_doubt_warming(run),
    )
    if experiment.mode in WITHOUT_TTFT:
        figures = replace(figures, ttft_ms=None, e2el_ms=None)
        warnings = (*warnings, f"{experiment.mode}: TTFT is not reported, TPOT is")
    return replace(
        figures, valid=figures.valid and not reasons, reasons=(*figures.reasons, *reasons), warnings=warnings
    )


def _judge_emulator(run: LoadRun) -> list[str]:
    """Emulated servers that did not keep their step times."""
    return [
        f"the emulator {name} ended its steps {time.late_s + time.lost_s:.2f} s late "
        f"in {time.busy_s:.2f} s: this machine is too slow for the load"
        for name, time in run.emulator.items()
        if time.late_s + time.lost_s > EMULATOR_LATE * time.busy_s
    ]


def _judge_expired_caches(run: LoadRun) -> list[str]:
    """KV caches that were let go before they had been fetched: what was generated from them is not to be trusted."""
    expired = run.stages.kv_expired if run.stages else 0
    if not expired:
        return []
    return [f"ctx gave up {expired} KV caches before gen had fetched them: raise the lease, or lower the load"]


def _judge_prefix_cache(run: LoadRun) -> list[str]:
    """Prompts that were not in the prefix cache were computed between decode steps: TPOT is not that of decoding."""
    warmed = run.warmed
    if warmed is None:
        return []
    if warmed.failed:
        return [f"{warmed.failed} of {warmed.prompts} prompts could not be warmed: {'; '.join(warmed.errors)}"]
    rate, expected = warmed.hit_rate, warmed.expected
    if rate is None or expected is None or rate >= expected - MISSED:
        return []
    return [
        f"the prefix cache held {rate:.0%} of the prompts, {expected:.0%} were expected: they were computed again "
        "between decode steps; lower the concurrency, or give the KV cache more room"
    ]


def _add_servers_account(figures: Measurement, experiment: Experiment, run: LoadRun) -> Measurement:
    """``figures`` with what only the servers know: the acceptance length of drafts, and tok/s by log.

    The length that answers carry counts the iteration of the prompt, which drafts nothing: at short OSL it is too
    low, so it stands in only where ``/metrics`` has none. Log and client count differently: the log at full batch,
    the client over everything that happened in the window.
    """
    length = run.telemetry.acceptance_length or figures.acceptance_length
    figures = replace(figures, acceptance_length=length)
    # Without MTP a step is a token; with it, tokens a step are only known from a measured length.
    tokens = length or (None if experiment.deployment.mtp else 1.0)
    if not run.log or tokens is None:
        return figures
    spans = run.log.values()
    return replace(figures, tok_s_log=sum(log_tok_s(span.in_flight, span.step_ms, tokens) for span in spans))


def _doubt_log(experiment: Experiment, figures: Measurement) -> list[str]:
    """Where the batch is meant to be full, log and client should agree; the log does not see what lies around it."""
    if experiment.stage != "gen" or not figures.tok_s_log or not figures.tok_s:
        return []
    difference = figures.tok_s_log / figures.tok_s - 1
    if abs(difference) <= LOG_DIFFERS:
        return []
    return [
        f"the log says {figures.tok_s_log:.0f} tok/s at full batch, the client {figures.tok_s:.0f}: {difference:+.0%}"
    ]


def _doubt_connections(run: LoadRun) -> list[str]:
    opened = run.connections
    if opened is None or not opened.failed:
        return []
    return [f"{opened.failed} of {opened.requests} requests to open connections failed: {'; '.join(opened.errors)}"]


def _judge_iterations(experiment: Experiment, run: LoadRun) -> Iterator[tuple[bool, str]]:
    """Queueing and a full KV cache where requests are generated; prefix cache hits everywhere.

    A context server's queue is a part of its TTFT. In ``gen_only_warmed`` hits are what is wanted.
    """
    for name, means in (run.telemetry.window or {}).items():
        figures = dict(means)
        if experiment.mode == "gen_only_warmed":
            for wanted in ("cache_hit_rate", "cache_hits_total", "cache_queries_total"):
                figures.pop(wanted, None)
        if experiment.stage == "ctx" or name.startswith("ctx"):
            yield from judge_hits(name, figures, experiment.workload)
        else:
            yield from judge_figures(name, figures, experiment.workload)


def _doubt_warming(run: LoadRun) -> list[str]:
    warmed = run.warmed
    if warmed is None or warmed.failed or warmed.hit_rate is not None:
        return []
    return ["the server does not tell how much of the warmed prompts it found; TPOT may hold prefill"]


def _drafting(experiment: Experiment) -> ServerGroup | None:
    """The servers that look at drafts."""
    return experiment.deployment.gen or experiment.deployment.agg


def _judge_forced(experiment: Experiment, figures: Measurement) -> list[str]:
    """Servers that were to accept drafts by force and count something else: a release without it, or one that takes
    whole numbers only, goes on as if nothing had been asked."""
    group, measured = _drafting(experiment), figures.acceptance_length
    forced = experiment.forced_tokens(group) if group is not None else None
    if forced is None or measured is None or abs(measured / forced - 1) <= FORCED_WITHIN:
        return []
    return [
        f"drafts were to be accepted by force, {forced:g} tokens a step, and the servers count {measured:.2f}: this "
        "is not what was asked for"
    ]


def _doubt_acceptance(experiment: Experiment, figures: Measurement) -> list[str]:
    """Known trouble: MTP that accepts nothing, or everything, which no real text does (contract, section 9)."""
    mtp, measured = experiment.deployment.mtp, figures.acceptance_length
    if not mtp or experiment.stage == "ctx" or not figures.num_ok:
        return []
    if experiment.workload.forced and measured is not None:
        return []  # by force everything may be accepted
    if measured is None:
        return ["MTP is on and the server does not tell how many drafts it accepts"]
    if measured < 1 + ACCEPTANCE_EDGE or measured > mtp + 1 - ACCEPTANCE_EDGE:
        yields = f"MTP {mtp} yields {measured:.2f} tokens an iteration"
        return [f"{yields}: nothing or everything is accepted; check the draft layers and the prompts"]
    return []
