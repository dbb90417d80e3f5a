"""Deletes: complete, and no more than asked."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.contract.stores import Harbour

pytestmark = pytest.mark.writes


def test_rm(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"foo": b"1", "foobar": b"2", "foo.txt": b"3"})
    fs.rm(f"{root}/foo")
    assert not fs.exists(f"{root}/foo")
    assert set(harbour.stored()) == {"foobar", "foo.txt"}
    fs.rm_file(f"{root}/foobar")
    assert set(harbour.stored()) == {"foo.txt"}


def test_rm_of_a_tree(harbour: Harbour, fs: Any, root: str) -> None:
    tree = {f"tree/{n % 3}/deep {n % 5}/{n}": b"x" for n in range(30)}
    siblings = {"treehouse": b"1", "tree.txt": b"2", "trees/a": b"3"}
    harbour.seed(tree | siblings)
    fs.rm(f"{root}/tree", recursive=True)
    assert harbour.stored() == siblings
    assert not fs.exists(f"{root}/tree")
    names = {path.removeprefix(f"{root}/") for path in fs.ls(root, detail=False)}
    assert names == {"treehouse", "tree.txt", "trees"}


def test_rm_of_a_tree_that_was_walked(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"tree/a/b": b"x"})
    fs.ls(f"{root}/tree")
    fs.find(root)
    fs.rm(f"{root}/tree", recursive=True)
    assert not fs.exists(f"{root}/tree/a")
    assert fs.find(root) == []
    assert harbour.stored() == {}


def test_rm_of_a_list(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"a": b"1", "b": b"2", "c": b"3", "d/e": b"4"})
    fs.rm([f"{root}/a", f"{root}/b"])
    assert set(harbour.stored()) == {"c", "d/e"}
    fs.rm([f"{root}/c", f"{root}/d"], recursive=True)
    assert harbour.stored() == {}


def test_rm_of_a_list_of_which_one_is_not_there(harbour: Harbour, fs: Any, root: str) -> None:
    """As of that one alone."""
    harbour.seed({"a": b"1", "b": b"2"})
    with pytest.raises(FileNotFoundError):
        fs.rm([f"{root}/a", f"{root}/missing"])
    assert "b" in harbour.stored()


def test_rm_of_path_objects(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"a": b"1", "b[1]": b"2", "c": b"3", "d/e": b"4"})
    inside = PurePosixPath(root)
    fs.rm(inside / "a")
    fs.rm([inside / "b[1]"])
    assert set(harbour.stored()) == {"c", "d/e"}
    with pytest.raises(FileNotFoundError):
        fs.rm(inside / "missing*")
    fs.rm(inside / "d", recursive=True)
    assert set(harbour.stored()) == {"c"}


def test_rm_of_nothing(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"other": b"x"})
    for remove in (fs.rm, fs.rm_file):
        with pytest.raises(FileNotFoundError) as caught:
            remove(f"{root}/missing")
        assert "missing" in str(caught.value.filename)
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{root}/missing", recursive=True)
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{root}/oth*")
    assert set(harbour.stored()) == {"other"}


def test_rm_of_a_directory_must_be_recursive(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"folder/file": b"x"})
    with pytest.raises(IsADirectoryError) as caught:
        fs.rm(f"{root}/folder")
    assert "folder" in str(caught.value.filename)
    assert set(harbour.stored()) == {"folder/file"}


def test_rm_file_of_a_directory(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"folder/file": b"x"})
    with pytest.raises(OSError, match="folder"):
        fs.rm_file(f"{root}/folder")
    assert set(harbour.stored()) == {"folder/file"}


def test_rm_of_a_file_with_a_slash_behind(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"folder/file": b"x"})
    fs.rm(f"{root}/folder/", recursive=True)
    assert harbour.stored() == {}


def test_what_was_deleted_can_be_written_again(harbour: Harbour, fs: Any, root: str) -> None:
    for data in (b"first", b"second"):
        fs.pipe_file(f"{root}/folder/file", data)
        assert fs.cat_file(f"{root}/folder/file") == data
        fs.rm(f"{root}/folder", recursive=True)
        assert not fs.exists(f"{root}/folder/file")
