"""Errors are the builtins, with the name of what they are about, and say nothing secret."""

from __future__ import annotations

import errno
import http.server
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.stores.azure import filesystem as azure
from tests.contract.stores import Harbour, Place, set_for
from tests.servers.silent import Hanging


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its causes and contexts."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def assert_no_secret(error: BaseException, harbour: Harbour) -> None:
    for link in chain(error):
        for secret in harbour.secrets:
            assert secret not in f"{link} {link!r} {link.args} {vars(link)}", type(link)


READS: dict[str, Callable[[Any, str], object]] = {
    "open": lambda fs, path: fs.open(path, "rb"),
    "cat": lambda fs, path: fs.cat(path),
    "cat_file": lambda fs, path: fs.cat_file(path),
    "cat_file range": lambda fs, path: fs.cat_file(path, start=0, end=5),
    "cat_file tail": lambda fs, path: fs.cat_file(path, start=-5),
    "info": lambda fs, path: fs.info(path),
    "ls": lambda fs, path: fs.ls(path),
    "size": lambda fs, path: fs.size(path),
    "modified": lambda fs, path: fs.modified(path),
    "get_file": lambda fs, path: fs.get_file(path, "/tmp/mlartifacts-not-written"),
}

WRITES: dict[str, Callable[[Any, str], object]] = {
    "rm": lambda fs, path: fs.rm(path),
    "cp_file": lambda fs, path: fs.cp_file(path, f"{path}-copy"),
    "cp": lambda fs, path: fs.cp(path, f"{path}-copy"),
    "mv": lambda fs, path: fs.mv(path, f"{path}-moved"),
}


@pytest.mark.parametrize("act", READS.values(), ids=READS)
def test_missing_to_read(
    harbour: Harbour, fs: Any, root: str, act: Callable[[Any, str], object]
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        act(fs, harbour.signed(f"{root}/missing"))
    assert "missing" in str(caught.value.filename)
    assert caught.value.errno == errno.ENOENT
    assert_no_secret(caught.value, harbour)


@pytest.mark.writes
@pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)
def test_missing_to_change(
    harbour: Harbour, fs: Any, root: str, act: Callable[[Any, str], object]
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        act(fs, harbour.signed(f"{root}/missing"))
    assert "missing" in str(caught.value.filename)
    assert harbour.stored() == {}
    assert_no_secret(caught.value, harbour)


def test_missing_by_uri(harbour: Harbour) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        with mlartifacts.open(harbour.signed(harbour.uri("missing")), **harbour.options) as file:
            file.read()
    assert "missing" in str(caught.value.filename)
    assert_no_secret(caught.value, harbour)


def test_a_missing_name_with_characters_of_patterns(harbour: Harbour) -> None:
    for name in ("a[1].txt", "a*.txt"):
        opened = mlartifacts.open(harbour.uri(name), **harbour.options)
        with pytest.raises(FileNotFoundError) as caught, opened as file:
            file.read()
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename


def test_directory_opened_as_a_file(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"folder/file": b"x"})
    for read in (
        lambda: fs.cat_file(f"{root}/folder"),
        lambda: fs.open(f"{root}/folder", "rb").read(),
    ):
        with pytest.raises(IsADirectoryError) as caught:
            read()
        assert "folder" in str(caught.value.filename)


@pytest.mark.writes
def test_directory_written_as_a_file(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"folder/file": b"x"})
    with pytest.raises(IsADirectoryError):
        with fs.open(f"{root}/folder", "wb") as file:
            file.write(b"not a folder")
    assert harbour.stored() == {"folder/file": b"x"}


@pytest.mark.writes
def test_file_used_as_a_directory(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"file": b"x"})
    with pytest.raises(OSError, match=r".") as caught:
        with fs.open(f"{root}/file/below", "wb") as file:
            file.write(b"y")
    assert caught.value.filename
    assert harbour.stored() == {"file": b"x"}


