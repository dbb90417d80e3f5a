"""Our artifact server beside MLflow's: the same requests, on the same store."""

from __future__ import annotations

import concurrent.futures
import http.client
import itertools
import random
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlartifacts
from benchmarks.timing import interleaved, table
from mlartifacts.proxy import wire
from tests.servers import artifact_server, mlflow_server

MLFLOW, OURS = "mlflow server", "mlartifacts serve"

LARGE = random.Random(1).randbytes(2**20)
SIZE = 256 * 2**20
SMALL = random.Random(2).randbytes(4096)
FILES = 300
_AT_ONCE = 8


class _Client:
    """Sends requests, each thread by a connection of its own that it keeps."""

    def __init__(self, url: str) -> None:
        self._netloc = urllib.parse.urlsplit(url).netloc
        self._own = threading.local()

    def send(self, method: str, target: str, body: Any = None, **headers: str) -> int:
        try:
            response = self._ask(method, target, body, headers)
        except http.client.RemoteDisconnected:  # while it was idle
            response = self._ask(method, target, body, headers)
        came = 0
        while data := response.read(2**20):
            came += len(data)
        if response.status not in {200, 206}:
            raise OSError(f"{method} {target}: {response.status}")
        return came

    def _ask(
        self, method: str, target: str, body: Any, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection(self._netloc, timeout=600)
        self._own.connection.request(method, target, body, headers)
        response: http.client.HTTPResponse = self._own.connection.getresponse()
        return response


def _peak(process: Any) -> int:
    """MiB that a server's processes have held at most, each counted."""
    found = 0
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(each.read_text().rpartition(")")[2].split()[2]) == process.pid:
                status = (each.parent / "status").read_text()
                found += int(status.partition("VmHWM:")[2].split()[0]) // 1024
        except (OSError, IndexError, ValueError):
            continue
    return found


def measure(directory: Path, name: str, s3: Any) -> None:
    """Print how the two serve a local directory, and S3 without presigned URLs."""
    mlartifacts.filesystem("s3://serving").mkdir("serving")
    for title, destination, env in (
        ("a local directory", str(directory / "served"), {}),
        (f"S3 ({name})", "s3://serving/root", dict(s3.env)),
    ):
        with ExitStack() as stack:
            # As many workers as it has by default.
            theirs = stack.enter_context(
                mlflow_server.serve(
                    directory / title,
                    artifacts=destination,
                    env=env,
                    options=("--workers", "4"),
                )
            )
            ours = stack.enter_context(artifact_server.serve(directory, destination, env))
            _compare(title, {MLFLOW: theirs, OURS: ours})


def _compare(title: str, servers: Mapping[str, Any]) -> None:
    clients = {who: _Client(server.url) for who, server in servers.items()}
    numbers = itertools.count()

    def at(who: str, path: str) -> str:
        return wire.below(wire.ARTIFACTS, f"{who.replace(' ', '-')}/{path}")

    def small(who: str, act: Callable[[int], object]) -> None:
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(act, range(FILES)))

    def up(who: str) -> None:
        body = (LARGE for _ in range(SIZE // len(LARGE)))
        told = {"Content-Length": str(SIZE)}
        clients[who].send("PUT", at(who, "large"), body, **told)

    def down(who: str) -> None:
        assert clients[who].send("GET", at(who, "large")) == SIZE

    def part(who: str) -> None:
        start = SIZE // 2 + next(numbers)
        asked = {"Range": f"bytes={start}-{start + 65535}"}
        clients[who].send("GET", at(who, "large"), **asked)

    def many_up(who: str) -> None:
        small(who, lambda n: clients[who].send("PUT", at(who, f"many/{n}"), SMALL))

    def many_down(who: str) -> None:
        small(who, lambda n: clients[who].send("GET", at(who, f"many/{n}")))

    def listing(who: str) -> None:
        path = urllib.parse.quote(f"{who.replace(' ', '-')}/many", safe="")
        clients[who].send("GET", f"{wire.ARTIFACTS}?path={path}")

    for what, act, rounds in (
        ("256 MiB up", up, 3),
        ("256 MiB down", down, 3),
        ("64 KiB in the midst of 256 MiB", part, 5),
        (f"{FILES} files of 4 KiB up, {_AT_ONCE} at once", many_up, 3),
        (f"{FILES} files of 4 KiB down, {_AT_ONCE} at once", many_down, 3),
        (f"a listing of {FILES}", listing, 9),
    ):
        ways = {who: lambda who=who, act=act: act(who) for who in servers}
        table(f"{title}: {what}", interleaved(ways, rounds), MLFLOW)
    for who, server in servers.items():
        print(f"  {who}: {_peak(server.process)} MiB at most")
