"""One deployment under one workload: the unit that becomes a job and a results folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import msgspec

from ratematch.plan.deployment import Deployment, Options, ServerGroup, Stage
from ratematch.plan.load import Concurrency, Load, Rate, Trace
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.plain import plain
from ratematch.plan.workload import Workload, workload_from_json, workload_to_json

Origin = Literal["real", "emulated", "simulated"]
"""Where figures come from. Those of different origins never share a front."""


def origin_of(emulated: bool, simulated: bool) -> Origin:
    """The origin that two keys of a file mean; what is simulated has both."""
    return "simulated" if simulated else "emulated" if emulated else "real"


ORIGINS: tuple[Origin, ...] = ("real", "emulated", "simulated")
"""From what was measured to what was computed."""


def origin_keys(origin: Origin) -> dict[str, bool]:
    """The two keys that mean ``origin`` in files and tables."""
    return {"emulated": origin != "real", "simulated": origin == "simulated"}


DEFAULT_STEP_TIMES = "roofline"
"""The emulator's own step-time model."""

Mode = Literal["ctx_only", "gen_only", "gen_only_no_context", "gen_only_warmed", "e2e", "aggregated"]
"""What servers do while they are measured (contract, section 6).

``ctx_only``: output length 1, straight to a context server. ``gen_only``: real context servers supply the KV cache,
and no token is decoded before a whole batch is there. ``gen_only_no_context``: the orchestrator invents the context;
no GPU is spent on it, but the KV cache is garbage, so MTP acceptance and expert routing are not those of real text.
``gen_only_warmed``: the generation server answers each prompt once before the clock and finds it in its prefix cache
afterwards; the cache is that of real text, a last block of each prompt is computed again, and only TPOT is measured.
``e2e``: everything as in service. ``aggregated``: one kind of server, in-flight batching.
"""


@dataclass(frozen=True)
class EngineRef:
    """Which serving stack and which of its versions; the renderer never guesses either.

    ``backend`` and ``backend_version``: what computes in its workers, where that is another project's engine.
    ``settings``: of the stack as a whole, under the names that its engine gives them, with every default filled in.
    """

    name: str = "trtllm-serve"
    version: str = "1.2"
    backend: str = ""
    backend_version: str = ""
    settings: Options = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """What the engine's room is found by: ``trtllm-serve``, ``dynamo-vllm``."""
        return f"{self.name}-{self.backend}" if self.backend else self.name

    @property
    def computing(self) -> str:
        """The project whose kernels run in the workers, whatever stands in front of them: ``trtllm``, ``vllm``."""
        return (self.backend or self.name).removesuffix("-serve")

    @property
    def computing_version(self) -> str:
        """The version of what computes in the workers."""
        return self.backend_version or self.version

    @property
    def service_nodes(self) -> int:
        """Nodes that it wants for what is no server and no frontend."""
        return int(self.settings.get("service_nodes", 0))

    @property
    def label(self) -> str:
        """For people: ``trtllm-serve 1.2``, ``dynamo 1.6.1 (trtllm 1.3.0rc29)``."""
        behind = f" ({self.backend} {self.backend_version})" if self.backend else ""
        return f"{self.name} {self.version}{behind}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. What is empty is left out: files and ids are those from before the keys existed."""
        content: dict[str, Any] = plain(self)
        return {key: value for key, value in content.items() if value or key in ("name", "version")}


