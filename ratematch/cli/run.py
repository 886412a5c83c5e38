"""Verbs that run and watch a sweep."""

from __future__ import annotations

import math
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ratematch.cli.group import echo, main, print_json, stderr_console, stdout_console
from ratematch.cli.options import (
    GIVEN,
    PATH,
    RESULTS,
    Given,
    Number,
    Whole,
    calibration_option,
    cluster_option,
    json_option,
    results_argument,
    set_option,
)
from ratematch.plan.numbers import MOST_GPUS, MOST_HOURS

if TYPE_CHECKING:
    from ratematch.plan.cluster import Cluster
    from ratematch.plan.sweep import Sweep


def run_on(results: Path, executor_note: str | None) -> None:
    """Start the same command in the background, and say how to reach it."""
    from ratematch.campaign.control import start_detached
    from ratematch.show.terminal import command_line

    pid = start_detached([word for word in sys.argv[1:] if word != "--detach"], results)
    echo(f"controller {pid} runs in the background, log: {results / 'controller.log'}")
    if executor_note:
        echo(executor_note, err=True)
    status, cancel = (command_line("ratematch", verb, results) for verb in ("status", "cancel"))
    echo(f"next: {status}, or {cancel}")


def _calibrate(sweep: Sweep, calibration: Path, executor: str) -> Sweep:
    """``sweep`` with calibrated step times, said on stderr. Refused where nothing of it would use them."""
    from ratematch.campaign.precheck import expand_sweep
    from ratematch.errors import UserError
    from ratematch.simulate.calibrationfile import calibrated_sweep
    from ratematch.simulate.forecasts import known_families

    if executor != "simulate" and not sweep.cluster.emulated and sweep.search != "adaptive":
        raise UserError("--calibration is for --executor simulate and search: adaptive: servers run as they run")
    calibrated, known = calibrated_sweep(sweep, calibration)
    echo(f"step times: {known.in_words()}", err=True)
    if sweep.search != "adaptive":
        return calibrated
    sds = known_families(expand_sweep(calibrated).experiments, sweep.cluster, known)
    said = ", ".join(f"{family} within {100 * math.expm1(1.96 * sd):.0f} %" for family, sd in sds)
    echo(f"the search starts from that: {said}", err=True)
    return replace(calibrated, family_sds=sds)


def _jobs_at_once(given: int | None, executor: str, cluster: Cluster) -> tuple[int | None, str]:
    """How many experiments run here side by side, and what is said of this machine where it is several."""
    from ratematch.run.neighbours import describe_host

    if given is not None or executor != "local" or cluster.emulated:
        return given, ""
    # Each takes GPUs of its own; what does not fit waits for them.
    return cluster.gpus, describe_host(cluster) if cluster.gpus > 1 else ""


