"""What is moved again, and what is not: by times where nothing says more of a file's content."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec.callbacks
import pytest

import mlartifacts
from mlartifacts.errors import TransferError
from mlartifacts.transfer.times import given, is_settled, same_time, until_settled
from mlartifacts.transfer.trees import End, File
from tests.contract.stores import Harbour
from tests.servers import pyftpd, static_http
from tests.transfer.trees import found, odd_tree, plant

Opened = Callable[[str], Harbour]

LARGE = odd_tree(large=20_000_000)["large.bin"]
#: Those that list a checksum, or a version, of small files, and those that do not.
TARGETS = ["local", "s3", "wasbs", "gcs", "sftp", "ftp", "vsftpd", "hdfs", "mlflow-artifacts"]
#: MLflow's server lists no times: what it has is moved each time.
DATED = TARGETS[:-1]


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_the_same_size_within_the_second(
    target: str, opened: Opened, tmp_path: Path
) -> None:
    store, here = opened(target), tmp_path / "here"
    here.mkdir()
    for value in (b"0.95", b"0.97", b"0.99"):
        (here / "metric").write_bytes(value)
        (here / "large").write_bytes(value + LARGE)
        mlartifacts.sync(here, store.uri("tree"))
        assert store.stored() == {"tree/metric": value, "tree/large": value + LARGE}


@pytest.mark.parametrize("target", ["local", "sftp", "s3"])
@pytest.mark.parametrize("source", TARGETS)
def test_a_change_at_a_store_within_the_second(
    source: str, target: str, opened: Opened, tmp_path: Path
) -> None:
    store = opened(source)
    other = opened(target) if target != source else store
    for value in (b"0.95", b"0.97"):
        store.seed({"tree/metric": value})
        mlartifacts.sync(store.uri("tree"), other.uri("copied"))
        assert other.stored()["copied/metric"] == value


@pytest.mark.parametrize("name", ["local", "sftp", "ftp", "vsftpd"])
@pytest.mark.parametrize("is_source", [True, False])
def test_what_was_written_to_both_places_within_the_second(
    is_source: bool, name: str, opened: Opened, tmp_path: Path
) -> None:
    """The time of the one is not what the other was given."""
    store: Any = opened(name)
    store.seed({"tree/metric": b"0.95"})
    here = plant(tmp_path / "here", {"metric": b"0.97"})
    young = time.time() + 30  # now, however slow this test is
    for path in (here / "metric", store.folder / "tree/metric"):
        os.utime(path, (young, young))
    ends = [store.uri("tree"), str(here)]
    source, target = ends if is_source else reversed(ends)
    mlartifacts.sync(source, target, delete=True)
    expected = b"0.95" if is_source else b"0.97"
    assert store.stored() == {"tree/metric": expected}
    assert found(here) == {"metric": expected}


@pytest.mark.parametrize("target", TARGETS)
def test_what_has_not_changed_is_not_moved(target: str, opened: Opened, tmp_path: Path) -> None:
    store = opened(target)
    here = plant(tmp_path / "here", {"a": b"1", "b/c": b"2", "b/d": b"3", "e": b"4", "f": LARGE})
    first = mlartifacts.sync(here, store.uri("tree"))
    assert len(first.moved) == 5
    assert mlartifacts.sync(here, store.uri("tree")).moved == ()
    # It need not be newer, nor longer.
    before = (here / "a").stat().st_mtime
    plant(here, {"a": b"9"})
    os.utime(here / "a", (before - 5000,) * 2)
    assert mlartifacts.sync(here, store.uri("tree")).moved == ("a",)
    assert store.stored()["tree/a"] == b"9"
    assert mlartifacts.sync(here, store.uri("tree")).moved == ()


@pytest.mark.parametrize("source", DATED)
def test_what_a_store_has_not_changed_is_not_fetched(
    source: str, opened: Opened, tmp_path: Path
) -> None:
    store = opened(source)
    store.seed({"tree/a": b"1", "tree/b/c": b"2", "tree/f": LARGE})
    store.age()
    there = mlartifacts.download(store.uri("tree"), tmp_path / "there")
    written = {path: path.stat().st_ino for path in there.rglob("*")}
    mlartifacts.download(store.uri("tree"), there)
    assert {path: path.stat().st_ino for path in there.rglob("*")} == written
    assert mlartifacts.sync(store.uri("tree"), there).moved == ()
    # Somebody else's change of what was fetched is undone.
    (there / "a").write_bytes(b"?")
    assert mlartifacts.sync(store.uri("tree"), there).moved == ("a",)
    assert (there / "a").read_bytes() == b"1"


@pytest.mark.parametrize("target", ["sftp", "ftp", "mlflow-artifacts", "hdfs"])
def test_a_change_at_the_target_is_undone(target: str, opened: Opened, tmp_path: Path) -> None:
    store, here = opened(target), plant(tmp_path / "here", {"a": b"1", "b": b"2"})
    mlartifacts.sync(here, store.uri("tree"))
    store.seed({"tree/a": b"?"})
    if target in {"hdfs", "mlflow-artifacts"}:
        store.age()  # this second is that of the upload, too
    assert "a" in mlartifacts.sync(here, store.uri("tree")).moved
    assert store.stored() == {"tree/a": b"1", "tree/b": b"2"}


# ---- Files of one size and second --------------------------------------------------------


def _date(path: Path, fraction: float) -> None:
    """Have a file be of a second that is over, saved at some part of it."""
    os.utime(path, ns=(1_700_000_000 * 10**9 + int(fraction * 10**9),) * 2)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is written pass for ten seconds old."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("target", ["local", "sftp", "ftp"])
@pytest.mark.parametrize("source", ["local", "s3", "wasbs", "gcs", "sftp", "mlflow-artifacts"])
def test_two_trees_that_were_saved_together(source: str, target: str, opened: Opened) -> None:
    store = opened(source)
    other = opened(target) if target != source else store
    trees = {run: {"small": run.encode() * 1000, "large": run.encode() * 9_000_000} for run in "AB"}
    store.seed(
        {f"{run}/{name}": data for run, tree in trees.items() for name, data in tree.items()}
    )
    for fraction, run in ((0.2, "A"), (0.7, "B")):
        for name in trees[run] if hasattr(store, "folder") else ():
            _date(store.folder / run / name, fraction)
    for run in "ABA":
        mlartifacts.sync(store.uri(run), other.uri("there"))
        stored = other.stored()
        assert {name: stored[f"there/{name}"] for name in trees[run]} == trees[run]
    untold = {"small"} if source == "mlflow-artifacts" else set()
    assert {*mlartifacts.sync(store.uri("A"), other.uri("there")).moved} == untold


@pytest.mark.parametrize("target", DATED)
@pytest.mark.parametrize("fractions", [(0.2, 0.7), (0, 0)])
def test_a_file_that_is_renamed_over_one_that_was_saved_with_it(
    fractions: tuple[float, float], target: str, opened: Opened, tmp_path: Path
) -> None:
    store = opened(target)
    here = plant(tmp_path / "here", {"best": b"A" * 1000, "last": b"B" * 1000})
    for name, fraction in zip(("best", "last"), fractions, strict=True):
        _date(here / name, fraction)
    mlartifacts.sync(here, store.uri("tree"))
    assert mlartifacts.sync(here, store.uri("tree")).moved == ()
    os.rename(here / "last", here / "best")
    assert mlartifacts.sync(here, store.uri("tree")).moved == ("best",)
    assert store.stored()["tree/best"] == b"B" * 1000
    assert mlartifacts.sync(here, store.uri("tree")).moved == ()


@pytest.mark.parametrize("source", ["s3", "sftp", "ftp", "vsftpd"])
def test_a_copy_that_is_renamed_over_one_that_was_saved_with_it(
    source: str, opened: Opened, tmp_path: Path
) -> None:
    store, there = opened(source), tmp_path / "there"
    store.seed({"best": b"A" * 1000, "last": b"B" * 1000})
    for name in ("best", "last") if hasattr(store, "folder") else ():
        _date(store.folder / name, 0)
    mlartifacts.download(store.uri(), there)
    os.rename(there / "last", there / "best")
    mlartifacts.download(store.uri(), there)
    assert found(there) == {"best": b"A" * 1000, "last": b"B" * 1000}


@pytest.fixture
def untagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the web server tell no ETag."""
    send = static_http._Handler.send_header

    def send_header(self: Any, name: str, value: str) -> None:
        if name != "ETag":
            send(self, name, value)

    monkeypatch.setattr(static_http._Handler, "send_header", send_header)


