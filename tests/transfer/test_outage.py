"""Failures that every file would meet, and waits for servers that say nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.errors import TransferError, of_store
from mlartifacts.transfer import engine, removing
from mlartifacts.transfer.outage import Outage
from mlartifacts.transfer.trees import End
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.process import LOOPBACK
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.servers.silent import Hanging
from tests.transfer.conftest import Line, behind
from tests.transfer.trees import plant

Opened = Callable[[str], Harbour]

OVER_HTTP = ("s3", "wasbs", "gcs", "mlflow-artifacts")
#: More than are moved at once.
MANY = {f"file-{number:03}": b"x" * 100 for number in range(3 * engine._CARRIED_AT_ONCE)}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return plant(tmp_path / "here", MANY)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between two tries."""
    monkeypatch.setattr(engine, "_WAIT", 0.02)


@pytest.fixture
def before(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Harbour, Reverse]]]:
    """Give a store by its name, and a proxy in front of it that counts requests."""
    with contextlib.ExitStack() as stack:

        def open_(name: str) -> tuple[Harbour, Reverse]:
            store = opened(name)
            proxy = stack.enter_context(reverse_proxy.serve(store.server.url))
            port = urllib.parse.urlsplit(proxy.url).port
            assert port is not None
            behind(store, LOOPBACK, port, monkeypatch)
            return store, proxy

        yield open_


def failures(act: Callable[[], object]) -> dict[str, Any]:
    """The causes of an upload that fails for each file, each about that file."""
    with pytest.raises(TransferError) as caught:
        act()
    found = caught.value.failures
    assert found.keys() == MANY.keys()
    assert all(cause.filename.endswith(name) for name, cause in found.items())
    assert len({id(cause) for cause in found.values()}) == len(MANY)
    return found


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_file_that_met_silence_is_followed_when_more_is_known(is_silent: bool) -> None:
    """And by none at all, if the others that are on their way met it, too."""
    outage = Outage()
    begun = [outage.begin() for _ in range(2)]
    outage.fail(TimeoutError("no answer"), begun[0])
    with concurrent.futures.ThreadPoolExecutor() as pool:
        next_one = pool.submit(outage.begin)
        assert not concurrent.futures.wait([next_one], 0.05).done
        if is_silent:
            outage.fail(TimeoutError("no answer"), begun[1])
        else:
            outage.arrive()
        next_one.result()
        assert (outage.error is not None) == is_silent
        outage.begin()  # which does not wait


# ---- What is wrong for all ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs"])
def test_a_bucket_that_is_not_there(
    name: str, before: Callable[[str], tuple[Harbour, Reverse]], here: Path
) -> None:
    store, proxy = before(name)
    base = urllib.parse.urlsplit(store.base)
    away = base._replace(netloc=f"away-{base.netloc}", path="/tree").geturl()
    found = failures(lambda: mlartifacts.upload(here, away))
    assert all(isinstance(cause, FileNotFoundError) for cause in found.values())
    assert all("away-" in str(cause.strerror) for cause in found.values())
    assert 0 < len(proxy.requests) <= 2 * engine._CARRIED_AT_ONCE


#: Answers to a login that is refused.
_REFUSALS = {
    "s3": Answer(403, b"<Error><Code>InvalidAccessKeyId</Code><Message>No.</Message></Error>"),
    "wasbs": Answer(
        403,
        b"<Error><Code>AuthenticationFailed</Code><Message>No.</Message></Error>",
        {"x-ms-error-code": "AuthenticationFailed", "Content-Type": "application/xml"},
    ),
    "mlflow-artifacts": Answer(401, b"You are not authenticated."),
}


@pytest.mark.parametrize("name", sorted(_REFUSALS))
def test_a_login_that_is_refused(
    name: str, before: Callable[[str], tuple[Harbour, Reverse]], here: Path
) -> None:
    store, proxy = before(name)
    proxy.answer = lambda request: _REFUSALS[name]
    found = failures(lambda: mlartifacts.upload(here, store.uri("tree")))
    assert all(isinstance(cause, PermissionError) for cause in found.values())
    assert 0 < len(proxy.requests) <= 2 * engine._CARRIED_AT_ONCE


