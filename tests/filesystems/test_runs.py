"""What is particular to runs and models: models that come later, other servers, answers midway."""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import mlartifacts
from mlartifacts.errors import InvalidURI, final
from mlartifacts.filesystems.delegating import Place
from mlartifacts.transfer.trees import End
from tests.servers import reverse_proxy
from tests.servers.mlflow_server import MlflowServer
from tests.servers.moto import Moto
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.servers.tcp_proxy import proxied


@pytest.fixture
def server(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return mlflow_server


@pytest.fixture
def front(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reverse]:
    with reverse_proxy.serve(server.url) as front:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        yield front


def new_model(server: MlflowServer, run: dict[str, Any], name: str, outputs: bool = True) -> str:
    """Log a model in a run, with one file; its URI."""
    api = server.api
    body = {"experiment_id": run["experiment_id"], "name": name, "source_run_id": run["run_id"]}
    info = api("POST", "logged-models", **body)["model"]["info"]
    if outputs:
        made = [{"model_id": info["model_id"], "step": 0}]
        api("POST", "runs/outputs", run_id=run["run_id"], models=made)
    fs, path = mlartifacts.url_to_fs(info["artifact_uri"])
    fs.pipe_file(f"{path}/MLmodel", b"a model")
    uri: str = info["artifact_uri"]
    return uri


# ---- Models ------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [True, False])
@pytest.mark.parametrize("later", [True, False])
def test_a_model_of_a_run(
    server: MlflowServer, outputs: bool, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that came after the run was looked up, or is none of its outputs."""
    run = server.new_run()
    fs, root = mlartifacts.url_to_fs(f"runs:/{run['run_id']}")
    if later:
        fs.pipe_file(f"{root}/a.txt", b"a")
        assert fs.find(root) == [f"{root}/a.txt"]
        monkeypatch.setattr("mlartifacts.tracking.resolver.FRESH_SECONDS", 0.0)
    uri = new_model(server, run, "model", outputs)
    inside = f"{root}/model/MLmodel"
    assert f"{root}/model" in fs.ls(root, detail=False)
    assert fs.ls(f"{root}/model", detail=False) == [inside]
    assert inside in fs.find(root)
    assert fs.find(f"{root}/model") == [inside]
    assert [files for _, _, files in fs.walk(f"{root}/model")] == [["MLmodel"]]
    assert fs.cat_file(inside) == b"a model"
    assert mlartifacts.resolve(f"runs:/{root}/model/new") == f"{uri}/new"
    fs.pipe_file(f"{root}/model/new", b"new")
    with fs.open(f"{root}/model/newer", "w") as file:
        file.write("newer")
    physical, path = mlartifacts.url_to_fs(uri)
    names = {each.rpartition("/")[2] for each in physical.find(path)}
    assert names == {"MLmodel", "new", "newer"}


def test_what_is_deleted_is_gone(server: MlflowServer) -> None:
    """Also where the run has files of its own under a model's name."""
    run = server.new_run()
    physical, path = mlartifacts.url_to_fs(run["artifact_uri"])
    physical.pipe({f"{path}/model/MLmodel": b"own", f"{path}/model/own": b"own"})
    new_model(server, run, "model")
    fs, root = mlartifacts.url_to_fs(f"runs:/{run['run_id']}")
    fs.rm(f"{root}/model/MLmodel")
    assert not fs.exists(f"{root}/model/MLmodel")
    assert fs.find(root) == [f"{root}/model/own"]
    fs.pipe_file(f"{root}/model/MLmodel", b"again")
    fs.rm(root, recursive=True)
    assert fs.find(root) == []


def test_sync_does_not_delete_a_model_that_a_run_shows(
    server: MlflowServer, tmp_path: Path
) -> None:
    run = server.new_run()
    uri = new_model(server, run, "model")
    for source in (uri, f"runs:/{run['run_id']}/model", f"models:/{uri.split('/')[-2]}"):
        with pytest.raises(InvalidURI, match="lies in"):
            mlartifacts.sync(source, f"runs:/{run['run_id']}", delete=True)
    with pytest.raises(InvalidURI, match="lies in"):
        mlartifacts.sync(f"runs:/{run['run_id']}", uri.rpartition("/models/")[0], delete=True)
    assert mlartifacts.download(uri, tmp_path / "got").joinpath("MLmodel").exists()


def test_sync_tries_each_place_of_a_run(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that it shows may be what is to be deleted, where no name says so."""
    run = server.new_run()
    uri = new_model(server, run, "model")
    monkeypatch.setattr(End, "lies_in", lambda *_, **__: False)
    models = f"{uri.rpartition('/models/')[0]}/models"
    with pytest.raises(InvalidURI, match="though no name says so"):
        mlartifacts.sync(f"runs:/{run['run_id']}", models, delete=True)
    assert mlartifacts.download(uri, tmp_path / "got").joinpath("MLmodel").exists()


def test_copies_between_runs(
    server: MlflowServer, moto_server: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store copies what lies in it, models too; the rest is moved as between any two stores."""
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mlartifacts.tracking.resolver.FRESH_SECONDS", 0.0)
    places = [f"s3://{moto_server.new_bucket()}", f"s3://{moto_server.new_bucket()}"]
    experiments = map(server.new_experiment, (*places, tmp_path.as_uri()))
    runs = [server.new_run(each) for each in experiments]
    here, there, disk = (f"runs:/{run['run_id']}" for run in runs)
    with mlartifacts.open(f"{here}/large", "wb") as file:
        file.write(bytes(9_000_000))
    new_model(server, runs[0], "model")
    copied, carried = "x-amz-copy-source", "x-amz-checksum-sha256"

    def writes(source: str, target: str) -> list[tuple[str, str]]:
        """What S3 was sent, each with the header that tells how."""
        with proxied(moto_server.url) as wire, monkeypatch.context() as patch:
            patch.setenv("MLFLOW_S3_ENDPOINT_URL", wire.url)
            mlartifacts.copy(source, target)
        return sorted(
            (each.target.rpartition("/")[2].partition("&")[0], header)
            for each in wire.requests
            for header in {copied, carried} & each.headers.keys()
        )

    assert writes(here, f"{there}/a") == [("MLmodel", copied), ("large", copied)]
    assert writes(here, disk) == []
    parts = [("large?partNumber=1", carried), ("large?partNumber=2", carried)]
    assert writes(disk, f"{there}/b") == [("MLmodel", carried), *parts]
    fs, root = mlartifacts.url_to_fs(there)
    names = [f"{above}/{name}" for above in "ab" for name in ("large", "model/MLmodel")]
    assert fs.find(root) == [f"{root}/{name}" for name in names]


def test_an_upload_beside_a_model_that_cannot_be_opened(
    server: MlflowServer, front: Reverse, tmp_path: Path
) -> None:
    """In a store that nobody here knows, say: nothing of it is asked for."""
    run = server.new_run()
    uri = new_model(server, run, "model")
    front.damage = lambda body: body.replace(json.dumps(uri)[1:-1].encode(), b"dbfs:/model")
    (tmp_path / "metrics.txt").write_bytes(b"1")
    mlartifacts.upload(tmp_path, f"runs:/{run['run_id']}")
    fs, path = mlartifacts.url_to_fs(f"runs:/{run['run_id']}/metrics.txt")
    assert fs.cat_file(path) == b"1"
    with pytest.raises(InvalidURI, match="dbfs"):
        mlartifacts.upload(tmp_path, f"runs:/{run['run_id']}/model")


@pytest.mark.parametrize("name", ["x%41y", "databricks"])
def test_urls_of_models_name_the_same(server: MlflowServer, moto_server: Moto, name: str) -> None:
    run = server.new_run()
    with mlartifacts.open(f"runs:/{run['run_id']}/file", "w") as file:
        file.write("right")
    server.api("POST", "registered-models/create", name=name)
    body = {"name": name, "source": run["artifact_uri"], "run_id": run["run_id"]}
    server.api("POST", "model-versions/create", **body)
    alias = {"name": name, "alias": "databricks", "version": "1"}
    server.api("POST", "registered-models/alias", **alias)
    for form in (f"models:/{name}/1", f"models:/{name}@databricks"):
        fs, path = mlartifacts.url_to_fs(f"{form}/file")
        for url in (mlartifacts.to_url(f"{form}/file"), fs.unstrip_protocol(path)):
            with fsspec.open(url, "r") as file:
                assert file.read() == "right", url


# ---- Answers midway ----------------------------------------------------------------------

BAD = {
    "500": Answer(500, b"broken"),
    "503": Answer(503, b"busy"),
    "401": Answer(401),
    "403": Answer(403),
    "HTML": Answer(200, b"<html>Sign in</html>"),
    "../x": Answer(200, b'{"files": [{"path": "../x", "is_dir": false, "file_size": 1}]}'),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("logical", [True, False])
def test_no_directory_is_left_out(
    front: Reverse, server: MlflowServer, bad: Answer, logical: bool, tmp_path: Any
) -> None:
    """What cannot be listed below the top is an error: a move would delete it."""
    run = server.new_run()
    uri = f"runs:/{run['run_id']}" if logical else run["artifact_uri"]
    fs, root = mlartifacts.url_to_fs(uri)
    fs.pipe({f"{root}/src/a/1": b"1", f"{root}/src/b/2": b"2"})
    listed = f"{run['run_id']}/artifacts/src/b".replace("/", "%2F")
    front.answer = lambda request: (
        bad
        if request.method == "GET" and request.path.endswith((listed, "artifacts/src/b"))
        else None
    )
    for act in (
        lambda: fs.find(f"{root}/src"),
        lambda: list(fs.walk(f"{root}/src")),
        lambda: fs.du(f"{root}/src"),
        lambda: fs.glob(f"{root}/src/**"),
        lambda: fs.get(f"{root}/src", str(tmp_path / "got"), recursive=True),
        lambda: fs.copy(f"{root}/src", f"{root}/dst", recursive=True),
        lambda: fs.mv(f"{root}/src", f"{root}/dst", recursive=True),
    ):
        with pytest.raises(OSError, match=r"."):
            act()
    front.answer = lambda request: None
    assert fs.find(f"{root}/src") == [f"{root}/src/a/1", f"{root}/src/b/2"]


def test_directories_without_end(front: Reverse, server: MlflowServer) -> None:
    listing = Answer(200, b'{"files": [{"path": "x", "is_dir": true}]}')
    front.answer = lambda request: listing if "path=" in request.path else None
    fs, root = mlartifacts.url_to_fs(server.new_root())
    with pytest.raises(OSError, match="without end"):
        fs.find(root)


def test_a_run_that_lies_in_itself(front: Reverse) -> None:
    for uri in ("runs:/abc", "models:/m/1"):
        run = {"run": {"info": {"artifact_uri": uri, "experiment_id": "0"}}}
        front.answer = lambda request, run=run: Answer(200, json.dumps(run).encode())
        with pytest.raises(InvalidURI, match="no place"):
            mlartifacts.filesystem("runs").cat_file(f"abc{uri[:3]}/x")


# ---- Who is told what --------------------------------------------------------------------


@pytest.mark.parametrize("form", ["mlflow-artifacts://", "http://"])
def test_another_port_is_not_told_who_asks(
    server: MlflowServer, front: Reverse, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    with reverse_proxy.serve(server.url) as other:
        place = f"{form}{other.url.partition('://')[2]}"
        if form == "http://":
            place += "/api/2.0/mlflow-artifacts/artifacts"
        run = {"run": {"info": {"artifact_uri": f"{place}/root", "experiment_id": "0"}}}

        def answer(request: Request) -> Answer | None:
            return Answer(200, json.dumps(run).encode()) if "runs/get" in request.path else None

        front.answer = answer
        assert not mlartifacts.filesystem("runs").exists("abc/x")
        assert {request.headers.get("Authorization") for request in other.requests} == {None}
        assert {bool(request.headers.get("Authorization")) for request in front.requests} == {True}


def test_a_password_in_the_tracking_uri_is_not_shown(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = server.new_run()
    secret = server.url.replace("//", "//bob:s3cretpw@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    with mlartifacts.open(f"runs:/{run['run_id']}/file", "w") as file:
        file.write("x")
    with mlartifacts.open(f"runs:/{run['run_id']}/file") as file:
        shown = [repr(file.fs), file.fs.to_json(), repr(file.fs.storage_options), repr(file)]
        assert b"s3cretpw" not in pickle.dumps(file)
    assert not any("s3cretpw" in text for text in shown)


# ---- Transactions ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"mode": "w"}, {"mode": "wt", "compression": "gzip"}])
def test_text_in_transactions(server: MlflowServer, options: dict[str, str]) -> None:
    fs, root = mlartifacts.url_to_fs(f"runs:/{server.new_run()['run_id']}")
    with fs.transaction:
        with fs.open(f"{root}/file", **options) as file:
            file.write("text")
        assert not fs.exists(f"{root}/file")
    with fs.open(f"{root}/file", "rt", compression=options.get("compression")) as file:
        assert file.read() == "text"
    with pytest.raises(ZeroDivisionError), fs.transaction:
        with fs.open(f"{root}/failed", **options) as file:
            file.write("text")
        raise ZeroDivisionError
    assert not fs.exists(f"{root}/failed")


def test_what_a_driver_has_tried_again_says_so_of_a_run_too() -> None:
    place = Place(None, "bucket/run", "0a1b")
    with pytest.raises(OSError, match="busy") as caught, place.explaining():
        raise final(OSError(errno.EIO, "busy", "bucket/run/file"))
    assert caught.value.filename == "0a1b/file"
    assert vars(caught.value) == vars(final(OSError()))
