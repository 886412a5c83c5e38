"""The schema that a sweep left for its jobs: what the image of the servers says that they take."""

from __future__ import annotations

import sys

from ratematch.engines import Engine
from ratematch.engines.installed import InstalledSchema
from ratematch.errors import DamagedFile
from ratematch.store.contract import ContractRef
from ratematch.store.folder import ExperimentFolder
from ratematch.store.provenance import Provenance


def read(folder: ExperimentFolder, engine: Engine) -> InstalledSchema | None:
    """By what the experiment's files are checked; ``None``: by the shipped contract, with a line in the job's log
    where a schema was kept and cannot be used."""
    try:
        if (kept := folder.schema()) is None:
            return None
        contract, text = kept
        installed = InstalledSchema(text, contract.image or "the image", contract.version)
        engine.describe_schema(installed)
    except (DamagedFile, ValueError) as error:
        sys.stderr.write(f"{error}; the shipped contract is used instead\n")
        return None
    return installed


def compare(folder: ExperimentFolder, software: Provenance) -> None:
    """A line in the job's log where the servers are of another version than the schema: a tag of a registry may have
    moved since the image was asked."""
    contract = reference(folder)
    others = {version for version in software.server_versions if version and contract and version != contract.version}
    if contract is not None and contract.version is not None and others:
        sys.stderr.write(
            f"servers are of version {', '.join(sorted(others))}, and their files were checked by the schema of "
            f"{contract.image}, version {contract.version}: `ratematch doctor --probe` asks it again\n"
        )


def reference(folder: ExperimentFolder) -> ContractRef | None:
    """What :func:`read` read, for the provenance; ``None`` where it is the shipped contract."""
    try:
        kept = folder.schema()
    except DamagedFile:
        return None
    return kept[0] if kept else None
