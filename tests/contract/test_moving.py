"""Moves that go nowhere, and copies that would go too far: nothing is lost, nothing escapes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.contract.stores import Harbour

pytestmark = pytest.mark.writes

TREE = {"a/one": b"1", "a/deep/two": b"2", "file": b"f", "sibling": b"s"}


@pytest.mark.parametrize(
    ("source", "target", "recursive"),
    [
        ("a", "a", True),
        ("a/", "a", True),
        ("a", "a/", True),
        ("a", "", True),
        ("a", "/", True),
        ("file", "file", False),
        ("file", "file/", False),
        ("file", "", False),
        ("file", "/", False),
        ("fil*", "", False),
        ("a/*", "a", True),
    ],
)
def test_a_move_to_where_it_is(
    harbour: Harbour, fs: Any, root: str, source: str, target: str, recursive: bool
) -> None:
    harbour.seed(TREE)
    there = f"{root}/{target}" if target.strip("/") else root + target
    fs.mv(f"{root}/{source}", there, recursive=recursive)
    assert harbour.stored() == TREE


def test_a_move_onto_itself_in_other_words(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed(TREE)
    for path, recursive in ((f"{root}/file", False), (f"{root}/a", True)):
        fs.mv(fs.unstrip_protocol(path), path, recursive=recursive)
        fs.mv(path, fs.unstrip_protocol(path), recursive=recursive)
    fs.mv([f"{root}/file"], [f"{root}/file"])
    with contextlib.suppress(AttributeError, NotImplementedError):  # not all drivers have one
        fs.mv_file(f"{root}/file", f"{root}/file")
    assert harbour.stored() == TREE
    with pytest.raises(FileNotFoundError):
        fs.mv(f"{root}/missing", f"{root}/missing")


@pytest.mark.parametrize("target", ["a/b", "a/deep", "a/deep/er/"])
def test_a_move_into_itself(harbour: Harbour, fs: Any, root: str, target: str) -> None:
    harbour.seed(TREE)
    with pytest.raises(OSError, match="into itself") as caught:
        fs.mv(f"{root}/a", f"{root}/{target}", recursive=True)
    assert caught.value.filename == f"{root}/a"
    assert harbour.stored() == TREE


def test_moves_of_lists(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed(TREE)
    fs.mv([f"{root}/file", f"{root}/sibling"], [f"{root}/moved", f"{root}/sibling"])
    assert harbour.stored() == {
        "a/one": b"1",
        "a/deep/two": b"2",
        "moved": b"f",
        "sibling": b"s",
    }


def test_an_upload_that_must_be_new(harbour: Harbour, fs: Any, root: str, tmp_path: Path) -> None:
    harbour.seed({"file": b"old"})
    local = tmp_path / "local"
    local.write_bytes(b"new")
    with pytest.raises(FileExistsError) as caught:
        fs.put_file(str(local), f"{root}/file", mode="create")
    assert caught.value.filename == f"{root}/file"
    with pytest.raises(FileExistsError) as caught:
        fs.pipe_file(f"{root}/file", b"new", mode="create")
    assert caught.value.filename == f"{root}/file"
    assert harbour.stored() == {"file": b"old"}
