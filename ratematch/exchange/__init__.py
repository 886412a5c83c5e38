"""Files that other tools write, turned into ratematch's (the recipes of srt-slurm and of TensorRT-LLM's
``slurm/benchmark``), and records turned into the result files of AIPerf and ``benchmark_serving``.

A recipe becomes a sweep file with one deployment written out (:mod:`ratematch.exchange.recipes.convert`). Whatever
it says that a sweep file cannot say is listed; nothing is dropped in silence, and the written file is expanded and
rendered before it is handed over, to show that it gives back the recipe's own worker configuration.

For editors and programs that read ratematch's own files: their JSON schemas (:mod:`ratematch.exchange.schemas`).
"""

from __future__ import annotations
