"""Names are literal, whatever characters are in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from tests.contract.stores import Harbour

#: Names, each with decoys that it would mean if some layer took it for a pattern or an encoding.
#: Those of one tree lie in one directory.
TREES: dict[str, dict[str, list[str]]] = {
    "spaces and dots": {
        "a b": ["a%20b", "a+b", "a"],
        "a ": ["a"],
        ".hidden": ["hidden"],
        "~": ["home"],
        "x" * 200: ["x" * 199],
    },
    "letters and quotes": {
        "ünïcødé-日本-🦉": ["unicode"],
        "e\u0301": ["\u00e9", "e"],
        "it's": ["its"],
        '"q"': ["q"],
    },
    "characters of URLs": {
        "a#b": ["a"],
        "a?b": ["a", "axb"],
        "%41": ["A", "%2541"],
        "100%": ["100"],
        "a%2Fb": ["a"],
        "a+b": ["a b"],
        "a&b=c": ["a"],
    },
    "characters of patterns": {
        "a[1]": ["a1"],
        "a[": ["a"],
        "b*": ["bcd", "b"],
        "**": ["any"],
        "{a,b}": ["a", "b"],
    },
    "colons": {
        "a::b": ["a", "b"],
        "a:b": ["a"],
        "user:pw@host": ["host"],
    },
}
NAMES = [name for tree in TREES.values() for name in tree]


@pytest.fixture(params=TREES.values(), ids=list(TREES))
def names(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """A tree's names, each with its decoys."""
    return request.param  # type: ignore[no-any-return]


@pytest.mark.writes
def test_name_is_literal(
    harbour: Harbour, fs: Any, root: str, names: dict[str, list[str]], tmp_path: Path
) -> None:
    written = {name: f"content of {name}".encode() for name in names}
    decoys = {decoy: f"decoy {decoy}".encode() for name in names for decoy in names[name]}
    everything = decoys | written
    for name, data in written.items():
        with mlartifacts.open(harbour.uri(name), "wb", **harbour.options) as file:
            file.write(data)
    fs.pipe({f"{root}/{decoy}": decoys[decoy] for decoy in decoys.keys() - written.keys()})
    assert harbour.stored() == everything
    assert sorted(fs.ls(root, detail=False)) == sorted(f"{root}/{name}" for name in everything)
    assert sorted(fs.find(root)) == sorted(f"{root}/{name}" for name in everything)

    for name, data in written.items():
        path = f"{root}/{name}"

        # Read, by URI and by path
        with mlartifacts.open(harbour.uri(name), **harbour.options) as file:
            assert file.read() == data
        with fs.open(path) as file:
            assert file.read() == data
        assert fs.cat_file(path) == data
        assert fs.cat(path) == data
        assert (fs.info(path)["name"], fs.info(path)["size"]) == (path, len(data))
        assert fs.isfile(path)
        assert fs.ls(path, detail=False) == [path]

        # Copied, moved, got, put
        fs.cp(path, f"{root}/copied")
        fs.mv(f"{root}/copied", f"{root}/sub/{name}")
        fs.mv(f"{root}/sub/{name}", f"{root}/back")
        assert fs.cat_file(f"{root}/back") == data
        there = tmp_path / "got" / name
        fs.get(path, str(there))
        assert there.read_bytes() == data
        fs.put(str(there), f"{root}/put")
        assert fs.cat_file(f"{root}/put") == data
        fs.put_file(str(there), path)
        fs.rm([f"{root}/back", f"{root}/put"])
    assert harbour.stored() == everything
    assert sorted(found.name for found in (tmp_path / "got").iterdir()) == sorted(names)

    # Deleted, and it alone
    for name in written:
        fs.rm(f"{root}/{name}")
        assert not fs.exists(f"{root}/{name}")
        with pytest.raises(FileNotFoundError):
            fs.rm(f"{root}/{name}")
    assert harbour.stored() == {name: everything[name] for name in everything.keys() - written}


#: Of directories, with decoys.
DIRECTORIES = {
    "a[1]": ["a1"],
    "b*": ["bcd", "b"],
    "a#b": ["a"],
    "%41": ["A", "%2541"],
}


@pytest.mark.parametrize("name", DIRECTORIES)
@pytest.mark.writes
def test_directory_name_is_literal(
    harbour: Harbour, fs: Any, root: str, name: str, tmp_path: Path
) -> None:
    decoys = DIRECTORIES[name]
    fs.pipe({f"{root}/{name}/{name}/x": b"x", f"{root}/{name}/y": b"y"})
    fs.pipe({f"{root}/{decoy}/x": b"decoy" for decoy in decoys})
    assert fs.isdir(f"{root}/{name}")
    listed = [f"{root}/{name}/{name}", f"{root}/{name}/y"]
    assert sorted(fs.ls(f"{root}/{name}", detail=False)) == listed  # in whichever order of a disk
    assert fs.find(f"{root}/{name}") == [f"{root}/{name}/{name}/x", f"{root}/{name}/y"]

    fs.cp(f"{root}/{name}", f"{root}/copy", recursive=True)
    assert fs.find(f"{root}/copy") == [f"{root}/copy/{name}/x", f"{root}/copy/y"]
    fs.get(f"{root}/{name}", str(tmp_path / "got"), recursive=True)
    got = sorted(
        str(found.relative_to(tmp_path / "got"))
        for found in (tmp_path / "got").rglob("*")
        if found.is_file()
    )
    assert got == [f"{name}/x", "y"]
    fs.put(str(tmp_path / "got"), f"{root}/put", recursive=True)
    assert fs.find(f"{root}/put") == [f"{root}/put/{name}/x", f"{root}/put/y"]
    fs.rm([f"{root}/copy", f"{root}/put", f"{root}/{name}"], recursive=True)
    assert set(harbour.stored()) == {f"{decoy}/x" for decoy in decoys}


#: Those that a file on this machine's disk can have beside the others.
READABLE = [name for name in NAMES if name not in ("a%2Fb", "**", "e\u0301")]


def test_name_is_read_as_it_is(harbour: Harbour, fs: Any, root: str) -> None:
    """The same of what others wrote, on stores that cannot be written to as well."""
    read_names(harbour, fs, root, READABLE)


def read_names(harbour: Harbour, fs: Any, root: str, names: list[str]) -> None:
    written = {name: f"content of {name}".encode() for name in names}
    harbour.seed(written)
    for name, data in written.items():
        with mlartifacts.open(harbour.uri(name), **harbour.options) as file:
            assert file.read() == data, name
        assert fs.cat_file(f"{root}/{name}") == data, name
        assert fs.info(f"{root}/{name}")["size"] == len(data), name
    assert sorted(fs.ls(root, detail=False)) == sorted(f"{root}/{name}" for name in written)
    found = fs.glob(f"{root}/a*")
    assert sorted(found) == sorted(f"{root}/{name}" for name in written if name.startswith("a"))
