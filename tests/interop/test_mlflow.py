"""MLflow's own clients and ours, on the same stores."""

from __future__ import annotations

import filecmp
import os

import pytest

import mlartifacts
from tests.interop.conftest import stores

# What MLflow and its clients warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

#: The stores that MLflow has a client for, of packages that are installed beside it.
CLIENTS = ("local", "s3", "wasbs", "gcs", "sftp", "ftp", "hdfs", "artifact-server")

FILES = {
    "model/MLmodel": b"flavors: {}\n",
    "model/data/weights.bin": bytes(range(256)) * 1000,
    "image with space.png": b"\x89PNG",
    "empty.txt": b"",
}


def repository(harbour):
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if harbour.name == "sftp":
        harbour.server.set_up_home_for_pysftp(harbour.home)
    return get_artifact_repository(harbour.uri("run"))


@stores(*CLIENTS)
def test_what_mlflow_logs_we_read(harbour, fs, root, tmp_path):
    folder = tmp_path / "logged"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    client = repository(harbour)
    client.log_artifacts(str(folder))
    client.log_artifact(str(folder / "empty.txt"), "more")
    expected = {**FILES, "more/empty.txt": b""}
    found = {path.removeprefix(f"{root}/run/"): fs.cat_file(path) for path in fs.find(root)}
    assert found == expected
    for name, data in expected.items():
        with mlartifacts.open(harbour.uri(f"run/{name}")) as file:
            assert file.read() == data


@stores(*CLIENTS)
def test_what_we_write_mlflow_lists_and_downloads(harbour, fs, root, tmp_path):
    for name, data in FILES.items():
        with mlartifacts.open(harbour.uri(f"run/{name}"), "wb") as file:
            file.write(data)
    client = repository(harbour)
    listed = {(info.path, info.is_dir, info.file_size) for info in client.list_artifacts()}
    assert {(path, folder) for path, folder, _ in listed} == {
        ("model", True),
        ("image with space.png", False),
        ("empty.txt", False),
    }
    assert ("image with space.png", False, 4) in listed
    target = tmp_path / "downloaded"
    target.mkdir()
    client.download_artifacts("", str(target))
    for name, data in FILES.items():
        assert (target / name).read_bytes() == data
    mine = tmp_path / "mine"
    fs.get(f"{root}/run/model", str(mine), recursive=True)
    same, differ, errors = filecmp.cmpfiles(
        target / "model", mine, ["MLmodel", os.path.join("data", "weights.bin")], shallow=False
    )
    assert (len(same), differ, errors) == (2, [], [])