@main.command()
@click.argument("sweep")
@set_option
@cluster_option
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Results folder [default: results/NAME, simulated: results/NAME-simulated].",
)
@calibration_option
@click.option(
    "--executor",
    type=click.Choice(["local", "debug", "slurm", "allocation", "simulate"]),
    help="Where servers run [default: slurm or local, by the cluster profile]; `simulate`: nowhere, the emulator's "
    "scheduler runs in virtual time.",
)
@click.option(
    "--max-jobs",
    type=Whole(1, 10_000),
    help="Jobs under way at once [default: one a GPU here (1 emulated), 16 in Slurm's queue, one a processor "
    "simulated].",
)
@click.option(
    "--pack",
    "pack_nodes",
    type=Whole(0, MOST_GPUS),
    is_flag=False,
    flag_value=0,
    metavar="[NODES]",
    help="Put several deployments into each Slurm job, of so many nodes [default: those of budget.max_gpus].",
)
@click.option("--pack-hours", type=Number(0.1, 10_000), default=4.0, show_default=True, help="Length of such a job.")
@click.option(
    "--max-gpu-hours",
    type=Number(0, MOST_HOURS),
    help="Stop in order when so many are spent, instead of the budget's.",
)
@click.option("--detach", is_flag=True, help="Run in the background; `status`, `logs` and `cancel` reach it.")
@click.option("--again", is_flag=True, help="Measure everything anew; earlier figures are moved aside.")
@json_option
def sweep(
    sweep: str,
    overrides: tuple[str, ...],
    output: Path | None,
    calibration: Path | None,
    executor: Any,
    again: bool,
    as_json: bool,
    max_jobs: int | None,
    pack_nodes: int | None,
    pack_hours: float,
    max_gpu_hours: float | None,
    detach: bool,
    cluster: str | None,
) -> None:
    """Run the whole method for SWEEP. Run it again to resume: only what is missing is measured.

    \b
    Example:
        ratematch sweep quickstart.yaml
    """
    from ratematch.store.uncollected import uncollected

    with uncollected():  # no garbage is made until all is loaded, and looking for it takes a tenth of the start
        from ratematch.inputs.find import read_sweep
        from ratematch.run.programs import choose_executor, refuse_missing

    # A scheduler or a wrapper that ends the controller means the same as Ctrl-C: stop in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parsed, text = read_sweep(sweep, overrides, cluster)
    chosen = executor or choose_executor(parsed.cluster)
    parsed = _calibrate(parsed, calibration, chosen) if calibration else parsed
    refuse_missing(chosen, parsed.cluster, parsed.engine)

    with uncollected():
        from ratematch.campaign.controller import run_campaign
        from ratematch.campaign.jobs.executor import Executor, choose_packing
        from ratematch.show.views.sweep import SweepView, describe_default_executor, outcome_to_json
        from ratematch.store.folder import Results
        from ratematch.store.withoutpandas import leave_pandas_out

    executor_note = None if executor else describe_default_executor(parsed.cluster, chosen)
    parsed = replace(parsed, simulated=chosen == "simulate")
    results = Results(output or RESULTS / (f"{parsed.name}-simulated" if parsed.simulated else parsed.name))
    if detach:
        run_on(results.path, executor_note)
        return
    if max_gpu_hours is not None:
        parsed = replace(parsed, budget=replace(parsed.budget, gpu_hours=max_gpu_hours))
    leave_pandas_out()
    packing = choose_packing(parsed, chosen, pack_nodes, pack_hours)
    max_jobs, host = _jobs_at_once(max_jobs, chosen, parsed.cluster)
    executor_note = "; ".join(filter(None, (executor_note, host))) or None
    with SweepView(stderr_console(), executor_note) as view:
        campaign = run_campaign(parsed, text, results, Executor(chosen, max_jobs, packing), view.update, again=again)
    if as_json:
        print_json(outcome_to_json(campaign))
    else:
        view.print_outcome(campaign)
    sys.exit(2 if campaign.failed else 3 if campaign.nothing_valid else 0)


@main.command()
@click.argument("experiment", type=Given(exists=True, file_okay=False))
def run(experiment: Path) -> None:
    """Measure what is missing of one EXPERIMENT folder, here and now: what each job of a sweep does.

    \b
    Example:
        ratematch run results/quickstart/gen-1024-64-gen1xDEP4-mtp1-6b1f2c90aa
    """
    from ratematch.errors import RunError
    from ratematch.run.experiment import measure_experiment

    outcome = measure_experiment(experiment)
    if outcome.error:
        raise RunError(outcome.error)
    echo(f"{experiment}: {outcome.measured} loads measured, all done")


@main.command()
@click.argument("results", type=GIVEN, default=RESULTS)
@json_option
def status(results: Path, as_json: bool) -> None:
    """Show how far the sweep in RESULTS is: state, loads, GPU-hours, and why something failed or waits.

    \b
    Example:
        ratematch status results/quickstart
    """
    from ratematch.store.uncollected import uncollected

    with uncollected():  # from the imports on: they make more objects than most folders do
        _print_status(results, as_json)


