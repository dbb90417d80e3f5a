"""MLflow's own client, in a process of its own: what runs there, so it imports no test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

NESTED = "deep/er/ä b.txt"


def log(env: Mapping[str, str], folder: str, name: str) -> dict[str, str]:
    """Log a model, tables, an image and a folder to a run, and register the model."""
    _set(env)
    import mlflow
    import pandas
    import PIL.Image
    import sklearn.linear_model

    client = mlflow.MlflowClient()
    experiment = client.create_experiment(f"experiment of {name}")
    table = pandas.DataFrame({"x": range(10), "y": range(10)})
    (Path(folder) / NESTED).parent.mkdir(parents=True)
    (Path(folder) / NESTED).write_text("nested")
    table.to_parquet(f"{folder}/table.parquet")
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_artifacts(folder, "data")
        mlflow.log_table(table, "tables/of words.json")
        mlflow.log_image(PIL.Image.new("RGB", (8, 8)), "image.png")
        model = sklearn.linear_model.LinearRegression().fit(table[["x"]], table["y"])
        info = mlflow.sklearn.log_model(model, name="model", pip_requirements=["sklearn"])
        client.create_registered_model(name)
        version = client.create_model_version(name, info.model_uri, model_id=info.model_id).version
    client.set_registered_model_alias(name, "champion", version)
    client.transition_model_version_stage(name, version, "Production")
    return {
        "run": run.info.run_id,
        "artifacts": run.info.artifact_uri,
        "model": info.model_id,
        "name": name,
    }


def listed(env: Mapping[str, str], run: str, path: str) -> list[str]:
    """What the client lists in a directory of a run."""
    _set(env)
    import mlflow

    return sorted(info.path for info in mlflow.MlflowClient().list_artifacts(run, path))


def downloaded(env: Mapping[str, str], run: str, path: str, target: str) -> bytes:
    """A file of a run that the client downloads."""
    _set(env)
    import mlflow

    return Path(mlflow.MlflowClient().download_artifacts(run, path, target)).read_bytes()


def _set(env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
