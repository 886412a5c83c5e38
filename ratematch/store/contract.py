"""By what a sweep's files were checked: the schema of the image that its servers run in, kept once in the sweep's
``schemas`` under its digest, and named by each experiment and in the provenance of each launch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ratematch.errors import DamagedFile
from ratematch.store import layout
from ratematch.store.files import read_bytes, read_value, write_json, write_text

SHORT = 12
"""Characters of a digest that name a file and stand in a line for people."""

MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class ContractRef:
    """``digest``: SHA-256 of the schema, ``None`` = none was known and the shipped contract ruled. ``image``: whose
    it is, in words. ``version``: of the package there."""

    digest: str | None = None
    image: str | None = None
    version: str | None = None


def to_json(contract: ContractRef) -> dict[str, Any]:
    return asdict(contract)


def from_json(content: Mapping[str, Any]) -> ContractRef:
    """Raises ValueError when the content is not that of a ``contract.json``."""
    contract = msgspec.convert(dict(content), ContractRef)
    if contract.digest is not None and not re.fullmatch("[0-9a-f]{64}", contract.digest):
        raise ValueError(f"{contract.digest[:20]!r} is no SHA-256")
    return contract


def schema_file(sweep: Path, digest: str) -> Path:
    """Where the schema of this digest lies in the results folder ``sweep``."""
    return sweep / layout.SCHEMAS / f"{digest[:SHORT]}.json"


def write_schema(sweep: Path, digest: str, text: str) -> None:
    """Keep a schema, once.

    Raises:
        DiskFull: no space.
    """
    file = schema_file(sweep, digest)
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        write_text(file, text)


def read_contract(experiment: Path) -> ContractRef | None:
    """What the experiment in this folder was checked by; ``None`` where an earlier version wrote it.

    Raises:
        DamagedFile: its file is not what it should be.
    """
    file = experiment / layout.CONTRACT
    return read_value(file, from_json) if file.exists() else None


def write_contract(experiment: Path, contract: ContractRef) -> None:
    """Keep by what this experiment's files are checked, where that has changed."""
    try:
        if read_contract(experiment) == contract:
            return
    except DamagedFile:
        pass  # what is known is written anew
    write_json(experiment / layout.CONTRACT, to_json(contract))


def read_schema(experiment: Path) -> tuple[ContractRef, str] | None:
    """The schema of the image that this experiment's servers run in; ``None`` where none was known.

    Raises:
        DamagedFile: it is gone or was changed.
    """
    contract = read_contract(experiment)
    if contract is None or contract.digest is None:
        return None
    file = schema_file(experiment.parent, contract.digest)
    content = read_bytes(file)
    if len(content) > MOST_BYTES or hashlib.sha256(content).hexdigest() != contract.digest:
        raise DamagedFile(file, "it was changed after it was kept")
    return contract, content.decode("utf-8")
