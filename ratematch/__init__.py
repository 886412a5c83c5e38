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
``emulator``    a drop-in for ``trtllm-serve`` on machines without GPUs
``loadgen``     sends requests on schedule, one record per request
``run``         deployments alive: controller, jobs, launch, teardown
``catalog``     finds and reads sweep files, cluster profiles, model and GPU data
``store``       the results folder: write aside and rename, read, list
``cli``         verbs; each calls one library function and prints
==============  ====================================================================================

``plan``, ``measure`` and ``match`` know no clock, socket, disk or process. The import rules are checked
with import-linter (``pyproject.toml``).
"""

__version__ = "0.1.0"
