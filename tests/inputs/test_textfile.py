"""Files that a person names: regular ones of a sensible size, in UTF-8; anything else in one line, and at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ratematch.errors import CatalogError, ClusterError, TableError, UserError
from ratematch.inputs.find import find_sweep_file, read_cluster, read_sweep
from ratematch.inputs.ratetable import read_rates
from ratematch.inputs.textfile import is_file, read_text_file
from ratematch.match.question import Question


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_text_is_read_without_its_byte_order_mark_and_with_plain_line_ends(here: Path) -> None:
    (here / "a").write_bytes(b"\xef\xbb\xbfx\r\ny\rz\xc3\xa9\n")
    assert read_text_file(here / "a") == "x\ny\nz\u00e9\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a: b\nname: caf\xe9\n", "a:2: the text is not UTF-8: byte 0xe9 (save it as UTF-8)"),
        (b"\x80", "a:1: the text is not UTF-8: byte 0x80"),
        ("name: x".encode("utf-16"), "a:1: the text is UTF-16 (save it as UTF-8)"),
        (b"x" * 101, "a: is larger than 0 kB"),
    ],
)
def test_other_text_is_refused_with_its_line(content: bytes, why: str) -> None:
    Path("a").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_text_file(Path("a"), 100)
    assert str(caught.value).startswith(why)


def make_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (make_folder, "a folder, not a file"),
        (os.mkfifo, "a pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
        (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    ],
)
def test_what_is_no_file_is_never_opened_for_good(make: object, what: str) -> None:
    path = Path("t.csv")
    make(path)  # type: ignore[operator]
    assert not is_file(path)
    with pytest.raises(UserError, match=rf"^t.csv: cannot be read \({what}\)$"):
        read_text_file(path)
    with pytest.raises(TableError, match=rf"^t.csv: cannot be read \({what}\) \(give a CSV file, UTF-8\)$"):
        read_rates(path, Question())


@pytest.mark.parametrize("name", ["x" * 10_000, "a\0b", "\udc80", "", ".", "/dev/null", "a/" * 3000])
def test_names_that_no_file_can_have_are_not_known(name: str) -> None:
    assert not is_file(Path(name))
    with pytest.raises(UserError) as caught:
        find_sweep_file(name)
    assert len(str(caught.value)) < 1200
    with pytest.raises((ClusterError, UserError)) as caught:
        read_cluster(name)
    assert len(str(caught.value)) < 1200


def test_a_folder_or_device_in_the_place_of_a_sweep_is_called_so(here: Path) -> None:
    (here / "sub" / "sweep").mkdir(parents=True)
    with pytest.raises(UserError, match=r"sub/sweep: cannot be read .a folder"):
        find_sweep_file("sub/sweep")
    with pytest.raises(UserError, match=r"/dev/zero: cannot be read .a device"):
        find_sweep_file("/dev/zero")
    with pytest.raises(CatalogError, match="nosuch: no such sweep file"):
        find_sweep_file("nosuch")


def test_a_sweep_in_another_encoding_names_the_line() -> None:
    Path("s.yaml").write_bytes(b"name: x\nabout: caf\xe9\n")
    with pytest.raises(UserError, match=r"^s.yaml:2: the text is not UTF-8"):
        read_sweep("s.yaml")


def test_a_cluster_named_in_other_letters_is_looked_for_as_it_is_written() -> None:
    Path("s.yaml").write_text(
        "name: x\nabout: y\nmodel: deepseek-r1\ncluster: laptop\nworkloads: [{isl: 9, osl: 9}]\n"
    )
    with pytest.raises(UserError, match="there is no cluster profile '\U0001f680é'"):
        read_sweep("s.yaml", cluster="\U0001f680é")
