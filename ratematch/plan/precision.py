"""Precision of a model: the number format that a checkpoint is named after, by what people write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from ratematch.plan.formats import FORMAT_BYTES
from ratematch.plan.memory import default_precision
from ratematch.plan.model import Gpu, Model
from ratematch.plan.numbers import brief

PRECISION_AXIS = "precision"

SPELLINGS = {
    "fp16": "bf16",
    "float16": "bf16",
    "bfloat16": "bf16",
    "fp8_block": "fp8",
    "fp8-block": "fp8",
    "w4a16": "int4",
    "awq": "int4",
    "gptq": "int4",
}
"""What other tools call a format."""

_END = re.compile(r"[-_.](nvfp4|mxfp4|mxfp8|fp4|fp8|int4|int8|bf16|fp16|awq|gptq)(?:[-_.]?v\d+)?$")


def read_precision(text: str, gpu: Gpu | None = None) -> str:
    """The format that ``text`` names; ``fp4`` is NVFP4 on NVIDIA GPUs that compute it, and MXFP4 elsewhere.

    Raises:
        ValueError: it names none, with those that are known.
    """
    word = text.strip().lower()
    word = SPELLINGS.get(word, word)
    if word == "fp4":
        return "nvfp4" if gpu is None or "nvfp4" in gpu.flops or "mxfp4" not in gpu.flops else "mxfp4"
    if word not in FORMAT_BYTES:
        raise ValueError(f"{brief(text)} is no precision: use one of fp4, {', '.join(FORMAT_BYTES)}")
    return word


def split_precision(name: str) -> tuple[str, str]:
    """``qwen3-32b-fp8`` as name and precision; the precision is empty where the name ends with none."""
    match = _END.search(name.lower())
    if match is None:
        return name, ""
    return name[: match.start()], read_precision(match[1])


def with_precision(model: Model, precision: str) -> Model:
    """``model`` in a checkpoint of ``precision``; as it is where that is empty."""
    return replace(model, chosen_precision=precision) if precision else model


def axis_precisions(values: object, model: Model, gpu: Gpu) -> list[str]:
    """The values of an axis as workloads have them; those that are no precision are left to the checks of axes."""
    listed = values if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    names = []
    for value in listed:
        try:
            names.append(usual_or(model, gpu, read_precision(str(value), gpu)))
        except ValueError:
            continue
    return names


def usual_or(model: Model, gpu: Gpu, precision: str) -> str:
    """``precision``, or what the model's name asks for; empty where that is what it has anyway."""
    wanted = precision or model.chosen_precision
    return "" if wanted == default_precision(replace(model, chosen_precision=""), gpu) else wanted
