"""Deletes of many files: by few requests where a store takes many by one, and many at once."""

from __future__ import annotations

import collections
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.errors import TransferError
from mlartifacts.stores.gcs.filesystem import GCSArtifactFileSystem
from mlartifacts.transfer import engine
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.transfer.conftest import AtOnce, behind
from tests.transfer.trees import plant

Fronted = Callable[[str], tuple[Any, Reverse]]

ODD = ["a b+c", "d%41", "ü/日本", "e&f=<g>'\"", "h?i#j", "~k*[l]"]
TREE = {f"tree/{name}": b"x" for name in [*ODD, *(f"many/{n:02}" for n in range(20))]}
NAMES = {name.removeprefix("tree/") for name in TREE}
BESIDE = {"tree 2/kept": b"1", "treehouse": b"2"}


@pytest.fixture
def fronted(opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch) -> Iterator[Fronted]:
    """Give a store by its name, and what lies between it and us."""
    monkeypatch.setattr(engine, "_WAIT", 0.02)
    fronts = []

    def open_(name: str) -> tuple[Any, Reverse]:
        store: Any = opened(name)
        serving = reverse_proxy.serve(store.tracking.url if "mlflow" in name else store.server.url)
        fronts.append(serving)
        front = serving.__enter__()
        if name == "runs-s3":
            monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        else:
            behind(store, front.host, front.port, monkeypatch)
        return store, front

    yield open_
    for serving in fronts:
        serving.__exit__(None, None, None)


def kinds(front: Reverse) -> collections.Counter[str]:
    """How often what was asked; a request for many files is one of its own."""
    found: collections.Counter[str] = collections.Counter()
    for each in front.requests:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(each.path).query, True)
        is_batch = "delete" in query or query.get("comp") == ["batch"]
        found["batch" if is_batch else each.method] += 1
    return found


@pytest.mark.parametrize("name", ["s3", "runs-s3", "az"])
def test_many_files_by_one_request(name: str, fronted: Fronted, tmp_path: Path) -> None:
    store, front = fronted(name)
    store.seed(TREE | BESIDE)
    mlartifacts.delete(store.uri("tree"), include="**")
    asked = kinds(front)
    assert asked["batch"] == 1
    assert not asked["DELETE"]
    assert not front.asked("HEAD", "tree/")
    assert asked["GET"] <= 2
    assert store.stored() == BESIDE
    store.seed(TREE)
    here = plant(tmp_path / "here", {"many/00": b"x", "new": b"2"})
    front.requests.clear()
    report = mlartifacts.sync(here, store.uri("tree"), delete=True)
    assert set(report.deleted) == NAMES - {"many/00"}
    asked = kinds(front)
    assert asked["DELETE"] <= 1  # of the file that was put there to look for
    assert asked["batch"] == 1
    assert store.stored() == {"tree/many/00": b"x", "tree/new": b"2", **BESIDE}


def test_thousands_of_keys(fronted: Fronted) -> None:
    """A thousand by each request, as they are listed."""
    store, front = fronted("s3")
    store.seed({f"tree/{n}": b"" for n in range(2001)})
    mlartifacts.delete(store.uri("tree"), include="**")
    asked = kinds(front)
    assert asked["batch"] + asked["DELETE"] == 3
    assert asked["GET"] <= 4
    assert store.stored() == {}


def test_a_bucket_of_many_files(fronted: Fronted) -> None:
    store, front = fronted("s3")
    store.seed({f"{n}": b"" for n in range(20)} | {f"folder {n}/a": b"" for n in range(3)})
    mlartifacts.delete(store.uri())
    asked = kinds(front)
    assert asked["batch"] == 4
    assert not asked.keys() & {"DELETE", "HEAD"}
    assert store.stored() == {}


