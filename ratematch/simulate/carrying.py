"""A calibration for a model that was not measured, from one that is built of the same kinds of layers.

What kernels reach of a GPU's peaks in one weight format is a matter of the kernels, and models whose layers are of
the same kinds run the same ones in other sizes. On one GPU type, format and engine, four dense models of 4 to 32
billion parameters deviate from their predictions alike (docs/accuracy.md, from one model to another). Across kinds of
layers nothing of the sort was measured, so a correction is not carried there.
"""

from __future__ import annotations

from dataclasses import replace

from ratematch.plan.model import Model
from ratematch.simulate.calibration import Calibration


def carry_over(calibration: Calibration, measured: Model, other: Model) -> Calibration:
    """``calibration``, by loads of ``measured``, for ``other`` on the same GPU type in the same weight format.

    Factors and what is known of them stay: loads of models of the same kinds lie in the intervals that loads of one
    model give.

    Raises:
        ValueError: the layers of the two are not of the same kinds; one line says which are which.
    """
    if measured.name == other.name:
        return calibration
    there, wanted = measured.layer_kinds, other.layer_kinds
    if there != wanted:
        raise ValueError(
            f"loads of {measured.name} ({', '.join(there)}) say nothing of {other.name} ({', '.join(wanted)}): "
            "measure a few of its own"
        )
    correction = replace(calibration.correction, model=other.name)
    return replace(calibration, correction=correction, carried_from=measured.name)