@pytest.mark.parametrize("name", ["ftp", "sftp"])
def test_a_login_that_a_server_of_files_refuses(
    name: str, line: Callable[[str], Line], here: Path
) -> None:
    wire = line(name)
    parts = urllib.parse.urlsplit(wire.uri("tree"))
    nobody = parts._replace(netloc=f"nobody:wrong@{parts.hostname}:{parts.port}").geturl()
    found = failures(lambda: mlartifacts.upload(here, nobody))
    assert all(isinstance(cause, PermissionError) for cause in found.values())
    assert 0 < wire.proxy.connections <= (2 if name == "sftp" else 16)


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs", "mlflow-artifacts", "sftp", "ftp"])
def test_a_server_that_is_not_there(
    name: str,
    opened: Opened,
    here: Path,
    refused_port: int,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = opened(name)
    place = store.elsewhere(LOOPBACK, refused_port)
    for variable, value in place.env.items():
        monkeypatch.setenv(variable, value)
    tried: list[str] = []
    once = engine.Engine._once

    def counted(self: Any, file: Any, name: str, *args: Any) -> Any:
        tried.append(name)
        return once(self, file, name, *args)

    monkeypatch.setattr(engine.Engine, "_once", counted)
    found = failures(lambda: mlartifacts.upload(here, f"{place.uri.rpartition('/')[0]}/tree"))
    assert all(isinstance(cause, ConnectionError) for cause in found.values())
    assert len(set(tried)) <= 2 * engine._CARRIED_AT_ONCE


def test_objects_that_are_refused_one_by_one(
    before: Callable[[str], tuple[Harbour, Reverse]], here: Path
) -> None:
    """The rest arrives: a policy may allow a part of a bucket."""
    store, proxy = before("s3")
    denied = Answer(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
    refused = sorted(MANY)[:-10]

    def answer(request: Request) -> Answer | None:
        is_refused = request.path.rpartition("/")[2] in refused
        return denied if is_refused and request.method == "PUT" else None

    proxy.answer = answer
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here, store.uri("tree"))
    assert sorted(caught.value.failures) == refused
    assert len(store.stored()) == 10


# ---- Silence -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs", "mlflow-artifacts", "sftp", "ftp"])
def test_a_server_that_says_nothing(
    name: str,
    opened: Opened,
    here: Path,
    hanging_server: Hanging,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is waited for by as many files as are moved at once, however many there are."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    store = opened(name)
    place = store.elsewhere(hanging_server.host, hanging_server.port)
    for variable, value in place.env.items():
        monkeypatch.setenv(variable, value)
    found = failures(lambda: mlartifacts.upload(here, f"{place.uri.rpartition('/')[0]}/tree"))
    assert all(isinstance(cause, TimeoutError) for cause in found.values())
    # Each may ask once more for what it is to leave behind.
    assert 0 < len(hanging_server.accepted) <= 2 * engine._CARRIED_AT_ONCE


@pytest.mark.parametrize("act", ["upload", "download", "cached"])
def test_a_server_that_falls_silent_amid_many(
    act: str, line: Callable[[str], Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way waits, and nothing is asked after it: not for another file, nor of all."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("mlartifacts.transfer.outage._DOUBT", 10)  # on a machine that is busy
    wire, size = line("wasbs"), 20_000
    many = {f"file-{number}": bytes(size) for number in range(50)}
    here = plant(tmp_path / "here", many)
    if act != "upload":
        wire.store.seed({f"tree/{name}": data for name, data in many.items()})
    acts = {
        "upload": lambda: mlartifacts.upload(here, wire.uri("tree")),
        "download": lambda: mlartifacts.download(wire.uri("tree"), tmp_path / "there"),
        "cached": lambda: mlartifacts.cached(wire.uri("tree")),
    }
    wire.proxy.swallow_after = 6_000 if act == "upload" else 10 * size
    with pytest.raises(TransferError, match="no answer") as caught:
        acts[act]()
    assert all(e.filename.endswith(name) for name, e in caught.value.failures.items())
    in_vain = [
        each
        for each in wire.proxy.requests
        if not each.status or ("file-" in each.target and act != "upload" and each.body < size)
    ]
    assert 0 < len(in_vain) <= mlartifacts.url_to_fs(wire.uri())[0].files_at_once


@pytest.mark.parametrize("name", [*OVER_HTTP, "sftp", "hdfs-native"])
def test_a_slow_line_is_not_silent(
    name: str, line: Callable[[str], Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes longer than the wait goes on as long as something passes."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    native = name == "hdfs-native"
    wire = line("hdfs" if native else name)
    data = bytes(range(256)) * 7000
    wire.store.seed({"stored": data})
    wire.proxy.rate = wire.bulk.rate = 1_500_000
    fs, root = mlartifacts.url_to_fs(wire.uri(), **({"driver": name} if native else {}))
    assert fs.cat_file(f"{root}/stored") == data
    with fs.open(f"{root}/stored") as file:
        assert file.read() == data
    fs.get_file(f"{root}/stored", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == data
    if not native:  # it does not say how much of a write has arrived
        fs.pipe_file(f"{root}/piped", data)
        fs.put_file(str(tmp_path / "got"), f"{root}/put")
        wire.proxy.rate = wire.bulk.rate = None
        assert fs.cat_file(f"{root}/piped") == fs.cat_file(f"{root}/put") == data


@pytest.mark.parametrize("name", ["gcs", "sftp", "ftp"])
def test_a_server_that_says_nothing_of_deletions(
    name: str, opened: Opened, hanging_server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    place = opened(name).elsewhere(hanging_server.host, hanging_server.port)
    for variable, value in place.env.items():
        monkeypatch.setenv(variable, value)
    end = End(*mlartifacts.url_to_fs(f"{place.uri.rpartition('/')[0]}/tree"))
    found = failures(lambda: removing.remove(end, MANY))
    assert all(isinstance(cause, TimeoutError) for cause in found.values())
    assert 0 < len(hanging_server.accepted) <= 2 * engine._CARRIED_AT_ONCE


def test_a_server_that_says_nothing_of_many_at_once(
    opened: Opened, hanging_server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    place = opened("s3").elsewhere(hanging_server.host, hanging_server.port)
    for variable, value in place.env.items():
        monkeypatch.setenv(variable, value)
    end = End(*mlartifacts.url_to_fs(f"{place.uri.rpartition('/')[0]}/tree"))
    monkeypatch.setattr(type(end.fs), "removed_together", lambda self, path: 2)
    with pytest.raises(TransferError) as caught:
        removing.remove(end, MANY)
    assert caught.value.failures.keys() == MANY.keys()
    assert 0 < len(hanging_server.accepted) <= 3 * removing._TOGETHER_AT_ONCE


def test_what_tells_of_a_whole_store() -> None:
    silent, lost = TimeoutError(errno.ETIMEDOUT, "silent"), ConnectionError(errno.EPIPE, "lost")
    gone, login = FileNotFoundError(errno.ENOENT, "gone"), of_store(PermissionError(13, "login"))
    for first, second, arrives, error in (
        (silent, silent, False, silent),
        (silent, silent, True, None),
        (gone, silent, False, None),
        (lost, lost, False, lost),
        (lost, lost, True, None),
        (login, gone, False, login),
        (gone, gone, False, None),
    ):
        outage = Outage()
        begun = outage.begin()
        outage.fail(first, begun)
        if arrives:
            outage.arrive()
        outage.fail(second, begun)
        assert outage.error is error
    outage = Outage()
    outage.arrive()
    outage.fail(login, 1)  # others came in by the same
    assert outage.error is None


def test_an_object_in_a_directory_of_uploads(opened: Opened) -> None:
    """Its path is no URL by which an object is made."""
    store = opened("gcs")
    fs, path = mlartifacts.url_to_fs(store.uri("upload/missing"))
    with pytest.raises(FileNotFoundError, match="No such file"):
        fs.info(path)
    with pytest.raises(FileNotFoundError, match="No such file"):
        fs.cat_file(path)
