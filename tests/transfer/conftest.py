"""The contract's stores, several in one test."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.conftest import proxy_on_s3, tracked_locally, tracked_on_s3
from tests.contract.stores import HARBOURS, Harbour, Sftp
from tests.servers import hdfs as hdfs_server
from tests.servers.moto import Moto
from tests.servers.process import LOOPBACK
from tests.servers.tcp_proxy import Proxy, proxied

__all__ = ["proxy_on_s3", "tracked_locally", "tracked_on_s3"]

NAMED = {harbour.name: harbour for harbour in HARBOURS}


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Harbour]:
    """Give a store by its name, with its server up and its variables set."""

    def open_(name: str) -> Harbour:
        harbour = NAMED[name](request.getfixturevalue(NAMED[name].fixture), Path.home())
        for variable, value in harbour.env.items():
            monkeypatch.setenv(variable, value)
        return harbour

    return open_


# ---- What lies between a store and us ----------------------------------------------------


@pytest.fixture
def behind_s3(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Proxy]]:
    """Put a proxy before S3, also for runs on it, once all stores of a test are opened."""
    with proxied(moto_server.url) as proxy:

        def put() -> Proxy:
            monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.url)
            return proxy

        yield put


#: Look for the DataNode where the proxy is, and do not wait for another one to have a block.
#: Clients of one context share connections: this one must not read by one that avoids the proxy.
_HDFS = (
    "dfs.client.use.datanode.hostname=true,dfs.client.retry.window.base=10,"
    "dfs.client.max.block.acquire.failures=1,dfs.client.context={}"
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
    def received(self) -> int:
        """Bytes that came to us."""
        return sum(proxy.bytes_to_client for proxy in {self.proxy, self.bulk})

    def end_after(self, *, sent: int | None = None, received: int | None = None) -> None:
        """Have the line end for good amid the transfer."""
        self.bulk.cut_after_sent, self.bulk.cut_after = sent, received
        self.bulk.last = True


@pytest.fixture
def line(
    opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Line]]:
    """Give a store by its name, behind a proxy."""
    with contextlib.ExitStack() as stack:

        def open_(name: str) -> Line:
            store = opened(name)
            proxy = stack.enter_context(
                proxied(store.server.url, passive=name == "ftp", buffer=2**16)
            )
            behind(store, proxy.host, proxy.port, monkeypatch)
            bulk = proxy
            if name == "hdfs":
                port = store.server.datanode_port
                bulk = Proxy(LOOPBACK, port, listen=(hdfs_server.BY_NAME, port))
                stack.callback(bulk.close)
                monkeypatch.setenv("MLFLOW_PYARROW_EXTRA_CONF", _HDFS.format(uuid.uuid4()))
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


# ---- How much is under way ---------------------------------------------------------------


class AtOnce:
    """Holds what comes until so many are there at once, and counts them.

    When they are, it waits a little, once, for one that should not come, and then holds nothing
    any more. Where so many never come, the time is over some day, and the count shows it.

    Attributes
    ----------
    most
        How many there were at once.
    """

    def __init__(self, expected: int) -> None:
        self.now = self.most = 0
        self._expected = expected
        self._changed = threading.Condition()
        self._have_met = False

    def pass_by(self) -> None:
        with self._changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self._changed.notify_all()
            if not self._have_met:
                self._changed.wait_for(lambda: self._have_met or self.now >= self._expected, 20)
                self._changed.wait_for(lambda: self._have_met or self.now > self._expected, 0.3)
                self._have_met = True
                self._changed.notify_all()
            self.now -= 1
