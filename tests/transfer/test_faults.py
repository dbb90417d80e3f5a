"""Transfers over lines that break, lag or end, and from and to servers that are busy."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.errors import TransferError
from mlartifacts.stores.azure import filesystem as azure
from mlartifacts.transfer import engine
from tests.contract.stores import Harbour, Http, Sftp
from tests.servers import hdfs as hdfs_server
from tests.servers import reverse_proxy
from tests.servers.process import LOOPBACK, wait_until
from tests.servers.reverse_proxy import Answer, Request
from tests.servers.tcp_proxy import Proxy, proxied
from tests.transfer.trees import found, odd_tree, plant

Opened = Callable[[str], Harbour]

WRITABLE = ("s3", "wasbs", "gcs", "sftp", "ftp", "hdfs", "mlflow-artifacts")
OVER_HTTP = ("s3", "wasbs", "gcs", "mlflow-artifacts")
TREE = odd_tree(20)
LARGE = TREE["large.bin"]
#: The names of a web server are percent-encoded: these are the same either way.
PLAIN = {"empty": b"", "foo/a": b"sibling", "foobar": b"of foo", "large.bin": LARGE}

#: Look for the DataNode where the proxy is, and do not wait for another one to have a block.
_HDFS = (
    "dfs.client.use.datanode.hostname=true,dfs.client.retry.window.base=10,"
    "dfs.client.max.block.acquire.failures=1"
)


@dataclasses.dataclass
class Line:
    """A store, and what lies between it and us."""

    store: Harbour
    #: By which commands go.
    proxy: Proxy
    #: By which bytes go: HDFS has another server for them.
    bulk: Proxy
    base: str

    def uri(self, name: str = "") -> str:
        return f"{self.base}/{name}" if name else self.base

    @property
    def tree(self) -> dict[str, bytes]:
        return PLAIN if isinstance(self.store, Http) else TREE

    def end_after(self, *, sent: int | None = None, received: int | None = None) -> None:
        """Have the line end for good amid the transfer."""
        self.bulk.cut_after_sent, self.bulk.cut_after = sent, received
        self.bulk.last = True


@pytest.fixture
def line(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Line]]:
    """Give a store by its name, behind a proxy."""
    with contextlib.ExitStack() as stack:

        def open_(name: str) -> Line:
            store = opened(name)
            proxy = stack.enter_context(proxied(store.server.url, passive=name == "ftp"))
            behind(store, proxy.host, proxy.port, monkeypatch)
            bulk = proxy
            if name == "hdfs":
                port = store.server.datanode_port
                bulk = Proxy(LOOPBACK, port, listen=(hdfs_server.BY_NAME, port))
                stack.callback(bulk.close)
                monkeypatch.setenv("MLFLOW_PYARROW_EXTRA_CONF", _HDFS)
            return Line(store, proxy, bulk, behind_port(store, proxy.port))

        yield open_


def behind_port(store: Harbour, port: int) -> str:
    """A store's base, by another port where it names one."""
    own = urllib.parse.urlsplit(store.base).port
    return store.base.replace(f":{own}/", f":{port}/") if own else store.base


