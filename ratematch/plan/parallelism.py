"""How one server instance is spread over GPUs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ratematch.plan.numbers import brief


@dataclass(frozen=True, order=True)
class Parallelism:
    """Parallelism of one instance, in TensorRT-LLM's terms.

    ``tp`` x ``pp`` x ``cp`` ranks, one GPU each; expert parallelism and attention DP re-use the tensor-parallel
    ranks and add none (contract, section 3.1).
    """

    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    attention_dp: bool = False

    @property
    def gpus(self) -> int:
        """GPUs of one instance. The one place that multiplies."""
        return self.tp * self.pp * self.cp

    @property
    def moe_tp(self) -> int:
        """Tensor-parallel ways inside the experts: what ``ep`` leaves of ``tp``, of ``tp`` x ``cp`` when it is
        larger."""
        return self.tp // self.ep if self.tp % self.ep == 0 else self.tp * self.cp // self.ep

    @property
    def dp_ranks(self) -> int:
        """Independent attention batches; per-rank limits count this many times."""
        return self.tp if self.attention_dp else 1

    @property
    def label(self) -> str:
        """Name for people: ``TEP4``, ``DEP8``, ``TP8PP2``, ``TP8EP2``. Nothing parses ids from it."""
        if self.ep == self.tp and self.tp > 1:
            name = f"{'DEP' if self.attention_dp else 'TEP'}{self.tp}"
        else:
            name = f"{'DP' if self.attention_dp else 'TP'}{self.tp}"
            if self.ep > 1:
                name += f"EP{self.ep}"
        if self.pp > 1:
            name += f"PP{self.pp}"
        if self.cp > 1:
            name += f"CP{self.cp}"
        return name

    def problems(self) -> list[str]:
        """Why no model could run like this; empty when the mapping is sound by itself."""
        problems = [
            f"{name}={value} is not a positive whole number"
            for name, value in (("tp", self.tp), ("pp", self.pp), ("cp", self.cp), ("ep", self.ep))
            if value < 1
        ]
        if problems:
            return problems
        # Experts may use the context-parallel ranks too (contract, section 3.1).
        if self.tp % self.ep and (self.tp * self.cp) % self.ep:
            problems.append(f"ep={self.ep} does not divide tp={self.tp}: valid ep are {spell_divisors(self.tp)}")
        return problems


def spell_divisors(number: int) -> str:
    """``1, 2, 3, 6`` for 6; in words for a number that nothing real has."""
    if number > 10**6:
        return "its divisors"
    below = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return ", ".join(str(n) for n in sorted({*below, *(number // n for n in below)}))


_LABEL = re.compile(
    r"(?P<kind>DEP|TEP|DP|TP)(?P<tp>[0-9]{1,6})(?:EP(?P<ep>[0-9]{1,6}))?(?:PP(?P<pp>[0-9]{1,6}))?"
    r"(?:CP(?P<cp>[0-9]{1,6}))?",
    re.IGNORECASE,
)


def family_name(stage: str, label: str) -> str:
    """``gen DEP``: a stage, and a mapping's label without its sizes. Servers of one family run the same kernels."""
    return f"{stage} {re.sub('[0-9]+', '', label)}"


def parse_mapping(text: str) -> Parallelism:
    """The mapping a person wrote in a file, such as ``DEP8`` or ``TP8PP2``.

    Raises:
        ValueError: not such a label; the message says what one looks like.
    """
    match = _LABEL.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{brief(text)} is no mapping: write TP8, TEP8, DEP8, TP8EP2 or TP8PP2")
    kind, tp = match["kind"].upper(), int(match["tp"])
    whole = kind in ("DEP", "TEP")
    if whole and match["ep"]:
        raise ValueError(f"{text!r} names ep twice: {kind}{tp} already means ep={tp}")
    return Parallelism(
        tp=tp,
        pp=int(match["pp"] or 1),
        cp=int(match["cp"] or 1),
        ep=tp if whole else int(match["ep"] or 1),
        attention_dp=kind in ("DEP", "DP"),
    )
