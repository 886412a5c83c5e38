"""The options of ``ratematch load``, as typed, and the values they stand for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ratematch.errors import UserError
from ratematch.loadgen.client import Target
from ratematch.measure.early import EarlyRules
from ratematch.measure.goodput import Goodput, parse_goodput
from ratematch.plan.load import Arrival, Concurrency, Load, Rate, Trace
from ratematch.plan.workload import Spread, Workload, parse_spread

DEFAULT_VOCAB = 32000


@dataclass(frozen=True)
class LoadOptions:
    """The command line of ``ratematch load``; ladders as the text a person typed."""

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
    text: str = ""
    tokenizer: str = ""
    vocab_size: int | None = None
    api: Literal["completions", "chat"] = "completions"
    stream: bool = True
    extra_body: str = ""
    api_key_env: str | None = None
    timeout_s: float = 3600.0
    seed: int = 0
    warm_prompts: bool = False
    goodput: str = ""
    target_ci: str = ""
    give_up: bool = False
    processes: int | None = None
    server_metrics: tuple[str, ...] = ()

    def workload(self) -> Workload:
        """Raises UserError: a spread that is not of its form."""
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
        )

    def target(self) -> Target:
        """Raises UserError: extra body that is no JSON object, or a key that is not there."""
        extra: dict[str, Any] = {}
        if self.extra_body:
            try:
                extra = json.loads(self.extra_body)
            except ValueError as error:
                raise UserError(f"--extra-body: no JSON ({error})") from error
            if not isinstance(extra, dict):
                raise UserError("--extra-body: give a JSON object, such as '{\"top_k\": 1}'")
        if not self.stream:
            extra = {"stream": False, "stream_options": None, **extra}
        return Target(self.url, self.model, self.api, self._headers(), self.timeout_s, extra_body=extra)

    def goal(self) -> Goodput | None:
        return parse_goodput(self.goodput) if self.goodput else None

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

    def loads(self, in_file: int | None, timed: bool) -> list[Load]:
        """The ladder. ``in_file``: requests of the workload's file; ``timed``: it says when each is due.

        Raises:
            UserError: a ladder that is not numbers, or none at all; a trace without instants.
        """
        if not (self.concurrency or self.request_rate or self.replay):
            raise UserError("no load: give --concurrency 1,4,16 or --request-rate 0.5,1 or --replay 1")
        if self.replay and not timed:
            raise UserError("--replay: needs --dataset with a trace whose lines all have a timestamp")
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
        return (("Authorization", f"Bearer {key}"),)


def parse_ladder(option: str, text: str, kind: type[int] | type[float]) -> Sequence[float]:
    """Positive numbers with commas (or ``x``) between.

    Raises:
        UserError: anything else.
    """
    try:
        numbers = [kind(part) for part in text.replace("x", ",").split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{option} {text}: write numbers with commas between, such as 1,4,16") from error
    if any(number <= 0 for number in numbers):
        raise UserError(f"{option} {text}: every number must be greater than 0")
    return list(numbers)


def _spread(option: str, text: str) -> Spread | None:
    if not text:
        return None
    try:
        return parse_spread(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error
