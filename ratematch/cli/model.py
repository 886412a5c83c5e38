"""``ratematch model``: what is known of a model, by its name or its files."""

from __future__ import annotations

import click

from ratematch.cli.group import main, print_json
from ratematch.cli.options import json_option


@main.group()
def model() -> None:
    """What is known of a model, by its name or from its files."""


@model.command("show")
@click.argument("model", metavar="NAME|PATH")
@click.option(
    "--gpu", "gpus", multiple=True, metavar="GPU", help="Memory on these GPUs; may be repeated [default: h200, b200]."
)
@click.option("--precision", metavar="FORMAT", help="Of the weights: fp8, nvfp4, bf16, ... [default: the usual one].")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print its keys as a model file, to be changed by hand.")
@json_option
def show(model: str, gpus: tuple[str, ...], precision: str | None, as_yaml: bool, as_json: bool) -> None:
    """Show how a model is understood, what it takes of a GPU, and what is not modelled.

    A path is the folder of a checkpoint, its config.json, or a model file. Weights are not read, nothing is fetched.

    \b
    Example:
        ratematch model show deepseek-v3.2 --gpu b300
        ratematch model show /models/Qwen3.5-397B-A17B-FP8
        ratematch model show gpt-oss-120b --yaml > models/mine.yaml
    """
    from ratematch.errors import UserError
    from ratematch.inputs.catalog import load_gpu, load_model
    from ratematch.plan.precision import read_precision, with_precision
    from ratematch.show.views.model import model_to_json, print_model

    known = load_model(model)
    kinds = [load_gpu(name) for name in gpus or ("h200", "b200")]
    if precision is not None:
        try:
            known = with_precision(known, read_precision(precision))
        except ValueError as error:
            raise UserError(f"--precision: {error}") from None
    if as_yaml:
        import yaml

        from ratematch.cli.group import echo
        from ratematch.plan.modelfile import facts_of

        text = yaml.safe_dump(facts_of(known, texts=True), sort_keys=False, width=110, allow_unicode=True)
        echo(text.rstrip())
    elif as_json:
        print_json(model_to_json(known, kinds))
    else:
        from ratematch.cli.group import stdout_console

        print_model(known, kinds, stdout_console())
