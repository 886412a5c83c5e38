"""Number formats of a checkpoint, module by module: ``hf_quant_config.json`` and ``quantization_config``.

Each rule of these files names modules; which part of the model a module belongs to, and how large it is, follows from
its name. A part whose modules have several formats gets the share of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ratematch.errors import CatalogError
from ratematch.inputs.checkpoint.fields import Fields
from ratematch.inputs.checkpoint.modules import Module, modules_of
from ratematch.inputs.checkpoint.patterns import Names, compile_names
from ratematch.plan.model import Model, Part

PLAIN = "bf16"

ALGORITHMS = {
    "FP8": "fp8",
    "FP8_BLOCK_SCALES": "fp8",
    "FP8_PB_WO": "fp8",
    "FP8_PB_REAL": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "W4A8_NVFP4_FP8": "nvfp4",
    "W4A16_MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
    "W4A8_MXFP4_MXFP8": "mxfp4",
    "MXFP4": "mxfp4",
    "MXFP8": "mxfp8",
    "W4A16_AWQ": "int4",
    "W4A8_AWQ": "int4",
    "W4A16": "int4",
    "W8A16": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "INT8_SQ": "int8",
}
"""``quant_algo`` of ModelOpt."""


@dataclass(frozen=True)
class Rules:
    """``format_of``: of a module, ``None`` where the file leaves it in 16 bits. ``kv``: format of the KV cache, empty
    where the file does not ask for one. ``expert_format``: of routed experts, where a key of its own says so."""

    format_of: Callable[[Module], str | None]
    kv: str = ""


def add_formats(model: Model, text: Fields, top: Fields, quant_file: Fields | None) -> Model:
    """``model`` with the formats that its checkpoint is stored in.

    Raises:
        CatalogError: a way of quantising that is not known.
    """
    rules = _find_rules(text, top, quant_file)
    if rules is None:
        return replace(model, precision=PLAIN)
    by_part: dict[Part, Counter[str]] = {}
    whole: Counter[str] = Counter()
    expert_format = {"fp4": "mxfp4", "fp8": "fp8", "": ""}.get(text.text("expert_dtype"))
    if expert_format is None:
        raise text.error("expert_dtype", "must be fp4 or fp8")
    for module in modules_of(text, model):
        name = rules.format_of(module) or PLAIN
        if module.part == "experts" and expert_format and name == "fp8":
            name = expert_format
        by_part.setdefault(module.part, Counter())[name] += module.elements
        whole[name] += module.elements
    precision = (
        max((count, name) for name, count in whole.items() if name != PLAIN)[1] if set(whole) - {PLAIN} else PLAIN
    )
    formats: dict[str, dict[str, float]] = {}
    for part, counter in by_part.items():
        total = sum(counter.values())
        mix = {name: count / total for name, count in sorted(counter.items())}
        if mix != ({PLAIN: 1.0} if part in ("embedding", "head") else {precision: 1.0}):
            formats[part] = mix
    return replace(model, precision=precision, formats={precision: formats} if formats else {}, kv_precision=rules.kv)


def _find_rules(text: Fields, top: Fields, quant_file: Fields | None) -> Rules | None:
    text.seen.add("quantization_config")
    own = text.below("quantization_config") or top.below("quantization_config")
    outer = quant_file.below("quantization") if quant_file is not None else None
    if outer is not None and not (
        own is not None and own.text("quant_method") == "fp8" and own.has("quantized_layers")
    ):
        return _modelopt(outer)
    if own is None:
        return None
    method = own.text("quant_method").lower()
    if not method:
        method = "modelopt" if own.has("quant_algo") else ""
    readers: dict[str, Callable[[Fields], Rules]] = {
        "modelopt": _modelopt,
        "modelopt_fp4": _modelopt,
        "fp8": _fp8,
        "fbgemm_fp8": _fp8,
        "mxfp4": lambda fields: _one(fields, "mxfp4"),
        "awq": _bits,
        "gptq": _bits,
        "auto-round": _bits,
        "compressed-tensors": _compressed,
        "quark": _quark,
    }
    if method not in readers:
        raise own.error("quant_method", f"{method!r} is not known here: known are {', '.join(readers)}")
    return readers[method](own)


EXCLUDES = ("ignore", "exclude_modules", "modules_to_not_convert", "exclude", "ignored_layers")


def _excluded(fields: Fields) -> Names:
    names = [name for key in EXCLUDES for name in fields.names(key) or []]
    try:
        return compile_names(names)
    except ValueError as error:
        raise fields.error(next(key for key in EXCLUDES if fields.has(key)), str(error)) from None


def _one(fields: Fields, name: str, kv: str = "") -> Rules:
    """One format for all that is not excluded; the output projection only where a checkpoint says so."""
    excluded = _excluded(fields)
    return Rules(lambda module: None if module.part in ("head", "embedding") or excluded(module) else name, kv)


def _fp8(fields: Fields) -> Rules:
    """FP8 as DeepSeek, Qwen and others publish it; with a list of layers in formats of their own over it."""
    base = _one(fields, "fp8", _kv(fields))
    named = fields.below("quantized_layers")
    if named is None:
        return base
    own = _named_layers(named)
    # Here the list of what is left out belongs to the other formats: the rest stays as it was published, in FP8.
    return Rules(lambda module: own(module) or (None if module.part in ("head", "embedding") else "fp8"), base.kv)


def _modelopt(fields: Fields) -> Rules:
    algorithm = fields.text("quant_algo").upper()
    kv = _kv(fields)
    if algorithm in ("MIXED_PRECISION", "") and fields.has("quantized_layers"):
        named = fields.below("quantized_layers")
        assert named is not None
        own = _named_layers(named)
        return Rules(lambda module: own(module), kv)
    if not algorithm:
        return Rules(lambda module: None, kv)
    return _one(
        fields, _algorithm(fields, "quant_algo", algorithm, fields.count("group_size", default=0, least=0)), kv
    )


def _algorithm(fields: Fields, key: str, algorithm: str, group: int) -> str:
    name = ALGORITHMS.get(algorithm.upper())
    if name is None:
        raise fields.error(key, f"{algorithm!r} is not known here: known are {', '.join(ALGORITHMS)}")
    return _grouped(fields, name, group) if name == "int4" else name


def _grouped(fields: Fields, name: str, group: int) -> str:
    """``int4`` by how many values share a scale: 128, or 32 and 64 with a name of their own."""
    if group in (0, 128, -1) or name != "int4":
        return name
    if group in (32, 64):
        return f"int4-g{group}"
    raise fields.error("group_size", f"{group} is not known here: known are 32, 64 and 128")


def _named_layers(named: Fields) -> Callable[[Module], str | None]:
    """Formats by names of modules: a module has that of itself, or of one that it is within."""
    formats: dict[str, str] = {}
    for key in named.data:
        below = named.below(key)
        if below is not None:
            name = _algorithm(
                below, "quant_algo", below.text("quant_algo"), below.count("group_size", default=0, least=0)
            )
            formats[key] = name
    by_format = {
        name: compile_names([key for key, own in formats.items() if own == name]) for name in set(formats.values())
    }

    def format_of(module: Module) -> str | None:
        return next((name for name, names in by_format.items() if names(module)), None)

    return format_of


def _bits(fields: Fields) -> Rules:
    """AWQ and GPTQ."""
    bits, group = fields.count("bits", "w_bit", default=4), 0
    if fields.data.get("group_size") != -1:
        group = fields.count("group_size", "q_group_size", default=128)
    if bits not in (4, 8):
        raise fields.error("bits", f"{bits} is not known here: known are 4 and 8")
    return _one(fields, _grouped(fields, "int4", group) if bits == 4 else "int8")


def _quark(fields: Fields) -> Rules:
    given = fields.below("global_quant_config")
    weights = given.below("weight") if given is not None else None
    if weights is None:
        raise fields.error("global_quant_config.weight", "is not there, and is needed")
    known = {"fp4": "mxfp4", "fp8_e4m3": "fp8", "fp8_e4m3fn": "fp8", "int8": "int8"}
    dtype = weights.text("dtype").lower()
    if dtype not in known:
        raise weights.error("dtype", f"{dtype!r} is not known here: known are {', '.join(known)}")
    return _one(fields, known[dtype])


def _compressed(fields: Fields) -> Rules:
    """compressed-tensors: groups of modules with a format each."""
    groups = fields.below("config_groups")
    if groups is None:
        raise fields.error("config_groups", "is not there, and is needed")
    excluded = _excluded(fields)
    chosen: list[tuple[Names | None, str]] = []
    for key in groups.data:
        group = groups.below(key)
        weights = group.below("weights") if group is not None else None
        if group is None or weights is None:
            continue
        targets = group.names("targets") or ["Linear"]
        everything = any(target in ("Linear", "FusedMoE") for target in targets)
        try:
            chosen.append((None if everything else compile_names(targets), _weights_format(weights)))
        except ValueError as error:
            raise group.error("targets", str(error)) from None
    named_first = sorted(chosen, key=lambda pair: pair[0] is None)

    def format_of(module: Module) -> str | None:
        if module.part == "embedding" or excluded(module):
            return None
        return next((name for names, name in named_first if names is None or names(module)), None)

    return Rules(format_of, _kv(fields))


def _weights_format(weights: Fields) -> str:
    bits, kind = weights.count("num_bits"), weights.text("type", default="int")
    group = weights.count("group_size", default=0, least=0) if weights.data.get("group_size") != -1 else 0
    known = {("float", 8): "fp8", ("int", 8): "int8", ("int", 4): "int4"}
    if (kind, bits) == ("float", 4):
        return "nvfp4" if group == 16 else "mxfp4"
    if (kind, bits) == ("float", 8) and group == 32:
        return "mxfp8"
    if (kind, bits) not in known:
        raise weights.error("num_bits", f"{bits} bits of type {kind} are not known here")
    return _grouped(weights, known[kind, bits], group)


def _kv(fields: Fields) -> str:
    """Format of the KV cache that a file asks for."""
    names = {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8", "NONE": ""}
    if isinstance(fields.data.get("kv_cache_scheme"), Mapping):
        scheme = fields.below("kv_cache_scheme")
        assert scheme is not None
        kinds = {("float", 8): "fp8", ("float", 4): "nvfp4", ("int", 8): "int8"}
        found = kinds.get((scheme.text("type", default="float"), scheme.count("num_bits")))
        if found is None:
            raise scheme.error("num_bits", "is not known here as a format of a KV cache")
        return found
    text = fields.text("kv_cache_quant_algo", "kv_cache_scheme").upper()
    if text and text not in names:
        raise fields.error("kv_cache_quant_algo", f"{text!r} is not known here: known are {', '.join(names)}")
    return names.get(text, "")


def parts_of(model: Model) -> Iterator[str]:
    """In words, what of the checkpoint is in which format."""
    for part, mix in model.formats.get(model.precision, {}).items():
        yield f"{part}: " + " + ".join(
            name if share == 1 else f"{100 * share:.3g} % {name}" for name, share in mix.items()
        )


__all__ = ["CatalogError", "Rules", "add_formats", "parts_of"]
