"""A calibration, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ratematch.show.console import table

if TYPE_CHECKING:  # `show` draws what it is handed
    from ratematch.simulate.calibration import Calibration

MEANINGS = {
    "fixed": "fixed time of layers, exchanges and steps",
    "memory": "speed of reading weights and caches",
    "compute": "speed of matrix products and of prompts' attention",
    "link": "speed of exchanges between GPUs",
}


def print_calibration(calibration: Calibration, console: Console) -> None:
    """What is corrected and how well that is known, and each load before and after."""
    one = calibration.correction
    factors = [
        (meaning, getattr(one, part), *calibration.factor_interval(part)) for part, meaning in MEANINGS.items()
    ]
    what = f"calibrated for {one.model} in {one.precision} on {one.gpu}"
    if calibration.carried_from:
        what += f", by loads of {calibration.carried_from}"
    console.print(table(what, ("factor on", "value", "95 %: low", "high"), factors))
    families = [
        (each.family, each.loads, each.measured, each.factor, each.low, each.high) for each in calibration.families
    ]
    columns = ("family", "loads", "measured over predicted", "beside the factors", "95 %: low", "high")
    console.print(table("speed by mapping family", columns, families))
    for each in calibration.families:
        console.print(Text(each.words), soft_wrap=True)
    loads = [(point.name, point.before, point.after) for point in calibration.points]
    console.print(table("measured over predicted speed", ("load", "before", "calibrated"), loads))
    if calibration.surprise:
        console.print(Text(calibration.surprise, style="yellow"), soft_wrap=True)
    own = 100 * 1.96 * calibration.server_sd(aggregated=False)
    spread = f"servers that were not measured: within {own:.0f} % of what this predicts, 95 % of them, were it known"
    console.print(
        Text(f"{spread} exactly (aggregated: {196 * calibration.server_sd(aggregated=True):.0f} %)", style="dim")
    )
    console.print(
        Text("TTFT is corrected as far as steps make it; what waiting adds is not", style="dim"), soft_wrap=True
    )
    console.print(Text(f"step times: {one.name}"), soft_wrap=True)
