"""Builds the compiled loop once for each user, and finds it again.

The first simulation that is planned runs the C compiler (``$CC``, else ``cc``) on the sources beside this file;
without a compiler simulations run in the plain loop. ``python -m ratematch.simulate.compiled.build`` does the same,
and says what is in the way. The library is kept in ``$XDG_CACHE_HOME/ratematch/simulation``, else below ``~/.cache``,
under the checksum of its sources, so that another release does not take it for its own; one that others may have
written is not loaded. ``RATEMATCH_SIMULATION=plain`` neither builds nor loads it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from ratematch.errors import UserError
from ratematch.simulate.compiled.bindings import CompiledLoop, Library, declare, why_not_compiled
from ratematch.simulate.service import Service

SOURCES = ("events.h", "scheduler.h", "service.c")
# Every product and sum is rounded by itself, in the order in which it stands: figures are the plain ones to the bit.
FLAGS = ("-O2", "-std=gnu11", "-ffp-contract=off", "-fno-fast-math", "-fPIC", "-shared")
HERE = Path(__file__).parent
MOST_SECONDS = 60.0
"""A compiler that takes longer is given up."""


def library_file() -> Path | None:
    """Where the library of these sources is kept, built or not; ``None`` for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:  # the XDG specification has paths ignored that are not absolute
        cache = Path(given) if given.startswith("/") else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "ratematch" / "simulation" / f"loop-{_checksum()}.so"


@lru_cache(maxsize=1)
def _checksum() -> str:
    digest = hashlib.sha256(f"{platform.machine()} {FLAGS}".encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:24]


def build() -> Path:
    """Compile the loop, whole or not at all; where it is now.

    Raises:
        UserError: there is no compiler, or it fails, or the folder is not ours alone.
    """
    file = library_file()
    if file is None:
        raise UserError("there is no home to keep the compiled loop in: set XDG_CACHE_HOME")
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    argv = [*compiler, *FLAGS, "-o", str(aside), str(HERE / SOURCES[-1]), "-lm"]
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _ours(file.parent):
            raise UserError(f"{file.parent}: others may write there, so the compiled loop is not kept in it")
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=MOST_SECONDS)
        if done.returncode:
            raise UserError(f"{shlex.join(argv)} failed: {done.stderr.strip()[-400:]}")
        aside.chmod(0o600)
        aside.replace(file)
    except FileNotFoundError as error:
        raise UserError(f"{compiler[0]} cannot be run: a C compiler is needed, or $CC") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{file.parent}: the compiled loop cannot be built there ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return file


def make_ready() -> None:
    """Build the library, unless it is there or is not wanted; where that fails simulations run in the plain loop."""
    file = None if os.environ.get("RATEMATCH_SIMULATION") == "plain" else library_file()
    if file is not None and not file.exists():
        _try_once(file)


@lru_cache(maxsize=16)
def _try_once(_file: Path) -> None:
    with contextlib.suppress(UserError):
        build()


def find_library() -> Library | None:
    """The library that :func:`build` made; ``None`` where it was not built, is not wanted, or is not ours alone."""
    file = None if os.environ.get("RATEMATCH_SIMULATION") == "plain" else library_file()
    if file is None or not _ours(file.parent) or not _ours(file):
        return None
    return _load(file)


@lru_cache(maxsize=4)
def _load(file: Path) -> Library | None:
    try:
        return declare(ctypes.CDLL(str(file)))
    except OSError:  # built for another machine that shares this home
        return None


def _ours(path: Path) -> bool:
    """Is there something that nobody but us, and root, can have written?"""
    try:
        found = path.lstat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022 and not path.is_symlink()


def compiled_loop(service: Service) -> CompiledLoop | None:
    """What runs the loads of ``service``, which has answered nothing yet, compiled; ``None`` where the library is not
    there, or only the plain loop knows all that is needed."""
    library = find_library()
    if library is None or why_not_compiled(service) is not None:
        return None
    return CompiledLoop(library, service)


def main() -> int:
    try:
        file = build()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"simulations run compiled from now on ({file}); RATEMATCH_SIMULATION=plain leaves it aside\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
