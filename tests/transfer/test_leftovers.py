"""What a killed transfer leaves at its target goes with a later one, and nothing else does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import mlartifacts
from mlartifacts.transfer import leftovers
from mlartifacts.writing import is_passing, is_temporary
from tests.contract.stores import Folder, Harbour, Hdfs
from tests.servers.process import wait_until
from tests.transfer.trees import plant

Opened = Callable[[str], Harbour]

DAY = 86400
OLD = DAY + 3600
MARK = "0123456789abcdef"
#: What a transfer wrote; what somebody opened, or moved aside; what is kept to be gone on with.
PASSING = f".mlartifacts-{MARK * 2}.part"
OPENED = f".mlartifacts-{MARK}.part"
RESUMED = f".mlartifacts-{MARK}-{MARK}.part"
TREE = {f"sub/{number}": b"%d" % number for number in range(5)}

STORES = ["local", "sftp", "ftp", "vsftpd", "hdfs"]

# It stops amid a large file, until it is killed.
CHILD = """
import sys, fsspec, mlartifacts

class Stop(fsspec.callbacks.Callback):
    def relative_update(self, inc=1):
        super().relative_update(inc)
        if self.value > 20_000_000:
            print("amid", flush=True)
            sys.stdin.read()

mlartifacts.upload(sys.argv[1], sys.argv[2], callback=Stop())
"""


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, opened: Opened) -> Harbour:
    return opened(request.param)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return plant(tmp_path / "here", TREE)


@contextlib.contextmanager
def killed(source: Path, target: str) -> Iterator[None]:
    """An upload that is killed amid a large file."""
    command = [sys.executable, "-c", CHILD, source, target]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"amid\n"
        finally:
            process.kill()
    yield


def left(store: Harbour) -> list[str]:
    return sorted(name for name in store.stored() if is_temporary(name))


def test_what_a_killed_upload_left(store: Harbour, here: Path, tmp_path: Path) -> None:
    large = plant(tmp_path / "large", {"sub/large": bytes(60_000_000)})
    with killed(large, store.uri("tree")):
        (part,) = left(store)
    assert is_passing(part)
    mlartifacts.sync(here, store.uri("tree"))
    assert left(store) == [part]  # its writer may be alive
    if isinstance(store, Hdfs):  # as its server does when it has not heard of a writer for long
        path = f"{store._folder}/{part}"
        wait_until(lambda: store._client.recover_lease(path), "the file's end")
    store.age(OLD)  # type: ignore[attr-defined]
    mlartifacts.sync(here, store.uri("tree"))
    assert store.stored() == {f"tree/{name}": data for name, data in TREE.items()}


def test_what_somebody_may_miss(store: Harbour, here: Path) -> None:
    """Temporary names of other kinds stay, whatever their age, and so do other directories."""
    kept = {f"tree/sub/{OPENED}": b"1", f"tree/sub/{RESUMED}": b"2", f"other/{PASSING}": b"3"}
    store.seed({**kept, f"tree/sub/{PASSING}": b"4"})
    store.age(OLD)  # type: ignore[attr-defined]
    mlartifacts.upload(here, store.uri("tree"))
    assert store.stored() == kept | {f"tree/{name}": data for name, data in TREE.items()}


def test_the_age_is_told_by_the_stores_clock(
    store: Harbour, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.seed({f"tree/sub/{PASSING}": b"young"})
    store.age()  # type: ignore[attr-defined]
    asked = []
    remove_from = leftovers._remove_from

    def spy(end: object, folder: str) -> None:
        asked.append(folder)
        remove_from(end, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(leftovers, "_remove_from", spy)
    mlartifacts.upload(here, store.uri("tree"))
    assert asked == []  # which takes no request
    later = time.time() + OLD
    monkeypatch.setattr(leftovers, "time", SimpleNamespace(time=lambda: later))
    mlartifacts.upload(here, store.uri("tree"))
    assert asked == ["sub/"]
    assert left(store) == [f"tree/sub/{PASSING}"]


@pytest.mark.parametrize("driver", ["pyarrow", "hdfs-native"])
def test_who_still_writes_to_hdfs(driver: str, opened: Opened, here: Path) -> None:
    """A file has the time when it was begun, until it is closed."""
    store = opened("hdfs")
    fs, root = mlartifacts.url_to_fs(store.uri("tree/sub"), driver=driver)
    with fs.open(f"{root}/slow", "wb", size=20_000_000) as file:
        file.write(bytes(10_000_000))
        (part,) = left(store)
        assert is_passing(part)
        store.age(OLD)  # type: ignore[attr-defined]
        mlartifacts.upload(here, store.uri("tree"), driver=driver)
        assert left(store) == [part]
        file.write(bytes(10_000_000))
    assert store.stored()["tree/sub/slow"] == bytes(20_000_000)
    store.seed({f"tree/sub/{PASSING}": b"?"})
    store.age(OLD)  # type: ignore[attr-defined]
    mlartifacts.upload(here, store.uri("tree"), driver=driver)
    assert left(store) == []


def test_what_cannot_be_removed_is_no_failure(opened: Opened, here: Path) -> None:
    store = opened("sftp")
    assert isinstance(store, Folder)
    (store.folder / "tree/sub" / PASSING).mkdir(parents=True)
    store.seed({f"tree/sub/{PASSING}/file": b"in a directory of that name"})
    mlartifacts.upload(here, store.uri("tree"))
    assert len(store.stored()) == len(TREE) + 1