#: Those whose files have no version, and the seconds of two that were saved together: on a disk,
#: they have one time.
UNTOLD = [
    *(("local", 0.0), ("sftp", 0.5), ("ftp", 0.5), ("vsftpd", 0.5), ("http", 0.5)),
    ("mlflow-artifacts", 0.5),
]


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize(("source", "apart"), UNTOLD)
def test_a_download_that_broke_off_does_not_go_on_with_another_file(
    source: str, apart: float, opened: Opened, tmp_path: Path
) -> None:
    store: Any = opened(source)
    _seed_two(store, apart, 20_000_000)

    def stop() -> None:
        raise KeyboardInterrupt

    there = tmp_path / "there"
    with pytest.raises(KeyboardInterrupt):
        mlartifacts.download(store.uri("best"), f"{there}/", callback=Meanwhile(stop, 8_000_000))
    (part,) = there.iterdir()
    assert part.stat().st_size
    os.rename(store.folder / "last", store.folder / "best")
    assert mlartifacts.download(store.uri("best"), f"{there}/").read_bytes() == b"B" * 20_000_000


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize("target", ["local", "s3"])
@pytest.mark.parametrize(("source", "apart"), UNTOLD[1:5])
def test_a_large_file_that_is_replaced_by_one_that_was_saved_with_it(
    source: str, apart: float, target: str, opened: Opened
) -> None:
    store: Any = opened(source)
    other = opened(target)
    _seed_two(store, apart, 48_000_000)
    act = lambda: os.rename(store.folder / "last", store.folder / "best")  # noqa: E731
    mlartifacts.copy(store.uri("best"), other.uri("best"), callback=Meanwhile(act))
    (stored,) = other.stored().values()
    assert stored in (b"A" * 48_000_000, b"B" * 48_000_000)


