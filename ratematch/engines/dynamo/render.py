"""Experiment + Placement -> the files and processes of a Dynamo deployment, in four waves.

====  =====================================================================================================
wave  processes
====  =====================================================================================================
0     etcd, NATS: where discovery or a plane needs them; they must answer before anything else starts
1     prefill and decode workers, or aggregated ones; in any order. Each has a port for its figures
2     frontends
3     nginx, where there is one public port in front of them
====  =====================================================================================================

That workers and frontends have found each other is not in any process's own readiness: see
:mod:`ratematch.engines.dynamo.joining`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ratematch.engines.dynamo.contract import flag_name, has_flag, spell_flags, to_argv
from ratematch.engines.dynamo.engineside import as_engine, block_size, is_alone, publishing, worker_config
from ratematch.engines.dynamo.environment import (
    UNSET,
    measured,
    on_loopback,
    past_proxies,
    shared,
    system_port,
    traced,
)
from ratematch.engines.dynamo.places import Place, Places, find_places, has_nginx
from ratematch.engines.dynamo.services import (
    NATS_FILE,
    NGINX_FILE,
    bind_address,
    etcd_argv,
    nats_argv,
    nats_config,
    nginx_argv,
    nginx_config,
)
from ratematch.engines.dynamo.stack import Stack, stack_of
from ratematch.engines.settings import merge_env
from ratematch.engines.steptimes import step_times_env
from ratematch.engines.trtllm_serve.agreement import has_load_balancer
from ratematch.engines.trtllm_serve.commandline import engine_launcher as trtllm_launcher
from ratematch.engines.trtllm_serve.forced import forced_env
from ratematch.engines.trtllm_serve.modes import quiet_env
from ratematch.engines.trtllm_serve.render import EPLB_SHM, WORKER_ENV, to_yaml, visible_gpus
from ratematch.engines.trtllm_serve.render import unset as trtllm_unset
from ratematch.engines.vllm.contract import to_argv as vllm_argv
from ratematch.engines.vllm.render import SERVER_ENV, SIDE_HOST, SIDE_PORT
from ratematch.engines.vllm.render import UNSET as VLLM_UNSET
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.emulated import emulated_model
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.launchplan import FileSpec, LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.plan.placement import Instance, Placement

DISAGGREGATION = {"ctx": "prefill", "gen": "decode"}

SERVICE_S = 120.0
"""etcd and NATS answer within a second; a start that has not by now never will."""

ETCD, NATS, NGINX = "etcd", "nats", "nginx"


def engine_command(cluster: Cluster) -> tuple[str, ...]:
    """The Python in which Dynamo is installed; on an emulated cluster ratematch's own."""
    return cluster.command or ((sys.executable,) if cluster.emulated else ("python3",))


def needed_programs(engine: EngineRef) -> tuple[str, ...]:
    """etcd, NATS and nginx, as far as the settings want them."""
    stack = stack_of(engine)
    wanted = {"etcd": stack.discovery == "etcd", "nats-server": stack.uses_nats, "nginx": has_nginx(stack)}
    return tuple(stack.program(name) for name, there in wanted.items() if there)


def engine_launcher(cluster: Cluster) -> tuple[str, ...]:
    """What hands the ranks that Slurm started to a worker; TensorRT-LLM's."""
    return trtllm_launcher(cluster)


def worker_command(stack: Stack, cluster: Cluster) -> tuple[str, ...]:
    """What starts a worker before its own arguments; an emulated one takes the same, after the module they are of."""
    module = f"dynamo.{stack.backend}"
    if cluster.emulated:
        return (*engine_command(cluster), "-m", "ratematch.emulator", "dynamo-worker", module)
    return (*engine_command(cluster), "-m", module)


def plan_launch(experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float) -> LaunchPlan:
    """Files and processes, in the order in which they are started."""
    stack, places = stack_of(experiment.engine), find_places(experiment, placement)
    files = []
    if stack.backend == "trtllm":
        files = [
            FileSpec(f"{group.role}.yaml", to_yaml(worker_config(experiment, group, cluster.environment)))
            for group in experiment.deployment.groups
        ]
    processes = list(_services(experiment, cluster, places))
    processes += [_worker(experiment, instance, cluster, places, ready_s) for instance in placement.instances]
    processes += [_frontend(experiment, cluster, places, number, ready_s) for number in range(len(places.frontends))]
    if places.nats is not None and stack.nats_max_payload_mb:
        files.append(FileSpec(NATS_FILE, nats_config(stack.nats_max_payload_mb)))
    if has_nginx(stack):
        upstream = [(place.host, place.port) for place in places.frontends]
        files.append(FileSpec(NGINX_FILE, nginx_config(places.public.host, places.public.port, upstream)))
        processes.append(_nginx(stack, cluster, places))
    return LaunchPlan(tuple(files), tuple(processes), _url(places.public))


