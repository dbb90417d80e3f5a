"""Writes: whole or not at all."""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

import mlartifacts
from tests.contract.stores import Harbour

pytestmark = pytest.mark.writes

#: Longer than what a pipe, a socket or a driver's smallest part holds.
LONG = random.Random(11).randbytes(6_000_000)


class Broken(Exception):
    """What the caller's own code raises in the middle of a write."""


# ---- Writes that succeed -----------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"short", LONG],
    ids=["0 bytes", "1 byte", "5 bytes", "6 MB"],
)
def test_write_and_read_back(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with mlartifacts.open(harbour.uri("by-open"), "wb", **harbour.options) as file:
        assert file.write(data) == len(data)
        assert file.tell() == len(data)
    fs.pipe_file(f"{root}/by-pipe", data)
    stored = harbour.stored()
    assert stored["by-open"] == stored["by-pipe"] == data
    assert set(stored) == {"by-open", "by-pipe"}
    assert fs.info(f"{root}/by-open")["size"] == len(data)
    assert fs.cat_file(f"{root}/by-open") == data


def test_many_small_writes(harbour: Harbour) -> None:
    with mlartifacts.open(harbour.uri("lines"), "wb", **harbour.options) as file:
        for number in range(20_000):
            file.write(b"%d\n" % number)
        file.flush()
    assert harbour.stored()["lines"] == b"".join(b"%d\n" % number for number in range(20_000))


def test_text_and_compression(harbour: Harbour) -> None:
    with mlartifacts.open(harbour.uri("text"), "w", **harbour.options) as file:
        file.write("één\n")
    with mlartifacts.open(harbour.uri("x"), "w", encoding="latin-1", **harbour.options) as file:
        file.write("één\n")
    with mlartifacts.open(
        harbour.uri("packed.gz"), "wt", compression="infer", **harbour.options
    ) as file:
        file.write("één\n")
    stored = harbour.stored()
    assert stored["text"] == "één\n".encode()
    assert stored["x"] == "één\n".encode("latin-1")
    assert gzip.decompress(stored["packed.gz"]) == "één\n".encode()


def test_parents_are_made(harbour: Harbour, fs: Any, root: str) -> None:
    with mlartifacts.open(harbour.uri("one/two/three/file"), "wb", **harbour.options) as file:
        file.write(b"deep")
    fs.pipe_file(f"{root}/four/five/file", b"deep too")
    assert harbour.stored() == {"one/two/three/file": b"deep", "four/five/file": b"deep too"}
    assert fs.isdir(f"{root}/one/two")


def test_overwrite(harbour: Harbour, fs: Any, root: str) -> None:
    for data in (b"a long first content", b"short"):
        with mlartifacts.open(harbour.uri("file"), "wb", **harbour.options) as file:
            file.write(data)
        assert fs.cat_file(f"{root}/file") == data
        assert fs.info(f"{root}/file")["size"] == len(data)
    fs.pipe_file(f"{root}/file", b"")
    assert harbour.stored() == {"file": b""}


def test_old_content_until_the_end(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"file": b"old"})
    with fs.open(f"{root}/file", "wb") as file:
        file.write(LONG)
        file.flush()
        assert fs.cat_file(f"{root}/file") == b"old"
    assert fs.cat_file(f"{root}/file") == LONG


def test_exclusive(harbour: Harbour, fs: Any, root: str) -> None:
    with mlartifacts.open(harbour.uri("file"), "xb", **harbour.options) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError) as caught:
        with mlartifacts.open(harbour.uri("file"), "xb", **harbour.options) as file:
            file.write(b"second")
    assert caught.value.filename
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{root}/file", b"third", mode="create")
    assert harbour.stored() == {"file": b"first"}


# It does not close the file that it maps.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_through_fsspecs_cache(harbour: Harbour, fs: Any, root: str, tmp_path: Path) -> None:
    """It opens by ``_open``, to read and to write."""
    harbour.seed({"file": b"old"})
    cached = fsspec.filesystem("blockcache", fs=fs, cache_storage=str(tmp_path / "blocks"))
    with cached.open(f"{root}/file", "rb") as file:
        assert file.read() == b"old"
    with pytest.raises(Broken):
        with cached.open(f"{root}/file", "wb") as file:
            file.write(b"half")
            raise Broken
    assert harbour.stored() == {"file": b"old"}
    with cached.open(f"{root}/new", "wb") as file:
        file.write(b"new content")
    assert harbour.stored() == {"file": b"old", "new": b"new content"}


