"""The model repository: a release's own ``config.pbtxt`` templates, with what follows from the plan filled in.

Templates and model files are the site's: a folder as ``all_models`` of a TensorRT-LLM release has it, named by
``release_paths: {triton: ...}`` in the cluster profile. A template has placeholders (``${engine_dir}``); one that
stays inside quotes counts as not set there, one that stands for a number or a type has to be filled.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ratematch.errors import UserError

INFLIGHT, DISAGG = "inflight_batcher_llm", "disaggregated_serving"

SOURCES = {
    **dict.fromkeys(("context", "generation", "tensorrt_llm"), f"{INFLIGHT}/tensorrt_llm"),
    **{name: f"{INFLIGHT}/{name}" for name in ("preprocessing", "postprocessing", "ensemble")},
    "disaggregated_serving_bls": f"{DISAGG}/disaggregated_serving_bls",
}
"""Where in a release the files of each model lie."""

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_NAME = re.compile(r'^(name:\s*)"\w+"', re.M)
_COUNT = re.compile(r"(instance_group\s*:?\s*\[\s*\{\s*count\s*:\s*)\d+")
_ENGINE_STEP = re.compile(r'(model_name:\s*)"tensorrt_llm"')


@dataclass(frozen=True)
class Template:
    """A ``config.pbtxt`` of a release. ``path``: for messages."""

    model: str
    path: str
    text: str

    @property
    def placeholders(self) -> frozenset[str]:
        return frozenset(_PLACEHOLDER.findall(_without_comments(self.text)))


def read_template(release: Path, model: str) -> Template:
    """The template of ``model``.

    Raises:
        UserError: the release has none.
    """
    path = release / SOURCES[model] / "config.pbtxt"
    try:
        return Template(model, str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is no text"
        raise UserError(
            f"{path}: {reason}; release_paths: {{triton: FOLDER}} in the cluster profile names the folder all_models "
            "of a TensorRT-LLM release up to 1.2 (out of the image: /app/all_models)"
        ) from problem


def fill(template: Template, values: Mapping[str, str], *, copies: int = 1, engine: str = "") -> str:
    """The configuration: named, with ``values`` in place of their placeholders, and ``copies`` of an engine.

    ``engine``: the model that an ensemble's engine step is, where it is not ``tensorrt_llm``.

    Raises:
        UserError: a value that would break out of its quotes; a place that has to be changed and is not there; a
            placeholder of a number or a type that nothing fills.
    """
    where = template.path
    for name, value in values.items():
        if any(letter in value for letter in '"\\\n'):
            raise UserError(f"{where}: {name}: {value!r} cannot stand inside quotes")
    text = _once(_NAME, rf'\1"{template.model}"', template.text, where, "a name of its own")
    if copies != 1:
        text = _once(_COUNT, rf"\g<1>{copies}", text, where, "instance_group with a count")
    if engine and engine != "tensorrt_llm":
        text = _once(_ENGINE_STEP, rf'\1"{engine}"', text, where, "a step with model_name tensorrt_llm")
    text = _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)
    if left := _PLACEHOLDER.search(_QUOTED.sub('""', _without_comments(text))):
        raise UserError(
            f"{where}: nothing says what ${{{left[1]}}} is: give it under options of the role, or under orchestrator "
            "for the other models"
        )
    return text


def refuse_unknown(where: str, keys: Iterable[str], templates: Iterable[Template]) -> None:
    """``keys`` that a person gives for the placeholders of ``templates`` are there.

    Raises:
        UserError: one is not, with the nearest that is.
    """
    known = sorted(frozenset().union(*(template.placeholders for template in templates)))
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise UserError(f"{where}: {key}: the release's templates have no such placeholder; {hint}")


def _once(pattern: re.Pattern[str], new: str, text: str, where: str, what: str) -> str:
    changed, count = pattern.subn(new, text)
    if count != 1:
        raise UserError(f"{where}: has {count} times {what}, and 1 is expected: no template of this kind of release")
    return changed


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
