"""The command line: each verb calls one library function, prints what it returns, and picks the exit code.

Exit codes: 0 ok, 1 the input must change, 2 some experiments failed (the same command resumes), 3 there are results
but none may be trusted. ``--json`` prints one object on stdout; everything else a verb says goes to stderr.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import ratematch
from ratematch.errors import RatematchError, Untrustworthy

RESULTS = Path("results")


_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
_set = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the sweep file, e.g. workloads.0.isl=4096.",
)


class _WrongCall(click.UsageError):
    """A wrong option or argument; click's own exit code 2 would read as "some experiments failed"."""

    exit_code = 1


class _Verbs(click.Group):
    """Turns ratematch's errors into one line and an exit code; ``--debug`` shows the traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _WrongCall(error.format_message(), error.ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RatematchError as error:
            if ctx.params.get("debug"):
                raise
            for line in str(error).splitlines():
                click.echo(f"ratematch: {line}" if not line.startswith("    ") else line, err=True)
            ctx.exit(error.exit_code)
        except click.UsageError as error:
            raise _WrongCall(error.format_message(), error.ctx) from error
        except (click.exceptions.Exit, click.ClickException):
            raise
        except KeyboardInterrupt:
            click.echo("ratematch: stopped; run the same command again to go on where it stopped", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # The reader (`| head`) has gone; writing the rest to nowhere keeps Python from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"ratematch: unexpected {type(error).__name__}: {error} (--debug shows where)", err=True)
            ctx.exit(1)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(ratematch.__version__, "--version", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug logs.")
def main(debug: bool) -> None:
    """Benchmark and rate-match disaggregated LLM serving.

    Measure context and generation servers apart, solve the ctx:gen ratio, run the promising deployments end to end,
    and draw both Pareto fronts against in-flight batching (IFB).

    \b
    Start here (no GPU needed):
        ratematch sweep sweeps/quickstart.yaml
        ratematch pareto results/quickstart
    """
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr)


def _print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=1, allow_nan=False))


def _stderr() -> Console:
    return Console(stderr=True)


@main.command()
@click.argument("sweep")
@_set
@_json
def plan(sweep: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what SWEEP would run and cost. Nothing is started.

    \b
    Example:
        ratematch plan sweeps/quickstart.yaml --set budget.max_gpus=8
    """
    from ratematch.inputs import read_sweep
    from ratematch.plan.budget import estimate
    from ratematch.run.precheck import expand_sweep, refuse_unlaunchable
    from ratematch.show.planview import plan_to_json, print_plan

    asked, _ = read_sweep(sweep, overrides)
    expansion = expand_sweep(asked)
    refuse_unlaunchable(asked, expansion.experiments, here=False)
    cost = estimate(asked, expansion.experiments)
    if as_json:
        _print_json(plan_to_json(asked, expansion, cost))
    else:
        print_plan(asked, expansion, cost, Console())


@main.command()
@click.argument("sweep")
@_set
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Results folder [default: results/NAME].")
@click.option("--executor", type=click.Choice(["local", "debug"]), default="local", show_default=True)
@click.option("--again", is_flag=True, help="Measure everything anew; earlier figures are moved aside.")
@_json
def sweep(
    sweep: str, overrides: tuple[str, ...], output: Path | None, executor: Any, again: bool, as_json: bool
) -> None:
    """Run the whole method for SWEEP. Run it again to resume: only what is missing is measured.

    \b
    Example:
        ratematch sweep quickstart.yaml
    """
    from ratematch.inputs import read_sweep
    from ratematch.run.campaign import run_campaign
    from ratematch.show.sweepview import SweepView, outcome_to_json
    from ratematch.store import Results

    # A scheduler or a wrapper that ends the controller means the same as Ctrl-C: stop in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked, text = read_sweep(sweep, overrides)
    results = Results(output or RESULTS / asked.name)
    with SweepView(_stderr()) as view:
        campaign = run_campaign(asked, text, results, executor, view.update, again=again)
    if as_json:
        _print_json(outcome_to_json(campaign))
    else:
        view.print_outcome(campaign)
    if campaign.failed:
        sys.exit(2)
    sys.exit(3 if campaign.nothing_valid else 0)


@main.command()
@click.argument("experiment", type=click.Path(exists=True, file_okay=False, path_type=Path))
def run(experiment: Path) -> None:
    """Measure what is missing of one EXPERIMENT folder, here and now: what each job of a sweep does.

    \b
    Example:
        ratematch run results/quickstart/gen-1024-64-gen1xDEP4-mtp1-6b1f2c90aa
    """
    from ratematch.errors import RunError
    from ratematch.run.experiment import run_experiment

    outcome = run_experiment(experiment)
    if outcome.get("error"):
        raise RunError(outcome["error"])
    click.echo(f"{experiment}: {outcome['measured']} loads measured, all done")


