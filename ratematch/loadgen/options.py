"""The options of ``ratematch load``, as typed, and the values they stand for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ratematch.errors import UserError
from ratematch.loadgen.client import Target, split_address
from ratematch.loadgen.generate import is_generate
from ratematch.measure.early import EarlyRules
from ratematch.measure.goodput import Goodput, parse_goodput
from ratematch.plan.dataset import TimeUnit
from ratematch.plan.load import Arrival, Concurrency, Load, Rate, Trace
from ratematch.plan.nesting import nests_too_deep
from ratematch.plan.requestapi import Api
from ratematch.plan.workload import Spread, Workload, parse_spread

DEFAULT_VOCAB = 32000


@dataclass(frozen=True)
class LoadOptions:
    """The command line of ``ratematch load``; ladders as the text a person typed.

    ``api``: ``None`` = chat for a data set of messages, else completions. ``seed``: ``None`` = a new one each run.
    """

    url: str
    model: str
    concurrency: str = ""
    request_rate: str = ""
    replay: str = ""
    arrival: Arrival = "poisson"
    burstiness: float = 1.0
    ramp_to: float | None = None
    max_in_flight: int = 0
    num_requests: int | None = None
    duration: float | None = None
    warmup: int | None = None
    stagger_s: float = 0.0
    isl: int = 1024
    osl: int = 128
    isl_ratio: float = 1.0
    osl_ratio: float = 1.0
    isl_spread: str = ""
    osl_spread: str = ""
    prefix_share: float = 0.0
    prefix_groups: int = 1
    turns: int = 1
    think_s: float = 0.0
    dataset: str = ""
    time_unit: TimeUnit | None = None
    hash_block: int = 0
    text: str = ""
    tokenizer: str = ""
    vocab_size: int | None = None
    api: Api | None = None
    stream: bool = True
    extra_body: str = ""
    api_key_env: str | None = None
    timeout_s: float = 3600.0
    seed: int | None = None
    warm_prompts: bool = False
    goodput: str = ""
    target_ci: str = ""
    give_up: bool = False
    processes: int | None = None
    server_metrics: tuple[str, ...] = ()

    def workload(self) -> Workload:
        """Raises UserError: a spread that is not of its form, a text that is none."""
        for option, text in (("--dataset", self.dataset), ("--text", self.text), ("--tokenizer", self.tokenizer)):
            _refuse_odd_text(option, text)
        return Workload(
            isl=self.isl,
            osl=self.osl,
            osl_ratio=self.osl_ratio,
            isl_ratio=self.isl_ratio,
            prefix_share=self.prefix_share,
            prefix_groups=self.prefix_groups,
            turns=self.turns,
            think_s=self.think_s,
            text=self.text,
            tokenizer=self.tokenizer,
            file=self.dataset,
            isl_spread=_spread("--isl-spread", self.isl_spread),
            osl_spread=_spread("--osl-spread", self.osl_spread),
            time_unit=self.time_unit or "",
            hash_block=self.hash_block,
        )

    def target(self) -> Target:
        """Raises UserError: extra body that is no JSON object, or a key that is not there."""
        _refuse_odd_text("--model", self.model)
        extra = _json_object("--extra-body", self.extra_body) if self.extra_body else {}
        api = self.api or "completions"
        target = Target(self.url, self.model, api, self._headers(), self.timeout_s, extra_body=extra)
        if not self.stream and is_generate(api):
            raise UserError(f"--no-stream: --api {api} has streams only")
        # What a person gives has the last word.
        return target if self.stream else replace(target, extra_body={**target.unstreamed().extra_body, **extra})

    def goal(self) -> Goodput | None:
        """Raises UserError: not of the form, or a limit that is no number of ms."""
        goal = parse_goodput(self.goodput) if self.goodput else None
        if goal is not None and not all(0 < limit < math.inf for _, limit in goal.limits):
            raise UserError(f"--goodput {self.goodput}: limits are finite numbers above 0")
        return goal

    def early(self) -> EarlyRules:
        """Raises UserError: a target that is no share."""
        target = None
        if self.target_ci:
            try:
                number = float(self.target_ci.removesuffix("%"))
            except ValueError as error:
                raise UserError(f"--target-ci {self.target_ci}: give a share such as 2% or 0.02") from error
            target = number / 100 if self.target_ci.endswith("%") else number
            if not 0 < target < 1:
                raise UserError(f"--target-ci {self.target_ci}: must lie between 0 and 100 %")
        return EarlyRules(target, self.goal() if self.give_up else None, self.give_up)

    def loads(self, in_file: int | None, timed: bool, why_no_unit: str = "") -> list[Load]:
        """The ladder. ``in_file``: requests of the workload's file; ``timed``: it says when each is due.
        ``why_no_unit``: why the unit of its instants is not known; empty where it is.

        Raises:
            UserError: a ladder that is not numbers, or none at all; a trace without instants or without their unit.
        """
        if not (self.concurrency or self.request_rate or self.replay):
            raise UserError("no load: give --concurrency 1,4,16 or --request-rate 0.5,1 or --replay 1")
        if self.replay and not timed:
            raise UserError("--replay: needs --dataset with a trace whose lines all have a timestamp")
        if self.replay and why_no_unit:
            raise UserError(
                f"--replay: the unit of the timestamps is not known ({why_no_unit}); say --time-unit s or ms"
            )
        return [*self._closed(in_file), *self._open(in_file), *self._replayed(in_file)]

    def _closed(self, in_file: int | None) -> Iterator[Load]:
        for number in parse_ladder("--concurrency", self.concurrency, int):
            slots = int(number)
            requests = self.num_requests or in_file or max(16, 8 * slots)
            warmup = self.warmup if self.warmup is not None else max(1, slots // 4)
            yield Concurrency(slots, requests, warmup, seconds=self.duration or 0.0, stagger_s=self.stagger_s)

    def _open(self, in_file: int | None) -> Iterator[Load]:
        for rate in parse_ladder("--request-rate", self.request_rate, float):
            mean = (rate + self.ramp_to) / 2 if self.ramp_to else rate
            requests = round((self.duration or 60) * mean)
            if self.num_requests or not self.duration:
                requests = self.num_requests or in_file or max(16, requests)
            yield Rate(
                rate,
                max(1, requests),
                self.arrival,
                self.warmup if self.warmup is not None else 1,
                burstiness=self.burstiness if self.arrival == "gamma" else 1.0,
                end_req_s=self.ramp_to or 0.0,
                max_in_flight=self.max_in_flight,
            )

    def _replayed(self, in_file: int | None) -> Iterator[Load]:
        for speed in parse_ladder("--replay", self.replay, float):
            requests = self.num_requests or in_file or 0
            yield Trace(requests, speed, self.warmup or 0, max_in_flight=self.max_in_flight)

    def _headers(self) -> tuple[tuple[str, str], ...]:
        if self.api_key_env is None:
            return ()
        key = os.environ.get(self.api_key_env)
        if not key:
            raise UserError(f"--api-key-env {self.api_key_env}: that environment variable is not set")
        if not (key.isascii() and key.isprintable()) or key != key.strip():
            raise UserError(f"--api-key-env {self.api_key_env}: that key holds characters which no header takes")
        return (("Authorization", f"Bearer {key}"),)


MOST_IN_FLIGHT = 1_000_000
SLOWEST_REQ_S, FASTEST_REQ_S = 1e-5, 1e6
"""Bounds of a ladder's numbers; beyond them a sender runs out of memory, or a schedule out of years."""

