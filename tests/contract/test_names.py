"""Names are literal, whatever characters are in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from tests.contract.stores import Harbour

#: A name, and decoys that it would mean if some layer took it for a pattern or an encoding.
NAMES: dict[str, tuple[str, list[str]]] = {
    "space": ("a b", ["a%20b", "a+b", "a"]),
    "trailing space": ("a ", ["a"]),
    "leading dot": (".hidden", ["hidden"]),
    "unicode": ("ünïcødé-日本-🦉", ["unicode"]),
    "not NFC": ("e\u0301", ["\u00e9", "e"]),
    "hash": ("a#b", ["a"]),
    "question mark": ("a?b", ["a", "axb"]),
    "percent": ("%41", ["A", "%2541"]),
    "percent alone": ("100%", ["100"]),
    "encoded slash": ("a%2Fb", ["a"]),
    "plus": ("a+b", ["a b"]),
    "brackets": ("a[1]", ["a1"]),
    "open bracket": ("a[", ["a"]),
    "star": ("b*", ["bcd", "b"]),
    "two stars": ("**", ["any"]),
    "two colons": ("a::b", ["a", "b"]),
    "colon": ("a:b", ["a"]),
    "ampersand": ("a&b=c", ["a"]),
    "apostrophe": ("it's", ["its"]),
    "quote": ('"q"', ["q"]),
    "tilde": ("~", ["home"]),
    "braces": ("{a,b}", ["a", "b"]),
    "at": ("user:pw@host", ["host"]),
    "long": ("x" * 200, ["x" * 199]),
}


@pytest.fixture(params=NAMES.values(), ids=list(NAMES))
def names(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    """A name and its decoys."""
    return request.param  # type: ignore[no-any-return]


@pytest.mark.writes
def test_name_is_literal(
    harbour: Harbour, fs: Any, root: str, names: tuple[str, list[str]], tmp_path: Path
) -> None:
    name, decoys = names
    path = f"{root}/{name}"
    data = f"content of {name}".encode()
    with mlartifacts.open(harbour.uri(name), "wb", **harbour.options) as file:
        file.write(data)
    fs.pipe({f"{root}/{decoy}": f"decoy {decoy}".encode() for decoy in decoys})
    everything = {name: data} | {decoy: f"decoy {decoy}".encode() for decoy in decoys}
    assert harbour.stored() == everything

    # Read, by URI and by path
    with mlartifacts.open(harbour.uri(name), **harbour.options) as file:
        assert file.read() == data
    with fs.open(path) as file:
        assert file.read() == data
    assert fs.cat_file(path) == data
    assert fs.cat(path) == data
    assert fs.info(path)["name"] == path
    assert fs.info(path)["size"] == len(data)
    assert fs.isfile(path)
    assert sorted(fs.ls(root, detail=False)) == sorted(f"{root}/{n}" for n in everything)
    assert sorted(fs.find(root)) == sorted(f"{root}/{n}" for n in everything)
    assert fs.ls(path, detail=False) == [path]

    # Copied, got, put, moved
    fs.cp(path, f"{root}/copied")
    assert fs.cat_file(f"{root}/copied") == data
    fs.mv(f"{root}/copied", f"{root}/sub/{name}")
    assert fs.cat_file(f"{root}/sub/{name}") == data
    assert not fs.exists(f"{root}/copied")
    fs.mv(f"{root}/sub/{name}", f"{root}/back")
    assert fs.cat_file(f"{root}/back") == data
    there = tmp_path / "got" / name
    fs.get(path, str(there))
    assert there.read_bytes() == data
    assert [found.name for found in there.parent.iterdir()] == [name]
    fs.put(str(there), f"{root}/put")
    assert fs.cat_file(f"{root}/put") == data
    fs.put_file(str(there), path)

    # Deleted, and it alone
    fs.rm([f"{root}/back", f"{root}/put"])
    fs.rm(path)
    assert not fs.exists(path)
    assert harbour.stored() == {decoy: f"decoy {decoy}".encode() for decoy in decoys}
    with pytest.raises(FileNotFoundError):
        fs.rm(path)
    assert set(harbour.stored()) == set(decoys)


@pytest.mark.parametrize("name", [NAMES[n][0] for n in ("brackets", "star", "hash", "percent")])
@pytest.mark.writes
def test_directory_name_is_literal(
    harbour: Harbour, fs: Any, root: str, name: str, tmp_path: Path
) -> None:
    decoys = NAMES[{"a[1]": "brackets", "b*": "star", "a#b": "hash", "%41": "percent"}[name]][1]
    fs.pipe({f"{root}/{name}/{name}/x": b"x", f"{root}/{name}/y": b"y"})
    fs.pipe({f"{root}/{decoy}/x": b"decoy" for decoy in decoys})
    assert fs.isdir(f"{root}/{name}")
    assert fs.ls(f"{root}/{name}", detail=False) == [f"{root}/{name}/{name}", f"{root}/{name}/y"]
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
READABLE = [name for name, _ in NAMES.values() if name not in ("a%2Fb", "**", "e\u0301")]


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
