"""From the flags of ``dynamo.vllm`` to a worker with vLLM's emulated engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ratematch.emulator.dynamo.backend import Made, Role
from ratematch.emulator.dynamo.vllm import VllmBackend
from ratematch.emulator.environment import Environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.vllm.assembly import build
from ratematch.emulator.vllm.flags import SIDE_DEFAULT, SIDE_HOST, SIDE_PORT, dashed, parser
from ratematch.emulator.vllm.logs import START_FAILURES, Log
from ratematch.emulator.vllm.settings import ServeSettings, serve_settings
from ratematch.engines.vllm.contract import release_line as engine_version

__all__ = ["engine_version", "make"]


def make(
    role: Role,
    given: Mapping[str, Any],
    others: Sequence[str],
    environment: Environment,
    variables: Mapping[str, str],
) -> Made:
    """The engine of a worker. ``others``: words that are no flag of Dynamo's, but vLLM's.

    Raises:
        SettingsError: it would not start.
    """
    log = Log()
    settings = worker_config(given, others, environment)
    if role == "prefill" and settings.transfer is None:
        raise SettingsError("--kv-transfer-config must be given to a prefill worker")
    side = (variables.get(SIDE_HOST) or SIDE_DEFAULT[0], int(variables.get(SIDE_PORT) or SIDE_DEFAULT[1]))
    return Made(VllmBackend(role, settings, build(settings, environment), side, log), log.warning, START_FAILURES)


def worker_config(given: Mapping[str, Any], others: Sequence[str], environment: Environment) -> ServeSettings:
    """Settings of the engine of ``dynamo.vllm``: ``others`` are the flags that are vLLM's own.

    Raises:
        SettingsError: a value or combination that the engine refuses, or one that is not emulated; an unknown model.
    """
    try:
        flags = vars(parser(environment.version).parse_args(["serve", *dashed(others)]))
    except SystemExit:
        raise SettingsError("vLLM does not take these flags: " + " ".join(others)) from None
    flags.pop("subparser")
    flags.pop("model_tag")
    model = flags.get("model") or given.get("model")
    if not model:
        raise SettingsError("--model is not given, and the model that is then served is not emulated")
    flags.setdefault("served-model-name", given.get("served-model-name") or model)
    return serve_settings(str(model), flags, environment.version, environment.gpu, environment.model)