@main.command()
@click.argument("results", type=click.Path(path_type=Path), default=RESULTS)
@_json
def status(results: Path, as_json: bool) -> None:
    """Show how far the sweep in RESULTS is: state, loads, GPU-hours, and why something failed or waits.

    \b
    Example:
        ratematch status results/quickstart
    """
    from ratematch.show.statusview import print_status, status_to_json
    from ratematch.store import Results

    opened = Results.open(results)
    content = status_to_json(opened)
    if as_json:
        _print_json(content)
    else:
        print_status(content, Console())


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for tables and plots [default: RESULTS/report]."
)
@click.option("--ttft-ms", type=float, help="TTFT limit instead of the sweep's.")
@click.option("--tpot-ms", type=float, help="TPOT limit instead of the sweep's.")
@click.option("--percentile", type=click.Choice(["mean", "50", "90", "95", "99"]), help="Where limits are judged.")
@click.option("--max-gpus", type=int, help="Largest deployment to plan, instead of the sweep's.")
@click.option("--remeasure", is_flag=True, help="Compute all figures anew from the request records first.")
@_json
def pareto(
    results: Path,
    output: Path | None,
    ttft_ms: float | None,
    tpot_ms: float | None,
    percentile: str | None,
    max_gpus: int | None,
    remeasure: bool,
    as_json: bool,
) -> None:
    """Match rates and draw the fronts of RESULTS: tables (csv, json) and plots (png, svg).

    \b
    Example:
        ratematch pareto results/quickstart --ttft-ms 500
    """
    from ratematch import readout
    from ratematch.show.console import print_analysis
    from ratematch.show.plots import write_plots
    from ratematch.show.tables import analysis_to_json, write_tables
    from ratematch.store import Results

    opened = Results.open(results)
    if remeasure:
        readout.remeasure(opened)
    analysis = readout.analyze_results(
        opened,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        percentile=None if percentile is None else "mean" if percentile == "mean" else int(percentile),  # type: ignore[arg-type]
        max_gpus=max_gpus,
    )
    folder = output or results / "report"
    folder.mkdir(parents=True, exist_ok=True)
    # The picture people came for stands last, where the eye ends.
    written = [*write_tables(analysis, folder), *reversed(write_plots(analysis, folder))]
    if as_json:
        _print_json(analysis_to_json(analysis))
    else:
        print_analysis(analysis, Console())
        for path in written:
            click.echo(str(path))
    if not any(workload.rate_matched or workload.end_to_end or workload.ifb for workload in analysis.workloads):
        raise Untrustworthy(f"{results}: no valid point is left; the table above says why for each load")


@main.command()
@click.argument("url")
@click.option("--model", required=True, help="Model name in the request body.")
@click.option("--concurrency", default="", help="Requests in flight, a ladder: 1,2,4,8.")
@click.option("--request-rate", default="", help="Open loop: requests/s, a ladder: 0.5,1,2.")
@click.option("--arrival", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True)
@click.option(
    "--num-requests", type=click.IntRange(1), help="Requests of each load [default: 8 x concurrency, 16 at least]."
)
@click.option(
    "--warmup", type=click.IntRange(0), help="Warm-up requests, kept apart [default: a quarter of the concurrency]."
)
@click.option("--isl", type=click.IntRange(1), default=1024, show_default=True, help="Prompt tokens, exact.")
@click.option("--osl", type=click.IntRange(1), default=128, show_default=True, help="Output tokens.")
@click.option(
    "--osl-ratio",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Output lengths from RATIO*OSL to OSL.",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(1000),
    default=32000,
    show_default=True,
    help="Token ids are drawn below this.",
)
@click.option("--api", type=click.Choice(["completions", "chat"]), default="completions", show_default=True)
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the API key.")
@click.option("--timeout", "timeout_s", type=float, default=3600.0, show_default=True, help="Seconds per request.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep records and figures in this folder.")
@_json
def load(url: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Load any OpenAI-compatible server at URL and print TTFT, TPOT and throughput.

    \b
    Example:
        ratematch load http://localhost:8000 --model m --concurrency 1,4,16 --isl 1024 --osl 128
    """
    from ratematch.loadrun import LoadOptions, run_ladder
    from ratematch.show.loadview import LoadView, ladder_to_json

    asked = LoadOptions(url=url, **options)
    with LoadView(_stderr()) as view:
        rows = run_ladder(asked, output, view.update)
    if as_json:
        _print_json(ladder_to_json(rows))
    else:
        view.print_rows(rows, Console())
    if all(row.measurement.num_ok == 0 for row in rows):
        raise Untrustworthy(f"{url}: no request was answered; the reasons stand above")


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emulate(arguments: tuple[str, ...]) -> None:
    """A stand-in for the command trtllm-serve on machines without GPUs.

    \b
    Example:
        ratematch emulate serve deepseek-r1 --port 8001 --extra_llm_api_options worker.yaml
    """
    from ratematch.emulator.command import main as emulator

    emulator(list(arguments))


@main.command()
@click.option("--cluster", help="Check this cluster profile too.")
@_json
def doctor(cluster: str | None, as_json: bool) -> None:
    """Check this machine: versions, free disk, ports, the cluster profile.

    \b
    Example:
        ratematch doctor --cluster laptop
    """
    from ratematch.run.doctor import examine
    from ratematch.show.console import table

    found = examine(cluster)
    if as_json:
        _print_json({"ok": all(check.ok for check in found), "checks": [check.__dict__ for check in found]})
    else:
        console = Console()
        console.print(
            table(
                "ratematch doctor", ["check", "", "found"], [(c.name, "ok" if c.ok else "NO", c.found) for c in found]
            )
        )
    sys.exit(0 if all(check.ok for check in found) else 1)
