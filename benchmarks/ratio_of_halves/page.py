"""What was chosen and what was best, as the middle of ``docs/ratios.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.real_deployments.page import BEGIN, END

from .grid import Answer, Simulated

ONE_SERVER, ENOUGH = 1, 0.03


def holds(answer: Answer) -> bool:
    """Within one server of the best, and within 3 % of its throughput."""
    return answer.servers <= ONE_SERVER and answer.loss <= ENOUGH


def to_markdown(done: Sequence[Simulated], free: Sequence[Answer], limited: dict[float, list[Answer]]) -> str:
    """The tables of the page. ``free``: answers without a TTFT limit; ``limited``: by the limit, in times of ctx."""
    lines = ["| limit of TTFT | questions | same counts | within one server | within 3 % | both | loss: p90, worst |"]
    lines.append("|---|---|---|---|---|---|---|")
    lines.append(_sum("none", free))
    lines += [_sum(f"{times:g} x ctx alone", answers) for times, answers in limited.items() if answers]
    lines += ["", "Without a TTFT limit, case by case:", ""]
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
    return "\n".join([*lines, *_exceptions(free)]) + "\n"


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


def _exceptions(free: Sequence[Answer]) -> list[str]:
    rows = [answer for answer in free if not holds(answer)]
    if not rows:
        return ["", "No question is answered by a ratio further off."]
    lines = ["", "Answers that are further off:", ""]
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
    page = path.read_text()
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{path}: no place for the tables: write {BEGIN} and {END} where they belong")
    head, _, rest = page.partition(BEGIN)
    path.write_text(f"{head}{BEGIN}\nMade by `{command}`.\n\n{text}{END}{rest.partition(END)[2]}")
