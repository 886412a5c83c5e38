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


def layer_kinds(model: Model) -> tuple[str, ...]:
    """What the layers of ``model`` are, as far as they run other kernels: words, sorted."""
    kinds: set[str] = {mixer.kind for mixer in model.mixers}
    if model.plain_layers:
        kinds.add("MLA" if model.mla is not None else "grouped-query attention")
    if model.indexer is not None:
        kinds.add("sparse attention")
    if model.sliding_window and model.sliding_layers:
        kinds.add("sliding windows")
    if model.moe is not None:
        kinds.add("experts")
    elif model.wide_layers:
        kinds.add("MLPs without experts")
    return tuple(sorted(kinds))


def carry_over(calibration: Calibration, measured: Model, other: Model) -> Calibration:
    """``calibration``, by loads of ``measured``, for ``other`` on the same GPU type in the same weight format.

    Factors and what is known of them stay: loads of models of the same kinds lie in the intervals that loads of one
    model give.

    Raises:
        ValueError: the layers of the two are not of the same kinds; one line says which are which.
    """
    if measured.name == other.name:
        return calibration
    there, wanted = layer_kinds(measured), layer_kinds(other)
    if there != wanted:
        raise ValueError(
            f"loads of {measured.name} ({', '.join(there)}) say nothing of {other.name} ({', '.join(wanted)}): "
            "measure a few of its own"
        )
    correction = replace(calibration.correction, model=other.name)
    return replace(calibration, correction=correction, carried_from=measured.name)
