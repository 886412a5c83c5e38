"""GPU file text -> Gpu: the package's own and those that people write; ``slurm/README.md`` has the keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ratematch.errors import CatalogError
from ratematch.plan.formats import FORMAT_BYTES
from ratematch.plan.located import Located, read_located
from ratematch.plan.model import Gpu

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Gpu(BaseModel):
    # Numbers may be text: YAML 1.1 reads 8e12, without a dot and a sign, as such.
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=64)]
    source: str = ""
    aliases: list[str] = []
    memory_b: Annotated[float, Field(ge=1e9, le=1e14, allow_inf_nan=False)]
    memory_b_s: Positive
    flops: dict[str, Positive]
    nvlink_b_s: Positive
    network_b_s: Positive
    nvlink_domain: Annotated[int, Field(ge=1)]
    precision: str

    @field_validator("memory_b", "memory_b_s", "nvlink_b_s", "network_b_s", "nvlink_domain", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("a number")
        return value


VALID_KEYS = {"": tuple(_Gpu.model_fields), "flops": tuple(FORMAT_BYTES)}


def gpu_schema() -> dict[str, Any]:
    """JSON schema of a GPU file."""
    return _Gpu.model_json_schema()


def parse_gpu(text: str, source: str, file: str = "") -> Gpu:
    """The GPU type that ``text`` describes. ``source``: name for messages. ``file``: where it lies, for what reads it
    again; empty for the package's own.

    Raises:
        CatalogError: with every problem of the file, each with ``source`` and line.
    """
    located = read_located(text, source)
    if not located.problems and not isinstance(located.data, dict):
        located.add((), "a GPU file is a map of keys", f"valid keys: {', '.join(VALID_KEYS[''])}")
    given = None if located.problems else _validate(located)
    if given is None or located.problems:
        raise CatalogError("; ".join(str(problem) for problem in located.problems))
    return Gpu(
        name=given.name.lower(),
        memory_b=given.memory_b,
        memory_b_s=given.memory_b_s,
        flops=given.flops,
        nvlink_b_s=given.nvlink_b_s,
        network_b_s=given.network_b_s,
        nvlink_domain=given.nvlink_domain,
        precision=given.precision,
        source=given.source,
        aliases=tuple(alias.lower() for alias in given.aliases),
        file=file,
    )


def _validate(located: Located) -> _Gpu | None:
    try:
        given = _Gpu.model_validate(located.data)
    except ValidationError as error:
        located.add_validation(error, VALID_KEYS)
        return None
    known = ", ".join(FORMAT_BYTES)
    for name in given.flops:
        if name not in FORMAT_BYTES:
            located.add(("flops", name), f"{name!r} is no number format", f"known: {known}")
    if "bf16" not in given.flops:
        located.add(("flops",), "has no bf16", "its dense tensor-core peak is needed for attention and the output")
    if given.precision not in given.flops:
        located.add(("precision",), f"{given.precision!r} stands not in flops", f"one of {', '.join(given.flops)}")
    return given
