"""Ctrl-C amid a transfer: it ends in a second, leaves nothing half-written, and can go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.writing import is_temporary
from tests.contract.stores import Harbour
from tests.servers.process import wait_until
from tests.servers.tcp_proxy import Proxy
from tests.transfer.conftest import Line
from tests.transfer.trees import found, odd_tree, plant

LARGE = odd_tree()["large.bin"] * 5
TREE = {"large": LARGE, "a": b"a", "b/c": b"cc"}

#: A second is what is promised, and the rest is for a machine with other things to do.
SECONDS = 1.3

# It lives on, as a notebook does, until whatever its transfer was at has ended.
ACTING = """
import sys, threading, fsspec.asyn, mlartifacts
{before}
print("ready", flush=True)
try:
    mlartifacts.{act}(*sys.argv[1:])
except KeyboardInterrupt:
    print("interrupted", flush=True)
for thread in threading.enumerate():
    if "(_work)" in thread.name:
        thread.join(20)
if fsspec.asyn.loop[0] and (threads := fsspec.asyn.loop[0]._default_executor):
    threads.shutdown()
"""
# Less is copied by one request, which nobody can stop.
IN_PARTS = "from mlartifacts.stores.s3 import driver; driver._COPIED_AT_ONCE = 0"


def interrupted(begun: Callable[[], object], act: str, *places: object, before: str = "") -> None:
    """Call a function of the package in another process, and interrupt it when it has begun."""
    program = ACTING.format(act=act, before=before)
    command = [sys.executable, "-c", program, *map(str, places)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until(begun, "the transfer", 60)
        before_it = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - before_it < SECONDS


def whole(store: Harbour, folder: str) -> dict[str, bytes]:
    """What is new in a folder; no part of a file, under whatever name, is."""
    stored = {
        name.removeprefix(f"{folder}/"): data
        for name, data in store.stored().items()
        if name.startswith(f"{folder}/")
    }
    assert stored.pop("large") == b"old"
    assert stored.items() <= TREE.items()
    return stored


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs", "sftp", "ftp", "hdfs"])
def test_an_upload(name: str, line: Callable[[str], Line], tmp_path: Path) -> None:
    wire = line(name)
    here = plant(tmp_path / "here", TREE)
    wire.store.seed({"tree/large": b"old"})
    if name == "sftp":
        wire.bulk.delay = 0.03  # a window of a channel at a time
    else:
        wire.bulk.drag = 0.01
    interrupted(lambda: wire.bulk.bytes_to_server > 9_000_000, "upload", here, wire.uri("tree"))
    arrived = whole(wire.store, "tree")
    assert wire.store.uploads() == []
    wire.bulk.delay = wire.bulk.drag = 0
    again = mlartifacts.upload(here, wire.uri("tree"), resume=True)
    assert set(again.moved) == TREE.keys() - arrived.keys()
    assert wire.store.stored() == {f"tree/{name}": data for name, data in TREE.items()}


@pytest.mark.parametrize("name", ["s3", "sftp", "ftp", "hdfs"])
def test_a_download(name: str, line: Callable[[str], Line], tmp_path: Path) -> None:
    """What came of a large file is kept, and the next call goes on there."""
    wire = line(name)
    wire.store.seed({f"tree/{name}": data for name, data in TREE.items()})
    there = tmp_path / "there"
    wire.bulk.delay = 0.002
    interrupted(lambda: wire.bulk.bytes_to_client > 20_000_000, "download", wire.uri("tree"), there)
    arrived = found(there)
    (part,) = filter(is_temporary, arrived)
    came = arrived.pop(part)
    assert LARGE.startswith(came)
    assert arrived.items() <= TREE.items()
    wire.bulk.delay = 0
    before = wire.bulk.bytes_to_client
    mlartifacts.download(wire.uri("tree"), there)
    assert wire.bulk.bytes_to_client - before < len(LARGE) - len(came) + 1_000_000
    assert found(there) == TREE


@pytest.mark.parametrize("name", ["s3", "sftp", "ftp", "hdfs"])
def test_a_copy_within_a_store(name: str, line: Callable[[str], Line], tmp_path: Path) -> None:
    wire = line(name)
    wire.store.seed({f"tree/{name}": data for name, data in TREE.items()})
    wire.store.seed({"copied/large": b"old"})
    before, begun = "", lambda: wire.bulk.bytes_to_server > 9_000_000
    if name == "s3":
        wire.proxy.delay = 0.2
        before = IN_PARTS
        begun = lambda: any("partNumber" in each.target for each in wire.proxy.requests)  # noqa: E731
    elif name == "sftp":
        wire.proxy.delay = 0.1

        def begun() -> bool:
            """And what follows takes longer than an interrupt waits for it."""
            is_copying = any(map(is_temporary, wire.store.stored()))
            wire.proxy.delay = 0.4 if is_copying else 0.1
            return is_copying

    else:
        wire.bulk.drag = 0.002
    interrupted(begun, "copy", wire.uri("tree"), wire.uri("copied"), before=before)
    arrived = whole(wire.store, "copied")
    assert wire.store.uploads() == []
    wire.proxy.delay = wire.bulk.drag = 0
    again = mlartifacts.copy(wire.uri("tree"), wire.uri("copied"))
    assert set(again.moved) == TREE.keys() - arrived.keys()
    assert set(wire.store.stored()) == {f"{at}/{n}" for at in ("tree", "copied") for n in TREE}
    assert wire.store.stored()["copied/large"] == LARGE


@pytest.mark.parametrize("act", ["copy", "filesystem('runs').cp_file"])
def test_a_copy_between_runs_of_two_stores(
    opened: Callable[[str], Harbour], behind_s3: Callable[[], Proxy], act: str
) -> None:
    """The same filesystem has both: no part of it goes on in another thread."""
    disk, s3 = opened("runs-local"), opened("runs-s3")
    disk.seed({"large": LARGE})
    s3.seed({"large": b"old"})
    wire = behind_s3()
    wire.drag = 0.002
    begun = lambda: wire.bytes_to_server > 9_000_000  # noqa: E731
    interrupted(begun, act, disk.uri("large"), s3.uri("large"))
    assert s3.stored() == {"large": b"old"}
    assert s3.uploads() == []
