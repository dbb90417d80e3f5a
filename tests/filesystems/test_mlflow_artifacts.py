"""What is particular to MLflow's proxy: presigned URLs, answers without ranges, logins, TLS."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import json
import os
import random
import re
import sys
import tempfile
import threading
import tracemalloc
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.callbacks import Callback

import mlartifacts
from mlartifacts import promises
from mlartifacts.errors import InvalidConfig, InvalidURI, TransferError
from mlartifacts.filesystems.mlflow_artifacts.bodies import IN_MEMORY
from mlartifacts.proxy import client, wire
from mlartifacts.transfer import engine
from tests.conftest import interrupt
from tests.servers import mlflow_server as mlflow_server_module
from tests.servers import reverse_proxy
from tests.servers.fixtures import started
from tests.servers.mlflow_server import MlflowServer
from tests.servers.moto import Moto
from tests.servers.process import wait_until
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.servers.silent import Hanging
from tests.servers.tcp_proxy import Proxy, proxied

#: Also those that have a server of their own.
pytestmark = pytest.mark.xdist_group("mlflow")

LARGE = random.Random(17).randbytes(12_000_000)
IN_PARTS = {
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "10000000",
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": "5300000",
    "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": "5300000",
}


@pytest.fixture(scope="module")
def store(moto_server: Moto) -> Iterator[Proxy]:
    """S3, where its requests are counted and its connections can be cut."""
    with proxied(moto_server.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def on_s3(
    tmp_path_factory: pytest.TempPathFactory, moto_server: Moto, store: Proxy
) -> Iterator[MlflowServer]:
    """MLflow's server, whose presigned URLs lead to `store`."""
    serving = mlflow_server_module.serve(
        tmp_path_factory.mktemp("on_s3"),
        artifacts=f"{moto_server.new_root()}/root of artifacts",
        env={**moto_server.env, "MLFLOW_S3_ENDPOINT_URL": store.url},
    )
    with started(serving, "mlflow") as server:
        yield server


@pytest.fixture
def front(on_s3: MlflowServer, store: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reverse]:
    """What stands before that server, as the tracking URI."""
    with reverse_proxy.serve(on_s3.url) as front:
        for name, value in IN_PARTS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        store.reset()
        yield front
    store.reset()


@pytest.fixture
def base(on_s3: MlflowServer) -> str:
    """The URI of a fresh run's artifacts."""
    return on_s3.new_root()


def located(uri: str, **options: Any) -> tuple[Any, str]:
    return mlartifacts.url_to_fs(uri, **options)


# ---- Presigned URLs ----------------------------------------------------------------------


