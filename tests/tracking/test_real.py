"""What MLflow's own client logs, read by its logical URIs where there is no mlflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.errors import InvalidConfig, Unresolved
from tests.servers.mlflow_server import MlflowServer
from tests.servers.moto import Moto

LOG = """
import json, os, sys
import mlflow, numpy, pandas, PIL.Image, sklearn.linear_model

mlflow.set_experiment(experiment_id=sys.argv[1])
folder = sys.argv[2]
os.makedirs(f"{folder}/deep/er")
open(f"{folder}/deep/er/a b.txt", "w").write("nested")
with mlflow.start_run() as run:
    table = pandas.DataFrame({"x": range(10), "y": range(10)})
    table.to_parquet(f"{folder}/table.parquet")
    mlflow.log_artifacts(folder, "data")
    mlflow.log_image(PIL.Image.new("RGB", (8, 8)), "image.png")
    model = sklearn.linear_model.LinearRegression().fit(table[["x"]], table["y"])
    info = mlflow.sklearn.log_model(model, name="model")
    version = mlflow.register_model(info.model_uri, sys.argv[3]).version
client = mlflow.MlflowClient()
client.set_registered_model_alias(sys.argv[3], "champion", version)
print(json.dumps({"run": run.info.run_id, "model": info.model_id, "name": sys.argv[3]}))
"""

READ = """
import json, sys
sys.modules["mlflow"] = None  # an import of it raises
import fsspec, mlartifacts, pandas as pd, pyarrow.dataset as ds

logged = json.loads(sys.argv[1])
run, model, name = logged["run"], logged["model"], logged["name"]
assert pd.read_parquet(f"runs://{run}/data/table.parquet", columns=["x"]).x.sum() == 45
fs, path = mlartifacts.url_to_fs(f"runs:/{run}/data/table.parquet")
assert ds.dataset(path, filesystem=fs).to_table(columns=["y"]).num_rows == 10
with fsspec.open(f"runs://{run}/data/deep/er/a b.txt", "r") as file:
    assert file.read() == "nested"
assert mlartifacts.open(f"runs:/{run}/image.png").open().read(4) == b"\\x89PNG"
first = None
for uri in (
    f"runs:/{run}/model", f"models:/{model}", f"models:/{name}/1", f"models:/{name}/latest",
    f"models:/{name}@champion",
):
    with mlartifacts.open(f"{uri}/MLmodel") as file:
        content = file.read()
    first = first or content
    assert content == first and b"sklearn" in content, uri
    url = mlartifacts.to_url(f"{uri}/MLmodel")
    with fsspec.open(url) as file:
        assert file.read() == first, url
fs, root = mlartifacts.url_to_fs(f"runs:/{run}")
assert fs.ls(root, detail=False) == [f"{run}/data", f"{run}/image.png", f"{run}/model"]
assert f"{run}/model/MLmodel" in fs.find(root)
assert f"{run}/model/MLmodel" in fs.glob(f"{run}/*/MLmodel")
with mlartifacts.open(f"runs:/{run}/written/by us.txt", "w") as file:
    file.write("ours")
"""


@pytest.fixture(params=["local", "s3"])
def logged(
    request: pytest.FixtureRequest,
    mlflow_server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """A run that MLflow's client logged, with a model that it registered."""
    location = f"file://{urllib.parse.quote(str(tmp_path / 'root of artifacts'))}"
    if request.param == "s3":
        moto: Moto = request.getfixturevalue("moto_server")
        location = moto.new_root()
        for name, value in moto.env.items():
            monkeypatch.setenv(name, value)
    for name, value in mlflow_server.env.items():
        monkeypatch.setenv(name, value)
    experiment = mlflow_server.new_experiment(location)
    name = f"churn of {request.param}"
    arguments = [sys.executable, "-c", LOG, experiment, str(tmp_path / "made"), name]
    return dict(json.loads(_run(arguments).splitlines()[-1]))


def _run(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_mlflow_logs_is_read_without_it(logged: dict[str, str], tmp_path: Path) -> None:
    _run([sys.executable, "-c", READ, json.dumps(logged)])
    # And what we wrote, MLflow's client lists and downloads.
    program = (
        "import mlflow, sys\n"
        "uri = f'runs:/{sys.argv[1]}/written'\n"
        "print([f.path for f in mlflow.artifacts.list_artifacts(uri)])\n"
        "print(open(mlflow.artifacts.download_artifacts(f'{uri}/by us.txt')).read())\n"
    )
    told = _run([sys.executable, "-c", program, logged["run"]]).splitlines()
    assert told[-2:] == ["['written/by us.txt']", "ours"]


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
        "models:/m-" + "0" * 32,
    ],
)
def test_what_is_not_there(mlflow_server: MlflowServer, uri: str) -> None:
    with pytest.raises(Unresolved, match="knows no") as caught:
        mlartifacts.resolve(f"{uri}/x" if "m-" in uri else uri, mlflow_server.url)
    assert caught.value.filename == uri
    fs = mlartifacts.filesystem(uri.partition(":")[0], tracking_uri=mlflow_server.url)
    path = fs._strip_protocol(f"{uri}/x".replace(":/", "://"))
    assert not fs.exists(path)
    with pytest.raises(FileNotFoundError):
        fs.open(path)


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


# It has no path flavour of its own for runs, takes its default, and says so.
@pytest.mark.filterwarnings("ignore:Could not find default for known protocol:UserWarning")
def test_upath(mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: Any) -> None:
    from upath import UPath

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    info = mlflow_server.new_run(mlflow_server.new_experiment(f"file://{tmp_path}"))
    path = UPath(f"runs://{info['run_id']}") / "folder" / "a b.txt"
    path.write_text("über")
    assert path.read_text() == "über"
    assert [each.name for each in path.parent.iterdir()] == ["a b.txt"]
    path.unlink()
    assert not path.exists()
