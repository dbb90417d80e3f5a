"""What MLflow's own client logs, read by its logical URIs where there is no mlflow."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.errors import InvalidConfig, Unresolved
from tests.servers.mlflow_server import PASSWORD, TOKEN, USERNAME, MlflowServer
from tests.servers.moto import Moto
from tests.tracking import client, reader

#: One process each for MLflow's client and for us: importing either's libraries takes seconds.
pytestmark = pytest.mark.xdist_group("mlflow")


@contextlib.contextmanager
def spawned(prepare: Callable[[], None] | None = None) -> Iterator[concurrent.futures.Executor]:
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=prepare)
    with pool:
        yield pool


@pytest.fixture(scope="module")
def real_client() -> Iterator[concurrent.futures.Executor]:
    """A process for MLflow's own client."""
    with spawned() as pool:
        yield pool


@pytest.fixture(scope="module")
def without_mlflow() -> Iterator[concurrent.futures.Executor]:
    """A process where importing mlflow raises."""
    with spawned(reader.without_mlflow) as pool:
        yield pool


SERVERS = {
    "proxied-local": "mlflow_server",
    "proxied-s3": "mlflow_server_proxying_s3",
    "direct-local": "mlflow_server_beside_a_folder",
    "direct-s3": "mlflow_server_beside_s3",
    "login": "mlflow_server_with_login",
}

WRITTEN = {"written/by us.txt": b"ours", "written/ünï/c.bin": bytes(range(256))}


@pytest.mark.parametrize("setting", SERVERS)
def test_what_mlflow_logs_is_read_without_it(
    setting: str,
    request: pytest.FixtureRequest,
    real_client: concurrent.futures.Executor,
    without_mlflow: concurrent.futures.Executor,
    tmp_path: Path,
) -> None:
    server: MlflowServer = request.getfixturevalue(SERVERS[setting])
    env = {**os.environ, **server.env}
    name = f"chürn of {setting} #1"
    logged = real_client.submit(client.log, env, str(tmp_path / "made"), name).result()
    without_mlflow.submit(reader.read, env, logged, client.NESTED).result()
    # And what we write, MLflow's client lists and downloads.
    run = logged["run"]
    ours = {f"runs:/{run}/{name}": data for name, data in WRITTEN.items()}
    without_mlflow.submit(reader.write, env, ours).result()
    seen = real_client.submit(client.listed, env, run, "written").result()
    assert seen == ["written/by us.txt", "written/ünï"]
    for name, data in WRITTEN.items():
        target = str(tmp_path)
        assert real_client.submit(client.downloaded, env, run, name, target).result() == data
    odd = {f"runs:/{run}/odd/a#b?c%41.txt": b"odd"}
    if setting.startswith("direct"):
        without_mlflow.submit(reader.write, env, odd).result()
        seen = real_client.submit(client.listed, env, run, "odd").result()
        assert seen == ["odd/a#b?c%41.txt"]
    else:
        # MLflow's server would take this for the name of another file.
        with pytest.raises(OSError, match="for another") as caught:
            without_mlflow.submit(reader.write, env, odd).result()
        assert caught.value.errno == errno.EINVAL


