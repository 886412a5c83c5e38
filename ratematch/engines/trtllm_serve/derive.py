"""The keys of a worker's file beyond the user's options: each with its derived value and the reason for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve.agreement import NAMED_BACKEND_ENV, as_meant
from ratematch.engines.trtllm_serve.contract import release_line
from ratematch.engines.trtllm_serve.release import read_version
from ratematch.engines.trtllm_serve.times import times_of_worker
from ratematch.engines.trtllm_serve.transceiver import buffer_tokens, derive_runtime
from ratematch.engines.trtllm_serve.worker_rules import fill_margin
from ratematch.plan.deployment import Role, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.limits import explain_limits
from ratematch.plan.load import most_in_flight
from ratematch.plan.setting import Setting

SEQ_MARGIN = 40
"""Tokens beyond ISL + OSL in ``max_seq_len``: the margin most public recipes keep."""

KV_FRACTION: dict[Role, float] = {"ctx": 0.75, "gen": 0.85, "agg": 0.85}
"""``free_gpu_memory_fraction``: recipes keep 0.3 to 0.75 on ctx (prefill needs more for activations), 0.6 to 0.9 on
gen."""

BLOCK = 32
"""The engine's default ``tokens_per_block``."""

TRANSFER_TIMEOUT_MS = 600_000
"""Later versions give up a KV transfer after 60 s, which long prompts and the filling of gen_only exceed."""

EVENT_BUFFER = 16_384
"""KV events a worker keeps for a cache-aware router between two of its polls."""


NO_ENVIRONMENT: Mapping[str, str] = {}


def derive_worker(
    experiment: Experiment, group: ServerGroup, environment: Mapping[str, str] = NO_ENVIRONMENT
) -> tuple[Setting, ...]:
    """Every derived key of one role's worker YAML, in the order of the file; options are not in it yet.

    ``environment``: of every server, from the cluster profile.

    Raises:
        ValueError: the version is not known.
    """
    return (
        *_parallelism(group),
        *explain_limits(
            group, experiment.workload, most_in_flight(experiment.loads, group.instances), _margin(experiment, group)
        ),
        _seq_len(experiment, group),
        *_kv_cache(experiment, group),
        *_cuda_graphs(group),
        _overlap(group),
        *_logs(),
        *times_of_worker(experiment, group.role),
        *(_transfer(experiment, group, environment) if group.role != "agg" else ()),
        *_drafts(experiment, group),
    )


def _margin(experiment: Experiment, group: ServerGroup) -> int:
    return fill_margin(experiment.engine.version) if (experiment.mode, group.role) == ("gen_only", "gen") else 0


def _option(group: ServerGroup, key: str) -> Config:
    """A map among the user's options; empty when there is none."""
    value = group.options.get(key)
    return value if isinstance(value, dict) else {}


def _parallelism(group: ServerGroup) -> Iterator[Setting]:
    mapping = group.mapping
    world = f"{mapping.label}: {mapping.tp} x pp {mapping.pp} x cp {mapping.cp} = {mapping.gpus} ranks, one GPU each"
    yield Setting("backend", "pytorch", "the backend that the contract describes")
    yield Setting("tensor_parallel_size", mapping.tp, f"tp of {world}")
    yield Setting("pipeline_parallel_size", mapping.pp, f"pp of {world}")
    yield Setting("context_parallel_size", mapping.cp, f"cp of {world}")
    experts = f"ep of {mapping.label}; tp {mapping.tp} / ep {mapping.ep} = {mapping.moe_tp} ranks share an expert"
    yield Setting("moe_expert_parallel_size", mapping.ep, experts)
    attention = f"each of the {mapping.tp} ranks is an attention batch of its own; limits count per rank"
    yield Setting(
        "enable_attention_dp",
        mapping.attention_dp,
        f"{mapping.label}: {attention}" if mapping.attention_dp else f"{mapping.label}: heads are sharded over tp",
    )


def _seq_len(experiment: Experiment, group: ServerGroup) -> Setting:
    workload = experiment.workload
    length, words = workload.isl, f"ISL {workload.isl}"
    if group.role != "ctx":
        length, words = length + workload.osl, f"{words} + OSL {workload.osl}"
    value = length + group.mtp + SEQ_MARGIN
    return Setting("max_seq_len", value, f"{words} + MTP {group.mtp} + margin {SEQ_MARGIN} = {value}")


