"""What was chosen and what was best, as the middle of ``docs/ratios.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.real_deployments.marks import write_between
from benchmarks.real_deployments.page import BEGIN, END
from ratematch.plan.load import TtftOf

from .grid import Answer, Simulated, Ttft, predict_ttfts

ONE_SERVER, ENOUGH = 1, 0.03


LOAD_BANDS = ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 0.85), (0.85, 0.95))
"""Of what context servers sustain, in which predictions of TTFT are summed up."""


def holds(answer: Answer) -> bool:
    """Within one server of the best, and within 3 % of its throughput."""
    return answer.servers <= ONE_SERVER and answer.loss <= ENOUGH


@dataclass(frozen=True)
class Asked:
    """All questions with one TTFT limit, in ``times`` of ctx alone (``None``: without one), and what matching held to
    it. ``at_once``: the slots of the deployments of the grid started together. ``apart``: from load to load of the
    halves."""

    at_once: bool
    apart: float
    times: float | None
    ttft_of: TtftOf
    answers: Sequence[Answer]

    @property
    def words(self) -> str:
        start = f"{'at once' if self.at_once else 'spread'} | x {self.apart:.2g}"
        if self.times is None:
            return f"{start} | none | -"
        return f"{start} | {self.times:g} x ctx alone | `{self.ttft_of}`"


def to_markdown(done: Sequence[Simulated], asked: Sequence[Asked]) -> str:
    """The tables of the page. The first of ``asked`` is the one that is shown case by case, from ``done``."""
    lines = [
        "| slots start | loads of halves | limit of TTFT | `--ttft-of` | questions | same counts | within one server "
        "| within 3 % | both | loss: p90, worst |"
    ]
    lines.append("|" + "---|" * 10)
    lines += [_sum(each.words, each.answers) for each in asked if each.answers]
    free, free_apart = asked[0].answers, asked[0].apart
    lines += ["", "Without a TTFT limit, slots that start spread, case by case:", ""]
    lines += ["| case | deployments | questions | same counts | most servers apart | loss: median, worst |"]
    lines += ["|" + "---|" * 6]
    for each in done:
        own = [answer for answer in free if answer.case == each.case]
        losses = [answer.loss for answer in own]
        same = sum(answer.chosen == answer.best for answer in own)
        most = max(answer.servers for answer in own)
        lines.append(
            f"| {each.case.label}, {each.case.budget} GPUs | {len(each.whole)} | {len(own)} | {same} | {most} "
            f"| {_share(median(losses))}, {_share(max(losses))} |"
        )
    lines += _exceptions("Without a TTFT limit", free)
    for one in asked:
        if not one.at_once and one.apart == free_apart and one.times is not None and one.ttft_of == "deployment":
            lines += _exceptions(f"With {one.times:g} x ctx alone, in service,", one.answers)
    lines += _ttfts([each for case in done for each in predict_ttfts(case)])
    return "\n".join(lines) + "\n"


def _ttfts(found: Sequence[Ttft]) -> list[str]:
    lines = ["", "TTFT in service predicted from halves over that simulated, slots that start spread:", ""]
    lines += ["| lengths | load of ctx | loads | p10 | median | p90 |", "|" + "---|" * 6]
    for one_length in (False, True):
        for low, high in LOAD_BANDS:
            own = [each.ratio for each in found if each.one_length == one_length and low <= each.ctx_load < high]
            if own:
                off = " | ".join(f"{value - 1:+.1%}" for value in np.quantile(own, [0.1, 0.5, 0.9]))
                lengths = "one" if one_length else "0.8 L to L"
                lines.append(f"| {lengths} | {low:.0%} to {high:.0%} | {len(own)} | {off} |")
    return lines


def _sum(name: str, answers: Sequence[Answer]) -> str:
    losses = sorted(answer.loss for answer in answers)
    cells = [
        sum(answer.chosen == answer.best for answer in answers),
        sum(answer.servers <= ONE_SERVER for answer in answers),
        sum(answer.loss <= ENOUGH for answer in answers),
        sum(map(holds, answers)),
    ]
    p90 = losses[int(0.9 * (len(losses) - 1))]
    return f"| {name} | {len(answers)} | " + " | ".join(map(str, cells)) + f" | {_share(p90)}, {_share(losses[-1])} |"


def _share(value: float) -> str:
    return f"{abs(round(value, 4)):.1%}"


def _exceptions(name: str, answers: Sequence[Answer]) -> list[str]:
    rows = [answer for answer in answers if not holds(answer)]
    if not rows:
        return ["", f"{name} no question is answered by a ratio further off."]
    lines = ["", f"{name} answers that are further off:", ""]
    lines.append("| case | GPUs | tok/s/user, least | chosen | tok/s/GPU: predicted, simulated | best | tok/s/GPU |")
    lines.append("|" + "---|" * 7)
    for row in rows:
        speed = f"{row.target.tok_s_user:.1f}" if row.target.tok_s_user else "any"
        lines.append(
            f"| {row.case.label} | {row.target.gpus} | {speed} | {row.chosen[0]} + {row.chosen[1]} "
            f"| {row.predicted:.0f}, {row.gives:.0f} | {row.best[0]} + {row.best[1]} | {row.most:.0f} |"
        )
    return lines


def write_page(path: Path, text: str, command: str) -> None:
    """Put the tables between the marks of the page.

    Raises:
        SystemExit: the page has no such marks.
    """
    write_between(path, BEGIN, END, f"Made by `{command}`.\n\n{text}")
