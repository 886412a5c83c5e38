"""ratematch: benchmark and rate-match disaggregated LLM serving.

The shape of the package is a corridor; values walk through it from left to right::

    sweeps/*.yaml -> Sweep -> Experiment* -> Deployment -> Placement -> LaunchPlan -> (servers run)
        -> LoadRun -> RequestRecord* -> Measurement -> RateMatch -> ParetoFront -> tables, plots

==============  ====================================================================================
room            holds
==============  ====================================================================================
``plan``        the question: sweeps, mappings, deployments, workloads, loads, placement (pure)
``measure``     request records to figures: metrics, window, verdict (pure)
``match``       figures to decisions: curves, ratio, fronts, gap, speed-up (pure)
``show``        fronts to pictures and tables
``engines``     what differs between serving stacks: files, argv, readiness, request body
``emulator``    a drop-in for ``trtllm-serve`` and ``vllm serve`` on machines without GPUs
``loadgen``     sends requests on schedule, one record per request
``run``         deployments alive: controller, jobs, launch, teardown
``catalog``     finds and reads sweep files, cluster profiles, model and GPU data
``store``       the results folder: write aside and rename, read, list
``cli``         verbs; each calls one library function and prints
==============  ====================================================================================

In Python, ``import ratematch as rm`` offers what notebooks need (loaded when first used, see
:mod:`ratematch.frames`)::

    results = rm.load_results("results/sample")    # results.loads, results.requests: tidy pandas frames
    analysis = rm.match(results, ttft_ms=1000)     # fronts, gaps, speed-ups; rm.fronts(analysis) as a frame
    rm.plot_pareto(analysis)                       # shows itself in a notebook; .save(folder) writes it

``plan``, ``measure`` and ``match`` know no clock, socket, disk or process. The import rules are checked
with import-linter (``pyproject.toml``).
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_FROM_FRAMES = (
    "LoadedResults",
    "changes",
    "compare",
    "drift",
    "fronts",
    "gaps",
    "load_results",
    "match_results",
    "plot_compare",
    "plot_ctx",
    "plot_figure",
    "plot_gap",
    "plot_gen",
    "plot_latency",
    "plot_pareto",
    "plot_slip",
    "plot_speedup",
    "plot_split",
    "points",
    "recommendations",
    "speedups",
)


def __getattr__(name: str) -> object:
    """Loads the public API when it is first used: pandas and matplotlib take a second that the verbs should not."""
    if name in _FROM_FRAMES:
        return getattr(importlib.import_module("ratematch.frames"), name)
    if name == "match":  # the room, which may be called
        return importlib.import_module("ratematch.match")
    raise AttributeError(f"module 'ratematch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM_FRAMES, "match"})
