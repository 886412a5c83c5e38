"""Hand-made analyses of different shapes: many points, few, near-identical, hostile names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from matplotlib.figure import Figure

from ratematch.match.points import Analysis, Gap, Kind, Point, Speedup, WorkloadAnalysis
from ratematch.plan.experiment import Origin
from ratematch.show.files import name_part
from ratematch.show.plots.pareto import picture_pareto, plot_pareto
from ratematch.show.plots.speedup import picture_speedup


def make_point(
    kind: Kind, x: float, y: float, label: str, mtp: int = 1, ctx: int = 2, gen: int = 1, workload: str = "1024/64"
) -> Point:
    """A point whose figures hang together: TPOT from x, rate from y, N from Little's law."""
    osl = int(workload.split("/")[1])
    gpus = 8 if kind == "ifb" else 4 * ctx + 8 * gen
    tpot_ms, ttft_ms = 1000 / x, 400.0
    req_s = y * gpus / osl
    return Point(
        kind=kind,
        workload=workload,
        label=label,
        ctx=0 if kind == "ifb" else ctx,
        gen=0 if kind == "ifb" else gen,
        ctx_mapping=None if kind == "ifb" else "TEP4",
        gen_mapping="TEP8" if kind == "ifb" else "DEP8",
        mtp=mtp,
        gpus=gpus,
        concurrency=req_s * (ttft_ms + (osl - 1) * tpot_ms) / 1000,
        req_s=req_s,
        tok_s=y * gpus,
        tok_s_user=x,
        tok_s_gpu=y,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        little=1.0 if kind in ("ifb", "end_to_end") else None,
        limit=None if kind == "ifb" else "gen",
        ratio=None if kind == "ifb" else "9/4",
        emulated=True,
        sources=("ctx-1024-64-ctx1xTEP4-mtp1-0123456789", "gen-1024-64-gen1xDEP8-mtp1-abcdef0123"),
        flags=("ctx rate interpolated",) if kind == "rate_matched" else (),
    )


def _concave(x: float, top: float, end: float, power: float) -> float:
    return top * (1 - (x / end) ** power)


def make_many(workload: str = "1024/64") -> WorkloadAnalysis:
    """12 rate-matched points (MTP on at the fast end), 6 end-to-end, 5 IFB, thin curves of 7 deployments."""
    xs = [20, 26, 34, 45, 58, 72, 88, 105, 125, 148, 172, 200]
    ctxs = [9, 8, 7, 5, 4, 3, 5, 2, 3, 1, 1, 1]
    gens = ["1xDEP16", "1xDEP16", "1xDEP8", "1xDEP8", "1xDEP8", "1xDEP8", "2xTEP8", "1xTEP8", "2xTEP4", "1xTEP4"]
    gens += ["2xTEP4", "3xTP8PP2"]
    labels = [f"ctx{c}xTEP4-gen{g}-mtp{0 if x < 60 else 3}" for c, g, x in zip(ctxs, gens, xs, strict=True)]
    ys = [_concave(x, 2050, 208, 0.9) + 190 for x in xs]
    matched = [
        make_point("rate_matched", x, y, label, mtp=int(label[-1]), ctx=c, workload=workload)
        for x, y, label, c in zip(xs, ys, labels, ctxs, strict=True)
    ]
    bound = [replace(p, kind="bound", tok_s_gpu=p.tok_s_gpu * 1.06, ctx=0, gen=0) for p in matched]
    drops = [0.82, 0.85, 0.84, 0.9, 0.93, 0.88]
    e2e = [
        replace(
            p,
            kind="end_to_end",
            little=1.0,
            tok_s_user=p.tok_s_user * 0.985,
            tok_s_gpu=p.tok_s_gpu * drop,
            ratio=None,
        )
        for p, drop in zip(matched[::2], drops, strict=True)
    ]
    ifb = [
        make_point("ifb", x, y, label, mtp=int(label[-1]), workload=workload)
        for x, y, label in [
            (15, 1150, "agg1xDEP8-mtp0"),
            (32, 900, "agg1xDEP8-mtp0"),
            (61, 610, "agg1xTEP8-mtp1"),
            (102, 330, "agg1xTEP8-mtp3"),
            (150, 120, "agg1xTP8-mtp3"),
        ]
    ]
    plans = list(matched)
    for p in matched[1::2]:
        for k in (0.55, 0.7, 0.85, 1.15, 1.25):
            x = p.tok_s_user * k
            y = _concave(min(x, 208), 2050, 208, 0.9) + 190 - 0.05 * (x - p.tok_s_user) ** 2 - 60 * (k != 1)
            if y > 0:
                osl = int(workload.split("/")[1])
                requests = y * p.gpus / osl * (p.ttft_ms + (osl - 1) * 1000 / x) / 1000
                plans.append(replace(p, tok_s_user=x, tok_s_gpu=y, tpot_ms=1000 / x, concurrency=requests))
    measured = [*e2e, *ifb, *(replace(p, tok_s_user=p.tok_s_user * 0.8, tok_s_gpu=p.tok_s_gpu * 0.93) for p in e2e)]
    return WorkloadAnalysis(
        workload=workload,
        origin="emulated",
        bound=tuple(bound),
        rate_matched=tuple(matched),
        end_to_end=tuple(e2e),
        ifb=tuple(ifb),
        plans=tuple(plans),
        measured=tuple(measured),
        gaps=(
            *(
                Gap(p.label, p.tok_s_user, p.tok_s_gpu, p.tok_s_gpu / drop, drop)
                for p, drop in zip(e2e, drops, strict=True)
            ),
            Gap("ctx1xTEP4-gen1xDEP8-mtp3", 230.0, 200.0, None, None),
        ),
        speedups=tuple(
            Speedup(kind, float(x), factor * (1.5 + x / 100) * 0.97, factor * (1.5 + x / 100))
            for kind, factor in (("rate_matched", 1.0), ("end_to_end", 0.87))
            for x in range(20, 150, 10)
        ),
        left_out=(
            ("e2e-1024-64-ctx5xTEP4-gen2xTEP8-mtp3", "c256", ("3 of 512 requests failed", "no steady window")),
            ("ifb-1024-64-agg1xDEP8-mtp0", "c1024", ("little is 1.31, outside 0.95 to 1.05",)),
        ),
        notes=("ctx curve of TEP4 is clamped above 9.1 requests/s.",),
    )


