"""YAML that is the package's own, shipped with it or written by it: read by libyaml where PyYAML has it, which takes
a tenth of the time. Every server reads some at its start, a large sweep thousands of files.

Files of people are read by :mod:`ratematch.plan.located`, which knows the lines.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_own_yaml(text: str) -> Any:
    """The value of a document."""
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 - one of the two safe ones


def read_shipped_yaml(package: str, *path: str) -> Any:
    """The value of the file at ``path`` below the folder of ``package``."""
    return read_own_yaml(resources.files(package).joinpath(*path).read_text(encoding="utf-8"))
