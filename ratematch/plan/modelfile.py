"""Model file text, or the same keys below ``model:`` of a sweep -> Model. ``docs/models.md`` has the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ratematch.errors import CatalogError
from ratematch.plan.formats import FORMAT_BYTES
from ratematch.plan.located import Located, Path, read_located
from ratematch.plan.model import Indexer, Mixer, MixerKind, Mla, Model, Moe, Part
from ratematch.plan.plain import plain

MOST = 10**9
NAME = r"^[A-Za-z0-9][\w.-]*$"

Count = Annotated[int, Field(gt=0, le=MOST, strict=True)]
Size = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Layers = Annotated[int, Field(ge=0, le=10_000, strict=True)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Moe(_Strict):
    experts: Count
    top_k: Count
    ffn: Count
    shared_ffn: Size = 0
    dense_layers: Layers = 0
    interleaved: bool = False
    latent: Size = 0


class _Mla(_Strict):
    q_lora_rank: Size
    kv_lora_rank: Count
    rope_dim: Size
    nope_dim: Count
    v_dim: Count


class _Indexer(_Strict):
    heads: Count
    head_dim: Count
    top_k: Count
    rank: Size = 0
    layers: Layers = 0


class _Mixer(_Strict):
    kind: MixerKind
    layers: Layers
    heads: Count
    head_dim: Count
    kv_heads: Size = 0
    v_dim: Size = 0
    window: Size = 0
    gate: bool = False
    shared_kv: bool = False
    groups: Size = 0
    state: Size = 0
    conv: Size = 0
    rank: Size = 0
    ratio: Size = 0
    q_rank: Size = 0
    o_groups: Size = 0
    o_rank: Size = 0
    indexer: _Indexer | None = None


class ModelKeys(_Strict):
    """What a model file may hold; each key as in :class:`ratematch.plan.model.Model`."""

    name: Annotated[str, Field(pattern=NAME, max_length=64)]
    layers: Annotated[int, Field(gt=0, le=10_000, strict=True)]
    hidden: Count
    vocab: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    ffn: Count
    max_seq_len: Count
    moe: _Moe | None = None
    mla: _Mla | None = None
    mtp_layers: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    mtp_acceptance: list[Annotated[float, Field(gt=0, lt=1)]] = []
    about: str = ""
    source: str = ""
    aliases: list[str] = []
    sliding_window: Size = 0
    sliding_layers: Layers = 0
    attention_precision: dict[str, str] = {}
    precision: str = ""
    v_dim: Size = 0
    attention_gate: bool = False
    indexer: _Indexer | None = None
    mixers: list[_Mixer] = []
    attention_layers: Layers | None = None
    mlp_layers: Layers | None = None
    mlp_matrices: Annotated[int, Field(ge=2, le=3, strict=True)] = 3
    tied_embeddings: bool = False
    other_params: Annotated[int, Field(ge=0, le=10**12, strict=True)] = 0
    formats: dict[str, dict[Part, dict[str, Share]]] = {}
    weights_b: dict[str, Annotated[float, Field(ge=1e6, le=1e15)]] = {}
    kv_precision: str = ""
    not_modelled: list[str] = []


VALID_KEYS: dict[str, tuple[str, ...]] = {
    "": tuple(ModelKeys.model_fields),
    "moe": tuple(_Moe.model_fields),
    "mla": tuple(_Mla.model_fields),
    "indexer": tuple(_Indexer.model_fields),
    "mixers": tuple(_Mixer.model_fields),
    "mixers.indexer": tuple(_Indexer.model_fields),
}

SHAPE = ("layers", "hidden", "vocab", "heads", "kv_heads", "head_dim", "ffn", "max_seq_len")
"""Keys that every model needs beside its name."""


def parse_model(text: str, source: str, file: str = "") -> Model:
    """The model that ``text`` describes. ``source``: name for messages. ``file``: where it lies, empty for the
    package's own.

    Raises:
        CatalogError: with every problem of the file, each with ``source`` and line.
    """
    located = read_located(text, source)
    if not located.problems and not isinstance(located.data, dict):
        located.add((), "a model file is a map of keys", f"valid keys: {', '.join(VALID_KEYS[''])}")
    model = None if located.problems else model_at(located, located.data, (), file)
    if model is None or located.problems:
        raise CatalogError("; ".join(str(problem) for problem in located.problems))
    return model


def model_at(located: Located, data: Mapping[str, object], place: Path, file: str) -> Model | None:
    """The model whose keys stand at ``place``; ``None``, with problems noted, where they describe none."""
    here = Located(data, located.source, _below(located, place), marks={}, given={})
    model = _validated(here, data, file)
    located.problems += here.problems
    return model


def _below(located: Located, place: Path) -> dict[Path, int]:
    return {path[len(place) :]: line for path, line in located.lines.items() if path[: len(place)] == place}


def _validated(located: Located, data: Mapping[str, object], file: str) -> Model | None:
    try:
        keys = ModelKeys.model_validate(data)
    except ValidationError as error:
        located.add_validation(error, VALID_KEYS)
        return None
    _check(located, keys)
    if located.problems:
        return None
    content = {**keys.model_dump(), "name": keys.name.lower(), "aliases": [alias.lower() for alias in keys.aliases]}
    return msgspec.convert({**content, "file": file}, Model)


def _check(located: Located, keys: ModelKeys) -> None:
    mixed = sum(mixer.layers for mixer in keys.mixers)
    if max(mixed, keys.attention_layers or 0, keys.mlp_layers or 0, keys.sliding_layers) > keys.layers:
        located.add(("layers",), f"{keys.layers} are less than the layers of one kind", "count all layers")
    if keys.attention_layers is None and mixed > keys.layers:
        located.add(("mixers",), f"have {mixed} layers, and the model {keys.layers}")
    if keys.mla is None and keys.heads % keys.kv_heads and not keys.mixers:
        located.add(("kv_heads",), f"{keys.kv_heads} does not divide the {keys.heads} heads")
    if keys.moe and (keys.moe.top_k > keys.moe.experts or keys.moe.dense_layers > keys.layers):
        located.add(("moe",), "has more active experts than experts, or more dense layers than layers")
    if keys.sliding_layers and not keys.sliding_window:
        located.add(("sliding_window",), "is 0, and some layers have one")
    if bool(keys.mtp_acceptance) and not keys.mtp_layers:
        located.add(("mtp_acceptance",), "is given, and mtp_layers is 0")
    for index, mixer in enumerate(keys.mixers):
        needed = {"attention": "kv_heads", "compressed": "q_rank", "short_conv": "conv"}.get(mixer.kind, "state")
        if not getattr(mixer, needed):
            located.add(("mixers", index, needed), f"is needed for {mixer.kind}")
    known = f"known: {', '.join(FORMAT_BYTES)}"
    named: list[tuple[Path, str]] = [(("precision",), keys.precision), (("kv_precision",), keys.kv_precision)]
    named += [
        (("attention_precision", key), text) for pair in keys.attention_precision.items() for key, text in [pair]
    ]
    named += [(("weights_b", name), name) for name in keys.weights_b]
    for precision, parts in keys.formats.items():
        named.append((("formats", precision), precision))
        for part, mix in parts.items():
            named += [(("formats", precision, part), name) for name in mix]
            if abs(sum(mix.values()) - 1) > 1e-6:
                located.add(("formats", precision, part), "shares must sum up to 1")
    for path, name in named:
        if name and name not in FORMAT_BYTES:
            located.add(path, f"{name!r} is no number format", known)


# ------------------------------------------------------------------------------------------------ out

TEXTS = ("about", "source", "aliases", "not_modelled", "file", "chosen_precision")
"""Fields that no figure follows from."""

_DEFAULTS = {field.name: plain(field.default) for field in fields_of(Model)}


def facts_of(model: Model, texts: bool = False) -> dict[str, Any]:
    """The keys of a model file for ``model``, without those that are at their defaults, so that a key that is added
    later changes none of them. ``texts``: with those that are for people."""
    content = {name: _short(value) for name, value in plain(model).items() if texts or name not in TEXTS}
    for name in ("file", "chosen_precision", "acceptance_curves"):
        content.pop(name, None)
    return {name: value for name, value in content.items() if value not in (_DEFAULTS.get(name), {}, [], None)}


def _short(value: Any) -> Any:
    """A value without what is at its default within it."""
    if isinstance(value, list):
        return [_short(item) for item in value]
    if isinstance(value, dict):
        kept = {key: _short(item) for key, item in value.items()}
        kind = next((known for known in (Mla, Moe, Mixer, Indexer) if set(kept) == _names(known)), None)
        if kind is None:
            return kept
        defaults = {field.name: field.default for field in fields_of(kind)}
        return {key: item for key, item in kept.items() if item != defaults[key]}
    return value


def _names(kind: type) -> set[str]:
    return {field.name for field in fields_of(kind)}


def model_from_facts(facts: Mapping[str, object]) -> Model:
    """The inverse of :func:`facts_of`.

    Raises:
        ValueError: they are not those of a model.
    """
    return msgspec.convert(dict(facts), Model)
