"""What servers are measured with: input and output lengths, and the requests made from them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ratematch.plan.acceptance import ForcedAcceptance, parse_forced
from ratematch.plan.numbers import brief
from ratematch.plan.plain import plain

_NUMBER = r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)"
_SPREAD = re.compile(rf"(normal|lognormal):{_NUMBER},{_NUMBER}")
_STEPS = 2000
"""Points of the sum that gives the mean of a clipped distribution."""

LONGEST = 1e9
"""Mean and deviation of a spread at most, in tokens."""

SALT = 3
"""Token ids at the head of a prompt that spell its number, so that no two prompts share a KV block by accident."""


@dataclass(frozen=True, order=True)
class Spread:
    """Lengths of a normal or log-normal distribution with ``mean`` and ``std`` tokens (of the lengths, not of their
    logarithms), rounded, and clipped to 1 and the workload's ``isl`` or ``osl``."""

    shape: Literal["normal", "lognormal"]
    mean: float
    std: float

    def __str__(self) -> str:
        return f"{self.shape}:{_exact(self.mean)},{_exact(self.std)}"

    def draw(self, rng: np.random.Generator, longest: int, size: int) -> NDArray[np.int64]:
        """``size`` lengths of at most ``longest``, tokens."""
        if self.shape == "normal":
            lengths = rng.normal(self.mean, self.std, size)
        else:
            lengths = rng.lognormal(*self._log_moments(), size)
        return np.clip(np.rint(lengths), 1, longest).astype(np.int64)

    def mean_below(self, longest: int) -> float:
        """Mean length in tokens after clipping: the mean over evenly spaced quantiles."""
        if self.std == 0:
            return float(min(max(1.0, self.mean), longest))
        normal = NormalDist()
        steps = np.array([normal.inv_cdf((k + 0.5) / _STEPS) for k in range(_STEPS)])
        if self.shape == "normal":
            lengths = self.mean + self.std * steps
        else:
            mu, sigma = self._log_moments()
            lengths = np.exp(mu + sigma * steps)
        return float(np.clip(lengths, 1, longest).mean())

    def _log_moments(self) -> tuple[float, float]:
        variance = math.log1p((self.std / self.mean) ** 2)
        return math.log(self.mean) - variance / 2, math.sqrt(variance)


def _exact(number: float) -> str:
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


def parse_spread(text: str) -> Spread:
    """``normal:1000,200`` or ``lognormal:1000,800``: mean and standard deviation in tokens.

    Raises:
        ValueError: another form, or a mean that is not positive.
    """
    match = _SPREAD.fullmatch(text.replace(" ", ""))
    if match is None or float(match[2]) <= 0:
        raise ValueError(f"{brief(text)} is not of the form normal:MEAN,STD or lognormal:MEAN,STD")
    if not 1e-3 <= float(match[2]) <= LONGEST or float(match[3]) > LONGEST:
        raise ValueError(f"{brief(text)}: mean and deviation are tokens, {LONGEST:g} at most")
    return Spread("normal" if match[1] == "normal" else "lognormal", float(match[2]), float(match[3]))