MOST_RUNGS = 1000


def parse_ladder(option: str, text: str, kind: type[int] | type[float]) -> Sequence[float]:
    """Positive numbers with commas (or ``x``) between.

    Raises:
        UserError: anything else, or a number that nothing can send.
    """
    try:
        numbers = [kind(part) for part in text.replace("x", ",").split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{option} {_cut(text)}: write numbers with commas between, such as 1,4,16") from error
    if text.strip() and not numbers:
        raise UserError(f"{option} {_cut(text)}: write numbers with commas between, such as 1,4,16")
    if any(number == math.inf for number in numbers):
        raise UserError(_no_rate(option, text))
    if any(not number > 0 for number in numbers):
        raise UserError(f"{option} {_cut(text)}: every number must be greater than 0")
    least, most = (1, MOST_IN_FLIGHT) if kind is int else (SLOWEST_REQ_S, FASTEST_REQ_S)
    if any(not least <= number <= most for number in numbers):
        raise UserError(f"{option} {_cut(text)}: every number must lie between {least:g} and {most:g}")
    if len(numbers) > MOST_RUNGS:
        raise UserError(f"{option}: has {len(numbers)} loads, and {MOST_RUNGS} are sent at most")
    return list(numbers)


def _no_rate(option: str, text: str) -> str:
    """Requests that are all due at once are no open loop: nothing arrives after the first instant, there is no steady
    part to measure. What other clients' users mean by ``inf`` is a closed loop."""
    if option != "--request-rate":
        return f"{option} {_cut(text)}: every number must be finite"
    return (
        f"{option} {_cut(text)}: requests that are all due at once have no rate to measure; give --concurrency N, "
        "which is what a maximum concurrency with the rate inf means in other clients (a burst: N = --num-requests)"
    )


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_addresses(urls: Sequence[str]) -> None:
    """Raises UserError: one that cannot be an address of metrics."""
    for url in urls:
        try:
            parts = split_address(url if "://" in url else f"http://{url}")
            bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
            parts.hostname and parts.hostname.encode("idna")
        except ValueError:
            bad = True
        if bad or not url.isascii() or not url.isprintable() or " " in url:
            raise UserError(f"--server-metrics {_cut(url)!r}: not of the form http://host:port/metrics")


def _refuse_odd_text(option: str, text: str) -> None:
    """What a shell may hand over and no file or request can hold: NUL, bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise UserError(f"{option}: holds bytes that are no UTF-8") from problem
    if "\0" in text:
        raise UserError(f"{option}: holds a NUL byte")


def _json_object(option: str, text: str) -> dict[str, Any]:
    if nests_too_deep(text):
        raise UserError(f"{option}: is nested too deep")
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{option}: holds half of a surrogate pair, which is no text") from error
    except ValueError as error:
        raise UserError(f"{option}: no JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{option}: give a JSON object, such as '{{\"top_k\": 1}}'")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _spread(option: str, text: str) -> Spread | None:
    if not text:
        return None
    try:
        return parse_spread(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error
