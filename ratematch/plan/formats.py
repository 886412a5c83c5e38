"""Number formats of weights and caches: bytes of an element, and the rate they are computed at."""

from __future__ import annotations

from ratematch.plan.model import Gpu

FORMAT_BYTES: dict[str, float] = {
    "bf16": 2.0,
    "fp8": 1.0,
    "nvfp4": 0.5 + 1 / 16,  # one FP8 scale per 16 values
    "mxfp4": 0.5 + 1 / 32,  # one E8M0 scale per 32 values
    "mxfp8": 1.0 + 1 / 32,
    "int8": 1.0,
    "int4": 0.5 + 2.5 / 128,  # a 16-bit scale and a 4-bit zero point per 128 values (AWQ, GPTQ)
    "int4-g64": 0.5 + 2.5 / 64,
    "int4-g32": 0.5 + 2 / 32,  # a 16-bit scale per 32 values (Kimi K2)
    "fp32": 4.0,
}
"""Bytes per element of a number format, scales included."""

COMPUTED_IN: dict[str, str] = {
    "mxfp8": "fp8",
    "int8": "fp8",  # tensor cores multiply int8 at the rate of FP8 where they have both
    "int4": "bf16",  # widened on the way into the tensor cores
    "int4-g64": "bf16",
    "int4-g32": "bf16",
    "fp32": "bf16",
}
"""Format whose rate products with weights of a format run at, where that is another one."""


def rate_of(gpu: Gpu, name: str) -> float:
    """FLOP/s of ``gpu`` with weights of the number format ``name``.

    Raises:
        ValueError: unknown format, or one that the GPU has no rate for.
    """
    format_bytes(name)
    rate = gpu.flops.get(name) or gpu.flops.get(COMPUTED_IN.get(name, name))
    if rate is None:
        raise ValueError(f"{gpu.name} has no {name} rate: use one of {', '.join(gpu.flops)}")
    return rate


def format_bytes(name: str) -> float:
    """Bytes per element of the number format ``name``.

    Raises:
        ValueError: not a known format.
    """
    if name not in FORMAT_BYTES:
        raise ValueError(f"number format {name!r} is not known: use one of {', '.join(FORMAT_BYTES)}")
    return FORMAT_BYTES[name]
