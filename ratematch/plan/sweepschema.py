"""What may be written in a sweep file: pydantic models, seen only by :mod:`ratematch.plan.sweepfile`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, WithJsonSchema

from ratematch.plan.deployment import Options
from ratematch.plan.enginefacts import GenMode
from ratematch.plan.filetypes import (
    AlsoName,
    AlsoOne,
    Gpus,
    Milliseconds,
    PerSecond,
    Repeats,
    Requests,
    Seconds,
    SecondsOrNone,
    Servers,
    Tokens,
)
from ratematch.plan.load import Arrival, Percentile, TtftOf
from ratematch.plan.numbers import MOST, MOST_HOURS, MOST_REQUESTS, MOST_TOKENS
from ratematch.plan.sweep import AxisValues
from ratematch.plan.workload import Spread, Workload, parse_spread


def as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


DraftTokens = Annotated[int, Field(ge=0, le=100, strict=True)]
Turns = Annotated[int, Field(gt=0, le=10_000, strict=True)]
Multiple = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Of something measured or recorded: a concurrency, the speed of a trace."""

TokensAStep = Annotated[
    dict[Annotated[int, Field(gt=0, le=100)], Annotated[float, Field(gt=1, le=101)]], Field(min_length=1)
]
"""By number of drafts."""

OneOrMore = Annotated[list[Requests], BeforeValidator(as_list), Field(min_length=1), AlsoOne()]
Rates = Annotated[list[PerSecond], BeforeValidator(as_list), Field(min_length=1), AlsoOne()]
Multiples = Annotated[list[Multiple], BeforeValidator(as_list), Field(min_length=1), AlsoOne()]


def as_spread(value: Any) -> Any:
    if value is None or isinstance(value, Spread):
        return value
    if not isinstance(value, str):
        raise ValueError("of the form normal:MEAN,STD or lognormal:MEAN,STD")
    return parse_spread(value)


SpreadIn = Annotated[InstanceOf[Spread], BeforeValidator(as_spread), WithJsonSchema({"type": "string"})]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class WorkloadIn(Strict):
    isl: Tokens
    osl: Annotated[int, Field(gt=1, le=MOST_TOKENS, strict=True)]
    osl_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    isl_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    isl_spread: SpreadIn | None = None
    osl_spread: SpreadIn | None = None
    prefix_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    prefix_groups: Requests = 1
    turns: Turns = 1
    think_s: SecondsOrNone = 0.0
    text: str = ""
    tokenizer: str = ""
    file: str = ""
    time_unit: Literal["", "s", "ms", "us", "ns"] = ""
    hash_block: Annotated[int, Field(ge=0, le=1_000_000, strict=True)] = 0
    forced_acceptance: str | TokensAStep | None = None

    def workload(self) -> Workload:
        """Without its forced acceptance: what that means depends on the model."""
        spreads = {name: getattr(self, name) for name in ("isl_spread", "osl_spread")}
        return Workload(**{**self.model_dump(exclude={*spreads, "forced_acceptance"}), **spreads})


class ModelIn(Strict):
    name: str | None = None
    path: str | dict[str, str] | None = None
    precision: str | Annotated[list[str], Field(min_length=1)] | None = None
    hf: str | None = None
    config: str | None = None


class EngineIn(BaseModel):
    """The keys beside these two are each engine's own, and checked by it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    name: str = "trtllm-serve"
    version: str = "1.2"

    @property
    def settings(self) -> Options:
        """The engine's own keys, as given."""
        return dict(self.model_extra or {})


class ConstraintsIn(Strict):
    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    percentile: Percentile = "mean"
    ttft_of: TtftOf = "ctx"


class BudgetIn(Strict):
    max_gpus: Gpus | None = None
    gpu_hours: Annotated[float, Field(gt=0, le=MOST_HOURS)] | None = None


class RequestCountsIn(Strict):
    requests_per_slot: Multiple = 8
    min_requests: Requests = 16
    warmup_per_slot: Annotated[float, Field(ge=0, le=1e6)] = 0.25
    repeats: Repeats = 1
    duration_s: Seconds | None = None
    stagger_s: SecondsOrNone = 0.0
    target_ci: Annotated[float, Field(gt=0, lt=1)] | None = None

    def counts(self) -> dict[str, Any]:
        """The values of :class:`ratematch.plan.sweep.LoadPlan` that closed loads have."""
        names = ("requests_per_slot", "min_requests", "warmup_per_slot", "repeats", "stagger_s")
        given = {name: getattr(self, name) for name in names}
        return {**given, "duration_s": self.duration_s or 0.0, "target_ci": self.target_ci or 0.0}


