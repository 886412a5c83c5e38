"""How many drafts are accepted: what was published of a model, and what a sweep forces its servers to.

A step of a server that drafts yields 1 + accepted drafts tokens, the acceptance length. It is a matter of the text.
With forced acceptance a server does not look whether its drafts are right: it accepts so many that a step yields the
given tokens on average. Its speed is then that of servers whose drafts are as good as that, and its text is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ratematch.plan.numbers import brief

GOLDEN = "golden"
"""The published curve of a model that comparisons between engines have agreed on."""

_ENTRY = re.compile(r"([1-9]\d?):(\d{1,2}(?:\.\d{1,4})?)")
_TEXT = re.compile(rf"([a-z0-9][a-z0-9.-]*)?(?: ?{_ENTRY.pattern})+")


@dataclass(frozen=True)
class AcceptanceCurve:
    """Tokens a step by number of drafts, as published for one text. ``tokens[k - 1]``: with k drafts. ``between``:
    the lowest and highest published for the model, at the same places. ``usual``: what emulated servers accept."""

    name: str
    dataset: str
    tokens: tuple[float, ...]
    between: tuple[tuple[float, float], ...]
    source: str
    usual: bool = False
    golden: bool = False

    @property
    def rates(self) -> tuple[float, ...]:
        """Acceptance by position: the probability that draft k is accepted when the ones before were, each in (0, 1).

        The same layer drafts again and again, so that a further draft changes nothing about those before it: what it
        adds to the tokens of a step is the chance that it and all before it are accepted, which cannot rise from one
        draft to the next. Ends before the first draft that adds nothing.
        """
        rates: list[float] = []
        before, chance = 1.0, 1.0
        for tokens in self.tokens:
            added = min(chance, tokens - before)
            if added <= 0 or added / chance >= 1:
                break
            rates.append(round(added / chance, 4))
            before, chance = tokens, added
        return tuple(rates)


@dataclass(frozen=True)
class ForcedAcceptance:
    """What servers are forced to: tokens a step by number of drafts. ``name``: of the published curve, empty where
    the sweep file has numbers."""

    name: str
    tokens: Mapping[int, float]

    def __str__(self) -> str:
        """``golden 1:1.79 2:2.27``, or ``3:2.5``: what stands in files."""
        return " ".join([*([self.name] if self.name else []), *(f"{k}:{self.tokens[k]:g}" for k in self._drafts)])

    @property
    def label(self) -> str:
        """In the label of a workload: ``golden``, or ``forced3x2.5``. Letters, digits, dots and ``-`` only."""
        return self.name or "forced" + "-".join(f"{k}x{self.tokens[k]:g}" for k in self._drafts)

    @property
    def _drafts(self) -> list[int]:
        return sorted(self.tokens)

    def at(self, drafts: int) -> float:
        """Tokens of a step with ``drafts`` drafts.

        Raises:
            ValueError: it says nothing of so many.
        """
        if drafts not in self.tokens:
            raise ValueError(f"has no value for mtp {drafts}; it has {', '.join(map(str, self._drafts))}")
        return self.tokens[drafts]


def parse_forced(text: str) -> ForcedAcceptance:
    """The inverse of ``str`` of a :class:`ForcedAcceptance`.

    Raises:
        ValueError: another form, or tokens that no step yields.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{brief(text)} is not of the form NAME DRAFTS:TOKENS ...")
    tokens = {int(drafts): float(number) for drafts, number in _ENTRY.findall(text)}
    for problem in check_tokens(tokens):
        raise ValueError(problem)
    return ForcedAcceptance(match[1] or "", tokens)


def check_tokens(tokens: Mapping[int, float]) -> Iterator[str]:
    """What is wrong with tokens a step by number of drafts: more than 1, at most one more than there are drafts."""
    for drafts, number in tokens.items():
        if not 1 < number <= drafts + 1:
            yield f"{number:g} tokens a step with mtp {drafts}: must be more than 1 and at most {drafts + 1}"


def force(given: str | Mapping[int, float], curves: Sequence[AcceptanceCurve], model: str) -> ForcedAcceptance:
    """What ``given``, the name of a published curve of ``model`` or numbers, means.

    Raises:
        ValueError: there is no such curve, or no step yields such numbers.
    """
    if not isinstance(given, str):
        for problem in check_tokens(given):
            raise ValueError(problem)
        return ForcedAcceptance("", dict(given))
    for curve in curves:
        if given == curve.name or (given == GOLDEN and curve.golden):
            return ForcedAcceptance(given, dict(enumerate(curve.tokens, 1)))
    named = [*([GOLDEN] if any(curve.golden for curve in curves) else []), *(curve.name for curve in curves)]
    known = f"published for {model}: {', '.join(named)}" if named else f"nothing is published for {model}"
    raise ValueError(f"no acceptance {brief(given)} is known; {known}; or write tokens a step: {{1: 1.8, 2: 2.3}}")
