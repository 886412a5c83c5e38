"""Verbs that turn figures into fronts and plans."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ratematch.cli.group import echo, main, print_json, stdout_console
from ratematch.cli.options import (
    GIVEN,
    GPUS,
    MS,
    NODES,
    PATH,
    RATE,
    TOKENS,
    Number,
    Whole,
    json_option,
    percentile_option,
    ttft_of_option,
)
from ratematch.errors import Regression, Untrustworthy, UserError
from ratematch.plan.numbers import MOST_GPUS, MOST_REQUESTS, brief, parse_number, parse_whole, shorten

if TYPE_CHECKING:
    from ratematch.match.points import Analysis

Command = Callable[..., Any]


def _read_concurrencies(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        numbers = tuple(parse_whole(part) for part in value.split(",")) if value else ()
    except ValueError:
        numbers = (0,)
    if any(not 1 <= number <= MOST_REQUESTS for number in numbers):
        raise click.BadParameter(f"{brief(value)}: whole numbers above 0 with commas between, such as 16,64")
    return numbers


def _refuse_empty(analysis: Analysis, results: Path, where: str) -> None:
    """Ends the verb where there is no point on any front, with what is the matter; ``where`` the reasons stand."""
    workloads = analysis.workloads
    if any(workload.rate_matched or workload.end_to_end or workload.ifb for workload in workloads):
        return
    if any(workload.left_out or workload.measured or workload.plans for workload in workloads):
        raise Untrustworthy(f"{results}: no valid point is left; {where} says why for each load")
    # Nothing is wrong with what was measured: it is of servers from which no deployment can be made.
    notes = dict.fromkeys(note for workload in workloads for note in workload.notes if note.startswith("no "))
    more = (
        "; --max-gpus plans larger ones" if any(note.startswith("no deployment of up to") for note in notes) else ""
    )
    raise Untrustworthy(f"{results}: its loads are valid, and no point follows from them: {'; '.join(notes)}{more}")


OBJECTIVES = ("per_used_gpu", "per_allocated_gpu", "tok_s_in_budget")


@main.command()
@click.argument("results", type=GIVEN)
@click.option("-o", "--output", type=PATH, help="Folder for tables and plots [default: RESULTS/report].")
@click.option("--ttft-ms", type=MS, help="TTFT limit instead of the sweep's.")
@ttft_of_option
@click.option("--tpot-ms", type=MS, help="TPOT limit instead of the sweep's.")
@percentile_option
@click.option("--max-gpus", type=GPUS, help="Largest deployment to plan, instead of the sweep's.")
@click.option("--calibrate", is_flag=True, help="Predict with derate factors fitted to the end-to-end runs.")
@click.option(
    "--request-rate",
    type=RATE,
    help="Open loop, requests/s: how many GPUs keep the limits?",
)
@click.option(
    "--routing",
    type=click.Choice(["round_robin", "random", "shared"]),
    default="round_robin",
    show_default=True,
    help="How open-loop requests reach ctx instances.",
)
@click.option(
    "--figure",
    type=click.Choice([str(number) for number in range(9, 16)]),
    help="Only the layout of this figure of the TensorRT-LLM study, from these results.",
)
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="per_used_gpu",
    show_default=True,
    help="What tok/s/GPU is over: GPUs in use, all GPUs of the nodes taken, or all of --max-gpus.",
)
@click.option("--gpus-per-node", type=GPUS, help="Size of a node [default: the cluster's].")
@click.option("--nodes", type=NODES, help="Most nodes of a plan.")
@click.option(
    "--share-nodes/--no-share-nodes", default=True, show_default=True, help="May ctx and gen stand on one node?"
)
@click.option("--segment-gpus", type=GPUS, help="Most GPUs of one instance: NVLink domain, rack, Slurm segment.")
@click.option(
    "--join-precisions", is_flag=True, help="One front for all precisions of the weights [default: one for each]."
)
@click.option("--remeasure", is_flag=True, help="Compute all figures anew from the request records first.")
@json_option
def pareto(
    results: Path,
    output: Path | None,
    figure: str | None,
    remeasure: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Match rates and draw the fronts of RESULTS: tables (csv, json) and plots (png, svg, csv).

    \b
    Example:
        ratematch pareto results/quickstart --ttft-ms 500
        ratematch pareto results/sample --figure 11
        ratematch pareto results/quickstart --request-rate 40 --ttft-ms 2000 --percentile 99
        ratematch pareto results/quickstart --objective per_allocated_gpu --no-share-nodes
    """
    from ratematch.analysis import analyze
    from ratematch.match.openloop import describe_limits
    from ratematch.match.question import Question
    from ratematch.report import pictures
    from ratematch.show.tables import analysis_to_json, write_tables
    from ratematch.show.views.analysis import print_analysis
    from ratematch.show.views.details import print_details
    from ratematch.store.folder import Results

    opened = Results.open(results)
    if remeasure:
        analyze.remeasure(opened)
    question = Question(**options)
    inputs = analyze.read_inputs(opened, question if figure is None else question.limits_only())
    folder = output or results / "report"
    if figure is not None:
        for path in pictures.draw_figure(inputs, int(figure)).save(folder):
            echo(str(path))
        return
    analysis = analyze.analyze_inputs(inputs)
    # The picture people came for stands last, where the eye ends.
    drawn = [path for picture in pictures.draw_pictures(opened, inputs, analysis) for path in picture.save(folder)]
    tables = write_tables(analysis, folder)
    if as_json:
        print_json(analysis_to_json(analysis))
    else:
        print_analysis(analysis, stdout_console())
        limits = describe_limits(inputs.constraints)
        print_details(analysis, stdout_console(), request_rate=question.request_rate, limits=limits)
        echo(f"{folder}: {', '.join(path.name for path in tables)}; plots, each as .png, .svg and .csv:")
        for path in reversed(drawn):
            if path.suffix == ".png":
                echo(str(path))
    _refuse_empty(analysis, results, "the table above")


