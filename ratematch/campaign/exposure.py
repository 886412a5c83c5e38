"""Secrets that everybody on this machine can read: in sweeps and profiles, and in results of earlier versions."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ratematch.inputs.find import SWEEPS, cluster_folders
from ratematch.plan.finding import Finding
from ratematch.plan.maskedyaml import secret_nodes
from ratematch.plan.secret import FROM_ENVIRONMENT, MASK, is_secret
from ratematch.store import layout

LARGEST_B = 1_000_000
"""Of a sweep or profile."""

DEPTHS = ("", "*/", "*/*/", "*/*/*/")
"""Where experiments are looked for below a folder: it may be one, a sweep's results, or above those."""


def check_exposure(folder: Path, profile: Path | None = None) -> list[Finding]:
    """Secrets in clear text in files that everybody can read: ``profile``, sweeps and profiles here, and what is
    stored below ``folder``. One finding that all is well where there are none."""
    given = [profile] if profile else []
    places = [Path(), folder, SWEEPS, folder / SWEEPS, *cluster_folders(), *(path.parent for path in given)]
    files = {path.resolve(): path for place in places for path in sorted(place.glob("*.yaml"))}
    files |= {path.resolve(): path for path in given}
    found = [
        Finding("secrets", False, f"{path} holds a secret in clear text and everybody can read it: chmod 600 {path}")
        for path in files.values()
        if _is_open(path) and _holds_secret(path)
    ]
    found += [
        Finding(
            "secrets in results",
            False,
            f"{path} holds {name} in clear text, from an earlier version, and everybody can read it: "
            f"chmod -R go-rwx {path.parent}, and have the secret changed",
        )
        for path, name in _stored_secrets(folder)
    ]
    return found or [Finding("secrets", True, "none in clear text in a file that everybody can read")]


def _is_open(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return bool(found.st_mode & stat.S_IROTH) and stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST_B


def _holds_secret(path: Path) -> bool:
    try:
        nodes = secret_nodes(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    values = [node.value if isinstance(node, yaml.ScalarNode) else "" for node in nodes]
    return any(value not in ("", MASK) and not value.startswith(FROM_ENVIRONMENT) for value in values)


def _stored_secrets(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files of stored experiments that hold a secret in clear text, with its name."""
    for depth in DEPTHS:
        for name in (layout.EXPERIMENT, layout.CLUSTER):
            for path in sorted(folder.glob(f"{depth}{name}")):
                if _is_open(path) and (secret := _clear_secret(path)):
                    yield path, secret


def _clear_secret(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    deployment = content.get("deployment")
    groups = deployment.values() if isinstance(deployment, dict) else ()
    for part in (content, *groups):
        environment: Any = part.get("environment") if isinstance(part, dict) else None
        for name, value in environment.items() if isinstance(environment, dict) else ():
            if value != MASK and isinstance(value, str) and is_secret(name, value):
                return str(name)
    return None
