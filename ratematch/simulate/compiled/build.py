"""Builds the compiled loop once for this user, and finds it again.

``python -m ratematch.simulate.compiled.build`` runs the C compiler (``$CC``, else ``cc``) on the sources beside this
file; nothing else ever does. The library is kept in ``$XDG_CACHE_HOME/ratematch/simulation``, else below
``~/.cache``, under the checksum of its sources, so that another release does not take it for its own; file 0600 in a
folder 0700, and one that others may have written is not loaded. ``RATEMATCH_SIMULATION=plain`` leaves it aside.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from ratematch.errors import RatematchError, UserError
from ratematch.simulate.compiled.bindings import CompiledLoop, Library, declare, why_not_compiled
from ratematch.simulate.service import Service
from ratematch.store.private import make_private, why_not_private

SOURCES = ("events.h", "scheduler.h", "service.c")
# No contraction of a product and a sum into one rounding: figures are the plain ones to the bit.
FLAGS = ("-O2", "-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared")
HERE = Path(__file__).parent


def library_file() -> Path | None:
    """Where the library of these sources is kept, built or not; ``None`` for a user without a home."""
    digest = hashlib.sha256(f"{platform.machine()} {FLAGS}".encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:  # the XDG specification has paths ignored that are not absolute
        cache = Path(given) if given.startswith("/") else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "ratematch" / "simulation" / f"loop-{digest.hexdigest()[:24]}.so"


def build() -> Path:
    """Compile the loop, whole or not at all; where it is now.

    Raises:
        UserError: there is no compiler, or it fails. ResultsError: the folder is not ours alone.
    """
    file = library_file()
    if file is None:
        raise UserError("there is no home to keep the compiled loop in: set XDG_CACHE_HOME")
    make_private(file.parent)
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    argv = [*compiler, *FLAGS, "-o", str(aside), str(HERE / SOURCES[-1]), "-lm"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{shlex.join(argv)} failed: {done.stderr.strip()[-400:]}")
        aside.chmod(0o600)
        aside.replace(file)
    except OSError as error:
        raise UserError(f"{compiler[0]} cannot be run ({error.strerror}): a C compiler is needed, or $CC") from error
    finally:
        aside.unlink(missing_ok=True)
    return file


def find_library() -> Library | None:
    """The library that :func:`build` made; ``None`` where it was not built, is left aside, or is not ours alone."""
    file = library_file()
    if os.environ.get("RATEMATCH_SIMULATION") == "plain" or file is None or not file.exists():
        return None
    if why_not_private(file.parent) or why_not_private(file):
        return None
    return _load(file)


@lru_cache(maxsize=4)
def _load(file: Path) -> Library | None:
    try:
        return declare(ctypes.CDLL(str(file)))
    except OSError:  # built for another machine that shares this home
        return None


def speed_up(service: Service) -> bool:
    """Have ``service``, which has answered nothing yet, run its loads compiled, where that was built and knows all
    that it needs; is it so?"""
    library = find_library()
    if library is None or why_not_compiled(service) is not None:
        return False
    service.loop = CompiledLoop(library, service)
    return True


def main() -> int:
    try:
        file = build()
    except RatematchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"simulations run compiled from now on ({file}); RATEMATCH_SIMULATION=plain leaves it aside\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
