"""Two ways to what a run holds, ours and MLflow's; a process for each: ``... ours folder URI``."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

COLUMNS = ["c03", "c11"]


def _first_row(file: Any) -> Any:
    import pyarrow.parquet as pq

    return next(pq.ParquetFile(file).iter_batches(batch_size=1, columns=COLUMNS))


def our_first_row(uri: str) -> Any:
    """Two columns of a Parquet file, where it lies."""
    import mlartifacts

    with mlartifacts.open(uri) as file:
        return _first_row(file)


def our_folder(uri: str) -> int:
    """The bytes of every file in a folder."""
    import mlartifacts

    fs, path = mlartifacts.url_to_fs(uri)
    return sum(map(len, fs.cat(fs.find(path)).values()))


def mlflow_first_row(uri: str) -> Any:
    """The same from the downloaded file."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
        with open(path, "rb") as file:
            return _first_row(file)


def mlflow_folder(uri: str) -> int:
    """The same from the downloaded folder."""
    import os

    import mlflow

    total = 0
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
        for name in os.listdir(path):
            with open(os.path.join(path, name), "rb") as file:
                total += len(file.read())
    return total


WAYS = {
    ("ours", "first row"): our_first_row,
    ("ours", "folder"): our_folder,
    ("mlflow", "first row"): mlflow_first_row,
    ("mlflow", "folder"): mlflow_folder,
}

if __name__ == "__main__":
    WAYS[sys.argv[1], sys.argv[2]](sys.argv[3])
