"""Names of modules as quantisation files write them: whole names, beginnings, wildcards, regular expressions."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable

from ratematch.inputs.checkpoint.modules import Module

Names = Callable[[Module], bool]

PREFIXES = re.compile(r"^(?:(?:model|language_model|backbone|text_model|transformer|thinker)\.)+")
"""What stands before ``layers.0`` in one family or another."""

MOST_LENGTH, MOST_REPEATS = 500, 4
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")


def compile_names(given: Iterable[str]) -> Names:
    """Whether a module is one of ``given``, or lies within one.

    Raises:
        ValueError: a regular expression that is none, or that could take for ever.
    """
    exact: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    for text in given:
        if text.startswith("re:"):
            patterns.append(_regular(text.removeprefix("re:")))
        elif "*" in text or "?" in text or "[" in text:
            short = PREFIXES.sub("", text)
            patterns += [re.compile(fnmatch.translate(spelling)) for spelling in (short, f"{short}.*")]
        else:
            exact.add(PREFIXES.sub("", text))

    def within(module: Module) -> bool:
        for name in module.names:
            parts = name.split(".")
            for start in range(len(parts)):
                for end in range(start + 1, len(parts) + 1):
                    # A whole beginning (layers.0.mlp), or a word of the name that stands alone (gate, lm_head).
                    if (start == 0 or end - start == 1 or start > 1) and ".".join(parts[start:end]) in exact:
                        return True
            if any(_meets(pattern, name) for pattern in patterns):
                return True
        return False

    return within


def _meets(pattern: re.Pattern[str], name: str) -> bool:
    spellings = (
        name,
        f"model.{name}",
        f"language_model.model.{name}",
        f"model.language_model.{name}",
        f"{name}.weight",
    )
    return any(pattern.match(spelling) for spelling in spellings)


def _regular(text: str) -> re.Pattern[str]:
    repeats = len(re.findall(r"[*+]|\{\d*,", text))
    if len(text) > MOST_LENGTH or repeats > MOST_REPEATS or _REPEATED_GROUP.search(text):
        raise ValueError(
            f"the pattern {text[:60]!r} is too intricate: {MOST_REPEATS} repeats at most, none of a group"
        )
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text[:60]!r} is no pattern: {error}") from None
