"""From the flags of ``dynamo.trtllm`` to a worker with TensorRT-LLM's emulated engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ratematch.emulator.dynamo.backend import Made, Role
from ratematch.emulator.dynamo.trtllm import TrtllmBackend
from ratematch.emulator.environment import START_FAILURES, Environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.trtllm.assembly import build
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.settings import WorkerSettings, read_yaml, worker_settings
from ratematch.emulator.trtllm.transfer import announce
from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve.agreement import as_meant
from ratematch.engines.trtllm_serve.release import named_version as engine_version

__all__ = ["engine_version", "make"]

ENGINE_FLAGS = {
    "tensor-parallel-size": "tp_size",
    "pipeline-parallel-size": "pp_size",
    "expert-parallel-size": "ep_size",
    "enable-attention-dp": "enable_attention_dp",
    "max-batch-size": "max_batch_size",
    "max-num-tokens": "max_num_tokens",
    "max-seq-len": "max_seq_len",
    "max-beam-width": "max_beam_width",
    "gpus-per-node": "gpus_per_node",
    "free-gpu-memory-fraction": "free_gpu_memory_fraction",
    "served-model-name": "served_model_name",
}
"""Flags of ``dynamo.trtllm`` that the engine is given, by the names that ``trtllm-serve`` has for the same."""


def make(
    role: Role,
    given: Mapping[str, Any],
    others: Sequence[str],
    environment: Environment,
    variables: Mapping[str, str],
) -> Made:
    """The engine of a worker. ``others``: words that are no flag of Dynamo's.

    Raises:
        SettingsError: it would not start.
    """
    if others:
        raise SettingsError(f"Unrecognized argument: {others[0]}")
    log = Log()
    settings = worker_config(given, environment, variables)
    for warning in settings.warnings:
        log.warning(warning)
    announce(settings.config, settings.version, log)
    publish = bool(given.get("publish-metrics") or given.get("publish-events-and-metrics"))
    backend = TrtllmBackend(role, settings, build(settings, environment), log, publish=publish)
    return Made(backend, log.warning, START_FAILURES)


def worker_config(given: Mapping[str, Any], environment: Environment, variables: Mapping[str, str]) -> WorkerSettings:
    """Settings of TensorRT-LLM: flags, over them the file, over that ``--override-engine-args``.

    Raises:
        SettingsError: an unknown key, a value or combination that the engine refuses, an unknown model.
    """
    model = given.get("model") or given.get("model-path")
    if not model:
        raise SettingsError("--model is not given, and the model that is then served is not emulated")
    file = str(given.get("extra-engine-args") or "")
    config = as_meant(read_yaml(file) if file else {}, variables)
    if given.get("override-engine-args"):
        config = _over(config, _json(str(given["override-engine-args"])))
    # The frontend makes text of tokens, so the engine has no processes for that.
    config.pop("num_postprocess_workers", None)
    # A file's keys win over flags, whichever TensorRT-LLM it is: so no flag counts as typed.
    flags = {ENGINE_FLAGS[name]: value for name, value in given.items() if name in ENGINE_FLAGS}
    flags.setdefault("served_model_name", model)
    return worker_settings(
        str(model), flags, (), config, environment.version, environment.unchecked, environment.model
    )


def _over(config: Config, upper: Config) -> Config:
    """``config`` with ``upper`` laid over it, mapping in mapping."""
    merged = dict(config)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _json(text: str) -> Config:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--override-engine-args: no JSON: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError("--override-engine-args: must be a JSON object")
    return content
