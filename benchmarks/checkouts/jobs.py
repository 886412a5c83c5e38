"""What is asked of a checkout: command lines, and where their answers go.

Every job runs in the same working directory (a *site*), which has ``sweeps/``, ``results/sample`` and ``tables/`` of
the old checkout and ``given/`` of this folder, and writes below ``out/``. Steps of one job run in turn; jobs need
nothing of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLE = "results/sample"
SERVERS = (
    *("--gpu", "gb200", "--model", "deepseek-r1", "--engine", "trtllm-serve/1.2", "--emulated"),
    *("--agg", "DEP4", "--mtp", "0"),
)
IMPORTED = "ifb-1024-64-agg1xDEP4-mtp0-0eef5c9ca3"
"""The experiment of the sample that is exported and imported again."""


@dataclass(frozen=True)
class Step:
    """One process. ``argv``: of ``python``; words with ``*`` stand for the files that they match. ``stdout``: where
    its output goes, below ``out/``. ``elsewhere``: run in an empty folder instead of the site."""

    argv: tuple[str, ...]
    stdout: str | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class Job:
    """Steps in turn; the first that fails ends it."""

    name: str
    steps: tuple[Step, ...]


def verb(*argv: str, to: str | None = None, elsewhere: bool = False) -> Step:
    """``ratematch ARGV``, its output to ``out/TO``."""
    return Step(("-m", "ratematch", *argv), to, elsewhere)


def probe(what: str) -> Step:
    return Step((str(Path(__file__).with_name("probe.py")), what, f"out/{what}"))


def make_jobs(site: Path) -> list[Job]:
    """All jobs for what lies in ``site``, the long ones first."""
    sweeps = sorted(site.glob("sweeps/*.yaml"))
    tables = [*sorted(site.glob("tables/*.csv")), site / "given" / "rates.csv"]
    return [
        Job("frames", (probe("frames"),)),
        *_simulations(),
        *_analyses(),
        *_exchanges(),
        Job("names", (probe("names"),)),
        Job("cli", (probe("cli"),)),
        *(job for path in sweeps for job in _sweep_jobs(path)),
        *(job for path in tables for job in _match_jobs(path.relative_to(site))),
    ]


def _sweep_jobs(path: Path) -> Iterator[Job]:
    """What a sweep file becomes: plan and files, given as a file and by its name."""
    file, name = f"sweeps/{path.name}", path.stem
    rendered = verb("render", file, "-o", f"out/render/{name}", "--json", to=f"render/{name}.json")
    yield Job(f"render {name}", (rendered,))
    yield Job(
        f"plan {name}",
        (
            verb("plan", file, "--json", to=f"plan/{name}.json"),
            verb("plan", name, "--json", to=f"plan/by-name/{name}.json", elsewhere=True),
        ),
    )


def _simulations() -> Iterator[Job]:
    """Whole sweeps in virtual time: the results format, and figures that hang on every seed and every id."""
    for name, sweep in (
        ("quickstart", "sweeps/quickstart.yaml"),
        ("adaptive", "given/adaptive.yaml"),
        ("kinds", "given/kinds.yaml"),
    ):
        folder = f"out/simulate/{name}"
        run = ("sweep", sweep, "--executor", "simulate", "--max-jobs", "1", "-o", folder, "--json")
        yield Job(
            f"simulate {name}",
            (
                verb(*run, to=f"simulate/{name}.json"),
                verb("status", folder, "--json", to=f"simulate/{name}.status.json"),
                verb("pareto", folder, "-o", f"out/pareto/{name}", "--json", to=f"pareto/{name}.json"),
            ),
        )
    yield Job("plan kinds", (verb("plan", "given/kinds.yaml", "--json", to="plan/kinds.json"),))
    yield Job(
        "render kinds",
        (verb("render", "given/kinds.yaml", "-o", "out/render/kinds", "--json", to="render/kinds.json"),),
    )
    yield Job(
        "render for Slurm",
        (
            verb(
                *("render", "sweeps/quickstart.yaml", "--cluster", "testcluster", "--executor", "slurm"),
                *("--nodes", "n1,n2,n3,n4", "-o", "out/render/slurm", "--json"),
                to="render/slurm.json",
            ),
        ),
    )
    yield Job(
        "render chosen",
        (
            verb(
                *("render", "sweeps/sample.yaml", "--results", SAMPLE, "-o", "out/render/chosen", "--json"),
                to="render/chosen.json",
            ),
        ),
    )
    yield Job(
        "predict", (verb("plan", "sweeps/quickstart.yaml", "--predict", "--json", to="plan/predict/quickstart.json"),)
    )


PARETO = {
    "sample": (),
    "allocated": ("--objective", "per_allocated_gpu", "--gpus-per-node", "8", "--no-share-nodes"),
    "budget": ("--objective", "tok_s_in_budget", "--max-gpus", "12", "--segment-gpus", "8"),
    "open-loop": ("--request-rate", "40", "--ttft-ms", "2000", "--percentile", "99"),
    "calibrated": ("--calibrate", "--tpot-ms", "15"),
    "figure": ("--figure", "11"),
}


def _analyses() -> Iterator[Job]:
    """What is made of results that were measured before: all verbs that read ``results/sample``."""
    for name, options in PARETO.items():
        argv = ("pareto", SAMPLE, "-o", f"out/pareto/{name}", *options, "--json")
        yield Job(f"pareto {name}", (verb(*argv, to=f"pareto/{name}.json"),))
    yield Job("report", (verb("report", SAMPLE, "-o", "out/report/report.html", to="report/stdout.txt"),))
    yield Job(
        "read results",
        (
            verb("status", SAMPLE, "--json", to="results/status.json"),
            verb("compare", SAMPLE, SAMPLE, "--json", to="results/compare.json"),
        ),
    )
    deploy = ("export", "deployment", SAMPLE, "--at", "50 tok/s/user")
    yield Job(
        "export deployment",
        (
            verb(*deploy, "-o", "out/deploy/here", "--json", to="deploy/here.json"),
            verb(
                *(*deploy, "--cluster", "gb200-nvl72", "-o", "out/deploy/rack", "--json"),
                to="deploy/rack.json",
            ),
        ),
    )


def _exchanges() -> Iterator[Job]:
    """Results to other tools' files and back."""
    one = f"out/export/aiperf/{IMPORTED}/c4-n20-w1/profile_export.jsonl"
    ladder = f"out/export/benchmark-serving/{IMPORTED}/*.json"
    rates = "out/import/inferencex/rates.csv"
    yield Job("export csv", (_export("csv"),))
    yield Job("export and import AIPerf", _there_and_back("aiperf", one, "--concurrency", "4"))
    yield Job("export and import benchmark_serving", _there_and_back("benchmark-serving", ladder))
    yield Job(
        "export and import InferenceX",
        (
            _export("inferencex"),
            verb(
                *("import", "results", "out/export/inferencex/*.json", "-o", rates, "--json"),
                to="import/inferencex.json",
            ),
            verb("match", rates, "--json", to="match/imported.json"),
        ),
    )


