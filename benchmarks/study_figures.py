"""The disaggregated-serving study's figures as the simulation gives them: plots, and a table for docs/figures.md.

    ratematch sweep sweeps/deepseek-r1.yaml --executor simulate
    ratematch sweep sweeps/qwen3-235b.yaml --executor simulate
    python benchmarks/study_figures.py results/deepseek-r1-simulated results/qwen3-235b-simulated -o docs/figures

Each row is an analysis of its own, of the simulated servers that the study's figure is about. Ratios are of tok/s/GPU
over in-flight batching at equal tok/s/user, read along the fronts as in the study's plots: over the best aggregated
servers with and without attention-DP balancing and chunked prefill, and for comparison over those with neither
("plain").
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ratematch.match.analysis import analyze
from ratematch.match.pareto import extract_front, speed_up
from ratematch.match.points import Analysis, WorkloadAnalysis, objectives
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.show.picture import save_figure
from ratematch.show.plots.pareto import plot_pareto
from ratematch.store.folder import Results

Keep = Callable[[Measured], bool]


@dataclass(frozen=True)
class Figure:
    """One figure of the study: which servers, and what it reports, in words."""

    name: str
    title: str
    workload: str
    reported: str
    keep: Keep
    results: int = 0


def _mtp(row: Measured) -> int:
    return row.experiment.deployment.mtp


def _gen_gpus(row: Measured) -> int | None:
    gen = row.experiment.deployment.gen
    return gen.mapping.gpus if gen else None


FIGURES = (
    Figure("r1-4400-no-mtp", "DeepSeek-R1 4400/1200, no MTP", "4400/1200", "1.4 to 1.8", lambda r: _mtp(r) == 0),
    Figure("r1-4400-mtp", "DeepSeek-R1 4400/1200, MTP", "4400/1200", "1.6 to 2.5", lambda r: _mtp(r) > 0),
    Figure(
        "r1-8192-gen4", "DeepSeek-R1 8192/256, gen of 4 GPUs", "8192/256", "up to 1.73",
        lambda r: _gen_gpus(r) in (None, 4) and _mtp(r) == 0,
    ),
    Figure(
        "r1-8192-gen8", "DeepSeek-R1 8192/256, gen of 8 GPUs", "8192/256", "up to 2",
        lambda r: _gen_gpus(r) in (None, 8) and _mtp(r) == 0,
    ),
    Figure("r1-4096-mtp", "DeepSeek-R1 4096/1024, MTP", "4096/1024", "1.7 at 50", lambda r: _mtp(r) > 0),
    Figure("qwen3-8192", "Qwen3-235B-A22B 8192/1024", "8192/1024", "1.7 to 6.11", lambda r: True, 1),
)  # fmt: skip
AT = (20.0, 50.0, 100.0)


def is_plain(row: Measured) -> bool:
    """Is it no aggregated server with attention-DP balancing or chunked prefill?"""
    agg = row.experiment.deployment.agg
    if agg is None:
        return True
    balance = agg.options.get("attention_dp_config") or {}
    return not balance.get("enable_balance") and not agg.options.get("enable_chunked_prefill")


def analyse(figure: Figure, results: Results, keep: Keep = lambda row: True) -> Analysis:
    """The servers of the figure alone, of them those to ``keep``; end-to-end runs made of them count."""
    limits = results.limits()
    isl = int(figure.workload.split("/")[0])
    rows = [
        row
        for row in results.measured()
        if figure.keep(row)
        and keep(row)
        and (row.experiment.workload.label == figure.workload or _is_ctx_of(row, isl))
    ]
    kept = limits.constraints
    question = Question(kept.ttft_ms, kept.tpot_ms, kept.percentile, limits.max_gpus, draws=0)
    return analyze(rows, question, sweep=limits.name)


def _is_ctx_of(row: Measured, isl: int) -> bool:
    return row.experiment.stage == "ctx" and row.experiment.workload.isl == isl


def ratios(each: WorkloadAnalysis, kind: str) -> list[tuple[float, float]]:
    """(tok/s/user, ratio over IFB), linear between points, where both fronts have points."""
    return [(row.tok_s_user, row.linear) for row in each.speedups if row.kind == kind and row.linear is not None]


def ratio_at(each: WorkloadAnalysis, kind: str, speed: float) -> float | None:
    """Ratio over IFB at one tok/s/user, both fronts read linearly there."""
    points = each.rate_matched if kind == "rate_matched" else each.end_to_end
    fronts = [
        extract_front([objectives(point) for point in rows], lambda point: point) for rows in (points, each.ifb)
    ]
    return speed_up(fronts[0], fronts[1], speed)[1]


def say_ratios(each: WorkloadAnalysis, kind: str) -> str:
    found = ratios(each, kind)
    if not found:
        return "-"
    values = [value for _, value in found]
    best = max(found, key=lambda pair: pair[1])
    near = [f"{ratio:.2f} at {u:g}" for u in AT if (ratio := ratio_at(each, kind, u)) is not None]
    return f"{min(values):.2f} to {max(values):.2f} (best at {best[0]:.0f})" + (
        f"; {', '.join(near)}" if near else ""
    )


def say_gap(each: WorkloadAnalysis) -> str:
    gaps = sorted(1 - gap.ratio for gap in each.gaps if gap.ratio is not None)
    return f"{gaps[0]:.0%} to {gaps[-1]:.0%}, median {gaps[len(gaps) // 2]:.0%}" if gaps else "-"


def shrink(picture: Path) -> None:
    """Fewer colours: a page of plots is for looking at."""
    with Image.open(picture) as image:
        image.convert("RGB").resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS).quantize(
            96
        ).save(picture, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="the study's figures in simulation")
    parser.add_argument("results", type=Path, nargs=2, help="deepseek-r1 and qwen3-235b, simulated")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    folders = [Results.open(path) for path in options.results]
    print(
        "| figure | the study | rate-matched over IFB | the same over plain IFB | end to end over IFB | "
        "end to end below rate-matched |"
    )
    print("|---|---|---|---|---|---|")
    for figure in FIGURES:
        analysis = analyse(figure, folders[figure.results])
        each = _of(analysis, figure)
        plain = _of(analyse(figure, folders[figure.results], is_plain), figure)
        for path in save_figure(plot_pareto(each, analysis), options.output / figure.name):
            if path.suffix == ".svg":  # the page shows PNGs
                path.unlink()
            else:
                shrink(path)
        cells = [say_ratios(each, kind) for kind in ("rate_matched", "end_to_end")]
        print(
            f"| {figure.title} | {figure.reported} | {cells[0]} | {say_ratios(plain, 'rate_matched')} | {cells[1]} | "
            f"{say_gap(each)} |"
        )


def _of(analysis: Analysis, figure: Figure) -> WorkloadAnalysis:
    return next(each for each in analysis.workloads if each.workload == figure.workload)


if __name__ == "__main__":
    main()
