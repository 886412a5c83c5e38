"""Labels of deployments where room is short: on plots, and in tables for a terminal."""

from __future__ import annotations

import re

from ratematch.show.files import one_line

LONGEST = 60
"""Characters of a short label; files hold all of it."""
TAIL = 22
"""Characters of its end that a cut label keeps: the last server and its drafts."""
_ON = re.compile(r"\+(?:enable_)?(?P<name>[A-Za-z_][\w.]*)=True")
_OFF = re.compile(r"\+[A-Za-z_][\w.]*=False")


def short_label(label: str) -> str:
    """A deployment's label, shorter: of options that are on the name alone, ``+enable_balance=True`` is ``+balance``,
    of those that are off nothing; what is still too long loses its middle."""
    text = _OFF.sub("", one_line(label))
    text = _ON.sub(lambda option: f"+{option['name']}", text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - TAIL - 1]}…{text[-TAIL:]}"
