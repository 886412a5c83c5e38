"""Asks the argument parsers of an installed Dynamo: run as a script in a process of its own.

Standard input: a JSON list of ``[program, [argument, ...]]``, where a program is ``frontend`` or ``trtllm``. Standard
output: a JSON list of ``null`` where the parser takes the arguments, else what it says. A package ``tensorrt_llm``
that holds what the worker's parser reads of the real one (its defaults) is put in its place.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import types
import warnings
from typing import Any


class _Field:
    default = None


class _AnyFields(dict[str, Any]):
    def __missing__(self, key: str) -> _Field:
        return _Field()


class _Arguments:
    model_fields = _AnyFields()


def put_engine_in_place() -> None:
    """A ``tensorrt_llm`` with the defaults that the parser asks for."""
    package, llmapi = types.ModuleType("tensorrt_llm"), types.ModuleType("tensorrt_llm.llmapi")
    arguments = types.ModuleType("tensorrt_llm.llmapi.llm_args")
    llmapi.BuildConfig = _Arguments  # type: ignore[attr-defined]
    arguments.BaseLlmArgs = _Arguments  # type: ignore[attr-defined]
    package.llmapi = llmapi  # type: ignore[attr-defined]
    sys.modules |= {module.__name__: module for module in (package, llmapi, arguments)}


def try_arguments(program: str, words: list[str]) -> str | None:
    """What the parser of a program says against ``words``; ``None`` when it takes them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            if program == "trtllm":
                from dynamo.trtllm.args import parse_args

                parse_args(words)
            else:
                from dynamo.frontend.main import parse_args as parse_frontend

                sys.argv = ["dynamo.frontend", *words]
                parse_frontend()
    except SystemExit as end:
        return f"exit {end.code}: {said.getvalue().strip().splitlines()[-1:]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    warnings.simplefilter("ignore")
    put_engine_in_place()
    asked = json.load(sys.stdin)
    answers = [try_arguments(program, words) for program, words in asked]
    sys.stdout.write("\n" + json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
