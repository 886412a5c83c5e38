"""How ``ratematch/data/efficiency.yaml`` is written: what is fitted, and where it stands."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.efficiency import Efficiency

Vector = NDArray[np.float64]

FORMATS = {"fp4": "nvfp4", "fp8": "fp8"}
HEAD = """\
# What kernels reach of a data sheet and what a step costs besides, where measurements of real deployments say it.
# Everything not named here keeps the default of ratematch/emulator/efficiency.py. `value` is used; `between`: the
# lowest and highest of three fits, on all deployments and on either half of them. `mla`: of attention kernels of MLA
# only. `moe_backends`: by weight format and TensorRT-LLM's moe_config.backend; NAME_TP: NAME without attention DP.
# Written by: python -m benchmarks.real_deployments.fit --write
"""


@dataclass(frozen=True)
class Value:
    """A value to fit: its name in :class:`Efficiency` and the section of the file: ``any``, ``mla``, a format, or a
    format and a backend. ``start``: where the default is 0."""

    name: str
    precision: str = ""
    backend: str = ""
    section: str = "any"
    start: float = 0.0

    @property
    def default(self) -> float:
        return self.start or float(getattr(Efficiency(), self.name))

    def holds(self, precision: str, backend: str) -> bool:
        """Whether a server uses it. ``NAME_TP`` is backend NAME without attention DP, its values come last."""
        return self.precision in ("", precision) and self.backend in ("", backend, backend.removesuffix("_TP"))


def section(
    gpus: Sequence[str], usual: dict[str, str], source: str, values: Sequence[Value], fits: Sequence[Vector]
) -> str:
    """One entry of the file. ``usual``: by format the backend where none is named. ``fits``: the one used first."""
    lines = [f"- gpus: [{', '.join(gpus)}]", "  source: >-"]
    lines += textwrap.wrap(source, 110, initial_indent="    ", subsequent_indent="    ")
    lines += [f"  usual_moe_backend: {{{', '.join(f'{name}: {each}' for name, each in usual.items())}}}"]
    texts = {place: _entry(value, [fit[place] for fit in fits]) for place, value in enumerate(values)}

    def those(indent: str, part: str, backend: str = "") -> list[str]:
        wanted = [place for place, value in enumerate(values) if (value.section, value.backend) == (part, backend)]
        return [indent + texts[place] for place in wanted]

    for name in ("any", "mla", *FORMATS):
        found = those("    ", name)
        lines += [f"  {FORMATS.get(name, name)}:", *found] if found else []
    lines.append("  moe_backends:")
    for name in FORMATS:
        backends = dict.fromkeys(value.backend for value in values if value.section == name and value.backend)
        lines += [f"    {FORMATS[name]}:"] if backends else []
        for backend in backends:
            lines += [f"      {backend}:", *those("        ", name, backend)]
    return "\n".join(lines) + "\n"


def _entry(value: Value, logs: Sequence[float]) -> str:
    fits = [f"{value.default * float(np.exp(log)):.3g}" for log in logs]
    return f"{value.name}: {{value: {fits[0]}, between: [{min(fits, key=float)}, {max(fits, key=float)}]}}"