def behind(store: Harbour, host: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a store's variables name another server than its own."""
    for variable, value in store.elsewhere(host, port).env.items():
        monkeypatch.setenv(variable, value)
    if isinstance(store, Sftp):
        known = Path.home() / ".ssh" / "known_hosts"
        key = known.read_text().split(" ", 1)[1]
        with known.open("a") as file:
            file.write(f"[{host}]:{port} {key}")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between two tries; Azure's own wait a quarter of a minute after each 503."""
    monkeypatch.setattr(engine, "_WAIT", 0.02)
    monkeypatch.setattr(azure._Retry, "get_backoff_time", lambda self, settings: 0.02)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


@pytest.fixture
def faint(impatient: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try twice; gcsfs tries three times itself, and waits for seconds in between."""
    monkeypatch.setattr(engine, "_TRIES", 1 if name == "gcs" else 2)


def below(tree: dict[str, bytes]) -> dict[str, bytes]:
    return {f"tree/{name}": data for name, data in tree.items()}


def failed(error: TransferError, name: str) -> set[str]:
    """The files that an error names: the large one, each with its cause."""
    assert "large.bin" in str(error)
    assert all(isinstance(failure, OSError) for failure in error.failures.values())
    lost = set(error.failures)
    # SFTP's one connection carries all files, and is lost for each of them.
    assert lost == {"large.bin"} or (name == "sftp" and "large.bin" in lost)
    return lost


# ---- A line that breaks ------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITABLE)
def test_an_upload_is_cut_once(
    name: str, line: Callable[[str], Line], impatient: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.bulk.cut_after_sent = 5_000_000
    mlartifacts.upload(plant(tmp_path / "here", TREE), wire.uri("tree"))
    assert wire.bulk.cuts == 1
    assert wire.store.stored() == below(TREE)


@pytest.mark.parametrize("name", [*WRITABLE, "http"])
def test_a_download_is_cut_once(
    name: str, line: Callable[[str], Line], impatient: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.store.seed(below(wire.tree))
    wire.bulk.cut_after = 5_000_000
    mlartifacts.download(wire.uri("tree"), tmp_path / "there")
    assert wire.bulk.cuts == 1
    assert found(tmp_path / "there") == wire.tree


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
    assert wire.store.stored() == {**below(arrived), **old}


@pytest.mark.parametrize("name", [*WRITABLE, "http"])
def test_a_download_is_cut_each_time(
    name: str, line: Callable[[str], Line], faint: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.store.seed(below(wire.tree))
    there = plant(tmp_path / "there", {"large.bin": b"old"})
    wire.bulk.most = 3_000_000
    if name == "ftp":  # which goes on where it broke off, as often as something came
        mlartifacts.download(wire.uri("tree"), there, resume=False)
        assert wire.bulk.cuts > 1
        assert found(there) == wire.tree
        return
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(wire.uri("tree"), there, resume=False)
    lost = failed(caught.value, name)
    assert wire.bulk.cuts > 1
    arrived = {each: data for each, data in wire.tree.items() if each not in lost}
    assert found(there) == {**arrived, "large.bin": b"old"}


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
    assert isinstance(caught.value.failures["large.bin"], OSError)
    assert "large.bin" in str(caught.value)
    said = [str(each.message) for each in warned]
    assert all(each.startswith("Remains of an abandoned write") for each in said)
    assert not said or name in NAMED_AT_LAST
    if name == "mlflow-artifacts":  # the server writes into such files
        wait_until(lambda: not re.search(r"\.uploading\.", str([*wire.store.stored()])), "its end")
    stored = wire.store.stored()
    assert stored.pop("tree/large.bin") == b"old"
    remains = {each for each in stored if each.rpartition("/")[2].startswith(".mlartifacts-")}
    assert not remains or name in NAMED_AT_LAST
    arrived = {each: stored[each] for each in stored.keys() - remains}
    assert arrived.items() <= below(TREE).items()


@pytest.mark.parametrize("name", [*WRITABLE, "http"])
def test_a_download_from_a_server_that_goes(
    name: str, line: Callable[[str], Line], faint: None, tmp_path: Path
) -> None:
    wire = line(name)
    wire.store.seed(below(wire.tree))
    there = plant(tmp_path / "there", {"large.bin": b"old"})
    wire.end_after(received=5_000_000)
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(wire.uri("tree"), there, resume=False)
    assert isinstance(caught.value.failures["large.bin"], OSError)
    assert "large.bin" in str(caught.value)
    arrived = found(there)
    assert arrived.pop("large.bin") == b"old"
    assert arrived.items() <= wire.tree.items()


# ---- A line that lags --------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WRITABLE, "http"])
def test_a_line_that_lags(name: str, line: Callable[[str], Line], tmp_path: Path) -> None:
    """Each piece comes late, and none of them is lost, or taken for the end."""
    wire = line(name)
    tree = {**wire.tree, "large.bin": LARGE[:3_000_000]}
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