@dataclass(frozen=True)
class Experiment:
    """What one job does: start ``deployment``, run every load of ``loads`` against it, stop it.

    ``id`` is a hash of all that decides a figure, so neither of the loads (a longer ladder adds loads to the same
    experiment, and nothing that was measured is measured again) nor of where the weights lie.

    ``emulated``: no GPU was there, the figures are those of the emulator's model. ``simulated``: besides, there were
    no servers either; the emulator's scheduler ran in virtual time. ``step_times``: the emulator's step-time model
    behind the figures; it says nothing where servers are real. ``facts``: what the model is made of, as in a model
    file, where it is none that ships with the package: its files may be gone when the figures are looked at.
    """

    stage: Stage
    model: str
    model_path: str
    engine: EngineRef
    gpu: str
    cluster: str
    emulated: bool
    deployment: Deployment
    workload: Workload
    loads: tuple[Load, ...]
    simulated: bool = False
    step_times: str = DEFAULT_STEP_TIMES
    facts: dict[str, Any] | None = None

    @property
    def stack(self) -> str:
        """Engine and version, and the emulator's step-time model where it is not the usual one."""
        steps = f", step times: {self.step_times}" if self.emulated and self.step_times != DEFAULT_STEP_TIMES else ""
        return f"{self.engine.label}{steps}"

    @property
    def origin(self) -> Origin:
        return origin_of(self.emulated, self.simulated)

    @property
    def mode(self) -> Mode:
        """Follows from the servers, and from the stage when ctx and gen are both there: gen is fed or in service."""
        deployment = self.deployment
        if deployment.agg is not None:
            return "aggregated"
        if deployment.gen is None:
            return "ctx_only"
        if deployment.ctx is None:
            return "gen_only_warmed" if deployment.warmed else "gen_only_no_context"
        return "gen_only" if self.stage == "gen" else "e2e"

    def forced_tokens(self, group: ServerGroup) -> float | None:
        """Tokens a step that servers of ``group`` are forced to yield; ``None`` where drafts are accepted as they are
        right. Context servers check none and only hand their first ones over; they are started like the others.

        Raises:
            ValueError: the workload says nothing of so many drafts.
        """
        forced = self.workload.forced
        return forced.at(group.mtp) if forced is not None and group.mtp else None

    def launches(self) -> tuple[Experiment, ...]:
        """The experiment in parts that each need their own start of the servers: the loads that share one.

        All loads share one, except in ``gen_only``: the servers are started with the number of requests that make a
        batch (contract, section 6), so each concurrency has its own. Breakdown loads come last, on servers that
        collect what slows them.
        """
        if self.mode != "gen_only":
            kinds = [tuple(load for load in self.loads if load.breakdown is kind) for kind in (False, True)]
            return (self,) if not all(kinds) else tuple(replace(self, loads=loads) for loads in kinds)
        sizes = sorted({load.concurrency for load in self.loads if isinstance(load, Concurrency)})
        return tuple(
            replace(
                self,
                loads=tuple(
                    load for load in self.loads if isinstance(load, Concurrency) and load.concurrency == size
                ),
            )
            for size in sizes
        )

    @cached_property
    def id(self) -> str:
        content: dict[str, Any] = plain(self)
        del content["loads"], content["model_path"]
        if not self.simulated:
            del content["simulated"]
        if self.step_times == DEFAULT_STEP_TIMES:
            del content["step_times"]
        if self.facts is None:
            del content["facts"]
        content["workload"] = workload_to_json(self.workload)
        content["engine"] = self.engine.to_json()
        deployment = content["deployment"]
        for key in (
            "orchestrator",
            "router_args",
            "unchecked",
            "warmed",
            "service_nodes",
        ):  # nothing added: the id from before the key existed
            if not deployment[key]:
                del deployment[key]
        for role in ("ctx", "gen", "agg"):
            if deployment[role] is not None:
                del deployment[role]["tag"]
                if not deployment[role]["unchecked"]:
                    del deployment[role]["unchecked"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def label(self) -> str:
        return self._label(self.deployment.label)

    def _label(self, servers: str) -> str:
        workload = self.workload.label.replace("/", "-")
        return f"{self.stage}-{workload}-{servers}"

    @property
    def folder(self) -> str:
        """Name of the results folder: readable first, unique by the id."""
        return f"{self._label(self.deployment.short_label)}-{self.id}"


def seed_of(experiment: Experiment, load: Load) -> int:
    """What the requests of a load are drawn from: another one for each load and repeat, so that none finds another's
    prompts in the prefix cache of servers that both are sent to."""
    digest = hashlib.sha256(f"{experiment.id} {load.label}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def merge_loads(experiments: Iterable[Experiment]) -> tuple[Experiment, ...]:
    """Experiments of one id as one, where the first of them stands, with the loads of all in their order, each once.

    They would share a results folder, and one start of the servers serves them all. Loads of one label would share a
    folder there too, so the first of these stands for all.
    """
    first: dict[str, Experiment] = {}
    loads: dict[str, dict[str, Load]] = {}
    for experiment in experiments:
        first.setdefault(experiment.id, experiment)
        known = loads.setdefault(experiment.id, {})
        for load in experiment.loads:
            known.setdefault(load.label, load)
    return tuple(
        experiment
        if len(loads[id_]) == len(experiment.loads)
        else replace(experiment, loads=tuple(loads[id_].values()))
        for id_, experiment in first.items()
    )


TEXTS = ("stage", "model", "model_path", "gpu", "cluster")
"""Fields of an experiment that are text; what else is wrong in a file shows in its id."""


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Plain JSON values, loads tagged by kind."""
    content = asdict(experiment)
    if experiment.facts is None:  # as it was before there were other models than the package's
        del content["facts"]
    if not experiment.deployment.service_nodes:
        del content["deployment"]["service_nodes"]
    content["engine"] = experiment.engine.to_json()
    content["loads"] = [load_to_json(load) for load in experiment.loads]
    content["workload"] = workload_to_json(experiment.workload)
    return content


def from_json(content: dict[str, Any]) -> Experiment:
    """The inverse of :func:`to_json`.

    Raises:
        KeyError, TypeError, ValueError: the content is not that of an experiment.
    """
    if any(not isinstance(content[name], str) for name in TEXTS):
        raise ValueError(f"{', '.join(TEXTS)} must be text")
    groups = {
        role: ServerGroup(
            **{**group, "mapping": Parallelism(**group["mapping"]), "unchecked": tuple(group.get("unchecked", ()))}
        )
        for role, group in content["deployment"].items()
        if role in ("ctx", "gen", "agg") and group is not None
    }
    deployment = content["deployment"]
    return Experiment(
        **{
            **content,
            "engine": EngineRef(**content["engine"]),
            "deployment": Deployment(
                **groups,
                router=deployment["router"],
                orchestrator=deployment.get("orchestrator", {}),
                router_args=deployment.get("router_args", {}),
                unchecked=tuple(deployment.get("unchecked", ())),
                warmed=deployment.get("warmed", False),
                service_nodes=deployment.get("service_nodes", 0),
            ),
            "workload": workload_from_json(content["workload"]),
            "loads": tuple(load_from_json(load) for load in content["loads"]),
        }
    )


def load_to_json(load: Load) -> dict[str, Any]:
    match load:
        case Concurrency():
            kind = "concurrency"
        case Rate():
            kind = "rate"
        case Trace():
            kind = "trace"
    fields = asdict(load)
    if not load.breakdown:  # nothing added: files are those from before the key existed
        del fields["breakdown"]
    return {"kind": kind, **fields}


LOAD_KINDS: dict[str, type[Concurrency] | type[Rate] | type[Trace]] = {
    "concurrency": Concurrency,
    "rate": Rate,
    "trace": Trace,
}


def load_from_json(content: dict[str, Any]) -> Load:
    """The inverse of :func:`load_to_json`.

    Raises:
        KeyError, TypeError, ValueError: the content is not that of a load.
    """
    kind = LOAD_KINDS[content["kind"]]
    fields = {key: value for key, value in content.items() if key != "kind"}
    msgspec.convert(fields, kind)  # only to check the types: it would make floats of whole rates, and other labels
    return kind(**fields)