def _url(place: Place, path: str = "") -> str:
    return f"http://{place.host}:{place.port}{path}"


# ------------------------------------------------------------------------------------------------ services


def _services(experiment: Experiment, cluster: Cluster, places: Places) -> Iterator[ProcessSpec]:
    stack = stack_of(experiment.engine)
    if (etcd := places.etcd) is not None:
        argv = etcd_argv(stack.program("etcd"), etcd.host, etcd.port, etcd.further)
        yield _service(ETCD, argv, etcd, _url(etcd, "/health"), cluster)
    if (nats := places.nats) is not None:
        argv = nats_argv(stack.program("nats-server"), nats.host, nats.port, nats.further, stack.nats_max_payload_mb)
        yield _service(NATS, argv, nats, _url(Place(nats.host, nats.further), "/healthz"), cluster)


def _service(name: str, argv: tuple[str, ...], place: Place, url: str, cluster: Cluster) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        role="service",
        argv=argv,
        env=tuple(cluster.environment.items()),
        unset=(),
        nodes=(place.host,),
        host=place.host,
        port=place.port,
        log=f"{name}.log",
        ready=ReadyProbe(url, SERVICE_S),
        wave=0,
        further_ports=(place.further,),
    )


def _nginx(stack: Stack, cluster: Cluster, places: Places) -> ProcessSpec:
    public = places.public
    return ProcessSpec(
        name=NGINX,
        role="service",
        argv=nginx_argv(stack.program("nginx")),
        env=tuple(cluster.environment.items()),
        unset=(),
        nodes=(public.host,),
        host=public.host,
        port=public.port,
        log="nginx.log",
        ready=ReadyProbe(_url(public, "/health"), SERVICE_S),
        wave=3,
        # No engine's image has it: it is a program of the node.
        inside=False,
    )


# ------------------------------------------------------------------------------------------------ workers


def _worker(
    experiment: Experiment, instance: Instance, cluster: Cluster, places: Places, ready_s: float
) -> ProcessSpec:
    stack = stack_of(experiment.engine)
    group = next(group for group in experiment.deployment.groups if group.role == instance.role)
    place = Place(instance.host, instance.port)
    return ProcessSpec(
        name=instance.name,
        role=instance.role,
        argv=(*worker_command(stack, cluster), *worker_argv(experiment, group)),
        env=_worker_env(experiment, group, instance, cluster, places),
        unset=(*UNSET, *(trtllm_unset(as_engine(experiment)) if stack.backend == "trtllm" else VLLM_UNSET)),
        nodes=instance.nodes,
        host=instance.host,
        port=instance.port,
        log=f"{instance.name}.log",
        # Its /health stays "not ready" in some releases while it serves: what counts is what the frontend sees.
        ready=ReadyProbe(_url(place, "/health"), ready_s, alive=True),
        wave=1,
        ranks=group.mapping.gpus if stack.backend == "trtllm" else 1,
        launcher=engine_launcher(cluster) if stack.backend == "trtllm" else (cluster.launcher or ()),
        shares=instance.shares,
    )


def worker_argv(experiment: Experiment, group: ServerGroup) -> tuple[str, ...]:
    """The arguments of a worker of ``group``, after the words that start one."""
    stack = stack_of(experiment.engine)
    given: dict[str, object] = {"model-path" if stack.backend == "trtllm" else "model": experiment.model_path}
    given["served-model-name"] = experiment.model_path
    given |= _role_flags(experiment, group, stack)
    if stack.backend == "trtllm":
        given["extra-engine-args"] = f"{group.role}.yaml"
        if (block := block_size(experiment, group)) is not None:
            given["kv-block-size"] = block
    given |= planes(stack, stack.backend)
    if has_flag(stack.backend, stack.version, "migration-limit"):
        given["migration-limit"] = 0
    given |= publishing(stack)
    given |= spell_flags(stack.backend, stack.version, stack.worker_args)
    words = to_argv(stack.backend, stack.version, given)
    if stack.backend == "vllm":
        words = (*words, *vllm_argv(worker_config(experiment, group)))
    return words


def _role_flags(experiment: Experiment, group: ServerGroup, stack: Stack) -> dict[str, object]:
    """What makes a prefill or a decode worker; an aggregated one has none of it."""
    if is_alone(experiment) or group.role not in DISAGGREGATION:
        return {}
    mode = DISAGGREGATION[group.role]
    if has_flag(stack.backend, stack.version, "disaggregation-mode"):
        return {"disaggregation-mode": mode}
    return {f"is-{mode}-worker": True}


