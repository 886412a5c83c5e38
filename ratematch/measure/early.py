"""Rules that end a load before its last request: its intervals are narrow enough, or it is far over its limits. Pure.

GPUs that wait for a narrower interval than anybody asked for are wasted, and so are those of a load that is far over
its limits. Judged from first looks at answers while the load runs; the records decide the figures afterwards.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

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


class _Answers(NamedTuple):
    """Answers as columns, one element each."""

    intended_ns: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @property
    def number(self) -> int:
        return len(self.tokens)

    def take(self, places: NDArray[np.intp] | slice) -> _Answers:
        return _Answers(*(column[places] for column in self))


_FIELDS = len(_Answers._fields)


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
    """Collects the answers of one load and returns, once, why it may end.

    Of each answer it keeps 40 bytes, and nothing where there is no rule.
    """

    rules: EarlyRules
    load: Load
    _seen: array[int] = field(default_factory=lambda: array("q"))
    _judged: int = 0

    def observe(self, ended: Sequence[Answered]) -> str | None:
        """The reason to begin no further request, or ``None``. ``ended``: answers since the last call."""
        if not self.rules.any:
            return None
        for answer in ended:
            self._seen.extend((answer.intended_ns, answer.sent_ns, answer.first_ns, answer.last_ns, answer.tokens))
        number = len(self._seen) // _FIELDS
        if number < max(FEWEST, 1.1 * self._judged):
            return None
        self._judged = number
        answers = _Answers(*np.array(self._seen, dtype=np.int64).reshape(number, _FIELDS).T)
        answers = answers.take(np.argsort(answers.last_ns, kind="stable"))
        wave = self.load.concurrency if isinstance(self.load, Concurrency) else 0
        settled = answers.take(slice(wave, None))
        if settled.number < max(FEWEST, wave):
            return None
        return self._hopeless(settled) or self._overloaded(settled) or self._sure(settled, wave)

    def _latencies(self, answers: _Answers) -> dict[str, NDArray[np.float64]]:
        closed = isinstance(self.load, Concurrency)
        starts = (answers.sent_ns if closed else answers.intended_ns).astype(np.float64)
        first, last = answers.first_ns.astype(np.float64), answers.last_ns.astype(np.float64)
        steps = np.where(answers.tokens > 1, answers.tokens - 1.0, np.nan)
        return {
            "ttft": (first - starts) / 1e6,
            "tpot": (last - first) / steps / 1e6,
            "e2el": (last - starts) / 1e6,
        }

    def _hopeless(self, answers: _Answers) -> str | None:
        if self.rules.slo is None:
            return None
        latencies = self._latencies(answers)
        for name, limit in self.rules.slo.limits:
            if name in latencies:
                over = float((latencies[name] > limit).mean())
                if over >= HOPELESS:
                    return f"given up: {over:.0%} of {answers.number} answers are over {name}<={limit:g} ms"
        return None

    def _overloaded(self, answers: _Answers) -> str | None:
        if not self.rules.saturated or isinstance(self.load, Concurrency):
            return None
        due, ends = np.sort(answers.intended_ns), answers.last_ns
        begin, now = float(np.median(ends)), float(ends.max())
        if now <= begin or due[-1] <= due[0]:
            return None
        served = float((ends > begin).sum()) / (now - begin)
        arrived = (len(due) - 1) / float(due[-1] - due[0])  # of those answered: as they were due
        if served < BEHIND * arrived:
            return f"given up: {arrived * 1e9:.3g} requests/s arrive, {served * 1e9:.3g} are served; the queue grows"
        return None

    def _sure(self, answers: _Answers, wave: int) -> str | None:
        target = self.rules.target_ci
        if target is None or answers.number < WAVES * wave:
            return None
        latencies = self._latencies(answers)
        # Tokens are taken to come evenly between an answer's first and last byte: counted at its end, requests of
        # equal length would make bursts of them. The end of what is seen lacks the answers still under way.
        ends, begins = answers.last_ns / 1e9, answers.first_ns / 1e9
        steps = np.linspace(0, 1, _POINTS)
        instants = (begins[:, None] + (ends - begins)[:, None] * steps).ravel()
        tokens = np.repeat(answers.tokens / _POINTS, _POINTS)
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
        return f"enough: {reached} after {answers.number} answers"