def _seed_two(store: Any, apart: float, size: int) -> None:
    store.seed({"best": b"A" * size, "last": b"B" * size})
    _date(store.folder / "best", 0)
    _date(store.folder / "last", apart)


def test_a_tree_that_was_brought_from_elsewhere_meanwhile(opened: Opened, tmp_path: Path) -> None:
    """By another name of the place, as a part of another tree."""
    store = opened("sftp")
    here = plant(tmp_path, {"one/sub/a file": b"A", "other/a file": b"B"})
    for path in ("one/sub/a file", "other/a file"):
        _date(here / path, 0)
    for _ in range(2):
        mlartifacts.sync(here / "one", store.uri("tree"))
        assert store.stored() == {"tree/sub/a file": b"A"}
        mlartifacts.sync(here / "other", store.uri("tree/sub"))
        assert store.stored() == {"tree/sub/a file": b"B"}


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_server_whose_clock_is_wrong(hours: int, opened: Opened, tmp_path: Path) -> None:
    store, here = opened("sftp"), plant(tmp_path / "here", {"metric": b"0.95"})
    mlartifacts.sync(here, store.uri())
    path: Path = store.folder / "metric"  # type: ignore[attr-defined]
    path.write_bytes(b"0.97")
    os.utime(path, (time.time() + 3600 * hours - 10,) * 2)
    mlartifacts.sync(store.uri(), here)
    assert found(here) == {"metric": b"0.97"}
    plant(here, {"metric": b"0.99"})
    mlartifacts.sync(here, store.uri())
    assert store.stored() == {"metric": b"0.99"}