@main.command()
@click.argument("results", type=GIVEN)
@click.option("-o", "--output", type=PATH, help="The page [default: RESULTS/report/report.html].")
@click.option(
    "--at", metavar="TOK/S/USER", help="Recommend for these, e.g. 20,50 [default: the TPOT limit, else 20,50,100]."
)
@click.option("--ttft-ms", type=MS, help="TTFT limit instead of the sweep's.")
@ttft_of_option
@click.option("--tpot-ms", type=MS, help="TPOT limit instead of the sweep's.")
@percentile_option
@click.option("--notebook", is_flag=True, help="Also executed copies of the notebooks, beside the page.")
def report(
    results: Path,
    output: Path | None,
    at: str | None,
    notebook: bool,
    **limits: Any,
) -> None:
    """Write RESULTS as one page, report.html: what to run, how sure that is, every front, table and plot.

    \b
    Example:
        ratematch report results/sample --at 30,60
    """
    from ratematch.analysis import analyze
    from ratematch.match.question import Question
    from ratematch.report import collect
    from ratematch.report.notebooks import write_executed
    from ratematch.store.folder import Results

    opened = Results.open(results)
    inputs = analyze.read_inputs(opened, Question(**limits))
    targets = collect.parse_targets(at) if at else None
    page = output or results / "report" / "report.html"
    analysis = analyze.analyze_inputs(inputs)
    collect.write_report(
        opened,
        inputs,
        analysis,
        page,
        command=shlex.join(["ratematch", *sys.argv[1:]]),
        targets=targets,
    )
    if notebook:
        for path in write_executed(results, page.parent):
            echo(str(path))
    echo(str(page))
    _refuse_empty(analysis, results, "the page")