def test_append(harbour: Harbour, fs: Any, root: str) -> None:
    with mlartifacts.open(harbour.uri("file"), "ab", **harbour.options) as file:
        file.write(b"one")
    with mlartifacts.open(harbour.uri("file"), "ab", **harbour.options) as file:
        file.write(b" two")
    assert harbour.stored() == {"file": b"one two"}
    with pytest.raises(Broken):
        with fs.open(f"{root}/file", "ab") as file:
            file.write(b" three")
            raise Broken
    assert harbour.stored() == {"file": b"one two"}


def test_touch(harbour: Harbour, fs: Any, root: str) -> None:
    fs.touch(f"{root}/new")
    assert harbour.stored() == {"new": b""}
    fs.pipe_file(f"{root}/new", b"content")
    fs.touch(f"{root}/new", truncate=True)
    assert harbour.stored() == {"new": b""}


def test_put(harbour: Harbour, fs: Any, root: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LONG)
    (tmp_path / "empty").write_bytes(b"")
    fs.put_file(str(tmp_path / "file"), f"{root}/deep/put")
    fs.put(str(tmp_path / "empty"), f"{root}/deep/empty")
    assert harbour.stored() == {"deep/put": LONG, "deep/empty": b""}
    with pytest.raises(FileNotFoundError):
        fs.put_file(str(tmp_path / "missing"), f"{root}/missing")
    assert set(harbour.stored()) == {"deep/put", "deep/empty"}


def test_copy(harbour: Harbour, fs: Any, root: str) -> None:
    fs.pipe({f"{root}/file": LONG, f"{root}/old": b"old", f"{root}/empty": b""})
    fs.cp_file(f"{root}/file", f"{root}/deep/copy")
    fs.cp_file(f"{root}/file", f"{root}/old")
    fs.cp_file(f"{root}/empty", f"{root}/empty-copy")
    assert harbour.stored() == {
        "file": LONG,
        "deep/copy": LONG,
        "old": LONG,
        "empty": b"",
        "empty-copy": b"",
    }


def test_names_of_open_files_and_flags(harbour: Harbour) -> None:
    with mlartifacts.open(harbour.uri("file"), "wb", **harbour.options) as file:
        assert file.writable()
        assert not file.readable()
        with pytest.raises((OSError, ValueError)):
            file.read()
        file.write(b"x")
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        file.write(b"more")
    file.close()
    assert harbour.stored() == {"file": b"x"}


# ---- Writes that fail --------------------------------------------------------------------

Writer = Callable[[Harbour, Any, str, bytes], None]