class LoadsIn(RequestCountsIn):
    concurrency: OneOrMore | None = None
    req_s: Rates | None = None
    arrival: Arrival = "poisson"
    burstiness: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0
    ramp_to: PerSecond | None = None
    max_in_flight: Annotated[int, Field(ge=0, le=MOST_REQUESTS, strict=True)] = 0
    seconds: Seconds = 120
    replay: Multiples | None = None
    num_requests: Requests | None = None


class E2eLoadsIn(RequestCountsIn):
    around: Multiples = [0.5, 1.0, 1.25]
    concurrency: OneOrMore | None = None


class StageIn(Strict):
    axes: AxisValues
    loads: LoadsIn
    options: Options = {}
    environment: dict[str, str] = {}
    exclude: list[AxisValues] = []
    only: list[AxisValues] = []


class SupplyIn(Strict):
    mapping: str
    instances: Servers = 1


class GenStageIn(StageIn):
    mode: GenMode | None = None
    supply: SupplyIn | None = None


class RouterIn(Strict):
    type: Literal["round_robin", "load_balancing", "kv_cache_aware", "conversation", "command"]
    args: Options = {}


def as_router(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


Router = Annotated[RouterIn, BeforeValidator(as_router), AlsoName("type")]


class GroupIn(Strict):
    mapping: str
    instances: Servers = 1
    mtp: DraftTokens = 0
    max_batch_size: Requests | None = None
    max_num_tokens: Tokens | None = None
    options: Options = {}
    config: Options | None = None
    environment: dict[str, str] = {}


class DeploymentIn(Strict):
    ctx: GroupIn | None = None
    gen: GroupIn | None = None
    agg: GroupIn | None = None
    router: Router = RouterIn(type="round_robin")
    engine: Options = {}
    orchestrator: Options = {}
    workload: WorkloadIn | None = None
    loads: LoadsIn
    breakdown: bool | None = None


class E2eIn(Strict):
    deployments: Servers = 3
    loads: E2eLoadsIn = E2eLoadsIn()
    choose_at: Annotated[list[PerSecond], BeforeValidator(as_list), AlsoOne()] = []
    refine: bool = True
    router: Router = RouterIn(type="round_robin")
    breakdown: bool = True


class SweepIn(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    about: str = ""
    model: str | ModelIn
    cluster: str
    engine: EngineIn = EngineIn()
    workloads: Annotated[list[WorkloadIn], Field(min_length=1)]
    constraints: ConstraintsIn = ConstraintsIn()
    budget: BudgetIn = BudgetIn()
    ctx: StageIn | None = None
    gen: GenStageIn | None = None
    ifb: StageIn | None = None
    e2e: E2eIn | None = None
    deployments: list[DeploymentIn] = []
    search: Literal["grid", "adaptive"] = "grid"
    seed: Annotated[int, Field(ge=0, le=MOST, strict=True)] = 0


VALID_KEYS: dict[str, tuple[str, ...]] = {
    "": tuple(SweepIn.model_fields),
    "workloads": tuple(WorkloadIn.model_fields),
    "model": tuple(ModelIn.model_fields),
    "engine": tuple(EngineIn.model_fields),
    "constraints": tuple(ConstraintsIn.model_fields),
    "budget": tuple(BudgetIn.model_fields),
    "e2e": tuple(E2eIn.model_fields),
    **{stage: tuple(StageIn.model_fields) for stage in ("ctx", "ifb")},
    "gen": tuple(GenStageIn.model_fields),
    "gen.supply": tuple(SupplyIn.model_fields),
    "e2e.router": tuple(RouterIn.model_fields),
    "deployments.router": tuple(RouterIn.model_fields),
    **{f"{stage}.loads": tuple(LoadsIn.model_fields) for stage in ("ctx", "gen", "ifb")},
    "e2e.loads": tuple(E2eLoadsIn.model_fields),
    "deployments": tuple(DeploymentIn.model_fields),
    "deployments.loads": tuple(LoadsIn.model_fields),
    "deployments.workload": tuple(WorkloadIn.model_fields),
    **{f"deployments.{role}": tuple(GroupIn.model_fields) for role in ("ctx", "gen", "agg")},
}