def _run(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _log_in(how: str, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the login that is named; only the tests' own can do anything on the server."""
    username, password, url = USERNAME, PASSWORD, server.url
    if how in {"another password", "another user"}:
        password = "not the pässword"
    if how == "another user":
        username = "somebody else"
        with contextlib.suppress(urllib.error.HTTPError):  # it has it
            server.api("POST", "users/create", username=username, password=password)
    if how == "the URI":
        userinfo = f"{urllib.parse.quote(username)}:{urllib.parse.quote(password)}"
        url = url.replace("//", f"//{userinfo}@")
    elif how == "the file":
        folder = Path.home() / ".mlflow"
        folder.mkdir()
        (folder / "credentials").write_text(
            "[mlflow]\n"
            f"mlflow_tracking_username = {username}\nmlflow_tracking_password = {password}\n"
        )
    elif "token" in how:
        token = TOKEN if how == "a token" else "another"
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    elif how != "nobody":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", username)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)


@pytest.mark.parametrize("how", ["variables", "the file", "a token", "the URI"])
def test_logins(
    mlflow_server_with_login: MlflowServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = mlflow_server_with_login.new_run()
    _log_in(how, mlflow_server_with_login, monkeypatch)
    uris = [f"runs:/{info['run_id']}/a b", f"{info['artifact_uri']}/a b"]
    with mlartifacts.open(uris[0], "w") as file:
        file.write(how)
    for uri in uris:
        with mlartifacts.open(uri, "r") as file:
            assert file.read() == how


@pytest.mark.parametrize("how", ["nobody", "another password", "another token", "another user"])
def test_refused_logins(
    mlflow_server_with_login: MlflowServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = mlflow_server_with_login.new_run()
    _log_in(how, mlflow_server_with_login, monkeypatch)
    status = "403" if how == "another user" else "401"
    for uri in (f"runs:/{info['run_id']}/a b", f"{info['artifact_uri']}/a b"):
        for act in (
            lambda uri: mlartifacts.open(uri).open(),
            lambda uri: mlartifacts.open(uri, "w").open().close(),
            lambda uri: mlartifacts.filesystem(uri).ls(mlartifacts.url_to_fs(uri)[1]),
            lambda uri: mlartifacts.filesystem(uri).exists(mlartifacts.url_to_fs(uri)[1]),
        ):
            with pytest.raises(PermissionError, match=status) as caught:
                act(uri)
            assert caught.value.filename
            assert "pässword" not in str(caught.value)


def test_moved_aliases_and_deleted_runs(
    mlflow_server: MlflowServer,
    moto_server: Moto,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (mlflow_server.env | moto_server.env).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mlartifacts.tracking.resolver.FRESH_SECONDS", 0.0)
    api = mlflow_server.api
    runs = [
        mlflow_server.new_run(mlflow_server.new_experiment(moto_server.new_root())) for _ in "12"
    ]
    api("POST", "registered-models/create", name="moving")
    for run in runs:
        with mlartifacts.open(f"runs:/{run['run_id']}/file", "w") as file:
            file.write(run["run_id"])
        api("POST", "model-versions/create", name="moving", source=run["artifact_uri"])
    for version, run in enumerate(runs, 1):
        api("POST", "registered-models/alias", name="moving", alias="now", version=str(version))
        assert mlartifacts.resolve("models:/moving@now/file") == f"{run['artifact_uri']}/file"
        assert mlartifacts.open("models:/moving@now/file", "r").open().read() == run["run_id"]
    assert mlartifacts.resolve("models:/moving/latest") == runs[1]["artifact_uri"]
    api("POST", "runs/delete", run_id=runs[0]["run_id"])
    assert mlartifacts.open(f"runs:/{runs[0]['run_id']}/file", "r").open().read()


@pytest.mark.parametrize(
    "uri",
    [
        "runs:/0123",
        "models:/nobody/1",
        "models:/nobody@best",
        "models:/nobody/latest",
        "models:/nobody/Production",
        "models:/somebody/99",
        "models:/somebody@worst",
        "models:/somebody/Staging",
        "models:/somebody/Nonsense",
        "models:/m-" + "0" * 32,
    ],
)
def test_what_is_not_there(mlflow_server: MlflowServer, uri: str) -> None:
    _known(mlflow_server)
    with pytest.raises(Unresolved, match="knows no") as caught:
        mlartifacts.resolve(f"{uri}/x" if "m-" in uri else uri, mlflow_server.url)
    assert caught.value.filename == uri
    fs = mlartifacts.filesystem(uri.partition(":")[0], tracking_uri=mlflow_server.url)
    path = fs._strip_protocol(f"{uri}/x".replace(":/", "://"))
    assert not fs.exists(path)
    with pytest.raises(FileNotFoundError):
        fs.open(path)


def _known(server: MlflowServer) -> None:
    """Have a model ``somebody``, with one version."""
    try:
        server.api("POST", "registered-models/create", name="somebody")
    except urllib.error.HTTPError as error:
        with error:
            if json.load(error)["error_code"] != "RESOURCE_ALREADY_EXISTS":
                raise
        return
    run = server.new_run()
    body = {"name": "somebody", "source": run["artifact_uri"], "run_id": run["run_id"]}
    made = server.api("POST", "model-versions/create", **body)
    assert made["model_version"]["version"] == "1"


FILE_STORE = """
import json, os, sys
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
import warnings; warnings.simplefilter("ignore")
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
with mlflow.start_run() as run:
    mlflow.log_text("text", "folder/a b.txt")
    model = mlflow.initialize_logged_model(name="model", source_run_id=run.info.run_id)
    mlflow.MlflowClient().log_model_artifacts(model.model_id, sys.argv[2])
    mlflow.finalize_logged_model(model.model_id, "READY")
client = mlflow.MlflowClient()
client.create_registered_model("named so")
for _ in "12":
    client.create_model_version("named so", f"models:/{model.model_id}", model_id=model.model_id)
client.set_registered_model_alias("named so", "best", "1")
client.delete_run(run.info.run_id)
print(json.dumps({"run": run.info.run_id, "model": model.model_id}))
"""


def test_a_folder(tmp_path: Path) -> None:
    root = str(tmp_path / "ml runs")
    made = tmp_path / "made"
    made.mkdir()
    (made / "MLmodel").write_text("a model")
    logged = json.loads(_run([sys.executable, "-c", FILE_STORE, root, str(made)]).splitlines()[-1])
    run, model = logged["run"], logged["model"]
    for tracking in (root, f"file://{urllib.parse.quote(root)}"):
        fs = mlartifacts.filesystem("runs", tracking_uri=tracking)
        assert fs.cat_file(f"{run}/folder/a b.txt") == b"text"
        assert fs.cat_file(f"{run}/model/MLmodel") == b"a model"
        models = mlartifacts.filesystem("models", tracking_uri=tracking)
        for form in (model, "named so/1", "named so/2", "named so/latest", "named so@best"):
            assert models.cat_file(f"{form}/MLmodel") == b"a model", form
        for form in ("named so/3", "named so@worst", "nobody/1", "named so/Staging", "../x/1"):
            with pytest.raises((Unresolved, mlartifacts.InvalidURI)):
                mlartifacts.resolve(f"models:/{form}", tracking)
        with pytest.raises(Unresolved):
            mlartifacts.resolve("runs:/0123", tracking)


def test_a_database(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    """By the mlflow package where it is installed, and else with an answer that says so."""
    info = mlflow_server.new_run(mlflow_server.new_experiment(f"file://{tmp_path}"))
    database = next(Path(mlflow_server.artifacts).parent.glob("mlflow.db"))
    uri = f"sqlite:///{database}"
    program = (
        "import sys, mlartifacts\n"
        "sys.modules.update({'mlflow': None} if sys.argv[3] == 'without' else {})\n"
        "print(mlartifacts.resolve('runs:/' + sys.argv[2] + '/x', sys.argv[1]))\n"
    )
    arguments = [sys.executable, "-c", program, uri, info["run_id"]]
    assert _run([*arguments, "with"]).splitlines()[-1] == f"{info['artifact_uri']}/x"
    done = subprocess.run(
        [*arguments, "without"], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode != 0
    assert f"{InvalidConfig.__name__}: The tracking URI sqlite:" in done.stderr
    assert "mlflow package, which is not installed" in done.stderr


@pytest.mark.parametrize("named", ["by its host", "by the tracking URI"])
def test_universal_pathlib_behind_a_proxy(
    mlflow_server: MlflowServer,
    mlflow_server_proxying_s3: MlflowServer,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from upath import UPath

    root = mlflow_server.new_root().removeprefix("mlflow-artifacts:")
    host, tracking = "", mlflow_server.url
    if named == "by its host":
        host, tracking = urllib.parse.urlsplit(tracking).netloc, mlflow_server_proxying_s3.url
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    path = UPath(f"mlflowartifacts://{host}{root}") / "folder" / "a b.txt"
    assert str(path) == f"mlflowartifacts://{host}{root}/folder/a b.txt"
    path.write_text("über")
    uri = f"{mlflow_server.url}/api/2.0/mlflow-artifacts/artifacts{root}/folder/a b.txt"
    assert mlartifacts.open(uri, "r").open().read() == path.read_text() == "über"
    assert list(path.parent.iterdir()) == [path]
    assert [each.read_text() for each in path.parent.parent.glob("*/*.txt")] == ["über"]
    path.unlink()
    assert not path.exists()