def _export(form: str) -> Step:
    return verb("export", "results", SAMPLE, "--format", form, "-o", f"out/export/{form}")


def _there_and_back(form: str, files: str, *hints: str) -> tuple[Step, ...]:
    folder = f"out/import/{form}"
    return (
        _export(form),
        verb("import", "results", files, "--into", folder, *hints, *SERVERS, "--json", to=f"import/{form}.json"),
        verb("pareto", folder, "-o", f"out/pareto/{form}", "--json", to=f"pareto/{form}.json"),
    )


MATCH = {
    "plain": (),
    "limits": ("--ttft-ms", "500", "--tpot-ms", "20", "--max-gpus", "24"),
    "nodes": ("--gpus-per-node", "8", "--nodes", "3", "--no-share-nodes"),
    "allocated": ("--gpus-per-node", "8", "--max-gpus", "32", "--objective", "per_allocated_gpu"),
    "budget": ("--max-gpus", "24", "--objective", "tok_s_in_budget", "--concurrency", "16,64"),
    "all": ("--max-gpus", "16", "--all-plans"),
}


def _match_jobs(path: Path) -> Iterator[Job]:
    """One table in every way that it can be matched."""
    yield Job(
        f"match {path.stem}",
        tuple(
            verb("match", str(path), *options, "--json", to=f"match/{path.stem}/{name}.json")
            for name, options in MATCH.items()
        ),
    )
