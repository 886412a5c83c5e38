"""JSON schemas of the files that hold results; ``results/README.md`` says what each is for."""

from __future__ import annotations

from ratematch.exchange.schemas.parts import FLAG, TEXT, Json, change_numbers, listed, of_type, or_null, reference
from ratematch.match.points import Analysis
from ratematch.measure.loadrun import LoadRun
from ratematch.measure.measurement import Measurement
from ratematch.plan.experiment import LOAD_KINDS, Experiment
from ratematch.store import checksums
from ratematch.store.outcome import Outcome
from ratematch.store.provenance import Provenance
from ratematch.store.sweeprun import SweepLimits

ORIGIN: Json = {"emulated": FLAG, "simulated": FLAG}


def measurement() -> Json:
    """Parts of a distribution that an imported file does not hold are ``null``."""
    schema = of_type(Measurement)
    schema["$defs"]["Stats"] = change_numbers(schema["$defs"]["Stats"], or_null)
    return schema


def loadrun() -> Json:
    """How a load ran, with the load itself and the checksums of the files beside it."""
    schema = of_type(LoadRun)
    keys = schema["properties"]
    del keys["absent"], keys["imported"], keys["origin"]
    loads, defs = _loads()
    schema["$defs"] |= defs
    keys |= ORIGIN | {
        "load": loads,
        "origin": {**reference("Import"), "description": "Of imported loads: the tool and file that they come from."},
        checksums.FILES: {
            "type": "object",
            "additionalProperties": {
                "type": "array", "prefixItems": [{"type": "integer"}, TEXT], "minItems": 2, "maxItems": 2,
            },
            "description": "Size and SHA-256 of the files beside it, by name.",
        },
        checksums.OWN: {**TEXT, "description": "SHA-256 of its own content without this key."},
    }  # fmt: skip
    schema["required"] = ["load", "emulated"]
    return schema


def experiment() -> Json:
    """Deployment, workload and loads of an experiment."""
    schema = of_type(Experiment)
    loads, defs = _loads()
    workload = schema["$defs"]["Workload"]["properties"]
    for spread in ("isl_spread", "osl_spread"):
        workload[spread] = TEXT
    del schema["$defs"]["Spread"]
    schema["$defs"] |= defs
    schema["properties"]["loads"] = listed(loads)
    return schema


def _loads() -> tuple[Json, Json]:
    """A load of any kind, and the definitions of the kinds; each is tagged by ``kind``."""
    defs: Json = {}
    for kind, load in LOAD_KINDS.items():
        schema = of_type(load)
        schema["properties"]["kind"] = {"const": kind}
        schema["required"] = ["kind", *schema["required"]]
        defs[load.__name__] = schema
    return {"oneOf": [reference(name) for name in defs]}, defs


def outcome() -> Json:
    """How a launch ended."""
    schema = of_type(Outcome)
    del schema["properties"]["absent"]
    return schema


def provenance() -> Json:
    """Software, machine and servers of a launch."""
    return of_type(Provenance)


def limits() -> Json:
    """What an analysis needs of the sweep file."""
    return of_type(SweepLimits)


def analysis() -> Json:
    """Fronts, gaps and speed-ups of each workload. A number that is not finite is ``null``."""
    schema = of_type(Analysis)
    defs = {name: change_numbers(part, or_null) for name, part in schema["$defs"].items()}
    defs["Point"]["properties"]["mapping"] = {"anyOf": [TEXT, {"type": "null"}]}
    keys = defs["WorkloadAnalysis"]["properties"]
    for name in ("workload", "origin", "plans", "measured", "drawn"):
        del keys[name]
    reasons = {"experiment": TEXT, "load": TEXT, "reasons": listed(TEXT)}
    keys["left_out"] = listed({"type": "object", "properties": reasons, "required": [*reasons]})
    keys |= ORIGIN
    defs["WorkloadAnalysis"]["required"] = sorted(keys)
    top = schema["properties"]
    del top["origin"]
    top |= ORIGIN | {"workloads": {"type": "object", "additionalProperties": reference("WorkloadAnalysis")}}
    return {**schema, "$defs": defs, "required": sorted(top)}
