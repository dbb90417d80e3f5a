"""Deletes that fail: each file under its name, and what may pass is tried again."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mlartifacts
from mlartifacts.errors import TransferError
from mlartifacts.stores.azure import filesystem as azure
from mlartifacts.stores.gcs import filesystem as gcs
from mlartifacts.transfer import engine, removing
from mlartifacts.writing import is_temporary
from tests.conftest import interrupt
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.servers.tcp_proxy import proxied
from tests.transfer.trees import found, plant

Opened = Callable[[str], Harbour]

TREE = {"tree/a": b"1", "tree/b": b"2", "tree/c/d": b"3", "tree/e": b"4"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_WAIT", 0.02)
    monkeypatch.setattr(azure._Retry, "get_backoff_time", lambda self, settings: 0.02)
    monkeypatch.setattr(gcs, "_WAIT", 0.02)


@pytest.fixture
def blobs(opened: Opened) -> Any:
    store = opened("wasbs")
    store.seed(TREE)
    return store


@pytest.fixture
def front(blobs: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reverse]:
    """What lies between Azure and us."""
    server = blobs.server
    with reverse_proxy.serve(server.url) as front:
        string = server.connection_string.replace(server.url, front.url)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", string)
        yield front


def busy(
    method: str, part: str, times: int
) -> tuple[Callable[[Request], Answer | None], list[str]]:
    """A server that answers 503 to some requests, and those that it was asked."""
    asked: list[str] = []

    def answer(request: Request) -> Answer | None:
        if request.method != method or part not in request.path:
            return None
        asked.append(request.path)
        return Answer(503, b"") if len(asked) <= times else None

    return answer, asked


def test_a_sync_says_what_it_could_not_delete(blobs: Any, tmp_path: Path) -> None:
    here = plant(tmp_path / "here", {"new": b"5"})
    with blobs._container as container:
        lease = container.get_blob_client("tree/b").acquire_lease()
        with pytest.raises(TransferError, match=r"^b was not deleted: "):
            mlartifacts.sync(here, blobs.uri("tree"), delete=True)
        lease.release()
    assert blobs.stored() == {"tree/b": b"2", "tree/new": b"5"}


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_cannot_be_deleted(whole: bool, blobs: Any) -> None:
    """One that is leased: the others go, whether all of a tree was to go or some of it."""
    with blobs._container as container:
        lease = container.get_blob_client("tree/b").acquire_lease()
        with pytest.raises(TransferError) as caught:
            mlartifacts.delete(blobs.uri("tree"), include=None if whole else "**")
        assert list(caught.value.failures) == ["b"]
        assert isinstance(caught.value.failures["b"], OSError)
        assert str(caught.value.failures["b"].filename).endswith("tree/b")
        assert blobs.stored() == {"tree/b": b"2"}
        lease.release()
    mlartifacts.delete(blobs.uri("tree"), include=None if whole else "**")
    assert blobs.stored() == {}


def test_what_a_sync_cannot_delete(blobs: Any, tmp_path: Any) -> None:
    here = plant(tmp_path / "here", {"a": b"new", "f": b"5"})
    with blobs._container as container:
        container.get_blob_client("tree/b").acquire_lease()
        with pytest.raises(TransferError) as caught:
            mlartifacts.sync(here, blobs.uri("tree"), delete=True)
    assert list(caught.value.failures) == ["b"]
    assert blobs.stored() == {"tree/a": b"new", "tree/f": b"5", "tree/b": b"2"}


@pytest.mark.parametrize(
    ("include", "method", "part"), [("b", "DELETE", "/tree/b"), ("**", "POST", "comp=batch")]
)
def test_a_server_that_is_busy(
    include: str, method: str, part: str, blobs: Any, front: Reverse
) -> None:
    front.answer, asked = busy(method, part, 3)
    mlartifacts.delete(blobs.uri("tree"), include=include)
    assert len(asked) == 4
    assert not {"tree/b"} & blobs.stored().keys()


@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "in batches"])
def test_a_google_that_stays_busy(
    batches: bool, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is asked for as often as by one call, and no more."""
    store: Any = opened("gcs")
    store.seed({"tree/a": b"1", "tree/b": b"2"})
    monkeypatch.setattr(gcs.GCSArtifactFileSystem, "on_google", batches)
    part = b"--x\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n"

    def answer(request: Request) -> Answer | None:
        if request.path.startswith("/batch/"):
            parts = part * request.begin.count(b"DELETE ")
            return Answer(200, parts + b"--x--", {"Content-Type": "multipart/mixed; boundary=x"})
        return Answer(503) if request.method == "DELETE" else None

    with reverse_proxy.serve(store.server.url) as front:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
        front.answer = answer
        fs, root = mlartifacts.url_to_fs(store.uri("tree"))
        with pytest.raises(TransferError, match="Google says 503") as caught:
            mlartifacts.delete(store.uri("tree"), include="**")
        assert set(caught.value.failures) == {"a", "b"}
        with pytest.raises(OSError, match="Google says 503"):
            fs.rm(root, recursive=True)
        asked = collections.Counter(each.path for each in front.asked("DELETE", "%2F"))
        assert [*asked.values()] == [2 * (1 + gcs._RETRIES)] * 2
        assert len(front.asked("POST", "/batch/")) == 2 * batches
        passing, _ = busy("DELETE", "%2F", 3)
        front.answer = lambda request: (
            answer(request) if "/batch/" in request.path else passing(request)
        )
        fs.rm(root, recursive=True)
        assert store.stored() == {}