def by_open(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with mlartifacts.open(harbour.uri("file"), "wb", **harbour.options) as file:
        file.write(data)
        raise Broken


def by_fs(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with fs.open(f"{root}/file", "wb") as file:
        file.write(data)
        raise Broken


def by_text(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with mlartifacts.open(
        harbour.uri("file"), "w", encoding="latin-1", newline="", **harbour.options
    ) as file:
        file.write(data.decode("latin-1"))
        raise Broken


def by_fs_text(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with fs.open(f"{root}/file", "w", encoding="latin-1") as file:
        file.write(data.decode("latin-1"))
        raise Broken


def by_compression(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with mlartifacts.open(harbour.uri("file"), "wb", compression="gzip", **harbour.options) as file:
        file.write(data)
        raise Broken


def by_text_and_compression(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with mlartifacts.open(
        harbour.uri("file"), "w", encoding="latin-1", compression="gzip", **harbour.options
    ) as file:
        file.write(data.decode("latin-1"))
        raise Broken


def by_exit_stack(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    """As pandas and pyarrow hold files."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(fs.open(f"{root}/file", "wb"))
        file.write(data)
        raise Broken


def by_closing(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with contextlib.closing(fs.open(f"{root}/file", "wb")) as file:
        file.write(data)
        raise Broken


def by_transaction(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with fs.transaction:
        with fs.open(f"{root}/file", "wb") as file:
            file.write(data)
        raise Broken


def by_open_files(harbour: Harbour, fs: Any, root: str, data: bytes) -> None:
    with mlartifacts.open_files([harbour.uri("file")], "wb", **harbour.options) as files:
        files[0].write(data)
        raise Broken


WRITERS = [
    by_open,
    by_fs,
    by_text,
    by_fs_text,
    by_compression,
    by_text_and_compression,
    by_exit_stack,
    by_closing,
    by_transaction,
    by_open_files,
]


@pytest.mark.parametrize(
    ("writers", "size"),
    # What the layers above a large write are, does not reach the store.
    [(WRITERS, 100), ([by_fs, by_text_and_compression, by_transaction], len(LONG))],
    ids=["small", "large"],
)
def test_failed_write_leaves_what_was(
    harbour: Harbour, fs: Any, root: str, writers: list[Writer], size: int
) -> None:
    for write in writers:
        with pytest.raises(Broken):
            write(harbour, fs, root, LONG[:size])
        assert harbour.stored() == {}, write
    assert not fs.exists(f"{root}/file")
    assert fs.find(root) == []

    harbour.seed({"file": b"old"})
    for write in writers:
        with pytest.raises(Broken):
            write(harbour, fs, root, LONG[:size])
        gc.collect()
        assert harbour.stored() == {"file": b"old"}, write
    assert fs.ls(root, detail=False) == [f"{root}/file"]


def test_garbage_collected_write_leaves_what_was(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"old": b"old"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for name in ("old", "new"):
            file = fs.open(f"{root}/{name}", "wb")
            file.write(LONG)
            del file
            gc.collect()
    assert harbour.stored() == {"old": b"old"}


def test_a_forgotten_file_warns(fs: Any, root: str) -> None:
    with pytest.warns(ResourceWarning, match="not written"):
        fs.open(f"{root}/file", "wb").write(b"x")
        gc.collect()


def test_explicit_close_commits_in_an_except_block(harbour: Harbour, fs: Any, root: str) -> None:
    file = fs.open(f"{root}/file", "wb")
    try:
        file.write(b"as far as it came")
        raise Broken
    except Broken:
        file.close()
    assert harbour.stored() == {"file": b"as far as it came"}


def test_a_write_inside_an_except_block_commits(harbour: Harbour, fs: Any, root: str) -> None:
    """A report of a failure, say."""
    try:
        raise Broken("reason")
    except Broken as error:
        with mlartifacts.open(harbour.uri("report"), "w", **harbour.options) as file:
            file.write(str(error))
    assert harbour.stored() == {"report": b"reason"}


def test_a_caught_exception_inside_the_block_commits(harbour: Harbour) -> None:
    with mlartifacts.open(harbour.uri("file"), "wb", **harbour.options) as file:
        try:
            raise Broken
        except Broken:
            file.write(b"went on")
    assert harbour.stored() == {"file": b"went on"}


def test_write_of_what_is_no_bytes(harbour: Harbour, fs: Any, root: str) -> None:
    with pytest.raises(TypeError):
        with fs.open(f"{root}/file", "wb") as file:
            file.write(b"good")
            file.write("bad")
    assert harbour.stored() == {}


def test_interrupt_leaves_what_was(harbour: Harbour, fs: Any, root: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        with fs.open(f"{root}/file", "wb") as file:
            file.write(LONG)
            raise KeyboardInterrupt
    assert harbour.stored() == {}


def test_transaction(harbour: Harbour, fs: Any, root: str) -> None:
    with fs.transaction:
        for name in ("one", "two"):
            with fs.open(f"{root}/{name}", "wb") as file:
                file.write(name.encode())
        assert not fs.exists(f"{root}/one")
    assert harbour.stored() == {"one": b"one", "two": b"two"}
    # And the next write is outside of it.
    with fs.open(f"{root}/three", "wb") as file:
        file.write(b"three")
    assert harbour.stored()["three"] == b"three"


# ---- One large file ----------------------------------------------------------------------


def test_100_megabytes(harbour: Harbour, fs: Any, root: str) -> None:
    piece = random.Random(13).randbytes(1_000_000)
    wrote, read = hashlib.sha256(), hashlib.sha256()
    with mlartifacts.open(harbour.uri("large"), "wb", **harbour.options) as file:
        for number in range(100):
            data = number.to_bytes(4, "big") + piece[4:]
            file.write(data)
            wrote.update(data)
    assert fs.info(f"{root}/large")["size"] == 100_000_000
    with mlartifacts.open(harbour.uri("large"), **harbour.options) as file:
        while data := file.read(8_000_000):
            read.update(data)
        assert read.digest() == wrote.digest()
        file.seek(99_000_000)
        assert file.read(8) == (99).to_bytes(4, "big") + piece[4:8]
    fs.rm(f"{root}/large")
