"""``ratematch calibrate``: from a few measured loads to a correction of the step-time model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ratematch.cli.group import echo, main, print_json, stdout_console
from ratematch.cli.options import GIVEN, PATH, cluster_option, json_option, set_option

if TYPE_CHECKING:
    from ratematch.plan.model import Model
    from ratematch.simulate.calibration import Calibration
    from ratematch.simulate.calibrationpoints import MeasuredSpeed


def _read_speeds(
    measured: Path, sweep: str | None, overrides: tuple[str, ...], cluster: str | None
) -> list[MeasuredSpeed]:
    """What a results folder or a table says."""
    from ratematch.errors import UserError
    from ratematch.inputs.find import read_sweep
    from ratematch.inputs.ratetable import MOST_BYTES, read_rates
    from ratematch.inputs.textfile import read_text_file
    from ratematch.match.question import Question
    from ratematch.simulate.calibrationpoints import speeds_in, speeds_of_table
    from ratematch.simulate.calibrationrows import is_deployment_table, speeds_of_deployments
    from ratematch.store.folder import Results

    if measured.is_file() or (sweep is not None and not measured.is_dir()):
        if sweep is None:
            raise UserError(f"{measured}: a table does not say what was measured: name a sweep of it with --sweep")
        parsed, _ = read_sweep(sweep, overrides, cluster)
        text = read_text_file(measured, MOST_BYTES)
        if is_deployment_table(text):
            return speeds_of_deployments(text, parsed, str(measured))
        return speeds_of_table(read_rates(measured, Question())[0], parsed, str(measured))
    if sweep is not None or overrides or cluster is not None:
        raise UserError("--sweep, --set and --cluster belong to a table: a results folder says what was measured")
    return speeds_in(Results.open(measured))


def _carry_over(calibration: Calibration, measured: Model, wanted: str) -> Calibration:
    """``calibration`` for the model that ``wanted`` names."""
    from ratematch.errors import UserError
    from ratematch.inputs.catalog import load_model
    from ratematch.simulate.carrying import carry_over

    try:
        return carry_over(calibration, measured, load_model(wanted))
    except ValueError as error:
        raise UserError(f"--for-model: {error}") from None


@main.command()
@click.argument("measured", type=GIVEN, metavar="RESULTS|TABLE")
@click.option("--sweep", metavar="SWEEP", help="Of a table: what was measured; its engine, model, GPU and workload.")
@set_option
@cluster_option
@click.option(
    "--for-model",
    metavar="NAME|PATH",
    help="Carry the correction over to this model, whose layers are of the same kinds, on the same GPU in the same "
    "weight format.",
)
@click.option("-o", "--output", type=PATH, help="Write the calibration to this file, for --calibration.")
@json_option
def calibrate(
    measured: Path,
    sweep: str | None,
    overrides: tuple[str, ...],
    cluster: str | None,
    for_model: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Correct predictions for one GPU type and model by a few loads measured on it, with what remains unknown.

    RESULTS is a results folder, whose ctx and gen loads are used. TABLE is a table of rates as `ratematch match`
    reads it, with mappings such as DEP8 for labels and rates of one instance, or one of whole disaggregated
    deployments with the columns of benchmarks/real_deployments/rows.csv. One ctx load and two gen loads at
    different concurrencies are enough. `plan --predict`, `sweep --executor simulate` and the adaptive search take the
    file with --calibration.

    \b
    Example:
        ratematch calibrate results/h200-qwen3-8b -o h200-qwen3-8b.json
        ratematch calibrate results/h200-qwen3-8b --for-model qwen3-32b -o h200-qwen3-32b.json
        ratematch calibrate rates.csv --sweep deepseek-r1 -o gb200.json
    """
    from ratematch.errors import UserError
    from ratematch.inputs.catalog import model_of
    from ratematch.show.views.calibration import print_calibration
    from ratematch.simulate.calibrationfile import calibration_to_json
    from ratematch.simulate.calibrationpoints import calibrate_speeds
    from ratematch.store.files import to_text, write_text

    speeds = _read_speeds(measured, sweep, overrides, cluster)
    calibration = calibrate_speeds(speeds, str(measured))
    if for_model is not None:
        calibration = _carry_over(calibration, model_of(speeds[0].experiment), for_model)
    content = calibration_to_json(calibration)
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_text(output, to_text(content))
        except OSError as error:
            raise UserError(f"{output}: cannot be written ({error.strerror})") from None
    if as_json:
        print_json(content)
        return
    print_calibration(calibration, stdout_console())
    if output is not None:
        echo(str(output))
