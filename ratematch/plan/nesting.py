"""How deep JSON may be nested. Pythons differ in what they read, write and copy before they give up."""

from __future__ import annotations

import re

MOST_DEPTH = 200

_PARTS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def nests_too_deep(text: str) -> bool:
    """Are lists and objects of ``text``, JSON or the beginning of some, nested more than ``MOST_DEPTH`` deep?"""
    depth = 0
    for part in _PARTS.finditer(text):
        match part[0][0]:
            case "[" | "{":
                depth += 1
                if depth > MOST_DEPTH:
                    return True
            case "]" | "}":
                depth -= 1
    return False
