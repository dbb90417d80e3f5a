"""Our side, in a process where ``import mlflow`` raises: it imports no test."""

from __future__ import annotations

import os
import sys
import urllib.parse
from collections.abc import Mapping


def without_mlflow() -> None:
    """Make every import of mlflow raise."""
    sys.modules["mlflow"] = None  # type: ignore[assignment]


def roots(logged: Mapping[str, str], tracking: str) -> list[str]:
    """Every URI of a run's directory."""
    own = logged["artifacts"]
    found = [f"runs:/{logged['run']}", f"runs://{logged['run']}", own]
    if own.startswith("mlflow-artifacts:"):
        path = own.removeprefix("mlflow-artifacts:")
        found.append(f"mlflow-artifacts://{urllib.parse.urlsplit(tracking).netloc}{path}")
        found.append(f"mlflowartifacts:{path}")
        found.append(f"{tracking}/api/2.0/mlflow-artifacts/artifacts{path}")
    return found


def models(logged: Mapping[str, str]) -> list[str]:
    """Every URI of a model's directory."""
    name = logged["name"]
    return [
        f"runs:/{logged['run']}/model",
        f"models:/{logged['model']}",
        f"models:/{name}/1",
        f"models:/{name}/latest",
        f"models:/{name}/Production",
        f"models:/{name}@champion",
    ]


def below(root: str, name: str) -> str:
    """A URI below another; those of files and of the web are percent-encoded."""
    encoded = root.startswith(("file:", "http:", "https:"))
    return f"{root}/{urllib.parse.quote(name) if encoded else name}"


def read(env: Mapping[str, str], logged: Mapping[str, str], nested: str) -> None:
    """Read what was logged by each of its URIs, with pandas, pyarrow and fsspec."""
    _set(env)
    import fsspec
    import pandas as pd
    import pyarrow.dataset as ds

    import mlartifacts

    for root in roots(logged, env["MLFLOW_TRACKING_URI"]):
        parquet = mlartifacts.to_url(below(root, "data/table.parquet"))
        assert pd.read_parquet(parquet, columns=["x"]).x.sum() == 45, root
        words = mlartifacts.to_url(below(root, "tables/of words.json"))
        assert pd.read_json(words, orient="split").y.sum() == 45, root
        fs, path = mlartifacts.url_to_fs(below(root, "data/table.parquet"))
        assert ds.dataset(path, filesystem=fs).to_table(columns=["y"]).num_rows == 10, root
        with fsspec.open(mlartifacts.to_url(below(root, f"data/{nested}")), "r") as file:
            assert file.read() == "nested", root
        with mlartifacts.open(below(root, "image.png")) as file:
            assert file.read(4) == b"\x89PNG", root
        fs, path = mlartifacts.url_to_fs(root)
        seen = {name.removeprefix(f"{path}/") for name in fs.ls(path, detail=False)}
        # The model lies elsewhere: that it belongs to the run, the tracking server alone knows.
        assert seen - {"model"} == {"data", "image.png", "tables"}, root
        assert ("model" in seen) is root.startswith("runs:"), root
        found = {name.removeprefix(f"{path}/") for name in fs.find(path)}
        assert f"data/{nested}" in {urllib.parse.unquote(name) for name in found}, root
        assert ("model/MLmodel" in found) is root.startswith("runs:"), root
    first = None
    for uri in models(logged):
        with mlartifacts.open(f"{uri}/MLmodel") as file:
            content = file.read()
        first = first or content
        assert content == first, uri
        assert b"sklearn" in content, uri
        with fsspec.open(mlartifacts.to_url(f"{uri}/MLmodel")) as file:
            assert file.read() == first, uri


def write(env: Mapping[str, str], uris: Mapping[str, bytes]) -> None:
    """Write files."""
    _set(env)
    import mlartifacts

    for uri, data in uris.items():
        with mlartifacts.open(uri, "wb") as file:
            file.write(data)


def _set(env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