@dataclass(frozen=True, order=True)
class Workload:
    """Lengths and contents of the requests.

    ``isl``, ``osl``: longest prompt and output in tokens; without more said, all have exactly these. ``osl_ratio``
    and ``isl_ratio`` r in (0, 1]: lengths are uniform whole numbers in [ceil(r x longest), longest]; a spread keeps
    closed-loop requests from ending in step (convoys). ``isl_spread``, ``osl_spread`` replace them.

    ``prefix_share``: share of each prompt, from its beginning, that it has in common with the other prompts of its
    group (``prefix_groups`` of them, in turn); the rest is its own. 0: no two prompts share a KV block. ``turns``:
    requests of one conversation; each begins with the whole prompt before it, followed by an invented answer (what
    the server really answered has the same length and other tokens) and new ids, and is ISL / turns tokens longer,
    so that the last has ISL. ``think_s`` passes between the end of one and the next. A conversation whose answers are
    longer than that ends before its prompt would be longer than ``isl``.

    ``text``: a file with real text that prompts are cut from; ``tokenizer``: folder or ``tokenizer.json`` that turns
    it into ids. ``file``: a data set or trace with one request a line; requests longer than ``isl`` or ``osl`` are
    left out. ``time_unit``: of its timestamps and delays, ``hash_block``: tokens of one of its ``hash_ids``; "" and 0
    = as the file says (:mod:`ratematch.plan.dataset`).

    ``precision``: format of the weights that answer them, where it is not the usual one of the model on its GPUs.
    Figures of two precisions are kept apart wherever those of two workloads are.

    ``forced_acceptance``: how many drafts servers are forced to accept, as :class:`ForcedAcceptance` spells it;
    empty, where they accept what is right. Figures of forced drafts are kept apart likewise.
    """

    isl: int
    osl: int
    osl_ratio: float = 1.0
    isl_ratio: float = 1.0
    prefix_share: float = 0.0
    prefix_groups: int = 1
    turns: int = 1
    think_s: float = 0.0
    text: str = ""
    tokenizer: str = ""
    file: str = ""
    isl_spread: Spread | None = None
    osl_spread: Spread | None = None
    time_unit: Literal["", "s", "ms", "us", "ns"] = ""
    hash_block: int = 0
    precision: str = ""
    forced_acceptance: str = ""

    @property
    def forced(self) -> ForcedAcceptance | None:
        """What drafts are forced to; ``None``: nothing.

        Raises:
            ValueError: ``forced_acceptance`` is of another form.
        """
        return parse_forced(self.forced_acceptance) if self.forced_acceptance else None

    @property
    def osl_min(self) -> int:
        return max(1, int(np.ceil(self.osl_ratio * self.osl)))

    @property
    def isl_min(self) -> int:
        return max(1, int(np.ceil(self.isl_ratio * self.isl)))

    @property
    def mean_osl(self) -> float:
        """E[OSL] in tokens: the middle of the uniform range, or the mean of the clipped spread."""
        return self.osl_spread.mean_below(self.osl) if self.osl_spread else (self.osl_min + self.osl) / 2

    @property
    def mean_isl(self) -> float | None:
        """E[ISL] in tokens; ``None`` where only the requests have it (data sets, conversations)."""
        if self.file or self.turns > 1:
            return None
        return self.isl_spread.mean_below(self.isl) if self.isl_spread else (self.isl_min + self.isl) / 2

    @property
    def reuses(self) -> bool:
        """Are prompts meant to be found, in part, in the prefix cache?"""
        return self.prefix_share > 0 or self.turns > 1 or bool(self.file)

    @property
    def label(self) -> str:
        tail = f"~{self.osl_ratio:g}" if self.osl_ratio < 1 else ""
        tail += f"~in{self.isl_ratio:g}" if self.isl_ratio < 1 else ""
        for name, spread in (("in", self.isl_spread), ("out", self.osl_spread)):
            tail += f"~{name}{spread.shape}{spread.mean:g}s{spread.std:g}" if spread else ""
        tail += f"~prefix{self.prefix_share:g}x{self.prefix_groups}" if self.prefix_share else ""
        tail += f"~turns{self.turns}" if self.turns > 1 else ""
        for kind, path in (("text", self.text), ("file", self.file)):
            name = re.sub(r"[^A-Za-z0-9]+", "", path.rsplit("/", 1)[-1].rsplit(".", 1)[0])
            tail += f"~{kind}{name[:24]}" if path else ""
        tail += f"~in{self.time_unit}" if self.time_unit else ""
        tail += f"~block{self.hash_block}" if self.hash_block else ""
        tail += f"~{self.precision}" if self.precision else ""
        tail += f"~{self.forced.label}" if self.forced else ""
        return f"{self.isl}/{self.osl}{tail}"


def feeds(prompts: Workload, workload: Workload) -> bool:
    """Whether a context server measured under ``prompts`` is known under ``workload``: its output is one token, so
    prompts of the same length in front of the same weights are enough."""
    return prompts.isl == workload.isl and prompts.precision == workload.precision