@main.command()
@click.argument("before", type=GIVEN)
@click.argument("after", type=GIVEN)
@click.option(
    "--max-regression", default="3%", show_default=True, help="Exit 4 when AFTER is worse by more, beyond the noise."
)
@click.option("-o", "--output", type=PATH, help="Folder for pictures of both fronts.")
@click.option("--ttft-ms", type=MS, help="TTFT limit instead of the sweeps'.")
@ttft_of_option
@click.option("--tpot-ms", type=MS, help="TPOT limit instead of the sweeps'.")
@percentile_option
@json_option
def compare(
    before: Path,
    after: Path,
    max_regression: str,
    output: Path | None,
    as_json: bool,
    **limits: Any,
) -> None:
    """Compare two sweeps: what differs in versions and settings, and AFTER's fronts over BEFORE's with intervals.

    Exit code 4, for CI, when AFTER is worse than --max-regression allows and the noise cannot explain it.

    \b
    Example:
        ratematch compare results/main results/my-branch --max-regression 3%
    """
    from dataclasses import asdict, astuple

    from ratematch.analysis import compare
    from ratematch.match.question import Question
    from ratematch.show.plots.change import picture_change
    from ratematch.show.views.change import change_to_json, print_change

    share = parse_share(max_regression)
    comparison = compare.compare_results(before, after, Question(**limits), max_regression=share)
    change = comparison.change
    if as_json:
        print_json(change_to_json(change) | {"drift": [asdict(drift) for drift in comparison.drift]})
    else:
        print_change(
            change, [astuple(drift) for drift in comparison.drift], str(before), str(after), stdout_console()
        )
    if output is not None:
        for workload in dict.fromkeys(front.workload for front in change.fronts):
            picture = picture_change(change, comparison.before, comparison.after, workload)
            for path in picture.save(output) if picture else ():
                echo(str(path), err=as_json)
    if change.regressions:
        raise Regression(f"{after} is worse than {before}: {change.regressions[0]}")


def parse_share(text: str) -> float:
    """``3%`` or ``0.03``.

    Raises:
        UserError: not a share from 0 to 1.
    """
    word = text.strip()
    try:
        share = parse_number(word.removesuffix("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UserError(f"--max-regression {shorten(text)}: write a share such as 3% or 0.03")
    return share


@main.command()
@click.argument("table", type=PATH, metavar="TABLE.csv")
@click.option("--osl", type=TOKENS, help="Output length to match [default: that of most gen rows].")
@click.option("--max-gpus", type=Whole(2, MOST_GPUS), help="Largest deployment [default: that of --nodes, else 72].")
@click.option("--gpus-per-node", type=GPUS, help="Pack instances on nodes of this size.")
@click.option("--nodes", type=NODES, help="Most nodes; needs --gpus-per-node.")
@click.option("--share-nodes/--no-share-nodes", default=False, help="May ctx and gen stand on one node?")
@click.option("--ttft-ms", type=MS, help="Most TTFT of a ctx or ifb row, or of plans in service.")
@ttft_of_option
@click.option("--tpot-ms", type=MS, help="Most TPOT of a plan, after throttling.")
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="per_used_gpu",
    show_default=True,
)
@click.option(
    "--concurrency",
    callback=_read_concurrencies,
    metavar="N,N,...",
    help="Predict the plans also with so many requests in flight, as a benchmark holds them.",
)
@click.option("--all-plans", is_flag=True, help="Every feasible plan, not the best of each ctx and gen pair.")
@click.option(
    "--piece-us",
    type=Number(0, 1e6),
    default=3.2,
    show_default=True,
    help="What posting one of a gen row's kv_pieces takes of the server, microseconds.",
)
@json_option
def match(
    table: Path,
    osl: int | None,
    concurrency: tuple[int, ...],
    all_plans: bool,
    piece_us: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Match rates that are already measured: TABLE.csv to plans, fronts and the speed-up over IFB.

    Columns: role (ctx, gen, ifb), label, gpus, isl, osl, concurrency, req_s, tok_s, tpot_ms, ttft_ms, mtp, kv_pieces.
    docs/rate-matching.md has the definitions and a worked example.

    \b
    Example:
        ratematch match rates.csv --max-gpus 72 --gpus-per-node 4 --ttft-ms 1000
    """
    from ratematch.inputs.ratetable import read_rates
    from ratematch.match.question import Question
    from ratematch.match.tablematch import TableOptions, match_table
    from ratematch.show.views.match import match_to_json, print_match

    rows, question = read_rates(table, Question(**options))
    result = match_table(rows, question, TableOptions(osl, concurrency, all_plans, piece_us), name=str(table))
    for note in result.notes:
        echo(f"note: {note}", err=True)
    if as_json:
        print_json(match_to_json(result))
    else:
        print_match(result, stdout_console())