def test_root_that_is_not_there(harbour: Harbour) -> None:
    fs, root = mlartifacts.url_to_fs(harbour.missing_root, **harbour.options)
    for act in (fs.ls, fs.info, fs.cat_file):
        with pytest.raises(FileNotFoundError) as caught:
            act(f"{root}/file")
        assert caught.value.filename
    assert not fs.exists(f"{root}/file")


def test_get_a_tree_that_is_not_there(harbour: Harbour, fs: Any, root: str, tmp_path: Path) -> None:
    harbour.seed({"file": b"x"})
    with pytest.raises(FileNotFoundError) as caught:
        fs.get(f"{root}/missing", str(tmp_path / "got"), recursive=True)
    assert caught.value.filename == f"{root}/missing"


@pytest.mark.writes
def test_copy_a_tree_to_a_root_that_is_not_there(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed(
        {"tree/one": b"1", "tree/deep/two": b"2", "tree": b"3"}
        if not harbour.directories
        else {"tree/one": b"1", "tree/deep/two": b"2"}
    )
    elsewhere = fs._strip_protocol(harbour.missing_root)
    if harbour.directories:
        fs.copy(f"{root}/tree", f"{elsewhere}/copy", recursive=True)
        assert fs.cat_file(f"{elsewhere}/copy/deep/two") == b"2"
        fs.rm(elsewhere, recursive=True)
        return
    with pytest.raises(FileNotFoundError) as caught:
        fs.copy(f"{root}/tree/", f"{elsewhere}/copy", recursive=True)
    assert caught.value.filename


@pytest.mark.writes
def test_write_to_a_root_that_is_not_there(harbour: Harbour) -> None:
    """A bucket must be there; a directory is made, as MLflow makes it."""
    fs, root = mlartifacts.url_to_fs(harbour.missing_root, **harbour.options)
    if harbour.directories:
        fs.pipe_file(f"{root}/file", b"x")
        assert fs.cat_file(f"{root}/file") == b"x"
        fs.rm(root, recursive=True)
        return
    for write in (
        lambda: fs.pipe_file(f"{root}/file", b"x"),
        lambda: write_by_open(fs, f"{root}/file"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            write()
        assert caught.value.filename


def write_by_open(fs: Any, path: str) -> None:
    with fs.open(path, "wb") as file:
        file.write(b"x")


# ---- Credentials -------------------------------------------------------------------------


@pytest.mark.remote
def test_wrong_credentials(harbour: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    harbour.seed({"file": b"x"})
    place = harbour.wrong_credentials()
    if place is None:
        return  # see test_forbidden
    with set_for(place, monkeypatch) as options, pytest.raises(PermissionError) as caught:
        mlartifacts.open(place.uri, **harbour.options, **options).open().read()
    assert_no_secret(caught.value, harbour)
    with set_for(place, monkeypatch) as options, pytest.raises(PermissionError):
        # Whoever may not look must not be told that there is nothing.
        fs, path = mlartifacts.url_to_fs(place.uri, **harbour.options, **options)
        fs.exists(path)


@pytest.fixture(params=[401, 403])
def forbidding(request: pytest.FixtureRequest) -> Iterator[http.server.ThreadingHTTPServer]:
    """A web server that refuses whatever it is asked."""
    status = request.param

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = refuse  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.mark.over_http
def test_forbidden(
    harbour: Harbour,
    forbidding: http.server.ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = harbour.elsewhere("127.0.0.1", forbidding.server_address[1])
    with set_for(place, monkeypatch) as options:
        fs, path = mlartifacts.url_to_fs(place.uri, **harbour.options, **options)
        for act in (fs.cat_file, fs.info, fs.ls, fs.exists, lambda p: fs.open(p).read()):
            with pytest.raises(PermissionError) as caught:
                act(path)
            assert caught.value.filename
            assert_no_secret(caught.value, harbour)
        if harbour.writable:
            with pytest.raises(PermissionError):
                fs.pipe_file(path, b"x")


# ---- A server that is down, or hangs -----------------------------------------------------


def attempts(place: Place, options: dict[str, Any], writable: bool) -> list[Callable[[], object]]:
    """What must fail at `place`, from the very start each time."""

    def located() -> tuple[Any, str]:
        return mlartifacts.url_to_fs(place.uri, **options)

    def read() -> None:
        with mlartifacts.open(place.uri, **options) as file:
            file.read()

    def exists() -> None:
        fs, path = located()
        fs.exists(path)

    def listing() -> None:
        fs, path = located()
        fs.ls(path)

    def write() -> None:
        with mlartifacts.open(place.uri, "wb", **options) as file:
            file.write(b"x")

    return [read, exists, listing, *([write] if writable else [])]


@pytest.mark.remote
def test_server_down(harbour: Harbour, refused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place = harbour.elsewhere("127.0.0.1", refused_port)
    monkeypatch.setattr(azure, "_WAIT", 0.01)  # between its client's tries
    with set_for(place, monkeypatch) as options:
        options = {**harbour.options, **options}
        for attempt in attempts(place, options, harbour.writable):
            with pytest.raises(OSError, match=r".") as caught:
                attempt()
            assert not isinstance(caught.value, FileNotFoundError)
            assert isinstance(caught.value, ConnectionError)
            assert caught.value.filename
            assert_no_secret(caught.value, harbour)


@pytest.mark.remote
def test_server_that_hangs(
    harbour: Harbour, hanging_server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = harbour.elsewhere(hanging_server.host, hanging_server.port)
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    with set_for(place, monkeypatch) as options:
        options = {**harbour.options, **options}
        tries = attempts(place, options, harbour.writable)
        for attempt in (tries[0], tries[-1]):
            before = len(hanging_server.accepted)
            with pytest.raises(TimeoutError) as caught:
                attempt()
            # Not as often as the drivers ask by themselves. A JVM does so for each of its calls.
            most = 5 if harbour.name == "hdfs" else 2
            assert len(hanging_server.accepted) - before <= most
            assert caught.value.filename
            assert_no_secret(caught.value, harbour)
    assert hanging_server.accepted


@pytest.mark.over_http
@pytest.mark.writes
@pytest.mark.skipif(sys.platform != "linux", reason="other systems wait for as long as they like")
def test_server_that_takes_nothing(
    harbour: Harbour, hanging_server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than the system's buffers hold, which no answer is waited for yet."""
    place = harbour.elsewhere(hanging_server.host, hanging_server.port)
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    with set_for(place, monkeypatch) as options:
        fs, path = mlartifacts.url_to_fs(place.uri, **{**harbour.options, **options})
        with pytest.raises(TimeoutError) as caught:
            fs.pipe_file(path, b"x" * 30_000_000)
        assert 0 < len(hanging_server.accepted) <= 4
        assert caught.value.filename
        assert_no_secret(caught.value, harbour)


# ---- URIs that cannot be used ------------------------------------------------------------


def test_bad_uris(harbour: Harbour) -> None:
    for uri in (
        f"{harbour.base}/../../../../../../../../../..",
        f"{harbour.base}/a/../../../../../../../../../../../b",
        f"{harbour.base}/nul\0",
        f"{harbour.base}/new\nline",
    ):
        for act in (mlartifacts.locate, mlartifacts.url_to_fs, mlartifacts.open):
            with pytest.raises(mlartifacts.InvalidURI) as caught:
                act(uri, **harbour.options)
            assert_no_secret(caught.value, harbour)


@pytest.mark.remote
def test_no_host(harbour: Harbour) -> None:
    for uri in (f"{harbour.scheme}://", f"{harbour.scheme}:///file", f"{harbour.scheme}:/file"):
        with pytest.raises(mlartifacts.InvalidURI):
            mlartifacts.url_to_fs(uri, **harbour.options)


@pytest.mark.remote
def test_port_that_is_no_number(harbour: Harbour) -> None:
    for port in ("many", "0", "65536", "-1", "²"):
        with pytest.raises(mlartifacts.InvalidURI):
            mlartifacts.url_to_fs(f"{harbour.scheme}://host:{port}/file", **harbour.options)


def test_bad_modes(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"file": b"x"})
    with pytest.raises((ValueError, NotImplementedError)):
        fs.open(f"{root}/file", "qb")
    assert harbour.stored() == {"file": b"x"}