REFUSALS = {
    "unknown": Answer(501, b"<Error><Code>NotImplemented</Code></Error>"),
    "no MD5": Answer(
        400, b"<Error><Code>InvalidRequest</Code><Message>Missing MD5</Message></Error>"
    ),
    "forbidden": Answer(403, b"<Error><Code>AccessDenied</Code></Error>"),
    "done": Answer(202, b"done"),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("name", "refusal"),
    [(name, each) for name in ("s3", "az") for each in REFUSALS if (name, each) != ("s3", "done")],
)
def test_a_server_that_takes_no_batches(
    name: str, refusal: str, whole: bool, fronted: Fronted
) -> None:
    """The files are deleted one by one, and none is looked at for it."""
    store, front = fronted(name)
    store.seed(TREE | BESIDE)

    def answer(request: Request) -> Answer | None:
        is_batch = request.method == "POST" and re.search("delete|comp=batch", request.path)
        return REFUSALS[refusal] if is_batch else None

    front.answer = answer
    mlartifacts.delete(store.uri("tree"), include=None if whole else "**")
    assert len(front.asked("DELETE", "/tree/")) == len(TREE)
    if not whole:
        assert kinds(front)["batch"] == 1
        assert not front.asked("HEAD", "/tree/")
    assert store.stored() == BESIDE


def test_keys_that_xml_could_change(fronted: Fronted) -> None:
    """They are deleted one by one: a parser that strips them would take them for others."""
    store, front = fronted("s3")
    plain = {f"tree/{each}": each.encode() for each in "abc"}
    store.seed(
        {**plain, **dict.fromkeys(["tree/a ", "tree/b\t", "tree/c\r", "tree/d", "tree/e"], b"x")}
    )
    mlartifacts.delete(store.uri("tree"), include="*", exclude=["a", "b", "c"])
    assert kinds(front) == {"GET": 1, "batch": 1, "DELETE": 3}
    assert store.stored() == plain


def test_keys_that_stay(fronted: Fronted) -> None:
    """Each is named with its cause, and the others are not asked about again."""
    store, front = fronted("s3")
    store.seed(TREE)
    forbidden = {"tree/many/03", "tree/many/07"}

    def answer(request: Request) -> Answer | None:
        if request.method == "POST":
            gone = TREE.keys() - forbidden
            for key in gone:
                store.server.request("DELETE", f"/{store._bucket}/{urllib.parse.quote(key)}")
            said = "".join(
                f"<Deleted><Key>{key.replace('&', '&amp;').replace('<', '&lt;')}</Key></Deleted>"
                for key in gone
            )
            said += "".join(
                f"<Error><Key>{key}</Key><Code>InternalError</Code></Error>" for key in forbidden
            )
            return Answer(200, f"<DeleteResult>{said}</DeleteResult>".encode())
        if request.method == "DELETE":
            return Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return None

    front.answer = answer
    with pytest.raises(TransferError) as caught:
        mlartifacts.delete(store.uri("tree"), include="**")
    assert {f"tree/{name}" for name in caught.value.failures} == forbidden
    for name, failure in caught.value.failures.items():
        assert isinstance(failure, PermissionError)
        assert str(failure.filename).endswith(f"tree/{name}")
    assert kinds(front) == {"GET": 1, "batch": 1, "DELETE": 2}
    assert store.stored().keys() == forbidden


@pytest.mark.parametrize("whole", [True, False])
def test_a_blob_that_stays(whole: bool, fronted: Fronted) -> None:
    store, front = fronted("az")
    store.seed(TREE | BESIDE)
    with store._container as container:
        lease = container.get_blob_client("tree/many/03").acquire_lease()
        with pytest.raises(TransferError) as caught:
            mlartifacts.delete(store.uri("tree"), include=None if whole else "**")
        lease.release()
    assert list(caught.value.failures) == ["many/03"]
    assert str(caught.value.failures["many/03"].filename).endswith("tree/many/03")
    assert store.stored() == {"tree/many/03": b"x", **BESIDE}
    assert kinds(front)["batch"] >= 1