def make_few() -> WorkloadAnalysis:
    """Quick sweep: 3 convex rate-matched points, 1 end-to-end, 3 IFB."""
    workload = "8192/1024"
    matched = tuple(
        make_point("rate_matched", x, y, f"ctx{c}xTEP4-gen1xDEP8-mtp1", ctx=c, workload=workload)
        for x, y, c in ((22, 310, 4), (48, 140, 2), (90, 75, 1))
    )
    ifb = tuple(
        make_point("ifb", x, y, "agg1xTEP8-mtp1", workload=workload) for x, y in ((18, 210), (40, 96), (85, 52))
    )
    bound = tuple(replace(p, kind="bound", tok_s_gpu=1.05 * p.tok_s_gpu) for p in matched)
    e2e = (replace(matched[1], kind="end_to_end", little=1.0, tok_s_user=46.5, tok_s_gpu=129.0),)
    return WorkloadAnalysis(
        workload,
        "emulated",
        bound,
        matched,
        e2e,
        ifb,
        matched,
        (*e2e, *ifb),
        (),
        (),
        (),
        ("one end-to-end point only",),
    )


def make_crowded() -> WorkloadAnalysis:
    """Near-identical points in three knots, every label long and different."""
    workload = "1024/1024"
    knots = [(60.0, 4000.0), (61.0, 3990.0), (61.4, 3960.0), (62.0, 3955.0), (110.0, 2500.0), (111.0, 2490.0)]
    knots += [(111.5, 2470.0), (112.0, 2450.0), (180.0, 800.0), (180.5, 795.0), (181.0, 780.0), (182.0, 770.0)]
    matched = tuple(
        make_point(
            "rate_matched", x, y, f"ctx{i + 10}xTP8PP2CP2-gen{i + 20}xDEP64-mtp{i % 4}", mtp=i % 4, workload=workload
        )
        for i, (x, y) in enumerate(knots)
    )
    e2e = tuple(replace(p, kind="end_to_end", little=1.0, tok_s_gpu=p.tok_s_gpu * 0.99) for p in matched[::2])
    ifb = tuple(
        make_point("ifb", x, y, f"agg1xTP{i}PP2-mtp{i % 2}", mtp=i % 2, workload=workload)
        for i, (x, y) in enumerate(((60.5, 3400), (110.5, 2000), (180.2, 500)))
    )
    return WorkloadAnalysis(workload, "emulated", (), matched, e2e, ifb, matched, (*e2e, *ifb), (), (), (), ())


def make_empty() -> WorkloadAnalysis:
    left_out = tuple(
        (f"ctx-128-128-ctx1xTEP{k}-mtp0", "c16", (f"{k} of 64 requests failed",)) for k in (1, 2, 4, 8, 16, 32)
    )
    return WorkloadAnalysis("128/128", "emulated", (), (), (), (), (), (), (), (), left_out, ())


def make_hostile() -> WorkloadAnalysis:
    """Names that mean something to XML, rich, mathtext, a file system and a terminal."""
    names = ["<script>alert(1)</script>", "[bold]&amp;", r"$\frac{1}$", "../../etc/\x1b[31mred\x00", "_hidden\u202e"]
    few = make_few()
    matched = tuple(
        replace(few.rate_matched[0], label=name, tok_s_user=20.0 + 30 * k, tok_s_gpu=500.0 - 90 * k)
        for k, name in enumerate(names)
    )
    left_out = (("[/red]<script>", "[bold]", ("[link=x]reason",)),)
    return replace(
        few, workload="../<b>/1", rate_matched=matched, plans=matched, left_out=left_out, notes=("[blink]$x$",)
    )


def make_analysis(*workloads: WorkloadAnalysis, emulated: bool = True) -> Analysis:
    origin: Origin = "emulated" if emulated else "real"
    if not emulated:
        workloads = tuple(replace(workload, origin=origin) for workload in workloads)
    return Analysis(
        "quickstart", "DeepSeek-R1", "GB200", "trtllm-serve 1.2", "emulated" if emulated else "real", workloads
    )


@cache
def draw(make: Callable[[], WorkloadAnalysis]) -> Figure:
    """The emulated Pareto plot of an invented workload, drawn once for all tests that only look at it."""
    workload = make()
    return plot_pareto(workload, make_analysis(workload))


def write_plots(analysis: Analysis, folder: Path) -> list[Path]:
    """Fronts and speed-ups of every workload, saved."""
    written = []
    for workload in analysis.workloads:
        part = name_part(workload.workload)
        pictures = [picture_pareto(workload, analysis, f"pareto-{part}")]
        speedup = picture_speedup(workload, analysis, f"speedup-{part}")
        written += [path for picture in [*pictures, *([speedup] if speedup else [])] for path in picture.save(folder)]
    return written