def _kv_cache(experiment: Experiment, group: ServerGroup) -> Iterator[Setting]:
    key = "kv_cache_config"
    if experiment.deployment.router == "kv_cache_aware":
        yield Setting(
            f"{key}.enable_block_reuse", True, "router kv_cache_aware ranks servers by the blocks they keep"
        )
        yield Setting(
            f"{key}.event_buffer_max_size", EVENT_BUFFER, "router kv_cache_aware polls KV events of workers"
        )
    else:
        yield Setting(
            f"{key}.enable_block_reuse", False, "re-used prefix blocks would make prefill look faster than it is"
        )
    yield Setting(f"{key}.dtype", "fp8", "the same on ctx and gen: the cache is handed over as it lies")
    yield Setting(
        f"{key}.free_gpu_memory_fraction",
        KV_FRACTION[group.role],
        f"share of what weights and activations leave; {group.role} servers: {KV_FRACTION[group.role]:g}",
    )


def _cuda_graphs(group: ServerGroup) -> Iterator[Setting]:
    key = "cuda_graph_config"
    if group.role == "ctx":
        yield Setting(key, None, "prompts differ in length, so a context step has no fixed shape to record")
        return
    yield Setting(f"{key}.enable_padding", True, "a decode batch is padded to the next recorded size")
    given, batch = _option(group, key), group.max_batch_size
    if batch is not None and not {"max_batch_size", "batch_sizes"} & set(given):
        sizes = graph_sizes(batch)
        yield Setting(
            f"{key}.batch_sizes",
            sizes,
            f"{len(sizes)} sizes that end at max_batch_size {batch}, the most a step holds",
        )


def graph_sizes(largest: int) -> list[int]:
    """Batch sizes to record: 1, 2, 4, steps of 8 to 256 as in public recipes, then steps of an eighth; ends at
    ``largest``."""
    sizes, size = [1, 2, 4], 8
    while size < largest:
        sizes.append(size)
        size += 8 if size < 256 else 1 << (size.bit_length() - 4)
    return [*(size for size in sizes if size < largest), largest]


def _overlap(group: ServerGroup) -> Setting:
    off = group.role == "ctx"
    why = "not supported on context servers" if off else "the next step is prepared while this one runs"
    return Setting("disable_overlap_scheduler", off, why)


def _logs() -> Iterator[Setting]:
    yield Setting("print_iter_log", True, "step times and acceptance are read from iteration lines")
    yield Setting("enable_iter_perf_stats", True, "/metrics shows queues and KV blocks")


def _transfer(experiment: Experiment, group: ServerGroup, environment: Mapping[str, str]) -> Iterator[Setting]:
    key, line = "cache_transceiver_config", release_line(experiment.engine.version)
    environment = {**environment, **group.environment}
    backend = _backend(f"{key}.backend", environment)
    yield backend
    given = _option(group, key)
    meant: Config = as_meant({key: {"backend": given.get("backend", backend.value)}}, environment)[key]
    named = str(meant["backend"])
    runtime = derive_runtime(given, named, read_version(experiment.engine.version))
    yield runtime
    isl, block = experiment.workload.isl, _option(group, "kv_cache_config").get("tokens_per_block", BLOCK)
    block = block if isinstance(block, int) and block > 0 else BLOCK
    tokens = buffer_tokens(given.get("transceiver_runtime", runtime.value), isl, block)
    if tokens is not None:
        why = f"the C++ transceiver needs the longest prompt in whole blocks: ISL {isl} up to a multiple of {block}"
        yield Setting(f"{key}.max_tokens_in_buffer", tokens, why)
    if line != "1.2":
        why = f"{line} ends a transfer after 60,000 ms unless it is given another limit"
        yield Setting(f"{key}.kv_transfer_timeout_ms", TRANSFER_TIMEOUT_MS, why)


def _backend(key: str, environment: Mapping[str, str]) -> Setting:
    """NIXL by its name: what DEFAULT becomes is left to the release and to variables of the environment."""
    if named := [name for name in NAMED_BACKEND_ENV if name in environment]:
        return Setting(key, "DEFAULT", f"{named[0]} of the environment chooses what it means")
    why = "by its name, which means the same in every release; DEFAULT is left to release and environment"
    return Setting(key, "NIXL", f"{why}; without a backend disaggregation is off")


def _drafts(experiment: Experiment, group: ServerGroup) -> Iterator[Setting]:
    if not group.mtp:
        return
    key, line = "speculative_config", release_line(experiment.engine.version)
    kind = _option(group, key).get("decoding_type", "MTP")
    both = f"mtp={group.mtp}" + ("" if group.role == "agg" else ", the same on ctx and gen: drafts are handed over")
    if kind == "MTP":
        length = "num_nextn_predict_layers" if line == "1.2" else "max_draft_len"
        yield Setting(f"{key}.decoding_type", "MTP", both)
        yield Setting(f"{key}.{length}", group.mtp, f"mtp={group.mtp}, as {line} spells the draft length of MTP")
    else:
        yield Setting(f"{key}.max_draft_len", group.mtp, f"mtp={group.mtp}, the draft length of {kind}")
