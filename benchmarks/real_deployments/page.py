"""What was compared, as a table for a terminal, as the middle of ``docs/accuracy.md`` and as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .compare import FIGURES, FULL, Compared, coverage, groups_of, near_limit, spread, sum_up, taus
from .fit import halves
from .marks import write_between

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
KERNELS_BEGIN, KERNELS_END = "<!-- kernels: begin -->", "<!-- kernels: end -->"
TITLES = {"tok_s_gpu": "tok/s/GPU", "tpot_ms": "TPOT", "ttft_ms": "TTFT"}
LIGHT, SOON_MS = 16, 500.0
"""Load with so few requests and so short a TTFT is light: nothing waits for long."""


def to_terminal(compared: Sequence[Compared]) -> str:
    """Groups, ranking and spread in plain text."""
    lines = [
        f"{'group':22} {'rows':>4} " + " ".join(f"{TITLES[name] + ': median p90 worst':>28}" for name in FIGURES)
    ]
    for name, members in groups_of(compared).items():
        sums = [sum_up(members, figure) for figure in FIGURES]
        cells = " ".join(f"{s.median:13.1%} {s.p90:6.0%} {s.worst:7.0%}" for s in sums)
        lines.append(f"{name:22} {len(members):4} {cells}")
    return "\n".join([*lines, *summary(compared)])


def summary(compared: Sequence[Compared]) -> list[str]:
    """Ranking, spread with its coverage, TTFT at light load: a line each."""
    found = taus(compared)
    agree, pairs = (sum(each[k] for each in found.values()) for k in (0, 1))
    lines = []
    if pairs:
        worst = min(found, key=lambda name: found[name][0] / found[name][1])
        lines.append(
            f"Kendall's tau of tok/s/GPU inside {len(found)} workloads: {agree / pairs:.2f} of {pairs} pairs, lowest "
            f"{found[worst][0] / found[worst][1]:.2f} ({worst}, {found[worst][1]} pairs)"
        )
    inside = coverage(compared, halves)
    for kind, figures in sorted(spread(compared).items()):
        parts = [f"{TITLES[name]} x {low:.2f} to {high:.2f}" for name, (low, high) in figures.items()]
        lines.append(f"90 % of {kind} rows lie within, of the prediction: {', '.join(parts)}")
    full, (low, high) = near_limit(compared)
    if full:
        lines.append(
            f"TTFT of the {len(full)} rows whose context servers compute for more than {FULL:.0%} of the run: "
            f"measured at x {low:.2f} to {high:.2f} of the prediction"
        )
    parts = [f"{TITLES[name]} {held} of {number}" for name, (held, number) in inside.items()]
    lines.append(f"rows inside the interval of the other half of the deployments: {', '.join(parts)}")
    light = [each for each in compared if each.counts and _light(each)]
    if light:
        rest = [median(_missing_ms(each) for each in part) for part in (light, light[::2], light[1::2]) if part]
        lines.append(
            f"TTFT at light load ({len(light)} rows): measured less simulated, median "
            + ", halves ".join((f"{rest[0]:.0f} ms", " and ".join(f"{each:.0f}" for each in rest[1:])))
        )
    return lines


def _light(each: Compared) -> bool:
    return each.row.concurrency <= LIGHT and each.row.ttft_ms < SOON_MS


def _missing_ms(each: Compared) -> float:
    assert each.simulated is not None
    return each.row.ttft_ms - each.simulated.ttft_ms


def to_markdown(compared: Sequence[Compared], command: str) -> str:
    """The tables of the page."""
    lines = [f"Made by `{command}`.", "", "### By group", "", *_groups(compared)]
    lines += ["", *(f"* {line}." for line in summary(compared)), "", "### Row by row", ""]
    lines.append("Measured figure, and predicted over measured in brackets. Line: of the table.")
    lines += ["", "| line | deployment | ISL/OSL | in flight | tok/s/GPU | TPOT ms | TTFT ms | |", "|" + "---|" * 8]
    lines += [_row(each) for each in compared]
    return "\n".join(lines) + "\n"


def to_short_markdown(compared: Sequence[Compared], command: str) -> str:
    """Groups and summary alone, for a second step-time model; rows that it cannot simulate are named."""
    lines = [f"Made by `{command}`.", "", *_groups(compared), "", *(f"* {line}." for line in summary(compared))]
    lines += [f"* Not simulated: line {each.row.line}, {each.error}." for each in compared if each.error]
    return "\n".join(lines) + "\n"


def _groups(compared: Sequence[Compared]) -> list[str]:
    lines = ["| group | rows | " + " | ".join(f"{TITLES[name]}: median, p90, worst" for name in FIGURES) + " |"]
    lines.append("|---|---|---|---|---|")
    for name, members in groups_of(compared).items():
        sums = [sum_up(members, figure) for figure in FIGURES]
        cells = " | ".join(f"{s.median:.1%}, {s.p90:.0%}, {s.worst:.0%}" for s in sums)
        lines.append(f"| {name} | {len(members)} | {cells} |")
    return lines


def _row(each: Compared) -> str:
    row = each.row
    head = f"| {row.line} | {row.gpu} {row.precision}: {row.deployment} | {row.isl}/{row.osl} | {row.concurrency} "
    if each.simulated is None:
        return f"{head}| {row.tok_s_gpu:.1f} | {row.tpot_ms:.2f} | {row.ttft_ms:.0f} | not simulated: {each.error} |"
    cells = [
        f"{getattr(row, name):.{digits}f} ({each.ratio(name):.2f})"
        for name, digits in zip(FIGURES, (1, 2, 0), strict=True)
    ]
    return f"{head}| {' | '.join(cells)} | {row.suspect and 'suspect: ' + row.suspect} |"


def write_page(path: Path, compared: Sequence[Compared], command: str, steps: str = "roofline") -> None:
    """Put the tables between the marks of the page; those of step times from ``kernels`` have marks of their own. A
    page that is not there yet has the tables alone.

    Raises:
        SystemExit: the page has no such marks.
    """
    roofline = steps == "roofline"
    begin, end = (BEGIN, END) if roofline else (KERNELS_BEGIN, KERNELS_END)
    if not path.exists():
        path.write_text(f"# Predictions and measured rows\n\n{begin}\n{end}\n")
    tables = to_markdown(compared, command) if roofline else to_short_markdown(compared, command)
    write_between(path, begin, end, tables)


def plot(path: Path, compared: Sequence[Compared]) -> None:
    """Predicted against measured, a panel a figure, both axes logarithmic; lines at equal and at +-15 %."""
    shapes = {"agg": "s", "disagg": "o"}
    gpus = sorted({each.row.gpu for each in compared})
    colours = dict(zip(gpus, TABLEAU_COLORS, strict=False))
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    panels = figure.subplots(1, len(FIGURES))
    for panel, name in zip(panels, FIGURES, strict=True):
        shown = [each for each in compared if each.simulated]
        for each in shown:
            row = each.row
            face = "none" if row.suspect else colours[row.gpu]
            at = (getattr(row, name), getattr(row, name) * each.ratio(name))
            panel.scatter(*at, s=22, marker=shapes[row.kind], facecolors=face, edgecolors=colours[row.gpu], alpha=0.8)
        both = [
            value for each in shown for value in (getattr(each.row, name), getattr(each.row, name) * each.ratio(name))
        ]
        ends = [min(both) / 1.3, max(both) * 1.3]
        panel.plot(ends, ends, color="0.3", linewidth=1)
        panel.fill_between(ends, [0.85 * e for e in ends], [1.15 * e for e in ends], color="0.85", zorder=0)
        panel.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured", title=_title(name))
    panels[0].set_ylabel("predicted")
    marks = [Line2D([], [], color=colours[gpu], marker="o", linestyle="", label=gpu.upper()) for gpu in gpus]
    marks += [Line2D([], [], color="0.4", marker=shapes[kind], linestyle="", label=kind) for kind in shapes]
    marks.append(Line2D([], [], color="0.4", marker="o", linestyle="", fillstyle="none", label="suspect"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    figure.savefig(path, dpi=110)


def _title(name: str) -> str:
    return f"{TITLES[name]}{', ms' if name.endswith('_ms') else ''} (band: ±15 %)"


def spread_file(compared: Sequence[Compared]) -> str:
    """``ratematch/data/accuracy.yaml``: the intervals, as predictions carry them."""
    number = sum(each.counts for each in compared)
    lines = [
        "# Measured over predicted: what 90 % of the public rows lie between, by kind of deployment and figure.",
        "# Written by: python -m benchmarks.real_deployments --write-spread",
        f"rows: {number}",
        "covered: 0.9",
        "source: docs/accuracy.md",
    ]
    for kind, figures in sorted(spread(compared).items()):
        parts = [f"{name}: [{low:.3g}, {high:.3g}]" for name, (low, high) in figures.items()]
        lines.append(f"{kind}: {{{', '.join(parts)}}}")
    full, (low, high) = near_limit(compared)
    lines.append("# Of these, rows whose context servers compute for more than a share `busy` of the run.")
    lines.append(f"near_limit: {{busy: {FULL}, rows: {len(full)}, ttft_ms: [{low:.3g}, {high:.3g}]}}")
    assert all(math.isfinite(each.ratio(name)) for each in compared if each.counts for name in FIGURES)
    return "\n".join(lines) + "\n"
