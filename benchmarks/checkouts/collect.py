"""A checkout's answers to all jobs, as a folder of files in which nothing of this machine or this minute is left.

Processes run with ``PYTHONPATH`` set to the checkout, in a working directory of their own, with the same small
environment; ``normal.py`` says what is replaced in what they write. GPUs are those of an invented ``nvidia-smi`` (two
H200), for cluster profiles that look for this machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .jobs import Job, Step
from .normal import describe_format, normalise, summarise

HERE = Path(__file__).parent
STEP_S = 300.0
"""Longest that a process may take."""

TABLES = "tests/golden"
"""Where a checkout keeps tables of rates."""


@dataclass(frozen=True)
class Checkout:
    """A source tree. ``commit``: what it is exactly at; ``None`` with uncommitted changes, or without git."""

    path: Path
    commit: str | None


def open_checkout(path: Path) -> Checkout:
    """Raises FileNotFoundError when there is no ``ratematch`` in ``path``."""
    path = path.resolve()
    if not (path / "ratematch" / "__main__.py").is_file():
        raise FileNotFoundError(f"{path}: no checkout of ratematch (ratematch/__main__.py is not there)")
    if _git(path, "rev-parse", "--show-toplevel") != str(path):
        return Checkout(path, None)
    clean = _git(path, "status", "--porcelain") == ""
    return Checkout(path, _git(path, "rev-parse", "HEAD") if clean else None)


def _git(path: Path, *argv: str) -> str | None:
    done = subprocess.run(["git", "-C", str(path), *argv], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


class Collection:
    """The answers of ``code`` to questions about the files of ``inputs``, under way in a folder of its own."""

    def __init__(self, code: Checkout, inputs: Checkout, python: Path):
        self.code, self.inputs, self.python = code, inputs, python
        self.top = Path(tempfile.mkdtemp(prefix="checkouts-")).resolve()
        self.site = self.top / "site"
        self._environment = self._make_environment()
        self._lay_out()

    def _lay_out(self) -> None:
        for name in ("sweeps", "results/sample"):
            _copy_tracked(self.inputs.path, name, self.site / name)
        (self.site / "tables").mkdir()
        for table in sorted((self.inputs.path / TABLES).glob("*.csv")):
            shutil.copy(table, self.site / "tables")
        shutil.copytree(HERE / "given", self.site / "given")
        (self.site / "out").mkdir()

    def _make_environment(self) -> dict[str, str]:
        tools = self.top / "bin"
        for folder in (tools, self.top / "home", self.top / "empty"):
            folder.mkdir()
        smi = tools / "nvidia-smi"
        smi.write_text('#!/bin/sh\nprintf "NVIDIA H200, 143771\\nNVIDIA H200, 143771\\n"\n')
        smi.chmod(0o755)
        cache = Path(tempfile.gettempdir()) / f"checkouts-cache-{os.getuid()}"
        return {
            "PATH": os.pathsep.join((str(tools), "/usr/local/bin", "/usr/bin", "/bin")),
            "PYTHONPATH": str(self.code.path),
            "PYTHONPYCACHEPREFIX": str(cache / "bytecode"),
            "PYTHONHASHSEED": "0",
            "PYTHONWARNINGS": "ignore",
            "HOME": str(self.top / "home"),
            "TMPDIR": str(self.top),
            "MPLCONFIGDIR": str(cache / "matplotlib"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "COLUMNS": "100",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }

    def check(self) -> None:
        """Raises RuntimeError when the interpreter would not run this checkout's code."""
        ask = "import ratematch; print(ratematch.__file__)"
        done = self._run(("-c", ask), self.site)
        where = done.stdout.strip()
        if Path(where or "/") != self.code.path / "ratematch" / "__init__.py":
            raise RuntimeError(f"{self.code.path}: {self.python} runs {where or done.stderr.strip()} instead")

    def run(self, job: Job) -> bool:
        """All steps of ``job``, until one fails; exit codes are part of the answers. Did all end with 0?"""
        codes = []
        for step in job.steps:
            code, said = self._run_step(step)
            codes.append({"argv": [Path(step.argv[0]).name, *step.argv[1:]], "exit": code} | said)
            if code != 0:
                break
        self._write(f"exit/{job.name.replace(' ', '-')}.json", json.dumps(codes, indent=1) + "\n")
        return all(each["exit"] == 0 for each in codes)

    def _run_step(self, step: Step) -> tuple[int | str, dict[str, str]]:
        argv: list[str] = []
        for word in step.argv:
            argv.extend(self._find(word) if "*" in word else [word])
        try:
            done = self._run(argv, self.top / "empty" if step.elsewhere else self.site)
        except subprocess.TimeoutExpired:
            return f"longer than {STEP_S:g} s", {}
        if step.stdout:
            self._write(step.stdout, done.stdout)
        return done.returncode, {"stderr": done.stderr[-2000:]} if done.returncode else {}

    def _find(self, pattern: str) -> list[str]:
        return sorted(str(path.relative_to(self.site)) for path in self.site.glob(pattern))

    def _run(self, argv: list[str] | tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), *argv],
            cwd=folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=False,
        )

    def _write(self, name: str, text: str) -> None:
        path = self.site / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def finish(self, folder: Path) -> None:
        """Write everything to ``folder``, normalised, with the format of the checkout's own sample."""
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        out = self.site / "out"
        names = {str(self.site): "<site>", str(self.top): "<top>", str(self.code.path): "<checkout>"}
        names[str(self.python)] = "<python>"
        for path in sorted(path for path in out.rglob("*") if path.is_file()):
            for name, content in normalise(str(path.relative_to(out)), path.read_bytes(), names):
                _store(aside / name, content)
        for name, content in summarise(out).items():
            _store(aside / name, content)
        own = self.code.path
        for path in sorted(own.glob("sweeps/*.yaml")):
            _store(aside / "own" / path.relative_to(own), path.read_bytes())
        for file in _tracked(own, "results/sample"):
            _store(aside / "own" / "results.format" / f"{file}.json", describe_format(own / file))
        try:
            aside.rename(folder)
        except OSError:  # another comparison was faster
            shutil.rmtree(aside)
            if not folder.exists():
                raise

    def close(self) -> None:
        """Remove the working directory."""
        shutil.rmtree(self.top, ignore_errors=True)


def _store(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _tracked(top: Path, name: str) -> list[str]:
    """Files below ``name`` that belong to the checkout; all, where there is no git."""
    listed = _git(top, "ls-files", "-z", name)
    if listed:
        return [file for file in listed.split("\0") if file and (top / file).is_file()]
    return sorted(str(path.relative_to(top)) for path in (top / name).rglob("*") if path.is_file())


def _copy_tracked(top: Path, name: str, to: Path) -> None:
    for file in _tracked(top, name):
        target = to / Path(file).relative_to(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(top / file, target)
