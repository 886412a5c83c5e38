"""Options and arguments that several verbs have in common, each written once."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ratematch.plan.numbers import (
    MOST_GPUS,
    MOST_MS,
    MOST_RATE,
    MOST_REQUESTS,
    MOST_TOKENS,
    brief,
    parse_number,
    parse_whole,
    shorten,
)

RESULTS = Path("results")
"""Where sweeps put their results unless another folder is named."""

PATH = click.Path(path_type=Path)


def _read(
    kind: click.FloatRange | click.IntRange,
    parse: Callable[[str], Any],
    value: Any,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    """What ``parse`` makes of a typed ``value``; a default stays what it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        kind.fail(f"{brief(value)} must be {error}.", param, ctx)


class Number(click.FloatRange):
    """A finite number in decimal from ``least`` to ``most``; with ``open``, above ``least``."""

    name = "number"

    def __init__(self, least: float, most: float, *, open: bool = False):
        super().__init__(least, most, min_open=open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_read(self, parse_number, value, param, ctx), param, ctx)


class Whole(click.IntRange):
    """A whole number in decimal from ``least`` to ``most``."""

    name = "integer"

    def __init__(self, least: int, most: int):
        super().__init__(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_read(self, parse_whole, value, param, ctx), param, ctx)


class Given(click.Path):
    """A file or folder that is read. A pipe or a device, which may have no end, is neither."""

    def __init__(self, *, exists: bool = False, file_okay: bool = True):
        super().__init__(exists=exists, file_okay=file_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            mode = Path(value).stat().st_mode
        except (OSError, ValueError):  # what reads it says so
            mode = stat.S_IFREG
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            self.fail(
                f"{shorten(str(value))} is a {'pipe' if stat.S_ISFIFO(mode) else 'device'}, not a file.", param, ctx
            )
        try:
            return super().convert(value, param, ctx)
        except OSError as error:  # a name longer than any file system has
            self.fail(f"{shorten(str(value))}: {error.strerror}.", param, ctx)


GIVEN = Given()
MS = Number(0, MOST_MS, open=True)
RATE = Number(0, MOST_RATE, open=True)
GPUS, NODES = Whole(1, MOST_GPUS), Whole(1, MOST_GPUS)
TOKENS, REQUESTS = Whole(1, MOST_TOKENS), Whole(1, MOST_REQUESTS)


class FiniteRange(click.FloatRange):
    """A number within bounds. click's own range takes ``nan`` for one, and ``inf`` where there is no upper bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the sweep file, e.g. workloads.0.isl=4096.",
)

cluster_option = click.option(
    "--cluster", metavar="NAME|FILE", help="Cluster profile, instead of the one that the sweep file names."
)

results_argument = click.argument("results", type=GIVEN)
folder_option = click.option("-o", "--output", type=PATH, required=True, help="Folder, made when it is new.")
force_option = click.option("--force", is_flag=True, help="Overwrite files that say something else.")
ttft_option = click.option("--ttft-ms", type=MS, help="TTFT limit instead of the sweep's.")
tpot_option = click.option("--tpot-ms", type=MS, help="TPOT limit instead of the sweep's.")

calibration_option = click.option(
    "--calibration", type=GIVEN, metavar="FILE", help="Predict and simulate with what `ratematch calibrate` wrote."
)


def _read_percentile(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    return int(value) if value and value.isdecimal() else value


ttft_of_option = click.option(
    "--ttft-of",
    type=click.Choice(["ctx", "deployment"]),
    help="Hold the TTFT limit of plans against a ctx server measured alone, or against requests in service, with the "
    "queue in front of it [default: the sweep's, else ctx].",
)
percentile_option = click.option(
    "--percentile",
    type=click.Choice(["mean", "50", "90", "95", "99"]),
    callback=_read_percentile,
    help="Where limits are judged, instead of the sweep's.",
)
