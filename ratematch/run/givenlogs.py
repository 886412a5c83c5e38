"""Logs that a person names, whoever wrote them: found in folders, and read as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratematch.errors import UserError

SUFFIXES = (".log", ".out", ".err")
"""Of logs in a folder: ratematch's own, and those that Slurm and launchers of other people write."""

PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
"""How packed files begin."""

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""How text begins that some shells of Windows redirect into a file."""


def find_given_logs(paths: Sequence[Path]) -> list[Path]:
    """The logs among ``paths``: files as they are, of folders those with a name of a log.

    Workers come before the orchestrator, which mostly says that one of them failed, and not why.

    Raises:
        UserError: a folder without any.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
        if not inside:
            names = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise UserError(f"{path}: no log here ({names}); give the folder of a launch, or the files")
        files += inside
    return sorted(files, key=lambda file: file.name.startswith("orchestrator"))


def read_given_logs(files: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The texts of ``files`` that can be read, and why the others cannot.

    Raises:
        UserError: none of them can.
    """
    texts: list[str] = []
    problems: list[str] = []
    for file in files:
        try:
            texts.append(_read(file))
        except UserError as problem:
            problems.append(str(problem))
    if not texts:
        raise UserError("\n".join(problems))
    return texts, problems


def _read(file: Path) -> str:
    """Raises UserError: it cannot be read, or is packed."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if packed := next((name for magic, name in PACKED.items() if content.startswith(magic)), None):
        raise UserError(f"{file}: is packed ({packed}); unpack it first")
    return content.decode("utf-16" if content.startswith(UTF_16) else "utf-8", "replace")
