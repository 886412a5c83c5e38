"""What starts the real ``tritonserver`` as an emulated one, and what it says where there is none."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from ratematch.emulator.triton.command import Installation, find_installation, main, make_backends, server_environment
from ratematch.engines import find_engine

VERSION = ".".join(platform.python_version_tuple()[:2])


def install(folder: Path, python: str = VERSION, stub: str = VERSION) -> Path:
    """An environment with files where the wheel has them."""
    server = folder / "lib" / f"python{python}" / "site-packages" / "pytriton" / "tritonserver"
    for file in (
        server / "bin" / "tritonserver",
        server / "backends" / "python" / "libtriton_python.so",
        server / "python_backend_stubs" / stub / "triton_python_backend_stub",
    ):
        file.parent.mkdir(parents=True)
        file.touch()
    return folder


@pytest.mark.parametrize("python", ["", "2.7"])
def test_without_a_server_it_is_one_line_with_what_to_install(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(install(tmp_path / "env", python)) if python else ""
    with pytest.raises(
        FileNotFoundError, match=r"nvidia-pytriton==0\.7\.0.*set RATEMATCH_TRITON to its folder"
    ) as raised:
        find_installation(folder)
    assert VERSION in str(raised.value) and "\n" not in str(raised.value)
    monkeypatch.setenv("RATEMATCH_TRITON", folder)
    with pytest.raises(SystemExit) as ended:
        main([])
    known = find_engine("triton").diagnose([str(ended.value)])
    assert known is not None and known.name == "triton-not-installed"


def test_a_wheel_without_a_stub_for_this_python_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"runs no models in Python {VERSION}: it has no .*_backend_stub"):
        find_installation(str(install(tmp_path, stub="3.0")))


def test_the_backend_has_the_stub_of_this_python_beside_it_and_may_be_made_twice(tmp_path: Path) -> None:
    installation = find_installation(str(install(tmp_path / "env")))
    for _ in range(2):
        folder = make_backends(installation, tmp_path / "backends") / "python"
        assert {file.name for file in folder.iterdir()} == {"libtriton_python.so", "triton_python_backend_stub"}
    assert (folder / "triton_python_backend_stub").stat().st_mode & 0o111


def test_the_servers_own_python_comes_first_and_is_shown_the_way_to_ours() -> None:
    installation = Installation(Path("/env/bin"), Path("/s"), Path("/libs"), Path("/stub"))
    environment = server_environment(installation, {"PATH": "/usr/bin", "HOME": "/root"})
    assert environment["PATH"] == "/env/bin:/usr/bin" and environment["LD_LIBRARY_PATH"] == "/libs"
    assert "site-packages" in environment["RATEMATCH_EMULATED_PATH"] and environment["HOME"] == "/root"


@pytest.mark.parametrize("flag", ["--id=mine", "--backend-directory=/opt"])
def test_nobody_can_make_it_pass_for_a_real_one(flag: str) -> None:
    with pytest.raises(SystemExit, match="is set here, so that nobody takes it for a real server"):
        main(["--model-repository=r", flag])