def _print_status(results: Path, as_json: bool) -> None:
    from functools import partial

    from ratematch.campaign.control import describe_gpus, queued_jobs
    from ratematch.campaign.decisions import read_chosen_runs, read_search, runs_to_json, search_to_json
    from ratematch.campaign.nodes import excluded_nodes
    from ratematch.show.views.search import print_choices, print_search
    from ratematch.show.views.status import print_status, status_to_json
    from ratematch.store.damage import Damage, readable
    from ratematch.store.folder import Results

    opened = Results.open(results)
    damaged: list[Damage] = []
    jobs = readable(partial(queued_jobs, opened), damaged) or {}
    nodes = readable(partial(excluded_nodes, opened), damaged) or {}
    searched = readable(partial(read_search, opened), damaged)
    choices = readable(partial(read_chosen_runs, opened), damaged) or []
    here = describe_gpus(opened)
    content = status_to_json(opened, {name: str(job) for name, job in jobs.items()}, nodes, damaged, here)
    if as_json:
        search = {"search": search_to_json(searched)} if searched else {}
        print_json(content | search | ({"end_to_end": runs_to_json(choices)} if choices else {}))
        return
    print_status(content, stdout_console())
    if searched:
        print_search(searched, choices, stdout_console())
    else:
        print_choices(choices, stdout_console())


@main.command()
@results_argument
@click.option(
    "--set-aside", is_flag=True, help="Move loads that cannot be used aside, so that a sweep measures them."
)
@json_option
def verify(results: Path, set_aside: bool, as_json: bool) -> None:
    """Check that RESULTS is what was measured: every file by its checksum, or by its load's figures.

    Exit code 1 when a file is damaged; what to measure again is listed.

    \b
    Example:
        ratematch verify results/quickstart
    """
    from functools import partial

    from ratematch.analysis import verify as verifying
    from ratematch.campaign.decisions import read_chosen_runs, read_search
    from ratematch.campaign.nodes import read_nodes
    from ratematch.errors import ResultsError
    from ratematch.show.views.verify import print_verification, verification_to_json
    from ratematch.store.folder import Results

    opened = Results.open(results)
    of_sweep = [partial(read, opened) for read in (read_chosen_runs, read_search, read_nodes)]
    verification = verifying.verify(opened, of_sweep)
    if as_json:
        print_json(verification_to_json(results, verification))
    else:
        print_verification(results, verification, stdout_console())
    for name in verifying.set_lost_aside(opened, verification) if set_aside else ():
        echo(f"{name}: moved aside; `ratematch sweep` measures it again", err=True)
    if verification.complaints:
        raise ResultsError(f"{results}: {len(verification.complaints)} files are damaged")


@main.command()
@results_argument
@click.argument("experiment", required=False)
def cancel(results: Path, experiment: str | None) -> None:
    """Stop the sweep in RESULTS, or one EXPERIMENT of it, in order. The same `sweep` command resumes it.

    \b
    Example:
        ratematch cancel results/quickstart
    """
    from ratematch.campaign.control import cancel_sweep
    from ratematch.store.folder import Results

    stopped = cancel_sweep(Results.open(results), experiment)
    for line in stopped or ["nothing runs there"]:
        echo(line)


@main.command()
@click.argument("experiment")
@click.option(
    "--role",
    type=click.Choice(["ctx", "gen", "agg", "orchestrator", "frontend", "etcd", "nats", "nginx", "driver"]),
    help="Only these servers.",
)
@click.option("--index", type=Whole(0, MOST_GPUS), help="Only this server of the role.")
@click.option(
    "-n", "--lines", type=Whole(0, 10_000_000), default=20, show_default=True, help="Last lines of each log."
)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on with new lines until the experiment ends.")
def logs(experiment: str, role: str | None, index: int | None, lines: int, following: bool) -> None:
    """Show the logs of an EXPERIMENT: its folder, or a part of its name below results/.

    \b
    Example:
        ratematch logs gen1xDEP4-mtp1 --role gen --index 0 -f
    """
    from ratematch.campaign.control import find_experiment, find_logs, follow_logs
    from ratematch.run.launch import log_tail

    folder = find_experiment(RESULTS, experiment)
    files = find_logs(folder, role, index)
    for log in files:
        echo(f"==> {log.path}", err=True)
        if tail := log_tail(log.path, lines) if lines else "":
            echo(tail)
    if following:
        for log, line in follow_logs(folder, files):
            echo(line if len(files) == 1 else f"{log.name}: {line}")
