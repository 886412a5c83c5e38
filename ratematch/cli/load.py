"""The load generator alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ratematch.cli.group import json_option, main, print_json, stderr_console
from ratematch.errors import Untrustworthy


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
@json_option
def load(url: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Load any OpenAI-compatible server at URL and print TTFT, TPOT and throughput.

    \b
    Example:
        ratematch load http://localhost:8000 --model m --concurrency 1,4,16 --isl 1024 --osl 128
    """
    from ratematch.loadrun import LoadOptions, run_ladder
    from ratematch.show.loadview import LoadView, ladder_to_json

    asked = LoadOptions(url=url, **options)
    with LoadView(stderr_console()) as view:
        rows = run_ladder(asked, output, view.update)
    if as_json:
        print_json(ladder_to_json(rows))
    else:
        view.print_rows(rows, Console())
    if all(row.measurement.num_ok == 0 for row in rows):
        raise Untrustworthy(f"{url}: no request was answered; the reasons stand above")
