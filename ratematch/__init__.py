"""ratematch: benchmark and rate-match disaggregated LLM serving.

The shape of the package is a corridor; values walk through it from left to right::

    sweeps/*.yaml -> Sweep -> Experiment* -> Deployment -> Placement -> LaunchPlan -> (servers run)
        -> LoadRun -> RequestRecord* -> Measurement -> RateMatch -> ParetoFront -> tables, plots

Rooms, from the bottom up; a room imports only from rooms below its own line (``pyproject.toml`` has the contract,
checked with import-linter; a test holds this table to the folders that are there):

================  ==================================================================================
room              holds
================  ==================================================================================
``errors``        the tree of errors
``version``       the version
``plan``          the question: sweeps, parallelism, deployments, workloads, loads, placement (pure)
``measure``       request records and what servers say to figures: metrics, window, verdict (pure)
``match``         figures to decisions: curves, ratio, fronts, gap, speed-up (pure)
``store``         the results folder: write aside and rename, read, list, lock
``engines``       what differs between serving stacks: files, argv, readiness, formats
``slurm``         asking Slurm: steps, batch options, queue, allocation
``loadgen``       sends requests on schedule, one record a request
``inputs``        files a person names: sweeps, cluster profiles, models and GPUs, tables of rates
``search``        which servers and loads to measure next (pure)
``analysis``      a results folder to its analysis
``emulator``      a drop-in for ``trtllm-serve`` and ``vllm serve`` on machines without GPUs
``simulate``      whole experiments in virtual time, and forecasts
``run``           one experiment alive: launch, load, watch, tear down
``exchange``      recipes and measurements of other tools, in and out; JSON schemas of files
``setup``         a new site: its first cluster profile and sweep
``campaign``      many experiments: the controller and its jobs
``show``          values to pictures and text
``report``        a results folder to pages, notebooks and deployments that are handed around
``api``           what ``import ratematch as rm`` offers
``cli``           verbs; each calls one library function and prints
================  ==================================================================================

In Python, ``import ratematch as rm`` offers what notebooks need (loaded when first used, see
:mod:`ratematch.api`)::

    results = rm.load_results("results/sample")    # results.loads, results.requests: tidy pandas frames
    analysis = rm.match(results, ttft_ms=1000)     # fronts, gaps, speed-ups; rm.fronts(analysis) as a frame
    rm.plot_pareto(analysis)                       # shows itself in a notebook; .save(folder) writes it

``plan``, ``measure``, ``match`` and ``search`` know no clock, socket, disk or process.
"""

from __future__ import annotations

import importlib

from ratematch.version import __version__ as __version__

_FROM_API = (
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
    if name in _FROM_API:
        return getattr(importlib.import_module("ratematch.api"), name)
    if name == "match":  # the room, which may be called
        return importlib.import_module("ratematch.match")
    raise AttributeError(f"module 'ratematch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM_API, "match"})
