"""JSON schemas of the files that people write: sweeps, cluster profiles, models, GPUs."""

from __future__ import annotations

from functools import cache
from typing import Any

from ratematch.engines.ownyaml import read_shipped_yaml
from ratematch.exchange.schemas.parts import FLAG, TEXT, Json, change_numbers, one_or_more, reference, tidy
from ratematch.inputs.clusterfile import cluster_schema
from ratematch.inputs.gpufile import gpu_schema
from ratematch.inputs.nodegroups import GROUPS
from ratematch.plan.expansion import OPTION_PREFIX
from ratematch.plan.formats import FORMAT_BYTES
from ratematch.plan.modelfile import ModelKeys
from ratematch.plan.sweep import GROUP_AXES, MAPPING_AXES
from ratematch.plan.sweepchecks import MOST_OF
from ratematch.plan.sweepfile import ALIASES
from ratematch.plan.sweepschema import SweepIn
from ratematch.plan.sweepstages import NAMED_AXES

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
STAGES = ("StageIn", "GenStageIn")


def sweep() -> Json:
    """Of a sweep file, with the other names that its stages go by and the axes that have a name."""
    schema = tidy(SweepIn.model_json_schema())
    for stage in STAGES:
        schema["$defs"][stage]["properties"]["axes"] = _axes()
    described = _described("sweep", schema)
    _add_model_by_hand(described)
    stages = described["properties"]
    stages |= {alias: {**stages[name], "description": f"Means {name}."} for alias, name in ALIASES.items()}
    return described


def _axes() -> Json:
    # An option may be named by its path: it holds whatever the engine's own files hold.
    return {
        "type": "object",
        "minProperties": 1,
        "properties": {name: _axis(name) for name in NAMED_AXES},
        "patternProperties": {f"^{OPTION_PREFIX.replace('.', '[.]')}": True},
        "additionalProperties": False,
    }


def _axis(name: str) -> Json:
    if name not in (*MAPPING_AXES, *GROUP_AXES):
        return one_or_more(TEXT)
    if name == "attention_dp":
        return one_or_more(FLAG)
    whole: Json = {"type": "integer", "minimum": 0 if name == "mtp" else 1, "maximum": MOST_OF[name]}
    return one_or_more({"anyOf": [whole, {"const": "tp"}]} if name == "ep" else whole)


def cluster() -> Json:
    """Of a cluster profile. One with groups of nodes may leave to them what others need themselves."""
    schema = _described("cluster", tidy(cluster_schema()))
    keys, defs = schema["properties"], schema["$defs"]
    whole = keys["container"]
    defs["_ContainerPart"] = {key: value for key, value in defs["_Container"].items() if key != "required"}
    keys["container"] = {**whole, "anyOf": [reference("_ContainerPart"), {"type": "null"}]}
    defs["_Group"] = {
        "type": "object",
        "properties": {key: value for key, value in keys.items() if key != "name"},
        "additionalProperties": False,
    }
    keys[GROUPS] = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": reference("_Group"),
        "description": "Of a cluster whose nodes differ: keys laid over the profile's own, by name of the group.",
    }
    needed = schema["required"]
    schema["required"] = ["name"]
    schema["if"] = {"required": [GROUPS]}
    schema["else"] = {"required": needed, "properties": {"container": whole}}
    return schema


def gpu() -> Json:
    """Of a GPU file. Numbers may be text, as ``8e12`` is for YAML 1.1."""
    schema = change_numbers(tidy(gpu_schema()), lambda number: {"anyOf": [number, _NUMBER_TEXT]})
    schema["properties"]["flops"] |= {"propertyNames": {"enum": [*FORMAT_BYTES]}, "required": ["bf16"]}
    schema["properties"]["precision"] |= {"enum": [*FORMAT_BYTES]}
    return _described("gpu", schema)


_NUMBER_TEXT: Json = {"type": "string", "pattern": NUMBER}


def model() -> Json:
    """Of a model file."""
    return _described("model", _model_keys())


def _model_keys() -> Json:
    schema = {key: value for key, value in tidy(ModelKeys.model_json_schema()).items() if key != "description"}
    for name in ("precision", "kv_precision"):
        schema["properties"][name] |= {"enum": ["", *FORMAT_BYTES]}
    return schema


def _add_model_by_hand(sweep_schema: Json) -> None:
    """The keys of a model file where they stand in the sweep itself, beside those that say where it lies."""
    by_hand = model()
    defs = sweep_schema["$defs"]
    own = defs["ModelIn"]["properties"]
    defs |= by_hand.pop("$defs")
    defs["ModelByHand"] = {**by_hand, "properties": {**by_hand["properties"], **own}}
    sweep_schema["properties"]["model"]["anyOf"].append(reference("ModelByHand"))


def _described(name: str, schema: Json) -> Json:
    """``schema`` with a sentence for each of its keys that has one, in ``ratematch/data/schemas/keys.yaml``: by type,
    ``""`` for the file's own keys."""
    for kind, sentences in descriptions()[name].items():
        part = schema["$defs"][kind] if kind else schema
        for key, sentence in sentences.items():
            part["properties"][key]["description"] = sentence
    return schema


@cache
def descriptions() -> dict[str, dict[str, dict[str, str]]]:
    """What editors say of a key: by file, type and key."""
    content: dict[str, Any] = read_shipped_yaml("ratematch", "data", "schemas", "keys.yaml")
    return content
