"""A sweep: what its file asks for, checked, with every default filled in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, Options, Role, ServerGroup, Stage
from ratematch.plan.enginefacts import BreakdownApart, ExpertSlots, IdleOptions, never_apart, none_idle, one_slot_each
from ratematch.plan.experiment import DEFAULT_STEP_TIMES, EngineRef
from ratematch.plan.load import Arrival, Concurrency, Constraints, Load, Rate, Trace
from ratematch.plan.model import Gpu, Model
from ratematch.plan.secret import Secrets
from ratematch.plan.workload import Workload

AxisValues = dict[str, Any]
"""Values by axis: one each in a combination; in a rule one, or a list of those that match."""

MAPPING_AXES = ("tp", "ep", "pp", "cp", "attention_dp")
GROUP_AXES = ("mtp", "max_batch_size", "max_num_tokens")
ROLE_OF_STAGE: dict[Stage, Role] = {"ctx": "ctx", "gen": "gen", "ifb": "agg"}


@dataclass(frozen=True)
class LoadPlan:
    """Which loads a stage runs. Requests of a load: ``requests_per_slot`` x concurrency, ``min_requests`` at least.

    ``warmup_per_slot``: warm-up requests per slot, one at least. For rates, ``seconds`` of arrivals. ``duration_s``:
    closed loads last so long instead. ``replay``: speeds at which the workload's trace is replayed, its first
    ``num_requests`` requests. The others as in :mod:`ratematch.plan.load`.
    """

    concurrency: tuple[int, ...] = ()
    req_s: tuple[float, ...] = ()
    arrival: Arrival = "poisson"
    requests_per_slot: float = 8
    min_requests: int = 16
    warmup_per_slot: float = 0.25
    seconds: float = 120
    repeats: int = 1
    burstiness: float = 1.0
    ramp_to: float = 0.0
    max_in_flight: int = 0
    duration_s: float = 0.0
    stagger_s: float = 0.0
    target_ci: float = 0.0
    replay: tuple[float, ...] = ()
    num_requests: int = 0

    def at_concurrency(self, concurrency: int) -> tuple[Load, ...]:
        """The loads (one per repeat) that hold ``concurrency`` requests in flight."""
        requests = max(self.min_requests, round(self.requests_per_slot * concurrency))
        warmup = max(1, round(self.warmup_per_slot * concurrency)) if self.warmup_per_slot else 0
        more = (self.duration_s, self.stagger_s, self.target_ci)
        return tuple(Concurrency(concurrency, requests, warmup, repeat, *more) for repeat in range(self.repeats))

    def loads(self) -> tuple[Load, ...]:
        closed = [load for concurrency in self.concurrency for load in self.at_concurrency(concurrency)]
        opened = [
            Rate(
                req_s,
                max(self.min_requests, round((req_s + (self.ramp_to or req_s)) / 2 * self.seconds)),
                self.arrival,
                1,
                repeat,
                self.burstiness if self.arrival == "gamma" else 1.0,
                self.ramp_to,
                self.max_in_flight,
                self.target_ci,
            )
            for req_s in self.req_s
            for repeat in range(self.repeats)
        ]
        replayed = [
            Trace(self.num_requests, speed, 1, repeat, self.max_in_flight)
            for speed in self.replay
            for repeat in range(self.repeats)
        ]
        return (*closed, *opened, *replayed)


@dataclass(frozen=True)
class StagePlan:
    """One of ctx, gen, ifb: ``axes`` are multiplied, ``options`` go to the engine verbatim.

    ``axes`` hold tp, ep, pp, cp, attention_dp or ``mapping`` (labels), mtp, max_batch_size, max_num_tokens and any
    engine option by its dotted path, ``options.kv_cache_config.dtype``. ``exclude``: a combination that matches any
    of these is left out; ``only``: when given, a combination must match one. ``supply``: gen only, the context
    servers that feed it (mode gen_only; each takes the MTP of what it feeds); ``None`` = the context is invented.
    ``warmed``: gen only, its prompts are in its prefix cache before the clock starts (mode gen_only_warmed).
    ``unchecked``: dotted paths of options, among the axes too, that are marked ``!unchecked``. ``expert_slots``: what
    expert parallelism must divide with such options, by the engine; ``idle_options``: which of them change nothing,
    by the engine; ``fill_margin``: slots a rank beyond a batch that gen_only fills exactly, in the engine's version.
    """

    stage: Stage
    axes: dict[str, tuple[Any, ...]]
    loads: LoadPlan
    options: Options = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    exclude: tuple[AxisValues, ...] = ()
    only: tuple[AxisValues, ...] = ()

    supply: ServerGroup | None = None
    warmed: bool = False
    unchecked: tuple[str, ...] = ()
    expert_slots: ExpertSlots = field(default=one_slot_each, compare=False, repr=False)
    idle_options: IdleOptions = field(default=none_idle, compare=False, repr=False)
    fill_margin: int = 0


@dataclass(frozen=True)
class E2ePlan:
    """The end-to-end stage: how many deployments are chosen after matching, and at which loads they run.

    ``around``: multiples of the concurrency that matching predicts. ``explicit_concurrency`` replaces them.
    ``choose_at``: tok/s/user, ascending, at which one of them will be chosen to serve; ``refine``: a load is added
    where the measured front, or that of the aggregated servers, has a step there. ``breakdown``: short loads at the
    end show where the time of requests goes, where measured loads would be slower for it.
    """

    deployments: int = 3
    around: tuple[float, ...] = (0.5, 1.0, 1.25)
    loads: LoadPlan = field(default_factory=LoadPlan)
    choose_at: tuple[float, ...] = ()
    refine: bool = True
    router: str = "round_robin"
    router_args: Options = field(default_factory=dict)
    breakdown: bool = True


@dataclass(frozen=True)
class NamedDeployment:
    """A deployment written out in the file, run as it stands: ``e2e`` with ctx and gen, ``ifb`` with agg.

    ``workload``: its own, ``None`` = every workload of the sweep. ``breakdown``: as in :class:`E2ePlan`. ``engine``:
    the sweep's with keys of its own laid over it, ``None`` = as it is.
    """

    deployment: Deployment
    loads: LoadPlan
    workload: Workload | None = None
    breakdown: bool = False
    engine: EngineRef | None = None

    @property
    def stage(self) -> Stage:
        return "ifb" if self.deployment.agg else "e2e"


@dataclass(frozen=True)
class Budget:
    """Limits of a sweep: GPUs of one deployment, and GPU-hours in all (``None`` = no limit)."""

    max_gpus: int | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class Sweep:
    """One sweep file, checked: every name in it is known and every axis value can be run.

    ``search``: whether ctx, gen and ifb are measured whole, or as their figures decide. ``simulated``: its
    experiments are to run in virtual time (decided by who runs it, not by the file). ``step_times``: the emulator's
    step-time model, for whatever of it runs on the emulator (set in the environment). ``family_sds``: where that
    model is calibrated, standard deviations of the log speed of mapping families, by name. ``secrets``: those of the
    file and of its cluster profile. ``precisions``: that it is measured in, empty for the model's usual one; each of
    ``workloads`` stands there once for each. ``paths``: of the weights, by precision.
    """

    name: str
    about: str
    model: Model
    model_path: str
    cluster: Cluster
    gpu: Gpu
    engine: EngineRef
    workloads: tuple[Workload, ...]
    constraints: Constraints
    budget: Budget
    stages: tuple[StagePlan, ...]
    e2e: E2ePlan | None
    deployments: tuple[NamedDeployment, ...]
    seed: int
    source: str
    simulated: bool = False
    search: Literal["grid", "adaptive"] = "grid"
    step_times: str = DEFAULT_STEP_TIMES
    family_sds: tuple[tuple[str, float], ...] = ()
    secrets: Secrets = field(default_factory=Secrets, compare=False)
    precisions: tuple[str, ...] = ("",)
    paths: dict[str, str] = field(default_factory=dict)
    breakdown_apart: BreakdownApart = field(default=never_apart, compare=False, repr=False)

    def model_under(self, precision: str) -> Model:
        """The model in a checkpoint of one of ``precisions``."""
        return replace(self.model, chosen_precision=precision)

    def needs_breakdown(self, deployment: Deployment) -> bool:
        """Does where its requests' time goes take loads of its own, which its measured loads would be slower for?
        There are no servers to ask where they are simulated."""
        disaggregated = deployment.ctx is not None and deployment.gen is not None
        return disaggregated and not self.simulated and self.breakdown_apart(self.engine.version, deployment)

    @property
    def may_need_breakdown(self) -> bool:
        """:meth:`needs_breakdown` of deployments that are not known yet."""
        return not self.simulated and self.breakdown_apart(self.engine.version, Deployment())

    @property
    def max_gpus(self) -> int:
        """GPUs that one deployment may use: the budget's limit within the cluster's."""
        return min(self.budget.max_gpus or self.cluster.gpus, self.cluster.gpus)
