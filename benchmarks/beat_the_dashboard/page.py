"""What was searched and chosen, as the middle of ``docs/dashboard.md``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.real_deployments.table import Row
from ratematch.simulate.accuracy import Kind, public_accuracy

from .choose import Answer, Picked, Promising, speed
from .search import Candidate, Search


def to_markdown(
    searches: Sequence[tuple[Search, list[Answer], list[Promising]]],
    picked: Sequence[Picked],
    left_out: Sequence[Row],
) -> str:
    """The tables of the page: choosing among what was published, by group, and what nobody has published."""
    lines = ["### Among what was published", "", *_picked(picked), "", "### At each published tok/s/user", ""]
    every = [answer for _, answers, _ in searches for answer in answers]
    lines += [*_summary(every), ""]
    lines.append(
        "| group | line | tok/s/user, least | best published: line, tok/s/GPU | chosen | in flight "
        "| tok/s/user, TTFT ms | tok/s/GPU, SIMULATED | over published | regret |"
    )
    lines.append("|" + "---|" * 10)
    lines += [_answer(search, answer) for search, answers, _ in searches for answer in answers]
    lines += ["", "### The most promising that nobody has published", ""]
    lines.append(
        "| group, GPUs at most | for line | deployment | in flight | tok/s/user | tok/s/GPU, SIMULATED "
        "| best published | gain |"
    )
    lines.append("|" + "---|" * 8)
    lines += [_promising(search, each) for search, _, best in searches for each in best]
    if left_out:
        numbers = ", ".join(str(row.line) for row in left_out)
        lines += ["", f"Lines {numbers} are in no group: {left_out[0].suspect}."]
    return "\n".join(lines) + "\n"


def _picked(picked: Sequence[Picked]) -> list[str]:
    lines = [
        "| group | questions | best picked | regret: median, worst | slower than asked: worst |",
        "|" + "---|" * 5,
    ]
    groups: dict[str, list[Picked]] = {}
    for each in picked:
        groups.setdefault(each.at.workload, []).append(each)
        groups.setdefault("all", []).append(each)
    for name in sorted(groups, key=lambda name: (name == "all", name)):
        own = groups[name]
        regrets = [each.regret for each in own]
        same = sum(each.picked == each.best for each in own)
        worst = max(each.slower for each in own)
        lines.append(f"| {name} | {len(own)} | {same} | {median(regrets):.1%}, {max(regrets):.1%} | {worst:.1%} |")
    return lines


def _summary(every: Sequence[Answer]) -> list[str]:
    answered = [answer for answer in every if answer.chosen is not None]
    regrets = [answer.regret for answer in answered if answer.regret is not None]
    more = sum(answer.chosen.tok_s_gpu > answer.best.tok_s_gpu for answer in answered if answer.chosen)
    sure = sum(
        interval(answer.chosen)[0] > answer.best.tok_s_gpu for answer in answered if answer.chosen
    )  # fmt: skip
    lines = [
        f"* {len(answered)} of {len(every)} questions have an answer; the others ask for more tok/s/user than the "
        "model thinks possible.",
        f"* {more} answers are predicted to give more tok/s/GPU than the best published, {sure} with their whole "
        "interval.",
    ]
    if regrets:
        lines.append(
            f"* {len(regrets)} answers are deployments that were measured at that speed: regret "
            f"{median(regrets):.1%} in the median, {max(regrets):.1%} at worst."
        )
    return lines


def interval(candidate: Candidate) -> tuple[float, float]:
    """What 90 % of public rows lie between around their prediction, tok/s/GPU."""
    kind: Kind = "disagg" if candidate.chosen.x else "agg"
    low, high = public_accuracy().intervals[kind]["tok_s_gpu"]
    return candidate.tok_s_gpu * low, candidate.tok_s_gpu * high


def _predicted(candidate: Candidate) -> str:
    low, high = interval(candidate)
    return f"{candidate.tok_s_gpu:.0f} ({low:.0f} to {high:.0f})"


def _answer(search: Search, answer: Answer) -> str:
    head = (
        f"| {search.group.name} | {answer.at.line} | {speed(answer.at):.1f} | {answer.best.line}, "
        f"{answer.best.tok_s_gpu:.0f} |"
    )
    if answer.chosen is None:
        return f"{head} none | | | | | |"
    one = answer.chosen
    regret = "" if answer.regret is None else f"{answer.regret:.1%}"
    return (
        f"{head} {one.chosen.label} | {one.chosen.concurrency} | {one.tok_s_user:.1f}, {one.ttft_ms:.0f} "
        f"| {_predicted(one)} | {one.tok_s_gpu / answer.best.tok_s_gpu:.2f} | {regret} |"
    )


def _promising(search: Search, each: Promising) -> str:
    one = each.candidate
    return (
        f"| {search.group.name}, {search.group.budget} | {each.answer.at.line} | {one.chosen.label} "
        f"| {one.chosen.concurrency} | {one.tok_s_user:.1f} | {_predicted(one)} | {each.answer.best.tok_s_gpu:.0f} "
        f"| {each.gain:.2f} |"
    )
