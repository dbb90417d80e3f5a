"""Transfers over lines that break, lag or end, and from and to servers that are busy."""

from __future__ import annotations

import collections
import contextlib
import datetime
import errno
import gc
import math
import os
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.callbacks import Callback

import mlartifacts
from mlartifacts import network
from mlartifacts.errors import TransferError
from mlartifacts.stores.azure import filesystem as azure
from mlartifacts.stores.gcs import filesystem as gcs
from mlartifacts.stores.s3 import asking
from mlartifacts.transfer import engine
from mlartifacts.writing import is_temporary
from tests.contract.stores import Ftp, Harbour, Http
from tests.servers import reverse_proxy
from tests.servers.process import LOOPBACK, wait_until
from tests.servers.reverse_proxy import Answer, Request
from tests.servers.tcp_proxy import Proxy, proxied
from tests.transfer.conftest import Line, behind, behind_port
from tests.transfer.trees import found, odd_tree, plant

Opened = Callable[[str], Harbour]

WRITABLE = ("s3", "wasbs", "gcs", "sftp", "ftp", "hdfs", "mlflow-artifacts")
OVER_HTTP = ("s3", "wasbs", "gcs", "mlflow-artifacts")
TREE = odd_tree(20)
LARGE = TREE["large.bin"]
#: The names of a web server are percent-encoded: these are the same either way.
PLAIN = {"empty": b"", "foo/a": b"sibling", "foobar": b"of foo", "large.bin": LARGE}


def tree_of(wire: Line) -> dict[str, bytes]:
    return PLAIN if isinstance(wire.store, Http) else TREE


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between two tries, whoever tries again."""
    monkeypatch.setattr(engine, "_WAIT", 0.02)
    monkeypatch.setattr(azure._Retry, "get_backoff_time", lambda self, settings: 0.02)
    monkeypatch.setattr(gcs, "_WAIT", 0.02)
    monkeypatch.setattr(asking, "_LATER", 0.02)
    monkeypatch.setattr(network, "_WAIT", 0.02)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


@pytest.fixture
def faint(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try twice."""
    monkeypatch.setattr(engine, "_TRIES", 2)


def below(tree: dict[str, bytes]) -> dict[str, bytes]:
    return {f"tree/{name}": data for name, data in tree.items()}


def failed(error: TransferError, name: str) -> set[str]:
    """The files that an error names: the large one, each with its cause."""
    assert all(isinstance(failure, OSError) for failure in error.failures.values())
    lost = set(error.failures)
    # SFTP's one connection carries all files, and is lost for each of them.
    assert lost == {"large.bin"} or (name == "sftp" and "large.bin" in lost)
    return lost


def stored(store: Harbour) -> dict[str, bytes]:
    """What a store has, once MLflow's server has noticed that a line was cut.

    An FTP server may begin an upload after its line was cut, and after we have removed the file
    that it had not made yet: then an empty one is left, under a temporary name.
    """
    wait_until(lambda: not re.search(r"\.uploading\.", str([*store.stored()])), "its end")
    kept = store.stored()
    if isinstance(store, Ftp):
        kept = {name: data for name, data in kept.items() if data or not is_temporary(name)}
    return kept


