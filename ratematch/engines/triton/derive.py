"""What is filled into the templates beyond the user's options: each value with the reason for it."""

from __future__ import annotations

from collections.abc import Iterator

from ratematch.engines.settings import explain_group
from ratematch.engines.triton.build import BUILD_KEYS, engine_dir, engine_shape
from ratematch.engines.triton.ranks import MODELS
from ratematch.plan.capacity import KvSettings
from ratematch.plan.deployment import Options, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.limits import explain_limits
from ratematch.plan.load import Concurrency, most_in_flight
from ratematch.plan.setting import Setting

COUNT = "disaggregated_serving_bls_count"
"""Instances of the orchestrating model; each serves one request from its beginning to its end."""

OWN = {
    "participant_ids": "it follows from where the engines are placed",
    "gpu_device_ids": "it follows from where the engines are placed",
    "triton_backend": "only TensorRT-LLM's C++ backend serves context and generation apart",
    "triton_max_batch_size": "write max_batch_size, as an axis or of a deployment",
    "decoupled_mode": "streams need it in every model",
    "context_model_name": "it follows from the repository",
    "generation_model_name": "it follows from the repository",
}
"""Placeholders that contradict the plan when they are given."""

LIMITS = ("max_batch_size", "max_num_tokens")
"""Limits that may stand among the options too; they are the engine's, and of no template."""

DATA_TYPES = {
    "logits_datatype": "TYPE_FP32",
    "encoder_input_features_data_type": "TYPE_FP16",
    "prompt_embedding_table_data_type": "TYPE_FP16",
}

KV_FRACTION = 0.9


def derive_engine(experiment: Experiment, group: ServerGroup) -> tuple[Setting, ...]:
    """Of the model that is a role's engine; ranks and GPUs follow from the placement and are not among them."""
    batch, tokens = explain_limits(group, experiment.workload, most_in_flight(experiment.loads, group.instances))
    shape = engine_shape(experiment, group)
    built = f"built for TP{shape.tp} x PP{shape.pp}, {shape.max_num_tokens} tokens a step ({tokens.why})"
    return (
        Setting("triton_backend", "tensorrtllm", OWN["triton_backend"]),
        Setting("triton_max_batch_size", batch.value, batch.why, batch.given),
        Setting("decoupled_mode", True, OWN["decoupled_mode"]),
        Setting("engine_dir", engine_dir(experiment, group), built),
        Setting("batching_strategy", "inflight_fused_batching", "the other one is deprecated"),
        *_queue(),
        Setting("max_beam_width", 1, "hand-over of KV caches takes no beams"),
        Setting("kv_cache_free_gpu_mem_fraction", KV_FRACTION, "the engine's own default, of what weights leave"),
        Setting("enable_kv_cache_reuse", False, "re-used blocks would make prefill look faster than it is"),
        Setting("enable_chunked_context", False, "limits are such that whole prompts fit a step"),
        Setting("batch_scheduler_policy", "guaranteed_no_evict", "a request that runs is not set aside"),
        Setting("exclude_input_in_output", True, "a stream would begin with its prompt"),
        Setting("stats_check_period_ms", 100, "how old figures on the metrics port may be"),
        *(Setting(name, kind, "the usual type; nothing is sent in it") for name, kind in DATA_TYPES.items()),
    )


def derive_orchestrator(experiment: Experiment) -> tuple[Setting, ...]:
    """Of every other model: the orchestrator's, and what text goes through."""
    needed = instances_needed(experiment)
    most = f"the largest load keeps {needed} requests in flight, and an instance serves one at a time"
    text = "requests of a load carry token ids and go past it; give more for texts"
    return (
        Setting(COUNT, needed, most),
        Setting("context_model_name", MODELS["ctx"], OWN["context_model_name"]),
        Setting("generation_model_name", MODELS["gen"], OWN["generation_model_name"]),
        Setting("triton_max_batch_size", _largest_batch(experiment), "the largest of its engines"),
        Setting("decoupled_mode", True, OWN["decoupled_mode"]),
        *_queue(),
        Setting("tokenizer_dir", experiment.model_path, "the model's folder"),
        Setting("preprocessing_instance_count", 1, text),
        Setting("postprocessing_instance_count", 1, text),
        Setting("logits_datatype", DATA_TYPES["logits_datatype"], "the usual type; nothing is sent in it"),
    )


def _queue() -> Iterator[Setting]:
    yield Setting("max_queue_delay_microseconds", 0, "the engine batches by itself")
    yield Setting("max_queue_size", 0, "no limit: a load says itself how many requests are there")


def instances_needed(experiment: Experiment) -> int:
    """Orchestrator instances without which requests would wait for one another: as many as are in flight at most."""
    return most_in_flight(experiment.loads, 1)


def instances_given(experiment: Experiment) -> int:
    """Orchestrator instances that will be started."""
    given = experiment.deployment.orchestrator.get(COUNT)
    return given if isinstance(given, int) and not isinstance(given, bool) else instances_needed(experiment)


def has_open_load(experiment: Experiment) -> bool:
    """Is there a load that sets no number of requests in flight?"""
    return any(not isinstance(load, Concurrency) for load in experiment.loads)


def spell(value: object) -> str:
    """A value as it stands in a template."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def engine_values(experiment: Experiment, group: ServerGroup) -> dict[str, str]:
    """Placeholder to value for a role's engine, the user's options over the derived ones."""
    own = {key: value for key, value in group.options.items() if key not in (*BUILD_KEYS, *LIMITS)}
    derived = {setting.key: setting.value for setting in derive_engine(experiment, group)}
    return _spelt(derived | own)


def orchestrator_values(experiment: Experiment) -> dict[str, str]:
    """The same for all other models."""
    derived = {setting.key: setting.value for setting in derive_orchestrator(experiment)}
    first = experiment.deployment.groups[0]
    return _spelt({"engine_dir": engine_dir(experiment, first), **derived, **experiment.deployment.orchestrator})


def _spelt(values: Options) -> dict[str, str]:
    return {key: spell(value) for key, value in values.items() if value is not None}


def _largest_batch(experiment: Experiment) -> int:
    return max(group.max_batch_size or 1 for group in experiment.deployment.groups)


def explain_deployment(experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
    """By role, and ``orchestrator``: every value that is filled in, and why."""
    explained: dict[str, tuple[Setting, ...]] = {
        group.role: explain_group(group, group.options, derive_engine(experiment, group))
        for group in experiment.deployment.groups
    }
    given = experiment.deployment.orchestrator
    own = tuple(
        Setting(setting.key, given[setting.key], f"given in the sweep file; derived: {setting.value}", given=True)
        if setting.key in given
        else setting
        for setting in derive_orchestrator(experiment)
    )
    return explained | {"orchestrator": own} if experiment.deployment.gen is not None else explained


def kv_settings(group: ServerGroup) -> KvSettings:
    """What an engine does with the memory that its weights leave. Its number format is the checkpoint's."""
    share = group.options.get("kv_cache_free_gpu_mem_fraction")
    fraction = float(share) if isinstance(share, (int, float)) and 0 < share <= 1 else KV_FRACTION
    length = group.options.get("max_seq_len")
    return KvSettings(
        fraction=fraction,
        dtype="bf16",
        chunked_prefill=group.options.get("enable_chunked_context") is True,
        max_seq_len=length if isinstance(length, int) else None,
        by_checkpoint=True,
    )
