"""Starts the real ``tritonserver`` that nvidia-pytriton's wheel brings, on this machine's CPU.

``RATEMATCH_TRITON`` is a virtual environment of its own that holds the wheel and NumPy 1: the stub that runs Python
models for the server was built for that one. It finds its packages through the ``python3`` first on PATH and ignores
PYTHONPATH, so where ratematch and what it needs lie is handed over in ``RATEMATCH_EMULATED_PATH``.
"""

from __future__ import annotations

import os
import platform
import shutil
import site
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.measure.emulatedmarks import EMULATED_ID

VARIABLE = "RATEMATCH_TRITON"
PACKAGES = ("nvidia-pytriton==0.7.0", "numpy<2")

OWN = ("--id", "--backend-directory")
"""Flags that are set here, whatever the caller says."""


@dataclass(frozen=True)
class Installation:
    """``python``: folder with the environment's ``python3``. ``server``: ``pytriton/tritonserver`` of the wheel;
    ``libraries``: what it is linked with; ``stub``: what runs Python models."""

    python: Path
    server: Path
    libraries: Path
    stub: Path


def find_installation(folder: str) -> Installation:
    """Where the server is in the environment ``folder``; empty: nobody has said.

    Raises:
        FileNotFoundError: it is not there, or not for this Python; one line with what to install.
    """
    version = ".".join(platform.python_version_tuple()[:2])
    packages = Path(folder).absolute() / "lib" / f"python{version}" / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    if not folder or not (server / "bin" / "tritonserver").is_file():
        where = f"in {packages}" if folder else "known here"
        words = " ".join(f"'{package}'" for package in PACKAGES)
        raise FileNotFoundError(
            f"there is no tritonserver {where}: make an environment for it with this Python ({version}), "
            f"`python -m venv triton-env && triton-env/bin/pip install --no-deps {words}` (Linux on x86_64, glibc "
            f"2.35), and set {VARIABLE} to its folder"
        )
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise FileNotFoundError(f"{PACKAGES[0]} runs no models in Python {version}: it has no {stub}")
    return Installation(Path(folder).absolute() / "bin", server, packages / "nvidia_pytriton.libs", stub)


def make_backends(installation: Installation, folder: Path) -> Path:
    """``folder`` with the Python backend and the stub for this Python beside it, as the server wants them."""
    python = folder / "python"
    python.mkdir(parents=True, exist_ok=True)
    for file in (*(installation.server / "backends" / "python").iterdir(), installation.stub):
        link = python / file.name
        link.unlink(missing_ok=True)
        if file == installation.stub:  # an installer may have left it without the permission to run
            shutil.copy2(file, link)
            link.chmod(0o755)
        else:
            link.symlink_to(file)
    return folder


def server_environment(installation: Installation, before: Mapping[str, str]) -> dict[str, str]:
    """``before`` with what the server and its models need: its libraries, its Python, and the way to ratematch."""

    def first(value: Path, name: str) -> str:
        return os.pathsep.join(filter(None, [str(value), before.get(name, "")]))

    return {
        **before,
        "LD_LIBRARY_PATH": first(installation.libraries, "LD_LIBRARY_PATH"),
        "PATH": first(installation.python, "PATH"),
        "RATEMATCH_EMULATED_PATH": os.pathsep.join(site.getsitepackages()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Become the server, with the flags given and those of an emulated one."""
    flags = list(sys.argv[1:] if argv is None else argv)
    if clash := [flag for flag in flags if flag.partition("=")[0] in OWN]:
        sys.exit(f"ratematch.emulator.triton: {clash[0]}: is set here, so that nobody takes it for a real server")
    try:
        installation = find_installation(os.environ.get(VARIABLE, ""))
    except FileNotFoundError as problem:
        sys.exit(f"ratematch.emulator.triton: {problem}")
    backends = make_backends(installation, Path("backends").absolute())
    words = [str(installation.server / "bin" / "tritonserver"), f"--id={EMULATED_ID}"]
    words += [f"--backend-directory={backends}", "--allow-gpu-metrics=false", *flags]
    os.execve(words[0], words, server_environment(installation, os.environ))