@pytest.mark.parametrize("name", ["s3", "az", "gcs", "mlflow-artifacts"])
def test_what_was_gone_already(
    name: str, opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(name)
    store.seed({f"tree/{n}": b"x" for n in range(9)})
    fs, root = mlartifacts.url_to_fs(store.uri("tree"))
    remove, paths = type(fs).rm_listed, []

    def after_another(fs: Any, listed: list[str]) -> list[str]:
        if not paths:
            fs.rm_file(listed[-1])
        paths.extend(listed)
        left: list[str] = remove(fs, listed)
        return left

    monkeypatch.setattr(type(fs), "rm_listed", after_another)
    report = mlartifacts.delete(store.uri("tree"), include="**")
    assert len(report.moved) == 9
    assert {f"{root}/{n}" for n in range(9)} == {*paths}
    assert store.stored() == {}


def test_a_file_and_a_directory_of_one_name(opened: Callable[[str], Harbour]) -> None:
    """MLflow's server would delete both; neither is, as by itself."""
    store = opened("mlflow-artifacts-s3")
    store.seed({"tree/a": b"1", "tree/b": b"2", "tree/c": b"3", "tree/a/in": b"4"})
    with pytest.raises(TransferError) as caught:
        mlartifacts.delete(store.uri("tree"), include=["/a", "/b", "/c"], exclude="/a/*")
    assert list(caught.value.failures) == ["a"]
    assert isinstance(caught.value.failures["a"], IsADirectoryError)
    assert store.stored() == {"tree/a": b"1", "tree/a/in": b"4"}


def test_mlflows_server_is_asked_once_for_each_directory(fronted: Fronted) -> None:
    store, front = fronted("mlflow-artifacts")
    store.seed({f"tree/{n % 3}/{n}": b"x" for n in range(30)})
    held = AtOnce(8)

    def answer(request: Request) -> Answer | None:
        if request.method == "DELETE":
            held.pass_by()
        return None

    front.answer = answer
    mlartifacts.delete(store.uri("tree"), include="**")
    asked = kinds(front)
    assert asked["DELETE"] == 30
    assert asked["GET"] < 15
    assert held.most >= 8
    assert store.stored() == {}


def test_googles_batches(fronted: Fronted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulators have none: one is answered here, by deleting what it names from the emulator."""
    store, front = fronted("gcs")
    store.seed({"tree/a": b"1", "tree/b c/d": b"2", "tree/e": b"3", "f": b"4"})
    monkeypatch.setattr(GCSArtifactFileSystem, "on_google", True)
    monkeypatch.setattr(GCSArtifactFileSystem, "batch_url_base", f"{front.url}/batch/storage/v1")
    stays = "tree%2Fe"

    def answer(request: Request) -> Answer | None:
        if request.path.endswith(stays) and request.method == "DELETE":
            return Answer(403, b'{"error": {"code": 403, "message": "not for you"}}')
        if "/batch/" not in request.path:
            return None
        parts = []
        for path in re.findall(r"DELETE (\S+) HTTP", request.begin.decode()):
            code = 403
            if not path.endswith(stays):
                code = 204
                gone = urllib.request.Request(store.server.url + path, method="DELETE")
                urllib.request.urlopen(gone, timeout=30).close()
            parts.append(
                f"--x\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {code} said\r\n\r\n"
            )
        body = "".join([*parts, "--x--"]).encode()
        return Answer(200, body, {"Content-Type": "multipart/mixed; boundary=x"})

    front.answer = answer
    with pytest.raises(TransferError) as caught:
        mlartifacts.delete(store.uri("tree"), include="**")
    assert list(caught.value.failures) == ["e"]
    assert isinstance(caught.value.failures["e"], PermissionError)
    assert len(front.asked("POST", "/batch/")) == 1
    assert [each.path.rpartition("/")[2] for each in front.asked("DELETE")] == [stays]
    assert store.stored() == {"tree/e": b"3", "f": b"4"}
