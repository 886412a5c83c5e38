"""The command line of ``vllm serve``, whose flags are in :mod:`ratematch.emulator.vllm.flags`.

Settings that only an emulator has come from ``RATEMATCH_EMULATED_*`` environment variables (see
:mod:`ratematch.emulator.environment`), so that a launcher passes the same words to it as to the real command.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ratematch.emulator.environment import Environment, read_environment
from ratematch.emulator.errors import LoadFailure, SettingsError
from ratematch.emulator.vllm.assembly import build
from ratematch.emulator.vllm.flags import LATEST, SIDE_DEFAULT, SIDE_HOST, SIDE_PORT, read_words
from ratematch.emulator.vllm.logs import CORE_FAILED, Log
from ratematch.emulator.vllm.server import Server
from ratematch.emulator.vllm.settings import serve_settings
from ratematch.engines.vllm.contract import release_line


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command; always ends by ``SystemExit`` or a signal."""
    try:
        environment = read_environment(os.environ, LATEST, release_line)
    except ValueError as error:
        sys.exit(f"vllm: {error}")
    _serve(*read_words(sys.argv[1:] if argv is None else argv, environment), environment)


def _serve(model: str | None, given: dict[str, Any], environment: Environment) -> NoReturn:
    log = Log()
    log.info(f"vLLM API server version {environment.version}.0+emulated")
    log.info(f"non-default args: {given | {'model_tag': model}}")
    try:
        path = model or given.get("model") or "Qwen/Qwen3-0.6B"
        settings = serve_settings(path, given, environment.version, environment.gpu, environment.model)
        side = (os.environ.get(SIDE_HOST) or SIDE_DEFAULT[0], int(os.environ.get(SIDE_PORT) or SIDE_DEFAULT[1]))
    except (SettingsError, ValueError) as error:
        log.bare(f"pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n  {error}")
        sys.exit(1)
    try:
        number = Server(settings, environment, build(settings, environment), side, log).run()
    except (SettingsError, LoadFailure, RuntimeError) as error:
        _die(log, error)
    log.bare("INFO:     Finished server process")
    if number == signal.SIGINT:
        sys.exit(130)
    sys.exit(0)


def _die(log: Log, error: Exception) -> NoReturn:
    """The last words of a server that cannot go on."""
    if isinstance(error, RuntimeError) and str(error).startswith("Failed to bind"):
        log.bare(f"OSError: [Errno 98] Address already in use ({error})")
        sys.exit(1)
    text = str(error) if isinstance(error, LoadFailure) else f"{_name(error)}: {error}"
    log.core(f"EngineCore failed to start.\n{text}", "ERROR")
    log.bare(CORE_FAILED)
    sys.exit(1)


def _name(error: Exception) -> str:
    return "ValueError" if isinstance(error, SettingsError) else type(error).__name__
