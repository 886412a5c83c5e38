"""The command lines ``python -m dynamo.trtllm`` and ``python -m dynamo.vllm``, with an emulated engine inside.

``python -m ratematch.emulator dynamo-worker dynamo.trtllm ARGS`` runs in the place of ``python -m dynamo.trtllm
ARGS``; the first word may be left out. What only an emulator has comes from ``RATEMATCH_EMULATED_*`` environment
variables: ``..._VERSION`` is Dynamo's version here, and ``..._BACKEND_VERSION`` the engine's, where it is not the one
that this Dynamo is built for.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NoReturn

import uvloop

from ratematch.emulator.dynamo.arguments import parse
from ratematch.emulator.dynamo.place import place_of, role_of
from ratematch.emulator.dynamo.worker import Worker
from ratematch.emulator.environment import PREFIX, read_environment
from ratematch.emulator.errors import LoadFailure, SettingsError
from ratematch.engines.dynamo.contract import Program, components, flags, pinned_backend, release_line

LATEST = "1.6.1"

MODULES: Mapping[str, Program] = {"dynamo.trtllm": "trtllm", "dynamo.vllm": "vllm"}

MISSING = """\
An emulated worker registers with NVIDIA Dynamo's own runtime, which this Python does not have: {error}
Install it: make dynamo, or pip install --no-deps ai-dynamo=={version} ai-dynamo-runtime=={version}"""

_ENGINES = {"trtllm": "ratematch.emulator.dynamo.with_trtllm", "vllm": "ratematch.emulator.dynamo.with_vllm"}
"""What makes the engine of a worker; each is imported only where it is wanted."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command; always ends by ``SystemExit`` or a signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    module = words.pop(0) if words and not words[0].startswith("-") else "dynamo.trtllm"
    if module not in MODULES:
        sys.exit(f"{module} is not emulated: {' and '.join(MODULES)} are")
    try:
        member = prepare(module, words, os.environ)
    except (SettingsError, ValueError) as error:
        sys.exit(f"{module}: {error}")
    try:
        uvloop.run(member)
    except LoadFailure as error:
        print_line(str(error))
        sys.exit(1)
    sys.exit(0)


def print_line(text: str) -> None:
    """A line of the log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def prepare(module: str, words: Sequence[str], variables: Mapping[str, str]) -> Coroutine[Any, Any, None]:
    """What runs the worker of a command line.

    Raises:
        SettingsError, ValueError: it would not start, in one line or in the engine's words.
    """
    program = MODULES[module]
    version = variables.get(f"{PREFIX}VERSION", "").strip() or LATEST
    given, others = parse(module, words, flags(program, release_line(version)), variables)
    role = role_of(given)
    engine = importlib.import_module(_ENGINES[program])
    engine_version = variables.get(f"{PREFIX}BACKEND_VERSION", "").strip() or pinned_backend(version, program) or ""
    environment = read_environment({**variables, f"{PREFIX}VERSION": engine_version}, "", engine.engine_version)
    made = engine.make(role, given, others, environment, variables)
    print_line(f"EMULATED: ratematch's emulated {module} ({role}) for Dynamo {version}; there is no GPU here")
    place = place_of(given, variables, components(version, program)["prefill" if role == "prefill" else "decode"])
    member = _runtime(version).Member(Worker(made.backend, environment, version, made.warn), place, made.failures)
    running: Coroutine[Any, Any, None] = member.run()
    return running


def _runtime(version: str) -> Any:
    """The module that knows Dynamo's runtime."""
    try:
        return importlib.import_module("ratematch.emulator.dynamo.runtime")
    except ImportError as error:
        raise SettingsError(MISSING.format(error=error, version=version)) from None