def test_a_listing_in_the_end_that_fails_once(blobs: Any, front: Reverse, tmp_path: Any) -> None:
    """It is of all files that were written, and is asked for again."""
    here = plant(tmp_path / "here", {f"{n}": b"x" for n in range(5)})
    front.answer, asked = busy("GET", "prefix=new", 3)
    mlartifacts.upload(here, blobs.uri("new"))
    assert len(asked) >= 4
    assert len(blobs.stored()) == len(TREE) + 5


@pytest.mark.parametrize("act", ["delete", "patterns", "sync"])
def test_a_link_that_an_ftp_server_does_not_delete(
    act: str, opened: Opened, tmp_path: Path
) -> None:
    """It leads out of the server's root, of which the server says what it says of nothing."""
    store: Any = opened("ftp")
    store.seed(TREE)
    out = plant(tmp_path / "out", {"kept": b"x"})
    link = store.folder / "tree" / "link"
    link.symlink_to(out / "kept")
    here = plant(tmp_path / "here", {"a": b"1"})
    with pytest.raises(TransferError, match="^link was not deleted: .*outside") as caught:
        if act == "sync":
            mlartifacts.sync(here, store.uri("tree"), delete=True)
        else:
            mlartifacts.delete(store.uri("tree"), include="**" if act == "patterns" else None)
    assert list(caught.value.failures) == ["link"]
    assert link.is_symlink()
    assert store.stored() == {"tree/link": b"x"} | ({"tree/a": b"1"} if act == "sync" else {})
    assert (out / "kept").read_bytes() == b"x"


@pytest.mark.parametrize("act", ["delete", "patterns", "sync", "download"])
def test_a_link_that_leads_out_of_a_servers_root(act: str, opened: Opened, tmp_path: Path) -> None:
    """MLflow's server refuses to list it; with its directory it goes, and not by itself."""
    store: Any = opened("mlflow-artifacts")
    store.seed(TREE)
    out = plant(tmp_path / "out", {"kept": b"x"})
    here = plant(tmp_path / "here", {"a": b"1"})
    link = store.folder / "tree" / "c" / "link"
    link.symlink_to(out)
    if act == "delete":
        report = mlartifacts.delete(store.uri("tree"))
        assert report.moved == ("a", "b", "c/d", "c/link", "e")
        assert not (store.folder / "tree").exists()
    else:
        with pytest.raises(TransferError, match="^c/link was not ") as caught:
            if act == "sync":
                mlartifacts.sync(here, store.uri("tree"), delete=True)
            elif act == "patterns":
                mlartifacts.delete(store.uri("tree"), include="**")
            else:
                mlartifacts.download(store.uri("tree"), tmp_path / "got")
        assert list(caught.value.failures) == ["c/link"]
        assert link.is_symlink()
        left = {"sync": {"tree/a": b"1"}, "patterns": {}, "download": TREE}
        assert store.stored() == left[act]
        assert act != "download" or len(found(tmp_path / "got")) == len(TREE)
    assert found(out) == {"kept": b"x"}


