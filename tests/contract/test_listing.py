"""Listings, and the questions that agree with them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

import mlartifacts
from tests.contract.stores import Harbour

TREE = {
    "foo/a.txt": b"a",
    "foo/b.csv": b"bb",
    "foo/deep/er/c.txt": b"ccc",
    "foobar/a.txt": b"sibling",
    "foo.txt": b"sibling file",
    "zero": b"",
}

DIRECTORIES = {"foo", "foo/deep", "foo/deep/er", "foobar"}


@pytest.fixture
def tree(harbour: Harbour, root: str) -> str:
    """The path of a directory with `TREE` in it."""
    harbour.seed(TREE)
    return root


def below(root: str, paths: Any) -> list[str]:
    assert all(path.startswith(f"{root}/") for path in paths), paths
    return sorted(path.removeprefix(f"{root}/") for path in paths)


def test_ls(fs: Any, tree: str) -> None:
    assert below(tree, fs.ls(tree, detail=False)) == ["foo", "foo.txt", "foobar", "zero"]
    assert below(tree, fs.ls(f"{tree}/foo", detail=False)) == [
        "foo/a.txt",
        "foo/b.csv",
        "foo/deep",
    ]


def test_ls_of_a_name_with_a_slash(fs: Any, tree: str) -> None:
    assert fs.ls(f"{tree}/foo/", detail=False) == fs.ls(f"{tree}/foo", detail=False)


def test_ls_in_detail(fs: Any, tree: str) -> None:
    # The default of `detail` is each driver's own.
    detail = fs.ls(tree, detail=True)
    found = {entry["name"].removeprefix(f"{tree}/"): entry for entry in detail}
    assert {name: entry["type"] for name, entry in found.items()} == {
        "foo": "directory",
        "foobar": "directory",
        "foo.txt": "file",
        "zero": "file",
    }
    assert found["foo.txt"]["size"] == 12
    assert found["zero"]["size"] == 0
    assert not any(entry["name"].endswith("/") for entry in detail)


def test_ls_of_a_file(fs: Any, tree: str) -> None:
    assert fs.ls(f"{tree}/foo/a.txt", detail=False) == [f"{tree}/foo/a.txt"]
    (entry,) = fs.ls(f"{tree}/foo.txt", detail=True)
    assert (entry["name"], entry["type"], entry["size"]) == (f"{tree}/foo.txt", "file", 12)


def test_ls_of_nothing(fs: Any, tree: str) -> None:
    for name in ("missing", "fo", "foo/a.tx", "foo/a.txt/under"):
        with pytest.raises((FileNotFoundError, NotADirectoryError)) as caught:
            fs.ls(f"{tree}/{name}")
        assert caught.value.filename


def test_info_agrees_with_ls(fs: Any, tree: str) -> None:
    for name in TREE:
        info = fs.info(f"{tree}/{name}")
        assert (info["name"], info["type"], info["size"]) == (
            f"{tree}/{name}",
            "file",
            len(TREE[name]),
        )
        parent = fs._parent(f"{tree}/{name}")
        listed = {entry["name"]: entry for entry in fs.ls(parent, detail=True)}
        assert listed[f"{tree}/{name}"]["size"] == info["size"]
        assert listed[f"{tree}/{name}"]["type"] == info["type"]
    for name in DIRECTORIES:
        info = fs.info(f"{tree}/{name}")
        assert (info["name"], info["type"]) == (f"{tree}/{name}", "directory")
        assert fs.info(f"{tree}/{name}/")["type"] == "directory"


def test_exists_isfile_and_isdir(fs: Any, tree: str) -> None:
    for name in TREE:
        path = f"{tree}/{name}"
        assert (fs.exists(path), fs.isfile(path), fs.isdir(path)) == (True, True, False), name
    for name in DIRECTORIES:
        path = f"{tree}/{name}"
        assert (fs.exists(path), fs.isfile(path), fs.isdir(path)) == (True, False, True), name
    for name in ("fo", "foo/", "foo/a", "missing/deep"):
        path = f"{tree}/{name}"
        there = name == "foo/"
        assert (fs.exists(path), fs.isfile(path), fs.isdir(path)) == (there, False, there), name


def test_find(fs: Any, tree: str) -> None:
    assert below(tree, fs.find(tree)) == sorted(TREE)
    assert below(tree, fs.find(f"{tree}/foo")) == ["foo/a.txt", "foo/b.csv", "foo/deep/er/c.txt"]
    assert below(tree, fs.find(f"{tree}/foo", maxdepth=1)) == ["foo/a.txt", "foo/b.csv"]
    assert fs.find(f"{tree}/foo.txt") == [f"{tree}/foo.txt"]
    assert fs.find(f"{tree}/missing") == []
    detail = fs.find(f"{tree}/foo", detail=True)
    assert {name: entry["size"] for name, entry in detail.items()} == {
        f"{tree}/{name}": len(data) for name, data in TREE.items() if name.startswith("foo/")
    }
    with_directories = below(tree, fs.find(f"{tree}/foo", withdirs=True))
    assert [name for name in with_directories if name not in TREE and name != "foo"] == [
        "foo/deep",
        "foo/deep/er",
    ]


def test_glob(fs: Any, tree: str) -> None:
    assert below(tree, fs.glob(f"{tree}/foo*")) == ["foo", "foo.txt", "foobar"]
    assert below(tree, fs.glob(f"{tree}/foo/*.txt")) == ["foo/a.txt"]
    assert below(tree, fs.glob(f"{tree}/*/a.txt")) == ["foo/a.txt", "foobar/a.txt"]
    assert below(tree, fs.glob(f"{tree}/**/*.txt")) == [
        "foo.txt",
        "foo/a.txt",
        "foo/deep/er/c.txt",
        "foobar/a.txt",
    ]
    assert below(tree, fs.glob(f"{tree}/foo/[ab].*")) == ["foo/a.txt", "foo/b.csv"]
    assert fs.glob(f"{tree}/nothing*") == []
    assert fs.glob(f"{tree}/foo.txt") == [f"{tree}/foo.txt"]


def test_walk(fs: Any, tree: str) -> None:
    walked = {
        path.removeprefix(tree).strip("/"): (sorted(directories), sorted(files))
        for path, directories, files in fs.walk(tree)
    }
    assert walked == {
        "": (["foo", "foobar"], ["foo.txt", "zero"]),
        "foo": (["deep"], ["a.txt", "b.csv"]),
        "foo/deep": (["er"], []),
        "foo/deep/er": ([], ["c.txt"]),
        "foobar": ([], ["a.txt"]),
    }
    assert [files for _, _, files in fs.walk(f"{tree}/missing") if files] == []


def test_du(fs: Any, tree: str) -> None:
    assert fs.du(tree) == sum(map(len, TREE.values()))
    assert fs.du(f"{tree}/foo") == 6
    assert fs.du(f"{tree}/foo.txt") == 12
    assert fs.du(f"{tree}/foo", total=False) == {
        f"{tree}/{name}": len(data) for name, data in TREE.items() if name.startswith("foo/")
    }


def test_tree(fs: Any, tree: str) -> None:
    drawn = fs.tree(f"{tree}/foo", recursion_limit=5)
    for name in ("a.txt", "b.csv", "deep", "er", "c.txt"):
        assert name in drawn
    assert "foobar" not in drawn


def test_sizes_and_times(fs: Any, tree: str) -> None:
    assert fs.sizes([f"{tree}/foo.txt", f"{tree}/zero"]) == [12, 0]
    modified = fs.modified(f"{tree}/foo.txt")
    assert modified.tzinfo is not None
    age = datetime.datetime.now(datetime.UTC) - modified
    assert abs(age) < datetime.timedelta(hours=1)


def test_a_change_is_seen(harbour: Harbour, fs: Any, tree: str) -> None:
    """No listing is remembered: other processes write too."""
    fs.ls(tree)
    fs.info(f"{tree}/foo.txt")
    harbour.seed({"foo/new": b"new"})
    assert f"{tree}/foo/new" in fs.ls(f"{tree}/foo", detail=False)
    assert fs.exists(f"{tree}/foo/new")


def test_open_files_by_a_pattern(harbour: Harbour, tree: str) -> None:
    files = mlartifacts.open_files(f"{harbour.base}/foo/*.txt", "rb", **harbour.options)
    with files as opened:
        assert [file.read() for file in opened] == [b"a"]


def test_unstrip_protocol_gives_an_uri(harbour: Harbour, fs: Any, tree: str) -> None:
    uri = fs.unstrip_protocol(f"{tree}/foo.txt")
    assert uri.startswith(f"{harbour.scheme}://")
    assert not any(secret in uri for secret in harbour.secrets)
    assert fs.cat_file(uri) == b"sibling file"


@pytest.mark.writes
def test_a_directory_with_nothing_in_it(harbour: Harbour, fs: Any, tree: str) -> None:
    fs.makedirs(f"{tree}/empty/deeper", exist_ok=True)
    fs.makedirs(f"{tree}/empty/deeper", exist_ok=True)
    assert fs.isdir(f"{tree}/empty/deeper") is harbour.directories
    if harbour.directories:
        assert fs.ls(f"{tree}/empty/deeper") == []
        assert fs.find(f"{tree}/empty") == []
        with pytest.raises(FileExistsError):
            fs.mkdir(f"{tree}/empty/deeper")
        with pytest.raises(FileExistsError):
            fs.makedirs(f"{tree}/empty/deeper")
        fs.rmdir(f"{tree}/empty/deeper")
        assert not fs.exists(f"{tree}/empty/deeper")
        with pytest.raises(OSError, match=r".") as caught:
            fs.rmdir(f"{tree}/foo")
        assert not isinstance(caught.value, FileNotFoundError)
    assert fs.exists(f"{tree}/foo/a.txt")