def test_newer_means_newer(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, ages in ((here, {"a": 50, "b": 10, "c": 30}), (there, {"a": 30, "b": 30, "c": 30})):
        plant(folder, {name: str(folder).encode() for name in ages})
        for name, age in ages.items():
            os.utime(folder / name, (1_700_000_000.5 - age,) * 2)
    assert mlartifacts.copy(here, there, overwrite="newer").moved == ("b",)
    assert mlartifacts.copy(here, there, overwrite="newer").moved == ()


@pytest.mark.parametrize("zone", [-5 * 3600, 5 * 3600 + 2700])
def test_listings_of_another_zone(zone: int, tmp_path: Path) -> None:
    with pyftpd.serve(tmp_path, mlsd=False, zone=zone) as server:
        uri = server.new_root()
        folder = next(server.root.iterdir())
        plant(folder, {"a": b"1", "sub/b": b"2"})
        for path in (folder / "a", folder / "sub/b"):
            os.utime(path, (time.time() - 6 * 3600,) * 2)
        fs, root = mlartifacts.url_to_fs(uri)
        listed = {info["name"]: info["mtime"] for info in fs.find(root, detail=True).values()}
        for path, modified in listed.items():
            assert fs.modified(path) - modified < datetime.timedelta(minutes=1)
        there = mlartifacts.download(uri, tmp_path / "there")
        assert mlartifacts.sync(uri, there).moved == ()
        (folder / "a").write_bytes(b"9")
        assert mlartifacts.sync(uri, there).moved == ("a",)


# ---- Files that change while they are read -----------------------------------------------


class Meanwhile(fsspec.callbacks.Callback):  # type: ignore[misc]
    """Does something, once, when the first bytes have passed, or so many."""

    def __init__(self, act: Callable[[], object], after: int = 0) -> None:
        super().__init__()
        self._acts, self._after = [act], after

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if inc > 0 and self.value > self._after and self._acts:
            self._acts.pop()()


@pytest.mark.parametrize("target", ["local", "s3", "wasbs", "sftp"])
def test_a_local_file_that_is_written_to(target: str, opened: Opened, tmp_path: Path) -> None:
    """In place, and with its old time: nothing but its state tells."""
    store, here = opened(target), plant(tmp_path / "here", {"large": b"A" * len(LARGE)})
    path = here / "large"

    def write() -> None:
        before = path.stat()
        with path.open("r+b") as file:
            file.write(b"B" * len(LARGE))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    mlartifacts.upload(here, store.uri("tree"), callback=Meanwhile(write))
    assert store.stored() == {"tree/large": b"B" * len(LARGE)}


def test_a_small_file_that_is_written_to_all_the_time(opened: Opened, tmp_path: Path) -> None:
    """It is refused, and not read amid a write."""
    store, here = opened("s3"), plant(tmp_path / "here", {"file": b"A" * 1000, "other": b"1"})

    class Busy(os.PathLike):  # type: ignore[type-arg]
        def __fspath__(self) -> str:
            return str(here)

    with pytest.MonkeyPatch.context() as patch:
        read, letters = os.read, itertools.cycle(b"BCD")

        def reading(file: int, size: int) -> bytes:
            if os.fstat(file).st_size == 1000:
                plant(here, {"file": bytes([next(letters)]) * 1000})
            return read(file, size)

        patch.setattr(os, "read", reading)
        patch.setattr("mlartifacts.transfer.engine._WAIT", 0.0)
        with pytest.raises(TransferError, match="changed while it was read") as caught:
            mlartifacts.upload(Busy(), store.uri("tree"))
    assert list(caught.value.failures) == ["file"]
    assert store.stored() == {"tree/other": b"1"}


@pytest.mark.parametrize("target", ["local", "s3", "wasbs", "gcs", "sftp", "mlflow-artifacts"])
@pytest.mark.parametrize("size", [10, 20_000_000])
def test_a_log_that_grows(size: int, target: str, opened: Opened, tmp_path: Path) -> None:
    """What it was at some time is brought, and more the next time."""
    store, line = opened(target), b"a line of a log\n"
    here = plant(tmp_path / "here", {"log": b"#" * size})
    is_over = threading.Event()

    def write() -> None:
        with (here / "log").open("ab", buffering=0) as file:
            while not is_over.is_set():
                file.write(line)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        mlartifacts.upload(here, store.uri("tree"))
    finally:
        is_over.set()
        writer.join()
    stored, now = store.stored()["tree/log"], (here / "log").read_bytes()
    assert size <= len(stored) <= len(now)
    assert now.startswith(stored)
    assert (len(stored) - size) % len(line) == 0
    assert mlartifacts.sync(here, store.uri("tree")).moved == ("log",)
    assert store.stored() == {"tree/log": now}


@pytest.mark.parametrize("name", ["mlflow-artifacts", "http", "sftp", "hdfs"])
def test_a_large_file_that_is_replaced(name: str, opened: Opened, tmp_path: Path) -> None:
    """No range of another version is taken."""
    store = opened(name)
    old, new = b"A" * 40_000_000, b"B" * 40_000_000
    store.seed({"tree/large": old})
    store.age()

    def replace() -> None:
        store.seed({"tree/new": new})
        if hasattr(store, "folder"):
            os.replace(store.folder / "tree/new", store.folder / "tree/large")
        else:
            store.seed({"tree/large": new})

    source = store.uri("tree/large")
    there = mlartifacts.download(source, tmp_path / "large", callback=Meanwhile(replace))
    assert there.read_bytes() in (old, new)
    assert mlartifacts.download(source, there, overwrite="always").read_bytes() == new


def test_a_file_of_mlflows_server_that_is_replaced_before_it_is_read(
    opened: Opened, tmp_path: Path
) -> None:
    """After its time was asked for: ranges are of that version, or none."""
    store: Any = opened("mlflow-artifacts")
    store.seed({"tree/large": b"A" * 40_000_000})
    store.age()
    there = plant(tmp_path / "there", {"large": b"?" * 40_000_000})
    os.utime(there / "large", (1e9, 1e9))

    class Before(fsspec.callbacks.Callback):  # type: ignore[misc]
        def set_size(self, size: int) -> None:
            super().set_size(size)
            (store.folder / "tree/large").write_bytes(b"B" * 40_000_000)
            os.utime(store.folder / "tree/large", (time.time() - 30,) * 2)

    mlartifacts.download(store.uri("tree"), there, callback=Before())
    assert (there / "large").read_bytes() == b"B" * 40_000_000
    # It has the time of what came.
    assert mlartifacts.sync(store.uri("tree"), there).moved == ()


@pytest.mark.xdist_group("mlflow")
def test_a_run_behind_mlflows_server(opened: Opened, tmp_path: Path) -> None:
    """What lies there is told by no checksum, though another store's would be."""
    store = opened("mlflow-artifacts")
    run = store.base.rstrip("/").split("/")[-2]
    here = plant(tmp_path / "here", {"a": b"1", "b": b"2"})
    assert len(mlartifacts.sync(here, f"runs:/{run}/x").moved) == 2
    assert mlartifacts.sync(here, f"runs:/{run}/x").moved == ()


def test_a_server_that_takes_no_times(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some take SETSTAT and do nothing."""
    store, here = opened("sftp"), plant(tmp_path / "here", {f"{n}": b"1" for n in range(5)})
    fs, _ = mlartifacts.url_to_fs(store.uri())
    monkeypatch.setattr(type(fs), "set_modified", lambda *args: None)
    assert len(mlartifacts.sync(here, store.uri("tree")).moved) == 5
    assert mlartifacts.sync(here, store.uri("tree")).moved == ()


@pytest.mark.parametrize("target", ["local", "sftp", "ftp", "hdfs", "s3"])
def test_times_that_a_store_does_not_know(target: str, opened: Opened, tmp_path: Path) -> None:
    store, here = opened(target), plant(tmp_path / "here", {"old": b"1", "new": b"2"})
    os.utime(here / "old", (-1, -1))
    os.utime(here / "new", (15_000_000_000,) * 2)
    mlartifacts.sync(here, store.uri("tree"))
    assert store.stored() == {"tree/old": b"1", "tree/new": b"2"}


def test_a_time_that_no_calendar_has() -> None:
    said = "Thu, 01 Jan 99999999999999999999 00:00:00 GMT"
    assert File.listed("x", {"size": 1, "Last-Modified": said}).modified is None
    said = "Thu, 01 Jan 2026 00:00:00 +99999999999999999999"
    assert File.listed("x", {"size": 1, "Last-Modified": said}).modified is None


def test_a_weak_etag_is_no_version() -> None:
    assert File.listed("x", {"size": 1, "ETag": 'W/"1"'}).version is None
    assert File.listed("x", {"size": 1, "ETag": '"1"'}).version == '"1"'


# ---- What is remembered ------------------------------------------------------------------


def test_records_are_private_and_hold_no_secret(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(cache))
    store, here = opened("vsftpd"), plant(tmp_path / "here", {"a": b"1"})
    uri = store.uri("tree").replace("ftp://", "ftp://anonymous:a-secret@")
    mlartifacts.sync(here, uri)
    (record,) = (cache / "records-2").iterdir()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    text = record.read_text()
    assert len(json.loads(text)) == 1
    for secret in ("a-secret", "anonymous", "127.0.0.1", "here", '"a"'):
        assert secret not in f"{record.name}{text}"
    assert mlartifacts.sync(here, uri).moved == ()
    # What is no record is none, and a place that cannot be written to costs another move.
    record.write_text("no JSON")
    assert mlartifacts.sync(here, uri).moved == ("a",)
    record.write_text(json.dumps({key: ["?"] for key in json.loads(text)}))
    assert mlartifacts.sync(here, uri).moved == ("a",)
    assert mlartifacts.sync(here, uri).moved == ()
    record.unlink()
    (cache / "records-2").rmdir()
    (cache / "records-2").write_text("in the way")
    assert mlartifacts.sync(here, uri).moved == ("a",)


def test_records_that_nobody_asked_for_are_removed(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / "cache"))
    store, here = opened("vsftpd"), plant(tmp_path / "here", {"a": b"1"})
    mlartifacts.sync(here, store.uri("1"))
    (old,) = (tmp_path / "cache" / "records-2").iterdir()
    os.utime(old, (time.time() - 91 * 86400,) * 2)
    mlartifacts.sync(here, store.uri("2"))
    assert not old.exists()
    assert len(list((tmp_path / "cache" / "records-2").iterdir())) == 1


# ---- What times tell ---------------------------------------------------------------------


def _file(modified: float | None, unit: float = 1.0) -> File:
    return File("x", 1, modified, unit=unit)


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        (_file(100.25, 0), _file(100.25, 0), True),
        (_file(100.25, 0), _file(100.26, 0), False),
        (_file(100.25, 0), _file(100.0), True),
        (_file(100.0), _file(100.99, 0), True),
        (_file(100.0), _file(101.0), False),
        (_file(119.0), _file(60.0, 60), True),
        (_file(120.0), _file(60.0, 60), False),
        (_file(None), _file(100.0), False),
        (_file(None), _file(None), False),
    ],
)
def test_times_that_are_one(one: File, other: File, are_same: bool) -> None:
    assert same_time(one, other) == same_time(other, one) == are_same


@pytest.mark.parametrize(
    ("modified", "unit", "target_unit", "settled"),
    [
        (100.0, 0, 0, 100.02),  # a kernel's tick
        (100.3, 0, 1, 101.0),  # the second is over
        (100.0, 1, 0, 102.0),  # and the clocks may be apart
        (130.0, 60, 1, 181.0),
    ],
)
def test_when_a_time_tells(
    modified: float, unit: float, target_unit: float, settled: float
) -> None:
    file = _file(modified, unit)
    assert until_settled(file, settled, target_unit) == pytest.approx(0)
    assert not is_settled(file, settled - 0.001, target_unit)
    assert is_settled(file, settled + 0.001, target_unit)
    assert given(file, settled + 0.001, target_unit) == modified
    other = given(file, settled - 0.001, target_unit)
    assert other is not None
    assert not same_time(file, _file(other, target_unit or 1))
    assert given(_file(None), settled, target_unit) is None


def test_what_takes_times(opened: Opened, tmp_path: Path) -> None:
    kept = {}
    for name in TARGETS:
        fs, path = mlartifacts.url_to_fs(opened(name).uri())
        kept[name] = End(fs, path).keeps_times
        if not kept[name]:
            with pytest.raises(NotImplementedError):
                fs.set_modified(f"{path}/file", 1)
    assert [name for name, each in kept.items() if each] == ["local", "sftp", "ftp"]
