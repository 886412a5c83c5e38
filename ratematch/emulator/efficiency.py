"""What real kernels reach of a data sheet, and what a step costs besides: defaults, and what was learnt from rows.

``ratematch/data/efficiency.yaml`` has what public measurements of real deployments say, by GPU, weight format and
backend of the experts' kernels, each value with how far it moves when only a half of the deployments is used.
``ratematch/data/efficiency-dense.yaml`` has what loads of dense models say, which ratematch itself measured.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, NamedTuple

from ratematch.engines.ownyaml import read_shipped_yaml
from ratematch.engines.steptimes import Correction
from ratematch.plan.model import Gpu, Model


@dataclass(frozen=True)
class Efficiency:
    """What real kernels reach of a data sheet, and what a step costs besides.

    The defaults are round numbers from within the usual ranges, chosen so that peaks agree with the aggregated table
    of TensorRT-LLM's performance overview and one user of DeepSeek R1 on eight B200 with three drafts sees 250 to 400
    tokens/s (TensorRT-LLM's best-practice and min-latency posts). They absorb what the roofline leaves out.

    gemm:                share of the dense tensor-core peak that large matrix products reach
    moe_gemm:            the same for grouped products of routed experts (many small, ragged ones)
    attention:           share of the peak that attention of prompts reaches (MLA, FP8 cache: FP8's, else bf16's)
    gen_attention:       share of the peak that attention of generation reaches (the KV format's rate)
    memory:              share of the memory bandwidth that reads of caches and of weights but experts reach
    expert_memory:       share of the memory bandwidth that reads of routed experts' weights reach
    link:                share of the link bandwidth that dispatch and combine of attention DP reach
    allreduce:           share of the link bandwidth that all-reduces reach, counted as a ring's (NCCL's bus
                         bandwidth): switches add up (NVLink SHARP), so it may be above that of other exchanges
    moe_imbalance:       tokens of the busiest expert-parallel rank over the mean
    layer_s:             fixed time of a layer: launches, norms, routing, tails of small kernels (CUDA graphs)
    moe_row_b:           bytes that a token's row at an expert moves for each hidden element, see ``ROW_BYTES``
    moe_row_ffn_b:       the same for each element between an expert's two products
    moe_layer_s:         more of it in a layer with routed experts, where sorting tokens by expert, quantising and
                         adding up are kernels of their own
    collective_s:        fixed time of one exchange between GPUs
    elementwise_passes:  hidden-sized bf16 tensors that a layer reads or writes outside matrix products
    step_s:              fixed device time of a step: sampling, input preparation
    host_step_s:         host time of a step: scheduling, bookkeeping
    host_request_s:      host time of a step per scheduled request
    launch_layer_s:      host time of launching one layer's kernels one by one: a step with prompts, which no CUDA
                         graph holds, takes at least that long in each layer
    ctx_speed:           what steps of prompts alone are faster by beside all that, where a calibration says so
    gen_speed:           the same of steps in which something is generated
    """

    gemm: float = 0.65
    moe_gemm: float = 0.22
    attention: float = 0.55
    gen_attention: float = 0.55
    memory: float = 0.6
    expert_memory: float = 0.6
    link: float = 0.4
    allreduce: float = 0.4
    moe_imbalance: float = 1.3
    layer_s: float = 45e-6
    moe_row_b: float = 4.0
    moe_row_ffn_b: float = 6.0
    moe_layer_s: float = 0.0
    collective_s: float = 12e-6
    elementwise_passes: float = 28.0
    step_s: float = 0.5e-3
    host_step_s: float = 3e-3
    host_request_s: float = 8e-6
    launch_layer_s: float = 0.0
    ctx_speed: float = 1.0
    gen_speed: float = 1.0


ROW_BYTES = {"DEEPGEMM": (16.0, 10.0)}
"""``moe_row_b`` and ``moe_row_ffn_b`` of backends whose kernels stand one behind another, by what each reads and
writes (TensorRT-LLM's ``fused_moe_deepgemm.py``). A row is copied to its expert in bf16 (4 bytes a hidden element),
quantised into that expert's block (3), read by the first product (1), written by the second (2), copied back out of
the block (4) and read to be added up (2): 16. Between the products, gate and other half counted together, it is
written (4), read and quantised behind the activation (5) and read (1): 10. Others fuse all this with the products."""


def row_bytes(efficiency: Efficiency, moe_backend: str) -> Efficiency:
    """``efficiency`` with what a row of a routed expert moves with kernels of ``moe_backend``."""
    hidden, ffn = ROW_BYTES.get(moe_backend, (efficiency.moe_row_b, efficiency.moe_row_ffn_b))
    return replace(efficiency, moe_row_b=hidden, moe_row_ffn_b=ffn)


class Learnt(NamedTuple):
    """A value of :class:`Efficiency` that was learnt. ``low`` and ``high``: of fits on all deployments
    and on either half of them, or without one of the models."""

    value: float
    low: float
    high: float


class LearntSet(NamedTuple):
    """What was learnt for one GPU, model and weight format: values by name, and where they come from.

    ``label``: ``nvfp4 on gb200, experts: CUTLASS``; the backend, and ``backend``, only where values are of one.
    """

    values: dict[str, Learnt]
    source: str
    label: str = ""
    backend: str = ""


def efficiency_of(
    gpu: Gpu, model: Model, precision: str, moe_backend: str = "", attention_dp: bool = False
) -> Efficiency:
    """What kernels reach on ``gpu`` with weights of ``precision``, experts behind attention DP or tensor parallelism.

    ``moe_backend``: TensorRT-LLM's ``moe_config.backend``; empty, ``AUTO`` and unmeasured ones: what the engine takes
    where none is named.
    """
    learnt = find_learnt(gpu, model, precision, moe_backend, attention_dp)
    known = replace(Efficiency(), **{name: value.value for name, value in learnt.values.items()})
    return row_bytes(known, learnt.backend)


DENSE = ("MLPs without experts", "grouped-query attention")
"""The layers of models that are called dense here (:attr:`~ratematch.plan.model.Model.layer_kinds`)."""


def find_learnt(gpu: Gpu, model: Model, precision: str, moe_backend: str, attention_dp: bool) -> LearntSet:
    """What was learnt for servers of ``model``; see :func:`efficiency_of`."""
    mla, dense = model.mla is not None, model.layer_kinds == DENSE
    return learnt_for(gpu.name, mla, precision, moe_backend.upper(), attention_dp, dense=dense)


@cache
def learnt_for(
    gpu: str, mla: bool, precision: str, moe_backend: str = "", attention_dp: bool = False, *, dense: bool = False
) -> LearntSet:
    """What was learnt for ``gpu`` and ``precision``; no values where nothing was. ``dense``: of :data:`DENSE`
    models.

    Kernels of attention differ most between kinds of attention: what MLA's reach is not used for others, nor is how
    many there are to launch. An entry
    ``NAME_TP`` holds for backend ``NAME`` without attention DP, over what ``NAME`` itself says.
    """
    known = {field.name for field in fields(Efficiency)}
    for entry in _entries():
        if gpu not in entry["gpus"] or (entry.get("models") == "dense" and not (dense and precision in entry)):
            continue
        given = {**entry.get("any", {}), **(entry.get("mla", {}) if mla else {}), **entry.get(precision, {})}
        backends = entry.get("moe_backends", {}).get(precision, {})
        backend = moe_backend if moe_backend in backends else entry.get("usual_moe_backend", {}).get(precision, "")
        given |= backends.get(backend, {}) | ({} if attention_dp else backends.get(f"{backend}_TP", {}))
        values = {name: Learnt(float(each["value"]), *map(float, each["between"])) for name, each in given.items()}
        if not mla:
            values.pop("launch_layer_s", None)
        assert values.keys() <= known, values.keys() - known
        backend = backend if backend in backends else ""
        label = f"{precision} on {gpu}" + (f", experts: {backend}" if backend else "")
        return LearntSet(values, " ".join(str(entry["source"]).split()), label, backend)
    return LearntSet({}, "")


@cache
def _entries() -> list[dict[str, Any]]:
    """Those of dense models first: they are of one format each, and stand over what is of the GPU alone."""
    files = ("efficiency-dense.yaml", "efficiency.yaml")
    return [entry for file in files for entry in read_shipped_yaml("ratematch.data", file)]


PART_FIELDS = {
    "fixed": ("layer_s", "moe_layer_s", "collective_s", "step_s"),
    "memory": ("memory", "expert_memory", "gen_attention"),
    "compute": ("gemm", "moe_gemm", "attention"),
    "link": ("link", "allreduce"),
}
"""What each part of a :class:`~ratematch.engines.steptimes.Correction` is a factor on. Attention of generation is
with memory: it is what reading the cache costs."""


def corrected(efficiency: Efficiency, correction: Correction, mapping: str = "") -> Efficiency:
    """``efficiency`` with the factors of ``correction``; no share goes beyond its peak. ``mapping``: of the
    server, whose family may have a factor too."""
    changed = {
        name: float(getattr(efficiency, name)) * float(getattr(correction, part))
        for part, names in PART_FIELDS.items()
        for name in names
    }
    shares = {name for part, names in PART_FIELDS.items() if part != "fixed" for name in names}
    changed = {name: min(1.0, value) if name in shares else value for name, value in changed.items()}
    speeds = {f"{stage}_speed": correction.family(stage, mapping) for stage in ("ctx", "gen")}
    return replace(efficiency, **changed, **speeds)