_NO_SPREAD = {item.name: item.default for item in fields(Workload) if item.name not in ("isl", "osl", "osl_ratio")}


def workload_to_json(workload: Workload) -> dict[str, Any]:
    """Plain values; what stands at its default is left out, as it was before the key existed."""
    content: dict[str, Any] = plain(workload)
    for name in ("isl_spread", "osl_spread"):
        content[name] = str(getattr(workload, name)) if content[name] else None
    return {name: value for name, value in content.items() if name not in _NO_SPREAD or value != _NO_SPREAD[name]}


def workload_from_json(content: dict[str, Any]) -> Workload:
    """The inverse of :func:`workload_to_json`.

    Raises:
        TypeError, ValueError: the content is not that of a workload.
    """
    spreads = {name: parse_spread(content[name]) for name in ("isl_spread", "osl_spread") if content.get(name)}
    if text := content.get("forced_acceptance"):
        parse_forced(text)  # a wrong spelling shows here, not in a label later
    return Workload(**{**content, **spreads})


@dataclass(frozen=True)
class RequestSpec:
    """One request to send: prompt as token ids (int array of length isl) and output length in tokens.

    ``text``: sent in place of ids when there are none; its length in tokens is then unknown to us (isl 0).
    ``session``, ``turn``: which conversation, and which of its requests, from 0; ``delay_s`` passes between the end
    of the turn before and this one. ``due_s``: when a trace wants it sent, in seconds from the start of the trace.
    ``chat``: fields of a chat request's body that are sent as they are (``messages``, ``tools``), as JSON.
    """

    seq: int
    prompt: NDArray[np.int32]
    osl: int
    text: str | None = None
    session: int | None = None
    turn: int = 0
    delay_s: float = 0.0
    due_s: float | None = None
    chat: str | None = None

    @property
    def isl(self) -> int:
        return len(self.prompt)


def draw_lengths(workload: Workload, num_requests: int, seed: int) -> list[tuple[int, int]]:
    """(ISL, OSL) of ``num_requests`` requests of the lengths that :func:`make_requests` gives them, without the ids.

    Where lengths vary they are of the same distributions, and other draws. Workloads of one turn only.
    """
    rng = np.random.default_rng((seed, 1))
    prompts = _prompt_lengths(workload, rng, num_requests)
    outputs = _output_lengths(workload, rng, num_requests)
    return list(zip(prompts.tolist(), outputs.tolist(), strict=True))


