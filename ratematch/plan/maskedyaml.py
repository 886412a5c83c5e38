"""A YAML file without the secrets in it, everything else as it was typed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from ratematch.plan.located import SECRET
from ratematch.plan.secret import MASK, is_secret

ENVIRONMENT = "environment"


def mask_yaml(text: str) -> str:
    """``text`` with ``***`` for each value marked ``!secret`` and each secret variable of an ``environment``. What is
    no YAML comes back as it is."""
    for node in reversed(secret_nodes(text)):
        span = text[node.start_mark.index : node.end_mark.index]
        # An alias elsewhere would miss its anchor.
        anchor = re.match(r"&\S+\s+", re.sub(r"^!\S+\s+", "", span))
        ends = "\n" if span.endswith("\n") else ""
        masked = f'{anchor.group() if anchor else ""}"{MASK}"{ends}'
        text = text[: node.start_mark.index] + masked + text[node.end_mark.index :]
    return text


def secret_nodes(text: str) -> list[yaml.Node]:
    """Values of ``text`` that are secrets, in its order, each once; none where it is no YAML."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return []
    nodes = {node.start_mark.index: node for node in _secrets(root, inside=False, seen=set())} if root else {}
    return [nodes[index] for index in sorted(nodes)]


def _secrets(node: yaml.Node, *, inside: bool, seen: set[tuple[int, bool]]) -> Iterator[yaml.Node]:
    if node.tag == SECRET:
        yield node
        return
    if (id(node), inside) in seen:
        return
    seen.add((id(node), inside))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _secrets(item, inside=False, seen=seen)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if inside and isinstance(value, yaml.ScalarNode) and is_secret(name, value.value):
                yield value
            else:
                yield from _secrets(value, inside=name == ENVIRONMENT, seen=seen)