@pytest.mark.parametrize("said_by", ["the server", "the variable"])
def test_large_files_go_to_the_store_in_parts(
    front: Reverse, store: Proxy, base: str, said_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said_by == "the variable":
        monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    with mlartifacts.open(f"{base}/a folder/large", "wb") as file:
        file.write(LARGE)
    assert front.asked("PUT") == []
    assert len(front.asked("GET", "server-info")) == (said_by == "the server")
    parts = [request for request in store.requests if "partNumber" in request.target]
    assert sorted(int(request.headers["content-length"]) for request in parts) == [
        len(LARGE) - 2 * 5_300_000,
        5_300_000,
        5_300_000,
    ]
    assert len({request.connection for request in parts}) == 3, "at once"
    assert not any("authorization" in request.headers for request in parts)
    assert mlartifacts.open(f"{base}/a folder/large").open().read() == LARGE


@pytest.mark.parametrize("how", ["small", "turned off"])
def test_other_files_go_by_one_request(
    front: Reverse, store: Proxy, base: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "turned off":
        monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
    data = LARGE if how == "turned off" else LARGE[:9_000_000]
    fs, root = located(base)
    fs.pipe_file(f"{root}/file", data)
    assert [request.method for request in front.requests] == ["PUT"]
    assert fs.cat_file(f"{root}/file") == data


def test_a_store_without_parts_gets_one_request(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**IN_PARTS, "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true"}.items():
        monkeypatch.setenv(name, value)
    with reverse_proxy.serve(mlflow_server.url) as front:
        fs, root = located(mlflow_server.new_root(), tracking_uri=front.url)
        fs.pipe_file(f"{root}/large", LARGE)
        assert [request.method for request in front.requests] == ["POST", "PUT"]
        assert fs.cat_file(f"{root}/large") == LARGE


class Hook(Callback):
    """Does something once, when so many bytes have been sent."""

    def __init__(self, act: Any, after: int = 1) -> None:
        super().__init__()
        self.act, self.after = act, after

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value >= self.after:
            act, self.act = self.act, lambda: None
            act()


def test_an_upload_that_fails_is_aborted(
    front: Reverse,
    store: Proxy,
    moto_server: Moto,
    on_s3: MlflowServer,
    base: str,
    tmp_path: Path,
) -> None:
    fs, root = located(base)
    fs.pipe_file(f"{root}/file", b"old")
    local = tmp_path / "shrinks"
    local.write_bytes(LARGE)
    with pytest.raises(OSError, match="shorter") as caught:
        fs.put_file(str(local), f"{root}/file", callback=Hook(lambda: local.write_bytes(b"")))
    assert caught.value.filename == f"{root}/file"
    assert len(front.asked("POST", "/mpu/abort/")) == 1
    assert front.asked("POST", "/mpu/complete/") == []
    bucket = urllib.parse.urlsplit(on_s3.artifacts).netloc
    assert moto_server.uploads(bucket) == []
    assert fs.cat_file(f"{root}/file") == b"old"


def instead(module: Any, name: str, function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a module, and no other, use a function of its own in the place of one of asyncio's."""
    own = SimpleNamespace(**{**vars(asyncio), name: function})
    monkeypatch.setattr(module, "asyncio", own)


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when an interrupt has told the event loop to stop what is on its way."""
    told = threading.Event()

    def tell(*args: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(*args)
        told.set()
        return future

    instead(promises, "run_coroutine_threadsafe", tell, monkeypatch)
    return told


WRITES: dict[str, Any] = {
    "pipe_file": lambda fs, local, path: fs.pipe_file(path, b"new"),
    "put_file": lambda fs, local, path: fs.put_file(local, path),
    "put": lambda fs, local, path: fs.put(local, path),
    "put many": lambda fs, local, path: fs.put([local, local], [path, f"{path}-2"]),
    "pipe": lambda fs, local, path: fs.pipe({path: b"new", f"{path}-2": b"new"}),
    "open": lambda fs, local, path: fs.open(path, "wb").close(),
}


@pytest.mark.parametrize(
    ("how", "scheme"), [*((how, "mlflow-artifacts") for how in WRITES), ("put many", "runs")]
)
def test_what_is_interrupted_is_not_published_later(
    front: Reverse,
    base: str,
    how: str,
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"new")
    files = 2 if how in {"put many", "pipe"} else 1
    fs, root = located(base if scheme != "runs" else f"runs:/{base.split('/')[2]}")
    fs.pipe_file(f"{root}/file", b"old")

    waits, ended = [], []

    async def sleep(seconds: float) -> None:
        """Wait until somebody stops it, when all wait."""
        waits.append(seconds)
        if len(waits) == files:
            interrupt()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(seconds)

    instead(client, "sleep", sleep, monkeypatch)
    front.requests.clear()
    front.answer = lambda request: (
        Answer(503, headers={"Retry-After": "2"}) if request.method == "PUT" else None
    )
    with pytest.raises(KeyboardInterrupt):
        WRITES[how](fs, str(local), f"{root}/file")
    assert waits == ended == [2] * files, "none of them waits on, to try again"
    assert len(front.asked("PUT")) == files
    assert fs.cat_file(f"{root}/file") == b"old"


def test_parts_that_are_interrupted_are_aborted(
    front: Reverse,
    moto_server: Moto,
    on_s3: MlflowServer,
    base: str,
    stopping: threading.Event,
    tmp_path: Path,
) -> None:
    local = tmp_path / "large"
    local.write_bytes(LARGE)
    fs, root = located(base)
    fs.pipe_file(f"{root}/file", b"old")
    for put in (fs.put_file, fs.put):
        front.requests.clear()
        stopping.clear()
        with pytest.raises(KeyboardInterrupt):
            # The callback of each file is a branch of one that is given to put.
            hook = Hook(lambda: (interrupt(), stopping.wait(20)), 3_000_000)
            put(str(local), f"{root}/file", callback=hook if put == fs.put_file else Tree(hook))
        assert len(front.asked("POST", "/mpu/abort/")) == 1
        assert front.asked("POST", "/mpu/complete/") == []
        assert fs.cat_file(f"{root}/file") == b"old"
    bucket = urllib.parse.urlsplit(on_s3.artifacts).netloc
    assert moto_server.uploads(bucket) == []


def test_an_upload_that_is_interrupted_while_it_begins_is_aborted(
    front: Reverse, base: str, stopping: threading.Event, tmp_path: Path
) -> None:
    fs, root = located(base)

    def slow(request: Request) -> Answer | None:
        if "/mpu/create/" in request.path:
            interrupt()
            stopping.wait(20)
        return None

    front.answer = slow
    with pytest.raises(KeyboardInterrupt):
        fs.pipe_file(f"{root}/file", LARGE)
    assert len(front.asked("POST", "/mpu/abort/")) == 1
    assert not fs.exists(f"{root}/file")


class Tree(Callback):
    """Gives each file a callback."""

    def __init__(self, of_file: Callback) -> None:
        super().__init__()
        self.of_file = of_file

    def branched(self, *args: Any, **kwargs: Any) -> Callback:
        return self.of_file


@pytest.mark.parametrize("size", [3_000_000, len(LARGE)])
@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_file_that_changes_while_it_is_put(
    front: Reverse, base: str, tmp_path: Path, size: int, change: str
) -> None:
    local = tmp_path / "log"
    local.write_bytes(LARGE[:size])
    fs, root = located(base)
    fs.pipe_file(f"{root}/file", b"old")

    def grow() -> None:
        with local.open("ab") as file:
            file.write(b"more")

    act = grow if change == "longer" else lambda: local.write_bytes(b"x")
    with pytest.raises(OSError, match=change) as caught:
        fs.put_file(str(local), f"{root}/file", callback=Hook(act))
    assert caught.value.filename == f"{root}/file"
    assert fs.cat_file(f"{root}/file") == b"old"


def test_files_that_do_not_tell_their_size(front: Reverse, base: str, tmp_path: Path) -> None:
    fs, root = located(base)
    version = Path("/proc/version")
    if version.exists():
        fs.put_file(str(version), f"{root}/version")
        assert fs.cat_file(f"{root}/version") == version.read_bytes() != b""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(LARGE,))
    writer.start()
    fs.put_file(str(tmp_path / "pipe"), f"{root}/pipe")
    writer.join()
    assert fs.cat_file(f"{root}/pipe") == LARGE
    (tmp_path / "empty").write_bytes(b"")
    fs.put_file(str(tmp_path / "empty"), f"{root}/empty")
    assert fs.cat_file(f"{root}/empty") == b""


def test_a_part_that_breaks_off_is_sent_again(
    front: Reverse, store: Proxy, base: str, tmp_path: Path
) -> None:
    local = tmp_path / "large"
    local.write_bytes(LARGE)
    fs, root = located(base)
    store.cut_after_sent = 6_000_000  # one of the three parts is whole by then, at most
    fs.put_file(str(local), f"{root}/large")
    assert fs.cat_file(f"{root}/large") == LARGE
    assert store.cuts == 1
    assert len([r for r in store.requests if "partNumber" in r.target]) > 3


# ---- Writes that are told their size -----------------------------------------------------

TOLD = LARGE + LARGE[::-1]


@pytest.fixture(params=["parts", "one request"])
def told(
    request: pytest.FixtureRequest,
    front: Reverse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """How such a write goes, with no disk to keep it on."""
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(2**30))
    if request.param == "one request":
        monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no disk"))
    return str(request.param)


def write_told(fs: Any, path: str, data: bytes, size: int = len(TOLD)) -> None:
    with fs.open(path, "wb", size=size) as file:
        for start in range(0, len(data), 5_000_000):
            assert file.tell() == start
            file.write(data[start : start + 5_000_000])


def test_what_is_told_its_size_is_sent_as_it_comes(
    told: str, front: Reverse, store: Proxy, base: str, tmp_path: Path
) -> None:
    fs, root = located(base)
    write_told(fs, f"{root}/large", TOLD)
    assert len(front.asked("PUT")) == (told == "one request")
    parts = [request for request in store.requests if "partNumber" in request.target]
    sizes = sorted(int(request.headers["content-length"]) for request in parts)
    if told == "parts":  # else they are the server's own
        assert sizes == [len(TOLD) - 2 * 2**23, 2**23, 2**23]
    assert fs.cat_file(f"{root}/large") == TOLD
    fs.cp_file(f"{root}/large", f"{root}/copy")
    assert fs.cat_file(f"{root}/copy") == TOLD
    (tmp_path / "local").write_bytes(TOLD)
    mlartifacts.upload(tmp_path / "local", f"runs:/{base.split('/')[2]}/moved")
    assert fs.cat_file(f"{root}/moved") == TOLD


@pytest.mark.parametrize("how", ["short", "long", "left by an exception", "refused"])
def test_what_is_told_its_size_and_fails(
    told: str, how: str, front: Reverse, moto_server: Moto, on_s3: MlflowServer, base: str
) -> None:
    fs, root = located(base)
    fs.pipe_file(f"{root}/file", b"old")
    if how == "refused":
        front.answer = lambda request: (
            Answer(403, b"no") if request.method == "PUT" or "/complete/" in request.path else None
        )
    size = len(TOLD) + {"short": 1, "long": -1}.get(how, 0)
    with pytest.raises((OSError, ZeroDivisionError)) as caught:
        if how == "left by an exception":
            with fs.open(f"{root}/file", "wb", size=size) as file:
                file.write(LARGE)
                raise ZeroDivisionError
        write_told(fs, f"{root}/file", TOLD, size)
    if how != "left by an exception":
        assert caught.value.filename == f"{root}/file"  # type: ignore[union-attr]
        assert isinstance(caught.value, PermissionError) is (how == "refused")
    front.answer = lambda request: None
    assert fs.cat_file(f"{root}/file") == b"old"
    assert len(front.asked("POST", "/mpu/abort/")) == (told == "parts")
    bucket = urllib.parse.urlsplit(on_s3.artifacts).netloc
    assert moto_server.uploads(bucket) == []


def test_what_is_held_is_sent_again(told: str, front: Reverse, store: Proxy, base: str) -> None:
    """A part; and the whole, until more than its beginning has passed."""
    with proxied(front.url) as server:
        fs, root = located(base, tracking_uri=server.url)
        line = store if told == "parts" else server
        line.cut_after_sent = 1_000_000
        with fs.open(f"{root}/large", "wb", size=len(TOLD)) as file:
            file.write(TOLD[:3_000_000])
            wait_until(lambda: line.cuts == 1, "a line that breaks")
            file.write(TOLD[3_000_000:])
        assert fs.cat_file(f"{root}/large") == TOLD

        line.cut_after_sent = 20_000_000
        if told == "parts":
            write_told(fs, f"{root}/again", TOLD)
            return
        with pytest.raises(ConnectionError) as caught:
            write_told(fs, f"{root}/again", TOLD)
        assert caught.value.filename == f"{root}/again"
        assert not fs.exists(f"{root}/again")


@pytest.mark.parametrize("then", ["longer parts", "one request"])
def test_bytes_that_come_before_the_server_says_how_they_go(
    front: Reverse, base: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for room, of which there is more as soon as it is known."""
    fs, root = located(base)
    if then == "longer parts":
        monkeypatch.setattr(wire, "MOST_PARTS", 2)
    with fs.open(f"{root}/large", "wb", size=len(TOLD)) as file:

        def late(request: Request) -> Answer | None:
            if "server-info" in request.path:
                wait_until(lambda: file.tell() == IN_MEMORY, "all that is held before")
            refused = then == "one request" and "/mpu/create/" in request.path
            return Answer(404, b"<!doctype html>") if refused else None

        front.answer = late
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            writing = pool.submit(file.write, TOLD)
            try:
                writing.result(20)
            except TimeoutError:
                file.abandon()
                raise
    assert len(front.asked("PUT")) == (then == "one request")
    assert fs.cat_file(f"{root}/large") == TOLD


def test_a_write_that_waits_for_its_parts_can_be_abandoned(
    front: Reverse, store: Proxy, base: str
) -> None:
    fs, root = located(base)
    with fs.open(f"{root}/large", "wb", size=3 * len(TOLD)) as file:
        file.write(LARGE)
        wait_until(lambda: any("partNumber" in r.target for r in store.requests), "a part")
        store.swallow = True
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            writing = pool.submit(file.write, TOLD + TOLD)
            try:
                wait_until(lambda: store.bytes_to_server > 20_000_000, "what is held")
                store.swallow = False  # the server needs it, too
            finally:
                file.abandon()
            with pytest.raises(OSError, match="abandoned") as caught:
                writing.result(5)
    assert caught.value.filename == f"{root}/large"
    assert len(front.asked("POST", "/mpu/abort/")) == 1


def test_a_server_that_does_not_say_what_it_can_is_waited_for_once(
    front: Reverse, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    fs, root = located(base)
    fs.pipe({f"{root}/{number}": b"x" for number in range(4)})
    is_over = threading.Event()

    def silent(request: Request) -> Answer | None:
        if "server-info" in request.path:
            is_over.wait(20)
        return None

    front.answer = silent
    told = fs.cat([f"{root}/{number}" for number in range(4)], on_error="return")
    is_over.set()
    assert {type(each) for each in told.values()} == {TimeoutError}
    assert {each.filename for each in told.values()} == told.keys()
    assert len(front.asked("GET", "server-info")) == 1
    assert fs.cat_file(f"{root}/0") == b"x"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems wait for as long as they like")
def test_a_server_that_takes_nothing(
    hanging_server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(2**30))
    fs, path = located("mlflow-artifacts:/file", tracking_uri=hanging_server.url)
    for write in (lambda: fs.pipe_file(path, TOLD), lambda: write_told(fs, path, TOLD)):
        before = len(hanging_server.accepted)
        with pytest.raises(TimeoutError, match="in time") as caught:
            write()
        assert len(hanging_server.accepted) - before == 1, "one wait is what was asked for"
        assert caught.value.filename == path


def test_a_server_that_has_all_before_it_was_sent(
    front: Reverse, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
    fs, root = located(base)
    fs.pipe_file(f"{root}/large", TOLD)
    front.hasty = True
    copy = lambda: asyncio.run_coroutine_threadsafe(  # noqa: E731
        asyncio.wait_for(fs._cp_file(f"{root}/large", f"{root}/copy"), 20), fs.loop
    ).result(30)
    for write in (copy, lambda: write_told(fs, f"{root}/copy", TOLD)):
        with pytest.raises(OSError, match="before it was sent"):
            write()
    front.hasty = False
    assert not fs.exists(f"{root}/copy")


def test_an_upload_that_the_store_refuses(front: Reverse, base: str) -> None:
    def unsigned(request: Request) -> Answer | None:
        if "/mpu/create/" not in request.path:
            return None
        nowhere = f"{front.url}/not-there?X-Amz-Signature=secret"
        parts = ",".join(f'{{"url": "{nowhere}", "part_number": {n}}}' for n in (1, 2, 3))
        return Answer(200, f'{{"upload_id": "x", "credentials": [{parts}]}}'.encode())

    front.answer = unsigned
    fs, root = located(base)
    with pytest.raises(OSError, match="the store") as caught:
        fs.pipe_file(f"{root}/large", LARGE)
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"
    assert front.asked("POST", "/mpu/abort/")


def test_reads_go_to_the_store_by_ranges(front: Reverse, store: Proxy, base: str) -> None:
    fs, root = located(base)
    fs.pipe_file(f"{root}/large", LARGE)
    store.reset()
    with mlartifacts.open(f"{base}/large") as file:
        file.seek(7_000_000)
        assert file.read(1000) == LARGE[7_000_000:7_001_000]
    assert fs.cat_file(f"{root}/large", start=-10) == LARGE[-10:]
    got = sum(request.body for request in store.requests if request.method == "GET")
    assert got < 200_000
    asked = [request for request in store.requests if "X-Amz-Signature" in request.target]
    assert not any("authorization" in request.headers for request in asked)


@pytest.mark.parametrize("scheme", ["mlflow-artifacts", "runs"])
def test_many_ranges_ask_once_where_the_file_is(front: Reverse, base: str, scheme: str) -> None:
    fs, root = located(base if scheme != "runs" else f"runs:/{base.split('/')[2]}")
    paths = [f"{root}/large", f"{root}/small"]
    fs.pipe(dict(zip(paths, (LARGE, b"0123456789"), strict=True)))
    front.requests.clear()
    starts = [n * 500_000 for n in range(20)] + [1, 2, 3]
    ends = [start + 5 for start in starts]
    found = fs.cat_ranges([paths[0]] * 20 + [paths[1]] * 3, starts, ends)
    assert found[:20] == [LARGE[start : start + 5] for start in starts[:20]]
    assert found[20:] == [b"12345", b"23456", b"34567"]
    assert len(front.asked("GET", "/presigned/")) == 2
    missing = [f"{root}/missing"] * 5
    for error in fs.cat_ranges(missing, [0] * 5, [5] * 5):
        assert isinstance(error, FileNotFoundError)
        assert error.filename == missing[0]
    with pytest.raises(ValueError, match=r"^$"):
        fs.cat_ranges(missing, [0], [5] * 5)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(missing, [0] * 5, [5] * 5, on_error="raise")


def test_a_place_that_expires_among_ranges(front: Reverse, base: str) -> None:
    fs, root = located(base)
    fs.pipe_file(f"{root}/large", LARGE)
    served: list[Request] = []

    def expiring(request: Request) -> Answer | None:
        if "/presigned/" in request.path:
            place = f"{front.url}/place/{len(served)}"
            return Answer(200, json.dumps({"url": place, "file_size": len(LARGE)}).encode())
        if not request.path.startswith("/place/"):
            return None
        if int(request.path.rpartition("/")[2]) + 3 <= len(served):
            return Answer(403, b"<Error>Request has expired")
        served.append(request)
        first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
        return Answer(206, LARGE[int(first) : int(last) + 1])

    front.answer = expiring
    starts = range(0, 1000, 100)
    found = fs.cat_ranges(
        [f"{root}/large"] * 10, list(starts), [each + 5 for each in starts], batch_size=1
    )
    assert found == [LARGE[each : each + 5] for each in starts]
    assert len(front.asked("GET", "/presigned/")) == 4


def test_a_large_file_is_got_in_parts(
    front: Reverse, store: Proxy, base: str, tmp_path: Path
) -> None:
    fs, root = located(base)
    fs.pipe_file(f"{root}/large", LARGE)
    store.reset()
    store.cut_after = 3_000_000
    seen = Callback()
    fs.get_file(f"{root}/large", str(tmp_path / "got"), callback=seen)
    assert (tmp_path / "got").read_bytes() == LARGE
    assert seen.value == seen.size == len(LARGE)
    ranges = {request.headers.get("range") for request in store.requests}
    assert {"bytes=0-5299999", "bytes=5300000-10599999"} <= ranges


def test_a_url_that_expired_is_asked_for_again(front: Reverse, base: str) -> None:
    fs, root = located(base)
    fs.pipe_file(f"{root}/large", LARGE)
    expired = []

    def once(request: Request) -> Answer | None:
        if "/presigned/" in request.path and not expired:
            expired.append(request)
            body = f'{{"url": "{front.url}/expired", "file_size": {len(LARGE)}}}'
            return Answer(200, body.encode())
        if request.path == "/expired" and request.headers["Range"].startswith("bytes=0-"):
            head = {"Content-Range": f"bytes 0-99/{len(LARGE)}"}
            return Answer(206, LARGE[:100], head)
        return Answer(403, b"<Error>Request has expired") if request.path == "/expired" else None

    front.answer = once
    with fs.open(f"{root}/large") as file:
        assert file.read(10) == LARGE[:10]
        file.seek(5_000_000)
        assert file.read(10) == LARGE[5_000_000:5_000_010]
    assert len(front.asked("GET", "/presigned/")) == 2


def test_a_file_that_became_shorter(front: Reverse, base: str) -> None:
    """What the store says of a range that is not there is none of the file's bytes."""
    fs, root = located(base)
    fs.pipe_file(f"{root}/large", LARGE)
    place = json.dumps({"url": f"{front.url}/place", "file_size": len(LARGE)}).encode()
    gone = Answer(416, b"<Error>InvalidRange</Error>")
    begun = {"Content-Range": f"bytes 0-99/{len(LARGE)}"}

    def answer(request: Request) -> Answer | None:
        if "/presigned/" in request.path:
            return Answer(200, place)
        if request.path != "/place":
            return None
        first = request.headers["Range"].startswith("bytes=0-")
        return Answer(206, LARGE[:100], begun) if first else gone

    front.answer = answer
    with fs.open(f"{root}/large") as file:
        file.seek(5_000_000)
        with pytest.raises(OSError, match="no such bytes") as caught:
            file.read(len(gone.body))
    assert caught.value.errno == errno.ESTALE
    assert caught.value.filename == f"{root}/large"


def test_a_store_without_presigned_urls_is_read_through_the_server(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    fs, root = located(mlflow_server.new_root(), tracking_uri=mlflow_server.url)
    fs.pipe_file(f"{root}/file", b"data")
    with pytest.warns(RuntimeWarning, match="MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"):
        assert fs.cat_file(f"{root}/file") == b"data"
    assert fs.cat_file(f"{root}/file") == b"data"


# ---- Answers without ranges or lengths ---------------------------------------------------


@pytest.fixture
def staged(front: Reverse, base: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """A filesystem whose server knows no ranges: it sends what it got from its store."""
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    return located(base)


def test_a_server_without_ranges_is_noticed(
    staged: tuple[Any, str], on_s3: MlflowServer, base: str
) -> None:
    fs, root = staged
    data = LARGE * 5
    fs.pipe_file(f"{root}/large", data)
    with proxied(on_s3.url) as seen:
        fs, _ = located(base, tracking_uri=seen.url)
        tracemalloc.start()
        with fs.open(f"{root}/large") as file:
            for place in (59_000_000, 10, 30_000_000):
                file.seek(place)
                assert file.read(1000) == data[place : place + 1000]
        assert (
            fs.cat_file(f"{root}/large", start=30_000_000, end=30_000_010)
            == (data[30_000_000:30_000_010])
        )
        assert fs.cat_file(f"{root}/large", start=-10) == data[-10:]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < len(data) / 2
    assert len([r for r in seen.requests if r.target.endswith("/large")]) == 3


def test_what_a_server_without_ranges_has_not(staged: tuple[Any, str], front: Reverse) -> None:
    fs, root = staged
    fs.pipe({f"{root}/folder/file": b"x", f"{root}/empty": b""})
    front.requests.clear()
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{root}/missing")
    with pytest.raises(FileNotFoundError):
        fs.open(f"{root}/missing")
    # The server says 500 of a file that is not there, which is not worth trying again.
    assert len(front.asked("GET", "/missing")) == 2
    for read in (fs.cat_file, fs.open):
        with pytest.raises(IsADirectoryError):
            read(f"{root}/folder")
    assert fs.cat_file(f"{root}/empty") == b""
    assert fs.open(f"{root}/empty").read() == b""
    assert fs.cat_file(f"{root}/empty", start=5, end=9) == b""
    with pytest.raises(OSError, match="does not say when"):
        fs.modified(f"{root}/empty")


@pytest.mark.parametrize("how", ["cat_file", "open", "get_file"])
def test_a_short_answer_is_an_error(
    staged: tuple[Any, str], front: Reverse, how: str, tmp_path: Path
) -> None:
    """A server that failed midway ends its answer as one that is done."""
    fs, root = staged
    fs.pipe_file(f"{root}/file", b"0123456789")
    front.answer = lambda request: (
        Answer(200, b"01234", chunked=True) if request.path.endswith("/file") else None
    )
    target = tmp_path / "got"
    acts = {
        "cat_file": lambda: fs.cat_file(f"{root}/file"),
        "open": lambda: fs.open(f"{root}/file").read(),
        "get_file": lambda: fs.get_file(f"{root}/file", str(target)),
    }
    with pytest.raises(OSError, match="short read: 5 of 10 bytes") as caught:
        acts[how]()
    assert caught.value.filename == f"{root}/file"
    assert not target.exists()


def test_an_answer_that_breaks_off_is_asked_for_again(
    front: Reverse, store: Proxy, base: str, on_s3: MlflowServer, tmp_path: Path
) -> None:
    fs, root = located(base)
    fs.pipe_file(f"{root}/large", LARGE)
    with proxied(on_s3.url) as wire_cutter:
        again, _ = located(base, tracking_uri=wire_cutter.url, multipart_download=False)
        wire_cutter.cut_after = 1_000_000
        assert again.cat_file(f"{root}/large") == LARGE
        wire_cutter.cut_after = 1_000_000
        again.get_file(f"{root}/large", str(tmp_path / "got"))
        assert (tmp_path / "got").read_bytes() == LARGE


# ---- Who is asked, and told who asks -----------------------------------------------------


def test_an_old_server_says_nothing_of_itself(front: Reverse, store: Proxy, base: str) -> None:
    missing = Answer(404, b"<!doctype html><title>404 Not Found</title>")
    new = ("server-info", "/mpu/", "/presigned/")
    front.answer = lambda request: missing if any(n in request.path for n in new) else None
    fs, root = located(base)
    fs.pipe_file(f"{root}/large", LARGE)
    assert fs.cat_file(f"{root}/large") == LARGE
    assert len(front.asked("PUT")) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(
    mlflow_server: MlflowServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "told to one alone")
    base = mlflow_server.new_root()
    with (
        reverse_proxy.serve(mlflow_server.url) as there,
        reverse_proxy.serve(mlflow_server.url) as here,
    ):
        here.answer = lambda request: Answer(status, headers={"Location": there.url + request.path})
        fs, root = located(base, tracking_uri=here.url)
        direct, _ = located(base, tracking_uri=mlflow_server.url)
        direct.pipe_file(f"{root}/file", b"data")
        assert fs.cat_file(f"{root}/file") == b"data"
        if status in {307, 308}:
            fs.pipe_file(f"{root}/file", b"new")
            assert direct.cat_file(f"{root}/file") == b"new"
        else:
            with pytest.raises(OSError, match="elsewhere now") as caught:
                fs.pipe_file(f"{root}/file", b"new")
            assert there.url in str(caught.value)
            assert direct.cat_file(f"{root}/file") == b"data"
        assert {request.headers.get("Authorization") for request in there.requests} == {None}
        assert all("Authorization" in request.headers for request in here.requests)


REFUSED = b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>signed</StringToSign></Error>"


@pytest.mark.parametrize(
    ("status", "body", "number", "said"),
    [
        (403, REFUSED, errno.EACCES, "403 SignatureDoesNotMatch"),
        (404, b"<Error><Code>NoSuchKey</Code></Error>", errno.ENOENT, "404 NoSuchKey"),
        (404, b"<html>signed</html>", errno.EPROTO, "404"),
        (400, b"<html>signed</html>", errno.EIO, "400"),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "broken"}', errno.EIO, "500: broken"),
    ],
)
def test_who_it_is_that_refuses_after_a_redirect(
    mlflow_server: MlflowServer,
    status: int,
    body: bytes,
    number: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another host, which may be a store that is given a signed URL."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    base = mlflow_server.new_root()
    direct, root = located(base, tracking_uri=mlflow_server.url)
    direct.pipe_file(f"{root}/file", b"data")
    with (
        reverse_proxy.serve(mlflow_server.url) as there,
        reverse_proxy.serve(mlflow_server.url) as here,
    ):
        target = f"{there.url}/key?X-Amz-Signature=signed"
        is_file = lambda request: request.path.endswith("/file")  # noqa: E731
        here.answer = lambda request: (
            Answer(307, headers={"Location": target}) if is_file(request) else None
        )
        there.answer = lambda request: Answer(status, body)
        fs, _ = located(base, tracking_uri=here.url)
        for act in (
            lambda: fs.cat_file(f"{root}/file"),
            lambda: fs.pipe_file(f"{root}/file", b"new"),
        ):
            with pytest.raises(OSError, match=re.escape(f"says {said}")) as caught:
                act()
            assert caught.value.errno == number
            assert f"{there.url}, to which {here.url} redirects, says" in str(caught.value)
            assert "signed" not in str(caught.value)
            assert "MLFLOW_TRACKING" not in str(caught.value)


def test_a_large_file_is_redirected(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What passed is sent again by who has it, and what comes next goes there at once."""
    monkeypatch.setattr(engine, "_WAIT", 0.02)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "told to one alone")
    large = tmp_path / "large"
    large.write_bytes(TOLD)
    with (
        reverse_proxy.serve(mlflow_server.url) as there,
        reverse_proxy.serve(mlflow_server.url) as here,
    ):
        here.answer = lambda request: (
            Answer(307, headers={"Location": there.url + request.path})
            if request.method == "PUT"
            else None
        )
        base = mlflow_server.new_root()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", here.url)
        fs, root = located(base)
        mlartifacts.upload(large, f"{base}/one")
        mlartifacts.upload(large, f"{base}/two")
        assert (len(here.asked("PUT")), len(there.asked("PUT"))) == (1, 2)
        assert {"Authorization" in request.headers for request in there.requests} == {False}

        # Its own copies too; and who takes nothing any more is not asked for ever.
        there.answer = lambda request: Answer(410)
        with pytest.raises(OSError, match="says 410"):
            write_told(fs, f"{root}/three", TOLD)
        there.answer = lambda request: None
        fs.cp_file(f"{root}/two", f"{root}/three")
        assert (len(here.asked("PUT")), len(there.asked("PUT"))) == (2, 4)
        here.answer = lambda request: None
        assert fs.cat([f"{root}/one", f"{root}/two", f"{root}/three"]) == {
            f"{root}/{name}": TOLD for name in ("one", "two", "three")
        }


def test_a_busy_server_is_waited_for_before_a_large_file_passes_again(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as MLflow says, and not as a transfer does."""
    monkeypatch.setattr(engine, "_WAIT", 0.02)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    (tmp_path / "large").write_bytes(TOLD)
    busy = iter([{"Retry-After": "77"}, *[{}] * 6])
    answered, waits = [], []

    async def sleep(seconds: float) -> None:
        waits.append((seconds, len(answered)))

    instead(client, "sleep", sleep, monkeypatch)
    base = mlflow_server.new_root()
    with reverse_proxy.serve(mlflow_server.url) as front:

        def answer(request: Request) -> Answer | None:
            if not front.asked("PUT"):
                return None
            headers = next(busy, None)
            answered.append(headers)
            return None if headers is None else Answer(503, b"busy", headers)

        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        fs, root = located(base)
        front.answer = answer
        mlartifacts.upload(tmp_path / "large", f"{base}/large")
        assert len(front.asked("PUT")) == 2
        assert len(front.asked("GET", "server-info")) == 7
        assert fs.cat_file(f"{root}/large") == TOLD
    assert waits[0] == (77, 1), "as the server says, before it is asked again"
    assert [seconds for seconds, _ in waits[1:]] == [0] * 6, "as MLflow does"


def test_a_redirect_to_plain_text_is_refused(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    with reverse_proxy.serve(mlflow_server.url, certificates_in=tmp_path / "tls") as front:
        front.answer = lambda request: Answer(
            307, headers={"Location": mlflow_server.url + request.path}
        )
        fs, root = located(mlflow_server.new_root(), tracking_uri=front.url)
        with pytest.raises(OSError, match="plain text"):
            fs.cat_file(f"{root}/file")


def test_tls_and_a_prefix(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = mlflow_server.new_root()
    path = base.partition(":")[2].strip("/")
    with reverse_proxy.serve(mlflow_server.url, "/a/prefix", tmp_path / "tls") as front:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        authority = front.url.split("/")[2]
        with pytest.raises(ConnectionError, match="MLFLOW_TRACKING_SERVER_CERT_PATH"):
            mlartifacts.open(f"{base}/file").open()
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "tls" / "ca.pem"))
        over_https = f"{front.url}{wire.ARTIFACTS}/{path}"
        uris = [base, f"mlflow-artifacts://{authority}/{path}", over_https]
        for number, uri in enumerate(uris):
            with mlartifacts.open(f"{uri}/a b", "wb") as file:
                file.write(bytes([number]))
            for same in uris:
                with mlartifacts.open(f"{same}/a b") as file:
                    assert file.read() == bytes([number])
                with fsspec.open(mlartifacts.to_url(f"{same}/a b")) as file:
                    assert file.read() == bytes([number])
        fs, root = located(over_https)
        assert root == path
        assert fs.unstrip_protocol(f"{root}/x") == f"{over_https}/x"
        assert fs.ls(over_https, detail=False) == [f"{root}/a b"]
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        assert mlartifacts.open(f"{over_https}/a b").open().read() == b"\x02"


def test_who_is_not_trusted(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server, or the store that its presigned URLs lead to: another variable each."""
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    with (
        reverse_proxy.serve(mlflow_server.url) as front,
        reverse_proxy.serve(mlflow_server.url, certificates_in=tmp_path / "tls") as store,
    ):
        given = json.dumps({"url": f"{store.url}/x?X-Amz-Signature=secret", "file_size": 1})
        front.answer = lambda request: Answer(200, given.encode())
        for server, named in (
            (front.url, "AWS_CA_BUNDLE"),
            (store.url, "MLFLOW_TRACKING_SERVER_CERT_PATH"),
        ):
            fs, _ = located("mlflow-artifacts:/", tracking_uri=server)
            with pytest.raises(ConnectionError, match=f"not trusted.*{named} can") as caught:
                fs.cat_file("x")
            assert "object at" not in str(caught.value)
            assert "secret" not in str(caught.value)
            assert caught.value.filename == "x"
        plain = front.url.replace("http:", "https:")
        fs, _ = located("mlflow-artifacts:/", tracking_uri=plain)
        with pytest.raises(ConnectionError, match="no connection to 127.0.0.1") as caught:
            fs.cat_file("x")
        assert "object at" not in str(caught.value)


def test_a_login_in_the_uri(mlflow_server: MlflowServer) -> None:
    base = mlflow_server.new_root()
    path = base.partition(":")[2].strip("/")
    with reverse_proxy.serve(mlflow_server.url) as front:
        authority = front.url.partition("://")[2]
        for uri in (
            f"mlflow-artifacts://user:p%40ss@{authority}/{path}",
            f"http://user:p%40ss@{authority}{wire.ARTIFACTS}/{path}",
        ):
            fs, root = located(uri)
            fs.pipe_file(f"{root}/file", b"x")
            assert "p@ss" not in f"{fs!r}{fs.to_json()}{fs.unstrip_protocol(root)}"
            assert "p%40ss" not in f"{fs!r}{fs.to_json()}{fs.unstrip_protocol(root)}"
        logins = {request.headers["Authorization"] for request in front.requests}
        assert logins == {"Basic dXNlcjpwQHNz"}


def test_another_server_is_not_told_who_asks_unless_the_caller_names_it(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody who may make an experiment chooses where its runs' artifacts lie."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of the tracking server")
    with (
        reverse_proxy.serve(mlflow_server.url) as other,
        reverse_proxy.serve(mlflow_server.url) as tracking,
    ):
        # Older servers take such a place; MLflow 3.17's refuses it.
        elsewhere = other.url.replace("127.0.0.1", "localhost").replace("http", "mlflow-artifacts")
        run = {"run_id": "abc", "artifact_uri": f"{elsewhere}/root"}
        told_of = {"run": {"info": {**run, "experiment_id": "0"}}}
        tracking.answer = lambda request: Answer(200, json.dumps(told_of).encode())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.url)
        with mlartifacts.open(f"runs:/{run['run_id']}/file", "w") as file:
            file.write("x")
        told = {request.headers.get("Authorization") for request in other.requests}
        assert told == {None}
        other.answer = lambda request: Answer(401)
        with pytest.raises(PermissionError, match="anon=False"):
            mlartifacts.open(f"runs:/{run['run_id']}/file").open()
        other.answer = lambda request: None
        other.requests.clear()
        with mlartifacts.open(f"runs:/{run['run_id']}/file", anon=False) as file:
            file.read()
        with mlartifacts.open(f"{run['artifact_uri']}/file") as file:
            file.read()
        told = {request.headers.get("Authorization") for request in other.requests}
        assert told == {"Bearer of the tracking server"}


@pytest.mark.parametrize("token", [None, "of the environment"])
def test_no_login_is_read_from_netrc(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    netrc = Path.home() / ".netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    netrc.chmod(0o600)
    if token:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    with reverse_proxy.serve(mlflow_server.url) as front:
        base = mlflow_server.new_root()
        for anon in (False, True):
            front.requests.clear()
            fs, root = located(base, tracking_uri=front.url, anon=anon)
            fs.pipe_file(f"{root}/file", b"x")
            told = {request.headers.get("Authorization") for request in front.requests}
            assert told == {f"Bearer {token}" if token and not anon else None}


def test_the_networks_own_proxy_makes_a_tunnel(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears of the host, and of nothing that is said to it."""
    base = mlflow_server.new_root()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of the server")
    with (
        reverse_proxy.serve(mlflow_server.url, certificates_in=tmp_path / "tls") as front,
        reverse_proxy.serve("http://nobody.invalid") as network,
    ):
        authority = network.url.partition("://")[2]
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@{authority}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "tls" / "ca.pem"))
        fs, root = located(base)
        fs.pipe_file(f"{root}/file", b"data")
        assert fs.cat_file(f"{root}/file") == b"data"
        mlartifacts.resolve(f"runs:/{base.split('/')[2]}")  # asked by the standard library
        assert {request.headers["Authorization"] for request in front.requests} == {
            "Bearer of the server"
        }
        assert {request.method for request in network.requests} == {"CONNECT"}
        asked = front.url.partition("://")[2]
        for request in network.requests:
            assert request.path == asked
            assert request.headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"
            assert "Authorization" not in request.headers


def test_the_networks_own_proxy(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = mlflow_server.new_root()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.invalid")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of the server")
    with reverse_proxy.serve(mlflow_server.url) as network:
        network.whole_urls = True
        authority = network.url.partition("://")[2]
        for variable, named in (
            ("HTTP_PROXY", f"http://user:p%40ss@{authority}"),
            ("http_proxy", authority),
        ):
            monkeypatch.setenv(variable, named)
            fs, root = located(base, anon=variable == "http_proxy")
            fs.pipe_file(f"{root}/file", b"x")
            assert fs.cat_file(f"{root}/file") == b"x"
        told = {request.headers.get("Proxy-Authorization") for request in network.requests}
        assert told == {"Basic dXNlcjpwQHNz", None}
        told = {request.headers.get("Authorization") for request in network.requests}
        assert told == {"Bearer of the server", None}
        network.requests.clear()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        direct, _ = located(base, tracking_uri=mlflow_server.url)
        assert direct.cat_file(f"{root}/file") == b"x"
        assert network.requests == []
        monkeypatch.setenv("http_proxy", "http://user:secret@host:port")
        with pytest.raises(InvalidConfig, match="HTTP_PROXY") as caught:
            fs.cat_file(f"{root}/file")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["new\nline", "tab\t", "nul\0", "half \udcff", "del\x7f"])
def test_names_that_are_no_text(front: Reverse, base: str, name: str, tmp_path: Path) -> None:
    fs, root = located(base)
    (tmp_path / "local").write_bytes(b"x")
    for act in (
        lambda path: fs.pipe_file(path, b"x"),
        lambda path: fs.put_file(str(tmp_path / "local"), path),
        lambda path: fs.open(path, "wb"),
        lambda path: fs.cat_file(path),
        lambda path: fs.open(path),
        lambda path: fs.ls(path),
        lambda path: fs.rm(path),
    ):
        with pytest.raises(OSError, match="control character") as caught:
            act(f"{root}/{name}")
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == f"{root}/{name}"
    assert not fs.exists(f"{root}/{name}")
    assert front.asked("PUT") == front.asked("DELETE") == []


# ---- Loops -------------------------------------------------------------------------------


def test_every_loop_has_connections_of_its_own(front: Reverse, base: str) -> None:
    async def main(closing: bool) -> Any:
        fs, root = located(base, asynchronous=True)
        paths = [f"{root}/{number}" for number in range(5)]
        # Who is asked what the server offers waits for one lock.
        fs._offered = None
        await fs._pipe(dict.fromkeys(paths, b"x"))
        assert await fs._cat(paths) == dict.fromkeys(paths, b"x")
        if closing:
            await (await fs.set_session()).close()
            fs._offered = None
            assert await fs._cat(paths) == dict.fromkeys(paths, b"x")
        assert await fs.set_session() is await fs.set_session()
        await (await fs.set_session()).close()
        return fs

    first, second, third = (asyncio.run(main(closing)) for closing in (False, True, False))
    assert first is second is third
    assert len(first.client._sessions._made) == 1, "of loops that have ended"
    fs, root = located(base)
    assert fs.cat_file(f"{root}/1") == b"x"


def test_two_loops_at_once(front: Reverse, base: str) -> None:
    fs, root = located(base, asynchronous=True)
    here = threading.Barrier(2)

    async def main() -> None:
        assert not await fs._exists(root)
        here.wait(10)
        await fs._pipe_file(f"{root}/{threading.get_ident()}", b"x")
        here.wait(10)
        await (await fs.set_session()).close()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(asyncio.run, main()) for _ in range(2)]:
            done.result()


# ---- Bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "tracking", "error", "match"),
    [
        ("mlflow-artifacts:/a", None, InvalidConfig, "MLFLOW_TRACKING_URI"),
        ("mlflow-artifacts:/a", "sqlite:///x.db", InvalidConfig, "sqlite"),
        ("mlflow-artifacts:/a", "/mlruns", InvalidConfig, "MLFLOW_TRACKING_URI"),
        ("mlflow-artifacts://5000/a", "http://h", InvalidURI, "port and no host"),
        ("mlflow-artifacts://h:port/a", "http://h", InvalidURI, "port"),
        ("mlflow-artifacts:/a/../../b", "http://h", InvalidURI, "climbs"),
        (f"http://h{wire.ARTIFACTS}/../../x", None, InvalidURI, "climbs"),
    ],
)
def test_bad_uris(uri: str, tracking: str | None, error: type[Exception], match: str) -> None:
    options = {} if tracking is None else {"tracking_uri": tracking}
    with pytest.raises(error, match=match):
        mlartifacts.url_to_fs(uri, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "perhaps"),
        ("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "perhaps"),
        ("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "large"),
        ("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", "0"),
        ("MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE", "-1"),
        ("AWS_CA_BUNDLE", "/not/there"),
    ],
)
def test_bad_settings(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidConfig, match=name):
        mlartifacts.url_to_fs("mlflow-artifacts:/a")


def test_defaults() -> None:
    options = mlartifacts.locate("mlflow-artifacts:/a").options
    assert options["multipart_upload_minimum_file_size"] == 500 * 2**20
    assert options["multipart_upload_chunk_size"] == 100 * 2**20
    assert options["multipart_download_chunk_size"] == 100 * 2**20


def test_a_file_and_a_directory_of_one_name(front: Reverse, base: str) -> None:
    """As an object store can have them; the server would delete both."""
    fs, root = located(base)
    fs.pipe({f"{root}/both": b"file", f"{root}/both/below": b"x"})
    assert fs.isfile(f"{root}/both")
    with pytest.raises(IsADirectoryError):
        fs.rm(f"{root}/both")
    assert fs.cat_file(f"{root}/both/below") == b"x"
    assert fs.cat_file(f"{root}/both") == b"file"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>log in</html>", {"Content-Type": "text/html"}),
        Answer(200, b"", {"Content-Type": "text/html; charset=utf-8"}),
        Answer(200, b"[]"),
        Answer(202, b""),
        Answer(204, b""),
    ],
    ids=["a page", "an empty page", "no object", "later", "nothing"],
)
def test_an_upload_that_something_else_answers(
    answer: Answer, front: Reverse, base: str, tmp_path: Path
) -> None:
    """What was there before, of the same size, is not taken for it."""
    (tmp_path / "file").write_bytes(b"old")
    mlartifacts.upload(tmp_path / "file", f"{base}/file")
    (tmp_path / "file").write_bytes(b"new")
    front.answer = lambda request: answer if request.method == "PUT" else None
    fs, path = mlartifacts.url_to_fs(f"{base}/file")
    with pytest.raises(TransferError, match="no MLflow server"):
        mlartifacts.upload(tmp_path / "file", f"{base}/file")
    with pytest.raises(OSError, match="no MLflow server"):
        fs.pipe_file(path, b"new")
    with pytest.raises(OSError, match="no MLflow server"), fs.open(path, "wb") as file:
        file.write(b"new")
    assert fs.cat_file(path) == b"old"
