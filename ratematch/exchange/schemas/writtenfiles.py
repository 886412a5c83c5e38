"""JSON schemas of the files that people write: sweeps, cluster profiles, models, GPUs."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

from ratematch.exchange.schemas.parts import FLAG, TEXT, Json, change_numbers, of_type, one_or_more, reference, tidy
from ratematch.inputs.clusterfile import cluster_schema
from ratematch.inputs.gpufile import gpu_schema
from ratematch.inputs.nodegroups import GROUPS
from ratematch.plan.expansion import OPTION_PREFIX
from ratematch.plan.model import Model
from ratematch.plan.sweep import GROUP_AXES, MAPPING_AXES
from ratematch.plan.sweepchecks import MOST_OF
from ratematch.plan.sweepfile import ALIASES, NAMED_AXES
from ratematch.plan.sweepschema import SweepIn

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
STAGES = ("StageIn", "GenStageIn")


def sweep() -> Json:
    """Of a sweep file, with the other names that its stages go by and the axes that have a name."""
    schema = tidy(SweepIn.model_json_schema())
    for stage in STAGES:
        schema["$defs"][stage]["properties"]["axes"] = _axes()
    described = _described("sweep", schema)
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
    return _described("gpu", change_numbers(tidy(gpu_schema()), lambda number: {"anyOf": [number, _NUMBER_TEXT]}))


_NUMBER_TEXT: Json = {"type": "string", "pattern": NUMBER}


def model() -> Json:
    """Of a model file."""
    schema = of_type(Model)
    for part in (schema, *schema["$defs"].values()):
        part["additionalProperties"] = False
    return _described("model", schema)


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
    text = resources.files("ratematch").joinpath("data", "schemas", "keys.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content