def planes(stack: Stack, program: str) -> dict[str, object]:
    """How a program finds the others, as far as its release has a flag for it."""
    flags: dict[str, object] = {stack.discovery_flag: stack.discovery, "request-plane": stack.request_plane}
    if has_flag("frontend", stack.version, "event-plane"):
        flags["event-plane"] = stack.event_plane
    return flags


def _worker_env(
    experiment: Experiment, group: ServerGroup, instance: Instance, cluster: Cluster, places: Places
) -> tuple[tuple[str, str], ...]:
    stack = stack_of(experiment.engine)
    own: tuple[tuple[str, str], ...] = WORKER_ENV if stack.backend == "trtllm" else SERVER_ENV
    if stack.backend == "trtllm":
        eplb = ((EPLB_SHM, f"ratematch_eplb_{instance.port}"),) if has_load_balancer(group) else ()
        own = (*own, *quiet_env(as_engine(experiment)), *eplb)
    elif side := {name: (host, port) for name, host, port in places.side_channels}.get(instance.name):
        own = (*own, (SIDE_HOST, side[0]), (SIDE_PORT, str(side[1])))
    return (
        *merge_env(
            own,
            on_loopback(instance.host),
            _emulated(experiment, cluster, stack, group.unchecked),
            cluster.environment.items(),
            group.environment.items(),
            forced_env(experiment, group) if stack.backend == "trtllm" else (),
            step_times_env(experiment, cluster),
            shared(stack, places),
            system_port(Place(instance.host, instance.port)),
            measured(experiment, stack),
        ),
        *visible_gpus(instance, cluster),
    )


def _emulated(
    experiment: Experiment, cluster: Cluster, stack: Stack, unchecked: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """What an emulated worker stands for; the real one has no such settings."""
    if not cluster.emulated:
        return ()
    variables = (
        ("RATEMATCH_EMULATED_GPU", cluster.gpu_source),
        ("RATEMATCH_EMULATED_VERSION", stack.version),
        ("RATEMATCH_EMULATED_BACKEND_VERSION", stack.backend_version),
        *emulated_model(experiment),
    )
    return (*variables, ("RATEMATCH_EMULATED_UNCHECKED", ",".join(unchecked))) if unchecked else variables


# ------------------------------------------------------------------------------------------------ frontends


def _frontend(experiment: Experiment, cluster: Cluster, places: Places, number: int, ready_s: float) -> ProcessSpec:
    stack, place = stack_of(experiment.engine), places.frontends[number]
    return ProcessSpec(
        name=f"frontend-{number}",
        role="orchestrator",
        argv=(*engine_command(cluster), "-m", "dynamo.frontend", *frontend_argv(stack, place)),
        env=merge_env(
            # Emulated workers hand their model's files over; nothing is asked of the hub.
            (("HF_HUB_OFFLINE", "1"),) if cluster.emulated else (),
            past_proxies(places),
            on_loopback(place.host),
            cluster.environment.items(),
            stack.frontend_env.items(),
            shared(stack, places),
            traced(stack, number),
        ),
        # Importing an engine under srun would start MPI, and a port for figures is the frontend's own already.
        unset=(*UNSET, "DYN_SYSTEM_PORT"),
        nodes=(place.host,),
        host=place.host,
        port=place.port,
        log=f"frontend-{number}.log",
        ready=ReadyProbe(_url(place, "/health"), ready_s),
        wave=2,
    )


def frontend_argv(stack: Stack, place: Place) -> tuple[str, ...]:
    """The arguments of a frontend."""
    given: dict[str, object] = {"http-host": bind_address(place.host), "http-port": place.port}
    given |= {"router-mode": stack.router_mode, **planes(stack, "frontend")}
    given |= forced_frontend(stack)
    if stack.frontends > 1 and stack.router_mode == "kv":
        given["router-replica-sync"] = True
    own = spell_flags("frontend", stack.version, stack.frontend_args)
    given |= {flag_name(name): value for name, value in own.items()}
    given |= forced_frontend(stack)
    return to_argv("frontend", stack.version, given)


def forced_frontend(stack: Stack) -> dict[str, object]:
    """Flags that keep a measurement what it is, as far as the release has them."""
    forced: dict[str, object] = {"migration-limit": 0, "router-conditional-disagg": False}
    return {name: value for name, value in forced.items() if has_flag("frontend", stack.version, name)}
