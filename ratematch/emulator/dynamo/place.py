"""What a worker does in its deployment and where it registers, as its flags and variables say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratematch.emulator.dynamo.backend import Role
from ratematch.emulator.errors import SettingsError

ROLES: Mapping[str, Role] = {
    "agg": "agg",
    "pd": "agg",
    "prefill_and_decode": "agg",
    "prefill": "prefill",
    "decode": "decode",
}


def role_of(given: Mapping[str, Any]) -> Role:
    """What the worker does.

    Raises:
        SettingsError: a mode that is not emulated.
    """
    if given.get("is-prefill-worker"):
        return "prefill"
    if given.get("is-decode-worker"):
        return "decode"
    mode = str(given.get("disaggregation-mode", "agg"))
    if mode not in ROLES:
        raise SettingsError(f"--disaggregation-mode {mode} is not emulated")
    return ROLES[mode]


@dataclass(frozen=True)
class Place:
    """``backend``, ``request``, ``event``, ``response``: Dynamo's names of the discovery back-end and the planes.
    ``path``: the folder of a real checkpoint, whose own tokenizer serves then."""

    namespace: str
    component: str
    endpoint: str
    backend: str
    request: str
    event: str | None
    response: str
    path: Path | None = None


def place_of(given: Mapping[str, Any], variables: Mapping[str, str], component: str) -> Place:
    """The place that flags and variables say; ``component``: the usual name for what the worker does.

    Raises:
        SettingsError: an endpoint that is none.
    """
    path = (given.get("namespace") or variables.get("DYN_NAMESPACE") or "dynamo", component, "generate")
    if given.get("endpoint"):
        parts = str(given["endpoint"]).removeprefix("dyn://").split(".")
        if len(parts) != 3:
            raise SettingsError(
                f"Invalid endpoint format: {given['endpoint']!r}. "
                "Expected 'dyn://namespace.component.endpoint' or 'namespace.component.endpoint'."
            )
        path = (parts[0], parts[1], parts[2])
    return Place(
        *path,
        backend=given.get("discovery-backend") or given.get("store-kv") or "etcd",
        request=given.get("request-plane") or "tcp",
        event=given.get("event-plane"),
        response=given.get("response-plane") or "tcp",
        path=checkpoint_of(str(given.get("model") or given.get("model-path") or "")),
    )


def checkpoint_of(path: str) -> Path | None:
    """The folder of a real checkpoint, if ``path`` is one."""
    folder = Path(path)
    return folder if (folder / "tokenizer.json").is_file() and (folder / "config.json").is_file() else None
