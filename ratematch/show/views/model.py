"""A model as it was understood: shape, formats, memory of a GPU under each mapping, and what is not modelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ratematch.plan.formats import FORMAT_BYTES, rate_of
from ratematch.plan.memory import (
    active_params,
    default_precision,
    kv_bytes_per_token,
    part_mix,
    total_params,
    weight_bytes_per_rank,
)
from ratematch.plan.mixers import state_bytes
from ratematch.plan.model import Gpu, Model, Part
from ratematch.plan.modelfile import facts_of
from ratematch.plan.modelsizes import FRACTION, SEQUENCES, TOKENS, Sizes, describe_layers, sizes_on
from ratematch.plan.parallelism import Parallelism
from ratematch.show.console import table
from ratematch.show.files import one_line

KV_FORMATS = ("bf16", "fp8")
PARTS: tuple[Part, ...] = ("attention", "mixers", "dense", "experts", "shared", "embedding", "head")


def model_to_json(model: Model, gpus: Sequence[Gpu]) -> dict[str, Any]:
    """Plain JSON values; ``keys`` are those of a model file."""
    return {
        "name": model.name,
        "source": model.source,
        "keys": facts_of(model, texts=True),
        "parameters": total_params(model),
        "active_parameters": active_params(model),
        "precision": model.chosen_precision or model.precision or None,
        "kv_cache": model.kv_precision or None,
        "weights_b": {name: whole_weights_b(model, name) for name in _precisions(model, gpus)},
        "kv_bytes_per_token": {name: kv_bytes_per_token(model, name) for name in KV_FORMATS},
        "state_bytes": state_bytes(model),
        "layers": [{"what": words, "count": count} for words, count in describe_layers(model)],
        "not_modelled": list(model.not_modelled),
        "memory": [
            {
                "gpu": gpu.name,
                "precision": default_precision(model, gpu),
                "kv_dtype": _kv_dtype(model),
                "computes": _computes(gpu, default_precision(model, gpu)),
                "mappings": [
                    {
                        "mapping": row.mapping,
                        "gpus": row.gpus,
                        "weights_b": row.weights_b,
                        "kv_bytes_per_token": row.kv_token_b,
                        "kv_tokens": row.kv_tokens,
                    }
                    for row in _rows(model, gpu)
                ],
            }
            for gpu in gpus
        ],
    }


def whole_weights_b(model: Model, precision: str) -> float:
    """Bytes of a whole checkpoint of ``precision``, MTP layers included."""
    return weight_bytes_per_rank(model, Parallelism(), precision, model.mtp_layers)


def print_model(model: Model, gpus: Sequence[Gpu], console: Console) -> None:
    """The same for people."""
    say = console.print
    say(
        f"{model.name}: {_billions(total_params(model))} parameters, {_billions(active_params(model))} active a token"
    )
    if model.source:
        say(f"source: {one_line(model.source)}", style="dim", markup=False)
    say(table("layers", ("what", "layers"), describe_layers(model)))
    tied = ", tied" if model.tied_embeddings else ""
    say(f"hidden {model.hidden}, vocabulary {model.vocab}{tied}, context {model.max_seq_len}", markup=False)
    for precision in _precisions(model, gpus):
        mixed = "; ".join(_mixes(model, precision))
        known = " by its index" if precision in model.weights_b else ""
        say(
            f"weights in {precision}: {whole_weights_b(model, precision) / 1e9:.1f} GB{known}"
            + (f" ({mixed})" if mixed else ""),
            markup=False,
        )
    per_token = ", ".join(f"{kv_bytes_per_token(model, name):,.0f} B in {name}" for name in KV_FORMATS)
    say(
        f"KV cache a token: {per_token}"
        + (f"; the checkpoint asks for {model.kv_precision}" if model.kv_precision else "")
    )
    if state := state_bytes(model):
        say(f"state a sequence: {state / 1e6:.1f} MB, whatever its length")
    for gpu in gpus:
        _print_memory(model, gpu, console)
    say(f"memory: {FRACTION:g} of what weights, {TOKENS} tokens and {SEQUENCES} sequences a step leave is KV cache")
    for note in model.not_modelled:
        say(f"not modelled: {note}", markup=False)


def _print_memory(model: Model, gpu: Gpu, console: Console) -> None:
    precision, kv_dtype = default_precision(model, gpu), _kv_dtype(model)
    title = f"{gpu.name} ({gpu.memory_b / 1e9:.0f} GB), weights {precision}, KV cache {kv_dtype}"
    columns = ("mapping", "GPUs", "weights GB/GPU", "KV B/token/rank", "KV tokens/rank")
    rows = [
        (row.mapping, row.gpus, round(row.weights_b / 1e9, 1), round(row.kv_token_b), row.kv_tokens or None)
        for row in _rows(model, gpu)
    ]
    console.print(table(title, columns, rows))
    if all(row[-1] is None for row in rows):
        console.print(f"{gpu.name}: fits under no mapping of these", markup=False)
    if not _computes(gpu, precision):
        console.print(f"{gpu.name}: does not compute in {precision}; nothing is predicted there", markup=False)


def _rows(model: Model, gpu: Gpu) -> list[Sizes]:
    return sizes_on(model, gpu, default_precision(model, gpu), _kv_dtype(model))


def _kv_dtype(model: Model) -> str:
    return model.kv_precision or "fp8"


def _computes(gpu: Gpu, precision: str) -> bool:
    try:
        return rate_of(gpu, precision) > 0
    except ValueError:
        return False


def _precisions(model: Model, gpus: Sequence[Gpu]) -> list[str]:
    """The checkpoint's own, those of its formats, and those that it would have on the GPUs."""
    own = [model.precision] if model.precision else []
    usual = [default_precision(model, gpu) for gpu in gpus]
    chosen = [model.chosen_precision] if model.chosen_precision else []
    return [name for name in dict.fromkeys([*chosen, *own, *usual, *model.formats]) if name in FORMAT_BYTES]


def _mixes(model: Model, precision: str) -> list[str]:
    """Parts that are in another format than the precision itself."""
    words = []
    for part in PARTS:
        mix = part_mix(model, precision, part)
        if part in ("embedding", "head") and mix == {"bf16": 1.0}:
            continue
        if mix == {precision: 1.0} or not _has(model, part):
            continue
        shares = [name if share == 1 else f"{100 * share:.3g} % {name}" for name, share in mix.items()]
        words.append(f"{part} {' + '.join(shares)}")
    return words


def _has(model: Model, part: Part) -> bool:
    match part:
        case "attention":
            return bool(model.plain_layers)
        case "mixers":
            return bool(model.mixers)
        case "experts":
            return model.moe is not None
        case "shared":
            return model.moe is not None and bool(model.moe.shared_ffn)
        case "dense":
            return model.moe is None or bool(model.moe.dense_layers)
    return True


def _billions(count: int) -> str:
    return f"{count / 1e9:.4g} B"