def make_requests(
    workload: Workload,
    num_requests: int,
    vocab_size: int,
    seed: int,
    first_seq: int = 0,
    corpus: NDArray[np.int32] | None = None,
    prefix_seed: int | None = None,
) -> list[RequestSpec]:
    """``num_requests`` requests of random token ids, reproducible from ``seed``, bit for bit.

    Ids are drawn from [100, vocab_size) to stay clear of special tokens, which sit at the bottom of most
    vocabularies; with ``corpus`` (ids of a real text) prompts are stretches of it that begin anywhere. The first ids
    of every prompt, behind the shared prefix if there is one, hold its own number (see :data:`SALT`): block reuse
    would otherwise make prefill look faster than it is.
    """
    low = min(100, vocab_size // 2)
    rng = np.random.default_rng(seed)
    if workload.turns > 1:
        return list(_conversations(workload, num_requests, vocab_size, rng, first_seq, corpus))
    if corpus is None and workload.isl_ratio == 1 and workload.isl_spread is None:
        prompts = list(rng.integers(low, vocab_size, size=(num_requests, workload.isl), dtype=np.int32))
        lengths = _output_lengths(workload, rng, num_requests)
    else:
        sizes = _prompt_lengths(workload, rng, num_requests)
        lengths = _output_lengths(workload, rng, num_requests)
        prompts = [_ids(rng, int(size), low, vocab_size, corpus) for size in sizes]
    groups = range(workload.prefix_groups) if workload.prefix_share else ()
    prefixes = [
        _prefix(workload, seed if prefix_seed is None else prefix_seed, group, low, vocab_size) for group in groups
    ]
    for k, prompt in enumerate(prompts):
        shared = _shared_ids(workload, len(prompt))
        if shared:
            prompt[:shared] = prefixes[(first_seq + k) % len(prefixes)][:shared]
        _salt(prompt[shared:], first_seq + k, low, vocab_size)
    return [RequestSpec(first_seq + k, prompts[k], int(lengths[k])) for k in range(num_requests)]


def keep_making(
    workload: Workload, vocab_size: int, seed: int, first_seq: int = 0, corpus: NDArray[np.int32] | None = None
) -> Iterator[RequestSpec]:
    """Requests without end, for loads that last for a time: made in small blocks, each from a seed of its own."""
    block = max(1, min(64, 65536 // max(1, workload.isl)))
    number = 0
    while True:
        block_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        yield from make_requests(workload, block, vocab_size, block_seed, first_seq + number * block, corpus, seed)
        number += 1


def _ids(
    rng: np.random.Generator, size: int, low: int, vocab_size: int, corpus: NDArray[np.int32] | None
) -> NDArray[np.int32]:
    if corpus is None:
        return rng.integers(low, vocab_size, size=size, dtype=np.int32)
    begin = int(rng.integers(0, len(corpus)))
    return np.resize(np.roll(corpus, -begin) if size > len(corpus) else _wrap(corpus, begin, size), size)


def _wrap(corpus: NDArray[np.int32], begin: int, size: int) -> NDArray[np.int32]:
    return np.concatenate([corpus[begin : begin + size], corpus[: max(0, begin + size - len(corpus))]])


def _prompt_lengths(workload: Workload, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    if workload.isl_spread is not None:
        return workload.isl_spread.draw(rng, workload.isl, size)
    return rng.integers(workload.isl_min, workload.isl, size=size, endpoint=True)


def _output_lengths(workload: Workload, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    if workload.osl_spread is not None:
        return workload.osl_spread.draw(rng, workload.osl, size)
    return rng.integers(workload.osl_min, workload.osl, size=size, endpoint=True)


def _shared_ids(workload: Workload, isl: int) -> int:
    return min(round(workload.prefix_share * isl), isl - 1) if workload.prefix_share else 0


def _prefix(workload: Workload, seed: int, group: int, low: int, vocab_size: int) -> NDArray[np.int32]:
    """The beginning that the prompts of one group share, long enough for the longest of them."""
    rng = np.random.default_rng([seed, group])
    return rng.integers(low, vocab_size, size=workload.isl, dtype=np.int32)


def _salt(prompt: NDArray[np.int32], number: int, low: int, vocab_size: int) -> None:
    span = vocab_size - low
    for place in range(min(len(prompt), SALT)):
        prompt[place] = low + (number // span**place) % span


def _conversations(
    workload: Workload,
    num_requests: int,
    vocab_size: int,
    rng: np.random.Generator,
    first_seq: int,
    corpus: NDArray[np.int32] | None,
) -> Iterator[RequestSpec]:
    """Conversations one after another. ``isl`` bounds a whole prompt; what each turn adds is ISL / turns tokens."""
    low = min(100, vocab_size // 2)
    fresh = max(SALT, workload.isl // workload.turns)
    made = session = 0
    while made < num_requests:
        seen = np.empty(0, dtype=np.int32)
        for turn in range(workload.turns):
            osl = int(_output_lengths(workload, rng, 1)[0])
            new = _ids(rng, fresh if turn == 0 else max(1, fresh - osl), low, vocab_size, corpus)
            if turn == 0:
                _salt(new, first_seq + made, low, vocab_size)
            seen = np.concatenate([seen, new])
            if (turn and len(seen) > workload.isl) or made == num_requests:
                break
            delay_s = workload.think_s if turn else 0.0
            yield RequestSpec(first_seq + made, seen, osl, None, first_seq + session, turn, delay_s)
            made += 1
            seen = np.concatenate([seen, _ids(rng, osl, low, vocab_size, corpus)])
        session += 1
