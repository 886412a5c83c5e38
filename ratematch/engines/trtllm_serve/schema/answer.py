"""How the installed package is asked for its schema, and what its answer is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources

from ratematch.engines.installed import InstalledSchema
from ratematch.engines.trtllm_serve.schema.document import MOST_CHARACTERS, Document, read_document
from ratematch.engines.trtllm_serve.schema.inside import MARK

LIMIT_S = 480
"""Importing the package from a cold container takes minutes; longer than this is a hang."""

# The package lies beside the command, so it is the command's own Python that finds it.
_START = """\
python=python3
case "${1##*/}" in
  python*) python=$1 ;;
  *) if program=$(command -v "$1"); then
       IFS= read -r -n 300 first <"$program" 2>/dev/null
       case $first in '#!'*python*) python=${first#'#!'} ;; esac
     fi ;;
esac
exec $python -c "$0" "$2"
"""


@cache
def _inside() -> str:
    return resources.files(__package__).joinpath("inside.py").read_text(encoding="utf-8")


def schema_command(command: Sequence[str]) -> tuple[str, ...]:
    """What asks the package, where ``command`` starts ``trtllm-serve``: the Python that the command itself uses, with
    the text of :mod:`.inside`, so that nothing of ratematch must be there."""
    names = ("trtllm-serve", "python")
    program = next((word for word in command if word.rpartition("/")[2].startswith(names)), command[0])
    return ("bash", "-c", _START, _inside(), program, str(LIMIT_S))


def read_answer(output: str, image: str) -> InstalledSchema:
    """The schema in the output of :func:`schema_command`. ``image``: what was asked, in words.

    Raises:
        ValueError: there is none in it, or none that can be used; one line.
    """
    line = next((line for line in reversed(output.splitlines()) if line.startswith(MARK)), None)
    if line is None:
        last = " ".join(output[-2000:].split())[-200:]
        raise ValueError(f"it printed no schema; its output: {last or 'nothing'}")
    text = line.removeprefix(MARK)
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"its schema has {len(text)} characters, at most {MOST_CHARACTERS} are read")
    document = read_document(text)
    if document.worker is None:
        raise ValueError(f"it has no schema of the worker's file: {_first(document.missing)}")
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    return InstalledSchema(canonical, image, document.version)


def _first(missing: Sequence[str]) -> str:
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return f"{missing[0][:240]}{more}" if missing else "it does not say why"


@lru_cache(maxsize=8)
def document_of(installed: InstalledSchema) -> Document:
    """The checked values of a schema that was read before.

    Raises:
        ValueError: it was changed since.
    """
    return read_document(installed.text)


def describe_schema(installed: InstalledSchema) -> str:
    """What it holds, in words."""
    document = document_of(installed)
    worker = document.resolve(document.worker) if document.worker else None
    parts = [
        f"TensorRT-LLM {installed.version or 'of unknown version'}",
        f"{len(worker.keys) if worker else 0} keys of the worker's file",
        f"{len(document.definitions)} models in it",
        f"commands {', '.join(document.options) or 'unknown'}",
        f"{len(document.orchestrator.keys)} keys of the orchestrator's" if document.orchestrator else "",
        f"not found: {_first(document.missing)}" if document.missing else "",
    ]
    return "; ".join(part for part in parts if part)
