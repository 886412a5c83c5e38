"""A checkpoint's folder, or its ``config.json`` alone -> Model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ratematch.errors import CatalogError
from ratematch.inputs.checkpoint.config import HAND, plain_name, read_config
from ratematch.inputs.checkpoint.fields import MOST_INDEX_BYTES, Fields, read_json
from ratematch.inputs.checkpoint.quantisation import add_formats
from ratematch.inputs.textfile import is_file
from ratematch.plan.memory import weight_bytes_per_rank
from ratematch.plan.model import Model
from ratematch.plan.parallelism import Parallelism

CONFIG, QUANTISATION = "config.json", "hf_quant_config.json"
INDICES = ("model.safetensors.index.json", "consolidated.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = "model.safetensors"

AGREE = 0.03
"""How far the sum of the matrices may be from the size in the index before it is said."""

MOST_HEADER_BYTES = 100_000_000
"""Of a safetensors file, as its format limits it."""


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a folder with a ``config.json``, or a JSON file."""
    return is_file(path / CONFIG) or (path.suffix == ".json" and is_file(path))


def read_checkpoint(path: Path, name: str = "") -> Model:
    """The model of a checkpoint: shape, number formats and, where its index is there, its size.

    ``path``: the folder, or its ``config.json`` alone. ``name``: of the model; the folder's is taken without one.

    Raises:
        CatalogError: it cannot be read, or what it holds is not known here, in one line with file and key.
    """
    file = path if path.suffix == ".json" and is_file(path) else path / CONFIG
    folder = file.parent
    size = _stored_bytes(folder) if file.name == CONFIG else None
    data = read_json(file)
    outer = folder / QUANTISATION
    quant = Fields(read_json(outer), str(outer)) if file.name == CONFIG and is_file(outer) else None
    named = plain_name(name or (folder.resolve().name if file.name == CONFIG else file.stem))
    read = read_config(data, str(file), named, confirmed=size is not None)
    model = add_formats(read.model, read.text, read.top, quant)
    if unread := read.unread():
        strange = f"keys that are not understood: {', '.join(unread)}"
        model = replace(model, not_modelled=(*model.not_modelled, strange))
    model = replace(model, source=f"{file}", file=str(file.absolute()))
    return model if size is None else _with_size(model, size, str(file))


def _with_size(model: Model, size: float, file: str) -> Model:
    """``model`` with the size of the checkpoint, which the sum of its matrices is held against."""
    counted = weight_bytes_per_rank(model, Parallelism(), model.precision, model.mtp_layers)
    known = replace(model, weights_b={model.precision: size})
    if abs(counted / size - 1) <= AGREE:
        return known
    sums = f"its matrices sum up to {counted / 1e9:.1f} GB, and the index says {size / 1e9:.1f} GB"
    if any(note.startswith("model_type") for note in model.not_modelled):
        raise CatalogError(f"{file}: model_type: is not known, and read as a plain transformer {sums}; {HAND}")
    return replace(known, not_modelled=(*model.not_modelled, f"{sums}: the index counts"))


def _stored_bytes(folder: Path) -> float | None:
    """Bytes of all tensors of the checkpoint in ``folder``; ``None`` where nothing there says so."""
    for name in INDICES:
        if is_file(folder / name):
            fields = Fields(read_json(folder / name, MOST_INDEX_BYTES), str(folder / name))
            metadata = fields.below("metadata")
            if metadata is None or not metadata.has("total_size"):
                return None
            total = metadata.number("total_size", default=0.0)
            if not 1e6 <= total <= 1e15:
                raise metadata.error("total_size", f"{total:g} is no number of bytes of a model")
            return total
    single = folder / SINGLE
    return _single_bytes(single) if is_file(single) else None


def _single_bytes(file: Path) -> float | None:
    """Bytes of the tensors of one safetensors file: all but its header, whose length stands at its beginning."""
    try:
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise CatalogError(f"{file}: cannot be read ({error.strerror})") from None
    if not 0 < header <= min(MOST_HEADER_BYTES, size - 8):
        return None  # weights that were not fetched: a pointer of Git LFS stands in their place
    return float(size - 8 - header)