def test_a_thousand_keys_by_one_request_and_one_that_stays(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = opened("s3")
    store.seed(TREE)
    said = (
        b"<DeleteResult><Error><Key>tree/b</Key><Code>AccessDenied</Code>"
        b"<Message>Access Denied</Message></Error></DeleteResult>"
    )

    def answer(request: Request) -> Answer | None:
        if request.method == "POST" and "delete" in request.path:
            return Answer(200, said)
        if request.method == "DELETE" and request.path.endswith("/tree/b"):
            return Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return None

    with reverse_proxy.serve(store.server.url) as front:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        front.answer = answer
        with pytest.raises(TransferError) as caught:
            mlartifacts.delete(store.uri("tree"))
        assert list(caught.value.failures) == ["b"]
        assert isinstance(caught.value.failures["b"], PermissionError)
        assert store.stored() == {"tree/b": b"2"}
        store.seed(TREE)
        front.answer = lambda request: None
        front.requests.clear()
        mlartifacts.delete(store.uri("tree"))
        deleting = [each for each in front.requests if each.method in {"POST", "DELETE"}]
        assert [each.method for each in deleting] == ["POST"]
    assert store.stored() == {}


def test_a_server_that_is_gone(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked about each file then."""
    monkeypatch.setattr(engine, "_TRIES", 1)
    store: Any = opened("s3")
    names = {f"{n:090}" for n in range(60)}
    store.seed({f"tree/{name}": b"x" for name in names})
    with proxied(store.server.url) as wire:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", wire.url)
        wire.cut_after_sent, wire.last = 5_000, True
        with pytest.raises(TransferError) as caught:
            mlartifacts.delete(store.uri("tree"))
    assert set(caught.value.failures) == names
    assert all(isinstance(e, ConnectionError) for e in caught.value.failures.values())
    assert len(store.stored()) == 60


# ---- Whether what is to be deleted is the source --------------------------------------------


@pytest.fixture
def bucket(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Reverse]]:
    """A store with a source, and a target that has files of such names; and what lies before it."""
    store: Any = opened("s3")
    store.seed({"here/a": b"1", "here/c/d": b"2", **SIMILAR})
    with reverse_proxy.serve(store.server.url) as front:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        yield store, front


SIMILAR = {"tree/old/a": b"3", "tree/old/c/d": b"4", "tree/e": b"5"}


def test_the_requests_by_which_it_is_known(bucket: tuple[Any, Reverse]) -> None:
    store, front = bucket
    mlartifacts.sync(store.uri("here"), store.uri("tree"), delete=True)
    asked = [each for each in front.requests if "mlartifacts-" in each.path]
    assert [each.method for each in asked if each.method in {"PUT", "DELETE"}] == ["PUT", "DELETE"]
    assert len([each for each in asked if "here" in each.path]) <= 2  # a key, or a prefix
    assert store.stored() == {"here/a": b"1", "here/c/d": b"2", "tree/a": b"1", "tree/c/d": b"2"}
    store.seed({"here/a": b"1", "tree/old/e": b"3"})
    front.requests.clear()
    mlartifacts.sync(store.uri("here"), store.uri("tree"), delete=True)
    assert not [each for each in front.requests if "mlartifacts-" in each.path]


ASKED = [("PUT", "tree/old"), ("HEAD", "here"), ("DELETE", "tree/old")]


@pytest.mark.parametrize(("method", "folder"), ASKED)
def test_it_cannot_be_known(method: str, folder: str, bucket: tuple[Any, Reverse]) -> None:
    """What is put there is not taken, or looked for, or cannot be removed again."""
    store, front = bucket

    def answer(request: Request) -> Answer | None:
        is_asked = request.method == method and f"/{folder}/mlartifacts-" in request.path
        return Answer(403, b"<Error><Code>AccessDenied</Code></Error>") if is_asked else None

    front.answer = answer
    with pytest.raises(TransferError, match="nothing was deleted, as it may be of s3:.*/here"):
        mlartifacts.sync(store.uri("here"), store.uri("tree"), delete=True)
    left = store.stored()
    assert SIMILAR.items() <= left.items()
    assert len([name for name in left if is_temporary(name)]) == (method == "DELETE")


@pytest.mark.parametrize("method", ["PUT", "HEAD"])
def test_an_interrupt_leaves_nothing_there(
    method: str, bucket: tuple[Any, Reverse], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, front = bucket
    asked: list[str] = []
    waits: list[float | None] = []
    is_waiting = threading.Event()

    def wait(futures: list[Any], timeout: float | None) -> object:
        waits.append(timeout)
        is_waiting.set()
        return concurrent.futures.wait(futures, 20)

    futures = SimpleNamespace(wait=wait)
    monkeypatch.setattr(removing, "concurrent", SimpleNamespace(futures=futures))

    def answer(request: Request) -> Answer | None:
        if request.method == method and "/mlartifacts-" in request.path and not asked:
            asked.append(request.path)
            interrupt()
            is_waiting.wait(20)  # it is on its way as the interrupt comes
        return None

    front.answer = answer
    with pytest.raises(KeyboardInterrupt):
        mlartifacts.sync(store.uri("here"), store.uri("tree"), delete=True)
    assert asked
    # An interrupt waits a little for what is on its way, then for its end, and no longer.
    assert waits == [removing._LAST_SECONDS] * 2
    assert removing._LAST_SECONDS < 0.5
    assert not any(map(is_temporary, store.stored()))
    assert SIMILAR.items() <= store.stored().items()
