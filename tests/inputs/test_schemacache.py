"""Schemas kept for the user: under what, how, and what becomes of files that are not as they were written."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.engines import find_engine
from ratematch.engines.installed import InstalledSchema
from ratematch.inputs import schemacache
from ratematch.inputs.schemacache import Image, cache_folder, identify, read_schema, write_schema
from ratematch.plan.cluster import Cluster, Container

RACK = Cluster("rack", "gb200", gpus_per_node=4, nodes=18)
ENGINE = find_engine("trtllm-serve")
SCHEMA = InstalledSchema('{"format":1}', "image a.sqsh", "1.4.0rc4")
IMAGE = Image("image a.sqsh", "file /a.sqsh 1 2")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def identity(cluster: Cluster) -> Image:
    image = identify(cluster, ENGINE)
    assert image is not None
    return image


def test_an_image_file_is_another_one_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "trtllm.sqsh"
    file.write_bytes(b"one")
    cluster = replace(RACK, container=Container(str(file)))
    first = identity(cluster)
    assert first.words == "image trtllm.sqsh" and identity(cluster) == first
    assert identity(replace(cluster, name="other")) == first, "the same image is the same from every profile"
    file.write_bytes(b"two!")
    assert identity(cluster) != first
    os.utime(file, ns=(1, 1))
    second = identity(cluster)
    (tmp_path / "link.sqsh").symlink_to(file)
    assert identity(replace(cluster, container=Container(str(tmp_path / "link.sqsh")))).identity == second.identity


def test_images_that_are_not_seen_from_here_go_by_their_names() -> None:
    registry = identity(replace(RACK, container=Container("nvcr.io#nvidia/tensorrt-llm/release:1.3.0rc17")))
    assert registry.words == "image nvcr.io#nvidia/tensorrt-llm/release:1.3.0rc17"
    gone = replace(RACK, container=Container("/only/on/nodes.sqsh"))
    assert identity(gone) != identity(replace(gone, name="other"))
    assert identify(replace(RACK, emulated=True), ENGINE) is None


def test_without_a_container_the_package_beside_the_command_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    (packages / "tensorrt_llm-1.3.0rc17.dist-info").mkdir(parents=True)
    program = tmp_path / "env" / "bin" / "trtllm-serve"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    first = identity(RACK)
    assert first.words == f"package 1.3.0rc17 in {packages}"
    (packages / "tensorrt_llm-1.3.0rc17.dist-info").rename(packages / "tensorrt_llm-1.4.0rc4.dist-info")
    assert identity(RACK) != first
    monkeypatch.setenv("PATH", str(tmp_path))
    assert identity(RACK).words == "command trtllm-serve of cluster rack"


def test_what_is_kept_is_read_again_by_its_owner_alone() -> None:
    complaints: list[str] = []
    assert read_schema(IMAGE, complaints.append) is None
    write_schema(IMAGE, SCHEMA, complaints.append)
    assert read_schema(IMAGE, complaints.append) == SCHEMA and complaints == []
    assert read_schema(Image("image b.sqsh", "file /b.sqsh 1 2"), complaints.append) is None
    folder = cache_folder()
    assert folder is not None
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, *folder.iterdir())]
    assert modes == [0o700, 0o700, 0o600] and complaints == []


def kept() -> Path:
    write_schema(IMAGE, SCHEMA, print)
    folder = cache_folder()
    assert folder is not None
    return folder / IMAGE.file_name


def changed(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "schema", "identity", "open", "link", "large", "list"])
def test_what_is_damaged_is_left_aside_with_a_line(damage: str, tmp_path: Path) -> None:
    file = kept()
    match damage:
        case "cut":
            file.write_text(file.read_text()[:50])
        case "empty":
            file.write_text("")
        case "list":
            file.write_text("[" * 100_000)
        case "other":
            file.write_text('{"schema": 3}')
        case "schema":
            changed(file, schema='{"format":1,"worker":{}}')
        case "identity":
            changed(file, identity="of another image")
        case "open":
            file.chmod(0o644)
        case "link":
            file.rename(tmp_path / "away")
            file.symlink_to(tmp_path / "away")
        case "large":
            os.truncate(file, schemacache.MOST_BYTES + 1)
    complaints: list[str] = []
    assert read_schema(IMAGE, complaints.append) is None
    (line,) = complaints
    assert str(file) in line and "\n" not in line
    if damage not in ("open", "link"):
        write_schema(IMAGE, SCHEMA, complaints.append)
        assert read_schema(IMAGE, complaints.append) == SCHEMA, "asked again, it is written anew"


def test_a_cache_that_cannot_be_written_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    complaints: list[str] = []
    write_schema(IMAGE, SCHEMA, complaints.append)
    assert read_schema(IMAGE, complaints.append) is None
    assert len(complaints) == 1 and "cannot be kept" in complaints[0]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/nobody")
    assert cache_folder() == Path("/nobody/.cache/ratematch/schemas")


def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemacache, "MOST_FILES", 3)
    images = [Image(f"image {number}", f"file {number}") for number in range(5)]
    for number, image in enumerate(images):
        write_schema(image, SCHEMA, print)
        folder = cache_folder()
        assert folder is not None
        if (file := folder / image.file_name).exists():
            os.utime(file, ns=(number, number))
    left = [read_schema(image, print) is not None for image in images]
    assert left == [False, False, True, True, True]