# ---- A line that breaks ------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITABLE)
def test_an_upload_is_cut_once(
    name: str, line: Callable[[str], Line], impatient: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.bulk.cut_after_sent = 5_000_000
    mlartifacts.upload(plant(tmp_path / "here", TREE), wire.uri("tree"))
    assert wire.bulk.cuts == 1
    assert stored(wire.store) == below(TREE)


@pytest.mark.parametrize("name", [*WRITABLE, "http"])
def test_a_download_is_cut_once(
    name: str, line: Callable[[str], Line], impatient: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.store.seed(below(tree_of(wire)))
    wire.bulk.cut_after = 5_000_000
    mlartifacts.download(wire.uri("tree"), tmp_path / "there")
    assert wire.bulk.cuts == 1
    assert found(tmp_path / "there") == tree_of(wire)


@pytest.mark.parametrize("name", WRITABLE)
def test_an_upload_is_cut_each_time(
    name: str, line: Callable[[str], Line], faint: None, tmp_path: Path
) -> None:
    """The small files arrive, and of the large one the old content stays."""
    wire = line(name)
    old = below({"large.bin": b"old", "beside": b"it"})
    wire.store.seed(old)
    wire.bulk.most = 3_000_000
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(plant(tmp_path / "here", TREE), wire.uri("tree"))
    lost = failed(caught.value, name)
    assert wire.bulk.cuts > 1
    arrived = {each: data for each, data in TREE.items() if each not in lost}
    assert stored(wire.store) == {**below(arrived), **old}
    assert not wire.store.uploads()


@pytest.mark.parametrize("name", [*WRITABLE, "http"])
def test_a_download_is_cut_each_time(
    name: str, line: Callable[[str], Line], faint: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.store.seed(below(tree_of(wire)))
    there = plant(tmp_path / "there", {"large.bin": b"old"})
    wire.bulk.most = 3_000_000
    if name == "ftp":  # which goes on where it broke off, as often as something came
        mlartifacts.download(wire.uri("tree"), there, resume=False)
        assert wire.bulk.cuts > 1
        assert found(there) == tree_of(wire)
        return
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(wire.uri("tree"), there, resume=False)
    lost = failed(caught.value, name)
    assert wire.bulk.cuts > 1
    arrived = {each: data for each, data in tree_of(wire).items() if each not in lost}
    assert found(there) == {**arrived, "large.bin": b"old"}


# ---- Between two stores ------------------------------------------------------------------

#: Each store once, and those that are read and written in ways of their own twice.
PAIRS = [("s3", "sftp"), ("wasbs", "s3"), ("gcs", "hdfs"), ("ftp", "mlflow-artifacts")]


@pytest.mark.parametrize("broken", ["source", "target"])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_copy_is_cut_once(
    source: str, target: str, broken: str, line: Callable[[str], Line], impatient: None
) -> None:
    one, other = line(source), line(target)
    one.store.seed(below(TREE))
    cut = one.bulk if broken == "source" else other.bulk
    if broken == "source":
        cut.cut_after = 5_000_000
    else:
        cut.cut_after_sent = 5_000_000
    mlartifacts.copy(one.uri("tree"), other.uri("tree"))
    assert cut.cuts == 1
    assert stored(other.store) == below(TREE)
    assert not other.store.uploads()


@pytest.mark.parametrize("broken", ["source", "target"])
@pytest.mark.parametrize(("source", "name"), PAIRS[:2])
def test_a_copy_is_cut_each_time(
    source: str, name: str, broken: str, line: Callable[[str], Line], faint: None
) -> None:
    one, other = line(source), line(name)
    one.store.seed(below(TREE))
    old = below({"large.bin": b"old", "beside": b"it"})
    other.store.seed(old)
    cut = one.bulk if broken == "source" else other.bulk
    cut.most = 3_000_000
    with pytest.raises(TransferError) as caught:
        mlartifacts.copy(one.uri("tree"), other.uri("tree"))
    lost = failed(caught.value, name)
    assert cut.cuts > 1
    arrived = {each: data for each, data in TREE.items() if each not in lost}
    assert stored(other.store) == {**below(arrived), **old}
    assert not other.store.uploads()


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_copy_over_lines_that_lag(source: str, target: str, line: Callable[[str], Line]) -> None:
    one, other = line(source), line(target)
    tree = {**TREE, "large.bin": LARGE[:3_000_000]}
    one.store.seed(below(tree))
    for wire in (one, other):
        wire.bulk.delay = wire.proxy.delay = 0.01
    mlartifacts.copy(one.uri("tree"), other.uri("tree"))
    assert other.store.stored() == below(tree)


# ---- By presigned URLs -------------------------------------------------------------------


@pytest.fixture
def presigned(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> Iterator[tuple[Harbour, Proxy, str]]:
    """MLflow's server on S3, what lies between S3 and us, and the URI."""
    store: Any = opened("mlflow-artifacts-s3")
    with proxied(store.server.url) as wire, reverse_proxy.serve(store.tracking.url) as front:
        # No signature is of the host: moto verifies none.
        front.damage = lambda body: body.replace(store.server.url.encode(), wire.url.encode())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        yield store, wire, f"mlflow-artifacts:{urllib.parse.urlsplit(store.base).path}"


@pytest.mark.xdist_group("mlflow")
def test_parts_are_cut_once(presigned: tuple[Harbour, Proxy, str], tmp_path: Path) -> None:
    store, wire, base = presigned
    wire.cut_after_sent = 5_000_000
    mlartifacts.upload(plant(tmp_path / "here", TREE), f"{base}/tree")
    assert store.stored() == below(TREE)
    assert any("partNumber" in request.target for request in wire.requests)
    wire.cut_after = 5_000_000
    mlartifacts.download(f"{base}/tree", tmp_path / "there")
    assert found(tmp_path / "there") == TREE
    assert wire.cuts == 2
    assert not store.uploads()


@pytest.mark.xdist_group("mlflow")
def test_parts_are_cut_each_time(presigned: tuple[Harbour, Proxy, str], tmp_path: Path) -> None:
    store, wire, base = presigned
    store.seed(below({"large.bin": b"old"}))
    here = plant(tmp_path / "here", TREE)
    wire.most = 3_000_000
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here, f"{base}/tree")
    assert failed(caught.value, "mlflow-artifacts") == {"large.bin"}
    assert wire.cuts > 1
    assert store.stored() == below({**TREE, "large.bin": b"old"})
    assert not store.uploads()


# ---- A server that is gone ---------------------------------------------------------------

#: Where a file is written under another name first: what lies there when the server is gone
#: cannot be removed by us.
NAMED_AT_LAST = {"sftp", "ftp", "hdfs"}


@pytest.mark.parametrize("name", WRITABLE)
def test_an_upload_to_a_server_that_goes(
    name: str, line: Callable[[str], Line], faint: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.store.seed({"tree/large.bin": b"old"})
    wire.end_after(sent=5_000_000)
    with warnings.catch_warnings(record=True) as warned, pytest.raises(TransferError) as caught:
        warnings.simplefilter("always")
        mlartifacts.upload(plant(tmp_path / "here", TREE), wire.uri("tree"))
    lost = caught.value.failures["large.bin"]
    assert isinstance(lost, OSError)
    assert str(lost.filename).endswith("large.bin")
    said = [str(each.message) for each in warned]
    assert all(each.startswith("Remains of an abandoned write") for each in said)
    assert not said or name in NAMED_AT_LAST
    left = stored(wire.store)
    assert left.pop("tree/large.bin") == b"old"
    remains = {each for each in left if each.rpartition("/")[2].startswith(".mlartifacts-")}
    assert not remains or name in NAMED_AT_LAST
    arrived = {each: left[each] for each in left.keys() - remains}
    assert arrived.items() <= below(TREE).items()


@pytest.mark.parametrize("name", [*WRITABLE, "http"])
def test_a_download_from_a_server_that_goes(
    name: str, line: Callable[[str], Line], faint: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.store.seed(below(tree_of(wire)))
    there = plant(tmp_path / "there", {"large.bin": b"old"})
    wire.end_after(received=5_000_000)
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(wire.uri("tree"), there, resume=False)
    lost = caught.value.failures["large.bin"]
    assert isinstance(lost, OSError)
    assert str(lost.filename).endswith("large.bin")
    arrived = found(there)
    assert arrived.pop("large.bin") == b"old"
    assert arrived.items() <= tree_of(wire).items()


@pytest.mark.parametrize(
    ("name", "received"),
    [("s3", 20), ("wasbs", 20), ("sftp", 20), ("ftp", 20), ("ftp", 300), ("ftp", 500)],
)
def test_a_connection_is_lost_in_the_listing(
    name: str, received: int, line: Callable[[str], Line], impatient: None, tmp_path: Path
) -> None:
    wire = line(name)
    here = plant(tmp_path / "here", {f"{number}": b"x" for number in range(3)})
    mlartifacts.upload(here, wire.uri("tree"))

    def lose() -> None:
        wire.proxy.cut()
        wire.proxy.reset()
        wire.proxy.cut_after = received

    lose()
    mlartifacts.download(wire.uri("tree"), tmp_path / "there")
    assert wire.proxy.cuts == 1
    assert found(tmp_path / "there") == found(here)
    lose()
    mlartifacts.delete(wire.uri("tree"))
    assert stored(wire.store) == {}


# ---- A server that falls silent ----------------------------------------------------------


class Silence(Callback):  # type: ignore[misc]
    """Keeps back what a server says, once something has passed."""

    def __init__(self, wire: Line) -> None:
        super().__init__()
        self.wire = wire
        #: How many connections there were by then.
        self.connections: int | None = None

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if inc > 0:
            self.wire.bulk.swallow = self.wire.proxy.swallow = True
            if self.connections is None:
                self.connections = self.wire.bulk.connections


#: More ranges than are asked for before the first has come.
LONG = LARGE * 8


def silenced(wire: Line, act: Callable[[Callback], object]) -> None:
    """Have a server fall silent: it is waited for as long as the variable says, and once."""
    fs, path = mlartifacts.url_to_fs(wire.uri("tree"))
    fs.exists(path)
    told = int(os.environ["MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT"])
    assert wire.store.waits(fs) == told, "the drivers' own waits are a minute and more"
    silence, before = Silence(wire), len(wire.bulk.requests)
    with warnings.catch_warnings(record=True), pytest.raises(TransferError) as caught:
        warnings.simplefilter("always")  # of remains that nobody could remove
        act(silence)
    assert silence.connections is not None
    (cause,) = caught.value.failures.values()
    assert isinstance(cause, TimeoutError)
    assert "large.bin" in str(caught.value)
    asked = [
        (each.method, each.target, each.headers.get("range", each.headers.get("x-ms-range")))
        for each in wire.bulk.requests[before:]
        if "?uploads&" not in each.target  # which are listed before one begins, and after
        if each.headers.get("range") != "bytes=0-0"  # which tells of ranges, and of a time
    ]
    assert max(collections.Counter(asked).values(), default=0) <= 1
    if not asked:  # it speaks no HTTP: another try would have connections of its own
        assert wire.bulk.connections - silence.connections <= 2


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs", "sftp", "ftp", "mlflow-artifacts"])
def test_an_upload_to_a_server_that_falls_silent(
    name: str, line: Callable[[str], Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDFS, whose JVM tries again by itself, is left to the contract."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    wire = line(name)
    here = plant(tmp_path / "here", {"large.bin": LONG})
    silenced(wire, lambda told: mlartifacts.upload(here, wire.uri("tree"), callback=told))
    wire.bulk.swallow = wire.proxy.swallow = False
    fs, path = mlartifacts.url_to_fs(wire.uri("tree/large.bin"))
    # All of it may have come, and the answer be lost.
    assert not fs.exists(path) or fs.cat_file(path) == LONG


@pytest.mark.parametrize("name", [*(each for each in WRITABLE if each != "hdfs"), "http"])
def test_a_download_from_a_server_that_falls_silent(
    name: str, line: Callable[[str], Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    wire = line(name)
    wire.store.seed({"tree/large.bin": LONG})
    there = plant(tmp_path / "there", {"large.bin": b"old"})

    def fetch(told: Callback) -> None:
        mlartifacts.download(wire.uri("tree"), there, resume=False, callback=told)

    silenced(wire, fetch)
    assert found(there) == {"large.bin": b"old"}


def test_a_silence_is_waited_for_once(
    line: Callable[[str], Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all ranges that are on their way together, and no other is asked for after it."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    wire = line("s3")
    wire.store.seed({"tree/large.bin": LONG * 2})
    fs, path = mlartifacts.url_to_fs(wire.uri("tree"))
    options = fs.carrier(path)._store(0).client_options
    assert options["read_timeout"] in {"1s", datetime.timedelta(seconds=1)}

    def fetch(told: Callback) -> None:
        mlartifacts.download(wire.uri("tree"), tmp_path / "there", callback=told)

    silenced(wire, fetch)
    ranges = [each for each in wire.bulk.requests if "range" in each.headers]
    in_vain = [each for each in ranges if each.body < 2**23]
    assert 0 < len(in_vain) <= engine._RANGES_AT_ONCE


class SilenceSoon(Silence):
    """The same, once some files have passed, and with the number of requests by then."""

    files = requests = 0

    def relative_update(self, inc: int = 1) -> None:
        self.files += 1
        if self.files > 20:
            super().relative_update(inc)
            self.requests = self.requests or len(self.wire.bulk.requests)


@pytest.mark.parametrize("is_upload", [True, False])
@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs", "mlflow-artifacts"])
@pytest.mark.xdist_group("mlflow")
def test_many_files_of_a_server_that_falls_silent(
    name: str,
    is_upload: bool,
    line: Callable[[str], Line],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that are on their way wait for it at once, and nothing is asked of it after that."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    for constant in ("_AT_ONCE", "_CARRIED_AT_ONCE"):
        monkeypatch.setattr(engine, constant, 4)
    monkeypatch.setattr(engine, "_FAR", math.inf)  # nor more on a machine that is slow
    wire, tree = line(name), {f"{number:03}": b"x" * 1000 for number in range(60)}
    if is_upload:
        ends = str(plant(tmp_path / "here", tree)), wire.uri("tree")
    else:
        wire.store.seed({f"tree/{each}": data for each, data in tree.items()})
        ends = wire.uri("tree"), str(tmp_path / "there")
    silence = SilenceSoon(wire)
    with pytest.raises(TransferError) as caught:
        mlartifacts.copy(*ends, callback=silence)
    assert all(isinstance(each, TimeoutError) for each in caught.value.failures.values())
    assert len(caught.value.failures) > 30
    assert len(wire.bulk.requests) - silence.requests <= 4


def test_many_files_of_an_sftp_server_that_falls_silent(
    line: Callable[[str], Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read in groups, each by one call."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    wire = line("sftp")
    wire.store.seed({f"tree/{number:03}": b"x" * 1000 for number in range(300)})
    silence = SilenceSoon(wire)
    after: list[list[str]] = []
    fs, _ = mlartifacts.url_to_fs(wire.uri())
    read = type(fs).cat_ranges

    def counting(self: object, paths: list[str], *args: object, **kwargs: object) -> object:
        if silence.connections is not None:
            after.append(paths)
        return read(self, paths, *args, **kwargs)

    monkeypatch.setattr(type(fs), "cat_ranges", counting)
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(wire.uri("tree"), tmp_path / "there", callback=silence)
    assert len(caught.value.failures) > 100
    assert len(after) <= engine._AT_ONCE // 2


# ---- A line that lags --------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WRITABLE, "http"])
def test_a_line_that_lags(name: str, line: Callable[[str], Line], tmp_path: Path) -> None:
    """Each piece comes late, and none of them is lost, or taken for the end."""
    wire = line(name)
    tree = {**tree_of(wire), "large.bin": LARGE[:3_000_000]}
    wire.bulk.delay = wire.proxy.delay = 0.01
    if wire.store.writable:
        mlartifacts.upload(plant(tmp_path / "here", tree), wire.uri("tree"))
        assert wire.store.stored() == below(tree)
    else:
        wire.store.seed(below(tree))
    mlartifacts.download(wire.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there") == tree


# ---- A server that is busy ---------------------------------------------------------------

BUSY = Answer(
    503, b"<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"
)


@pytest.fixture
def front(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Harbour, reverse_proxy.Reverse, str]]]:
    """Give a store by its name, behind a server that may answer in its place, and where it is."""
    with contextlib.ExitStack() as stack:

        def open_(name: str) -> tuple[Harbour, reverse_proxy.Reverse, str]:
            store = opened(name)
            server = stack.enter_context(reverse_proxy.serve(store.server.url))
            port = urllib.parse.urlsplit(server.url).port
            assert port is not None
            behind(store, LOOPBACK, port, monkeypatch)
            return store, server, behind_port(store, port)

        yield open_


class Busy:
    """Answers so many requests about each of some files with 503."""

    def __init__(self, times: float, *names: str) -> None:
        self.most = times
        self.answered = dict.fromkeys(names, 0)

    def __call__(self, request: Request) -> Answer | None:
        for name, answered in self.answered.items():
            # GCS is told the name in the body.
            asked = name in request.path or name.encode() in request.begin
            if asked and answered < self.most:
                self.answered[name] += 1
                return BUSY
        return None


def refused(error: TransferError, *names: str) -> bool:
    """Whether an error names these files, each with what the server said."""
    return sorted(error.failures) == sorted(names) and all(
        isinstance(failure, OSError) and re.search("503|SlowDown", str(failure))
        for failure in error.failures.values()
    )


Front = Callable[[str], tuple[Harbour, reverse_proxy.Reverse, str]]
OLD = {"large.bin": b"old", "foobar": b"old"}


@pytest.mark.parametrize("name", OVER_HTTP)
def test_an_upload_to_a_server_that_is_busy_twice(
    name: str, front: Front, impatient: None, tmp_path: Path
) -> None:
    store, server, base = front(name)
    server.answer = busy = Busy(2, "large.bin", "foobar")
    mlartifacts.upload(plant(tmp_path / "here", TREE), f"{base}/tree")
    assert busy.answered == {"large.bin": 2, "foobar": 2}
    assert store.stored() == below(TREE)


@pytest.mark.parametrize("name", OVER_HTTP)
def test_an_upload_to_a_server_that_stays_busy(
    name: str, front: Front, faint: None, tmp_path: Path
) -> None:
    store, server, base = front(name)
    store.seed(below(OLD))
    server.answer = busy = Busy(float("inf"), "large.bin", "foobar")
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(plant(tmp_path / "here", TREE), f"{base}/tree")
    assert refused(caught.value, "large.bin", "foobar")
    assert min(busy.answered.values()) > 1
    assert store.stored() == below({**TREE, **OLD})
    assert not store.uploads()


def test_a_copy_between_servers_that_are_busy_twice(front: Front, impatient: None) -> None:
    (one, source, here), (other, target, there) = front("s3"), front("wasbs")
    one.seed(below(TREE))
    source.answer, target.answer = Busy(2, "large.bin", "foobar"), Busy(2, "large.bin", "foobar")
    mlartifacts.copy(f"{here}/tree", f"{there}/tree")
    assert source.answer.answered == target.answer.answered == {"large.bin": 2, "foobar": 2}
    assert other.stored() == below(TREE)


@pytest.mark.parametrize("name", [*OVER_HTTP, "http"])
def test_a_download_from_a_server_that_is_busy_twice(
    name: str, front: Front, impatient: None, tmp_path: Path
) -> None:
    store, server, base = front(name)
    tree = PLAIN if name == "http" else TREE
    store.seed(below(tree))
    server.answer = busy = Busy(2, "large.bin", "foobar")
    mlartifacts.download(f"{base}/tree", tmp_path / "there")
    assert busy.answered == {"large.bin": 2, "foobar": 2}
    assert found(tmp_path / "there") == tree


@pytest.mark.parametrize("name", [*OVER_HTTP, "http"])
def test_a_download_from_a_server_that_stays_busy(
    name: str, front: Front, faint: None, tmp_path: Path
) -> None:
    store, server, base = front(name)
    tree = PLAIN if name == "http" else TREE
    store.seed(below(tree))
    there = plant(tmp_path / "there", OLD)
    server.answer = busy = Busy(float("inf"), "large.bin", "foobar")
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(f"{base}/tree", there, resume=False)
    assert refused(caught.value, "large.bin", "foobar")
    assert min(busy.answered.values()) > 1
    assert found(there) == {**tree, **OLD}


# ---- A proxy that takes no large body ----------------------------------------------------

TOO_LARGE = Answer(
    413,
    b"<html><head><title>413 Request Entity Too Large</title></head></html>",
    {"Content-Type": "text/html"},
)


@pytest.mark.parametrize("name", OVER_HTTP)
@pytest.mark.parametrize("large", ["large.bin", "foobar"])
def test_an_upload_that_is_too_large_for_a_proxy(
    name: str, large: str, front: Front, impatient: None, tmp_path: Path
) -> None:
    """As nginx answers where its client_max_body_size is less."""
    store, server, base = front(name)
    store.seed(below(OLD))
    refused = []

    def answer(request: Request) -> Answer | None:
        asked = large in request.path or large.encode() in request.begin
        if not asked or request.method not in {"PUT", "POST"} or "uploads" in request.path:
            return None
        refused.append(request)
        return TOO_LARGE

    server.answer = answer
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(plant(tmp_path / "here", TREE), f"{base}/tree")
    ((failed_name, failure),) = caught.value.failures.items()
    assert failed_name == large
    assert isinstance(failure, OSError)
    assert failure.errno == errno.EFBIG
    assert re.search("413.*client_max_body_size.*", str(failure))
    assert f"{len(TREE[large])} bytes" in str(failure)
    assert len({request.path for request in refused}) == len(refused)  # and none again
    assert store.stored() == below({**TREE, large: OLD[large]})
    assert not store.uploads()


def test_an_sftp_connection_that_is_lost_and_mended_is_not_talked_about(
    line: Callable[[str], Line], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits any more for the parts of a write that broke off, nor are they sent."""
    wire, tree = line("sftp"), {"large": b"x" * 21 * 2**20, "small": b"s"}
    wire.bulk.cut_after_sent = 9_000_000
    mlartifacts.upload(plant(tmp_path / "here", tree), wire.uri("tree"))
    assert wire.bulk.cuts == 1
    assert wire.store.stored() == {f"tree/{name}": data for name, data in tree.items()}
    gc.collect()  # with a task whose error nobody took
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
