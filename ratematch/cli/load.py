"""The load generator alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ratematch.cli.group import main, print_json, stderr_console, stdout_console
from ratematch.cli.options import FiniteRange, json_option
from ratematch.errors import Untrustworthy
from ratematch.plan.requestapi import APIS

if TYPE_CHECKING:
    from ratematch.loadgen.ladder import LoadOptions, LoadRow
    from ratematch.measure.servermetrics import ReadSamples

Command = TypeVar("Command", bound=Callable[..., Any])

MONTH_S = 31 * 86400.0
LENGTH = click.IntRange(1, 100_000_000)
COUNT = click.IntRange(0, 1_000_000)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_how_hard = _options(
    click.option("--concurrency", default="", help="Closed loop: requests in flight, a ladder: 1,2,4,8."),
    click.option("--request-rate", default="", help="Open loop: requests/s, a ladder: 0.5,1,2."),
    click.option("--replay", default="", help="Open loop: the instants of --dataset, at these speeds: 1,2."),
    click.option(
        "--arrival", type=click.Choice(["poisson", "constant", "gamma"]), default="poisson", show_default=True
    ),
    click.option(
        "--burstiness",
        type=FiniteRange(1e-3, 1e3),
        default=1.0,
        help="Gamma: 1 = Poisson, less = burstier.",
    ),
    click.option("--ramp-to", type=FiniteRange(1e-5, 1e6), help="The rate changes linearly to this."),
    click.option("--max-in-flight", type=COUNT, default=0, help="Open loop: more wait, and it counts."),
    click.option(
        "--num-requests", type=click.IntRange(1, 10**9), help="Of each load [default: 8 x concurrency, 16 at least]."
    ),
    click.option(
        "--duration", type=FiniteRange(0, MONTH_S, min_open=True), help="Seconds of each load, instead of a number."
    ),
    click.option(
        "--warmup",
        type=COUNT,
        help="Requests before, kept apart [default: a quarter of the concurrency].",
    ),
    click.option(
        "--stagger", "stagger_s", type=FiniteRange(0, MONTH_S), default=0.0, help="Seconds to start all slots in."
    ),
)
_what = _options(
    click.option("--isl", type=LENGTH, default=1024, show_default=True, help="Prompt tokens, exact."),
    click.option("--osl", type=LENGTH, default=128, show_default=True, help="Output tokens."),
    click.option(
        "--isl-ratio", type=FiniteRange(0, 1, min_open=True), default=1.0, help="Uniform from RATIO*ISL to ISL."
    ),
    click.option(
        "--osl-ratio", type=FiniteRange(0, 1, min_open=True), default=1.0, help="Uniform from RATIO*OSL to OSL."
    ),
    click.option(
        "--isl-spread", default="", metavar="SHAPE", help="normal:MEAN,STD or lognormal:MEAN,STD, up to ISL."
    ),
    click.option("--osl-spread", default="", metavar="SHAPE", help="The same for outputs, up to OSL."),
    click.option("--prefix-share", type=FiniteRange(0, 1, max_open=True), default=0.0, help="Share of each prompt."),
    click.option(
        "--prefix-groups", type=click.IntRange(1, 100_000), default=1, help="How many different shared prefixes."
    ),
    click.option(
        "--warm-prompts",
        is_flag=True,
        help="As many different prompts as are in flight, each sent once before the clock: TPOT of a decode server "
        "whose prefix cache holds them.",
    ),
    click.option("--turns", type=click.IntRange(1, 100_000), default=1, help="Requests of one conversation."),
    click.option("--think-time", "think_s", type=FiniteRange(0, MONTH_S), default=0.0, help="Seconds between turns."),
    click.option(
        "--dataset",
        default="",
        metavar="FILE",
        help="Prompts, messages, token ids or a trace, in the formats of docs/load-generator.md.",
    ),
    click.option(
        "--time-unit",
        type=click.Choice(["s", "ms", "us", "ns"]),
        help="Of the data set's timestamps and delays [default: as its format says].",
    ),
    click.option(
        "--hash-block",
        type=click.IntRange(0, 1_000_000),
        default=0,
        help="Prompt tokens behind one of its hash_ids [default: what agrees with all lines].",
    ),
    click.option("--text", default="", metavar="FILE", help="Prompts are cut from this text; needs --tokenizer."),
    click.option("--tokenizer", default="", metavar="PATH", help="A model's folder or tokenizer.json. Optional."),
    click.option(
        "--vocab-size", type=click.IntRange(1000, 2**31 - 1), help="Random ids are below this [default: 32000]."
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        help="Same seed, same requests and instants [default: drawn each run and printed; with -o the folder's].",
    ),
)
_to_whom = _options(
    click.option("--model", required=True, help="Model name in the request body."),
    click.option(
        "--api",
        type=click.Choice(APIS),
        help="generate, generate-ids: Triton's generate_stream, with text or token ids; --model is then the model in "
        "its repository [default: completions; chat for a data set of messages]",
    ),
    click.option("--stream/--no-stream", default=True, help="Without streaming there is no TTFT and no TPOT."),
    click.option("--extra-body", default="", metavar="JSON", help="Merged into each body; null takes a field out."),
    click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the API key."),
    click.option(
        "--timeout",
        "timeout_s",
        type=FiniteRange(0, MONTH_S, min_open=True),
        default=3600.0,
        show_default=True,
        help="Seconds a request.",
    ),
    click.option(
        "--processes", type=click.IntRange(1, 256), help="Sending processes [default: as many as are needed]."
    ),
)
_judged = _options(
    click.option(
        "--goodput", default="", metavar="LIMITS", help="ttft<=1000,tpot<=50 in ms: requests/s that keep them."
    ),
    click.option("--target-ci", default="", metavar="2%", help="End a load when its 95 % intervals are this narrow."),
    click.option("--give-up", is_flag=True, help="End load and ladder when --goodput or the rate is hopeless."),
    click.option(
        "--server-metrics", multiple=True, metavar="URL", help="Read meanwhile: Prometheus or TensorRT-LLM /metrics."
    ),
)


@main.command()
@click.argument("url")
@_to_whom
@_how_hard
@_what
@_judged
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep records, figures and exports here.")
@json_option
def load(url: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Load any OpenAI-compatible server at URL and print TTFT, TPOT and throughput.

    Latencies count from the send in closed loop and from the intended instant in open loop. With -o each load gets a
    folder with records.parquet, measurement.json and the files of AIPerf and benchmark_serving.

    \b
    Example:
        ratematch load http://localhost:8000 --model m --concurrency 1,4,16 --isl 1024 --osl 128
        ratematch load http://localhost:8000 --model m --request-rate 2,4,8 --goodput 'ttft<=1000,tpot<=50'
        ratematch load http://localhost:8000 --model m --dataset trace.jsonl --isl 65536 --osl 2048 --replay 1
    """
    from ratematch.loadgen.cores import keep_apart_as_asked
    from ratematch.loadgen.ladder import LadderStart, LoadOptions, run_ladder
    from ratematch.show.views.load import LoadView, kept_rows, ladder_to_json

    settings = LoadOptions(url=url, **options)
    begun: list[LadderStart] = []
    with LoadView(stderr_console()) as view, keep_apart_as_asked() as notes:

        def show_start(start: LadderStart) -> None:
            begun.append(start)
            view.print_start(start)

        for note in notes:
            click.echo(note, err=True)
        rows = run_ladder(
            settings,
            output,
            view.update,
            lambda row, folder: _export(row, folder, settings),
            _metrics_reader(settings),
            show_start,
        )
    kept = kept_rows(begun[0])
    if as_json:
        print_json(ladder_to_json(rows, begun[0], kept))
    else:
        view.print_rows(rows, stdout_console(), begun[0])
    if not any(row.measurement.valid for row in rows) and not any(row.get("valid") for row in kept):
        answered = any(row.measurement.num_ok for row in rows)
        what = "no load gave figures that may be trusted" if answered else "no request was answered"
        raise Untrustworthy(f"{url}: {what}; the reasons stand above")


def _metrics_reader(options: LoadOptions) -> ReadSamples:
    """What reads the answers of ``--server-metrics``. Engines are imported only where there are such addresses."""
    from ratematch.measure.servermetrics import read_prometheus

    if not options.server_metrics:
        return read_prometheus
    from ratematch.engines import read_metrics

    return read_metrics


def _export(row: LoadRow, folder: Path | None, settings: Any) -> None:
    if folder is None:
        return
    from ratematch.exchange.results.aiperf import (
        RECORDS_FILE,
        SUMMARY_FILE,
        profile_export_aiperf,
        profile_export_lines,
    )
    from ratematch.exchange.results.benchmark_serving import benchmark_serving_result
    from ratematch.exchange.results.foreign import RunInfo
    from ratematch.store.files import write_json, write_lines

    result, goal = row.result, settings.goal()
    info = RunInfo(
        settings.model, settings.url, row.load, row.target.api, result.wall_start_ns - result.start_ns, row.emulated
    )
    write_lines(folder / RECORDS_FILE, profile_export_lines(result.records, info, result.warmup))
    write_json(folder / SUMMARY_FILE, profile_export_aiperf(result.records, info, goal))
    write_json(folder / "benchmark_serving.json", benchmark_serving_result(result.records, info, goal))
