"""A whole sweep in a folder whose file system has no locks; two controllers are kept apart there too."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.sites import IFB_ONLY, alive, folders, make_site, measured, ratematch, run

pytestmark = pytest.mark.slow

NO_LOCKS = """\
import fcntl, os
def flock(*_):
    raise OSError({number}, os.strerror({number}))
fcntl.flock = flock
"""


def test_a_sweep_runs_where_flock_is_not_implemented(tmp_path: Path) -> None:
    early = tmp_path / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text(NO_LOCKS.format(number=errno.ENOSYS))  # in every process of the sweep
    site = make_site(tmp_path / "site", mini=IFB_ONLY.replace("[1, 4, 8]", "[1]"))
    package = Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{early}:{package}"}
    first = ratematch(site, "sweep", "mini.yaml", "--executor", "local", **environment)
    wait_until(lambda: (site / "results" / "mini" / "controller.lock.claim").exists(), "its claim")
    code, _, err = run(site, "sweep", "mini.yaml", "--executor", "local", **environment)
    assert code == 2 and f"another `ratematch sweep` (pid {first.pid} on " in err, err
    out, err = first.communicate(timeout=120)
    assert first.returncode in (0, 3), err  # 3: one short load of a busy machine
    assert len(measured(site)) == 1 and all(folder.done() for folder in folders(site)), out + err
    assert not list(site.glob("results/**/*.claim*")) and alive(site) == []
