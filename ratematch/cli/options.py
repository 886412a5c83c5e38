"""Options and arguments that several verbs have in common, each written once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

RESULTS = Path("results")
"""Where sweeps put their results unless another folder is named."""

PATH = click.Path(path_type=Path)
POSITIVE = click.FloatRange(0, min_open=True)


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

results_argument = click.argument("results", type=PATH)
folder_option = click.option("-o", "--output", type=PATH, required=True, help="Folder, made when it is new.")
force_option = click.option("--force", is_flag=True, help="Overwrite files that say something else.")
ttft_option = click.option("--ttft-ms", type=POSITIVE, help="TTFT limit instead of the sweep's.")
tpot_option = click.option("--tpot-ms", type=POSITIVE, help="TPOT limit instead of the sweep's.")
