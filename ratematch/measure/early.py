"""Rules that end a load before its last request: its intervals are narrow enough, or it is far over its limits. Pure.

GPUs that wait for a narrower interval than anybody asked for are wasted, and so are those of a load that is far over
its limits. Judged from first looks at answers while the load runs; the records decide the figures afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ratematch.measure.batches import batch_means, batch_series, half_width
from ratematch.measure.goodput import Goodput
from ratematch.plan.load import Concurrency, Load

FEWEST = 32
"""Answers before which nothing is judged."""

WAVES = 4
"""Waves of a closed loop, the first not counted, before which no interval is believed."""

HOPELESS = 0.95
"""Share of answers over a limit from which on a load is given up."""

_POINTS = 16
"""Instants that stand for the tokens of an answer."""

BEHIND = 0.7
"""Open loop: share of the arrivals served, over the latter half, below which the queue grows without end."""


class Answered(Protocol):
    """What is known of an answer at first look, ns."""

    @property
    def intended_ns(self) -> int: ...
    @property
    def sent_ns(self) -> int: ...
    @property
    def first_ns(self) -> int: ...
    @property
    def last_ns(self) -> int: ...
    @property
    def tokens(self) -> int: ...


@dataclass(frozen=True)
class EarlyRules:
    """``target_ci``: half width of the 95 % intervals of tok/s, TTFT and TPOT, as a share of each (0.02 = 2 %), at
    which a load is done. ``slo``: a load is given up when nearly all answers break it. ``saturated``: give an open
    loop up that serves much less than arrives."""

    target_ci: float | None = None
    slo: Goodput | None = None
    saturated: bool = False

    @property
    def any(self) -> bool:
        return self.target_ci is not None or self.slo is not None or self.saturated


@dataclass
class EarlyStop:
    """Collects the answers of one load and returns, once, why it may end."""

    rules: EarlyRules
    load: Load
    _answers: list[Answered] = field(default_factory=list)
    _judged: int = 0

    def observe(self, ended: Sequence[Answered]) -> str | None:
        """The reason to begin no further request, or ``None``. ``ended``: answers since the last call."""
        self._answers += ended
        if not self.rules.any or len(self._answers) < max(FEWEST, 1.1 * self._judged):
            return None
        self._judged = len(self._answers)
        answers = sorted(self._answers, key=lambda answer: answer.last_ns)
        wave = self.load.concurrency if isinstance(self.load, Concurrency) else 0
        settled = answers[wave:]
        if len(settled) < max(FEWEST, wave):
            return None
        return self._hopeless(settled) or self._overloaded(settled) or self._sure(settled, wave)

    def _latencies(self, answers: Sequence[Answered]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        closed = isinstance(self.load, Concurrency)
        starts = np.array([a.sent_ns if closed else a.intended_ns for a in answers], dtype=np.float64)
        first = np.array([a.first_ns for a in answers], dtype=np.float64)
        last = np.array([a.last_ns for a in answers], dtype=np.float64)
        steps = np.array([a.tokens - 1 if a.tokens > 1 else np.nan for a in answers])
        return {
            "ttft": (first - starts) / 1e6,
            "tpot": (last - first) / steps / 1e6,
            "e2el": (last - starts) / 1e6,
        }

    def _hopeless(self, answers: Sequence[Answered]) -> str | None:
        if self.rules.slo is None:
            return None
        latencies = self._latencies(answers)
        for name, limit in self.rules.slo.limits:
            if name in latencies:
                over = float((latencies[name] > limit).mean())
                if over >= HOPELESS:
                    return f"given up: {over:.0%} of {len(answers)} answers are over {name}<={limit:g} ms"
        return None

    def _overloaded(self, answers: Sequence[Answered]) -> str | None:
        if not self.rules.saturated or isinstance(self.load, Concurrency):
            return None
        due = np.sort([answer.intended_ns for answer in answers])
        ends = np.array([answer.last_ns for answer in answers])
        begin, now = float(np.median(ends)), float(ends.max())
        if now <= begin or due[-1] <= due[0]:
            return None
        served = float((ends > begin).sum()) / (now - begin)
        arrived = (len(due) - 1) / float(due[-1] - due[0])  # of those answered: as they were due
        if served < BEHIND * arrived:
            return f"given up: {arrived * 1e9:.3g} requests/s arrive, {served * 1e9:.3g} are served; the queue grows"
        return None

    def _sure(self, answers: Sequence[Answered], wave: int) -> str | None:
        target = self.rules.target_ci
        if target is None or len(answers) < WAVES * wave:
            return None
        latencies = self._latencies(answers)
        # Tokens are taken to come evenly between an answer's first and last byte: counted at its end, requests of
        # equal length would make bursts of them. The end of what is seen lacks the answers still under way.
        ends = np.array([answer.last_ns for answer in answers]) / 1e9
        begins = np.array([answer.first_ns for answer in answers]) / 1e9
        steps = np.linspace(0, 1, _POINTS)
        instants = (begins[:, None] + (ends - begins)[:, None] * steps).ravel()
        tokens = np.repeat([answer.tokens / _POINTS for answer in answers], _POINTS)
        life_s = float(latencies["e2el"].mean()) / 1e3
        until_s = float(ends[-1]) - life_s
        widths = {
            "tok/s": half_width(batch_means(instants, tokens, float(ends[0]), until_s, life_s)),
            "TTFT": half_width(batch_series(latencies["ttft"], wave)),
        }
        if not np.isnan(latencies["tpot"]).all():
            widths["TPOT"] = half_width(batch_series(latencies["tpot"], wave))
        if any(width is None or width > target for width in widths.values()):
            return None
        reached = ", ".join(f"{name} ±{width:.1%}" for name, width in widths.items() if width is not None)
        return f"enough: {reached} after {len(answers)} answers"
