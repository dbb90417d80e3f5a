"""From a run's URI to its bytes, beside MLflow's download: goals, 5 x cold and 3 x warm."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import mlartifacts
from benchmarks.timing import interleaved, table
from benchmarks.ways import COLUMNS, WAYS
from tests.servers import mlflow_server
from tests.servers.tcp_proxy import proxied

FILES = 200
ROWS = 32_768

#: What is measured -> the path in the run.
PATHS = {"first row": "wide.parquet", "folder": "many"}
MLFLOW, OURS = "mlflow.artifacts.download_artifacts, open", "mlartifacts"

# What MLflow's client does besides is not measured.
_PLAIN = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def measure(directory: Path, name: str, s3: Any) -> None:
    """Print how reading a run compares to downloading it, by where its artifacts lie."""
    os.environ.update(_PLAIN, PYTHONPYCACHEPREFIX=str(directory / "compiled"))
    # As many workers as it has by default.
    with mlflow_server.serve(directory / "tracking", options=("--workers", "4")) as server:
        os.environ.update(server.env)
        s3_root = "s3://logical"
        mlartifacts.filesystem(s3_root).mkdir("logical")
        for title, root in (
            (f"direct, S3 ({name})", s3_root),
            ("direct, local", f"file://{urllib.parse.quote(str(directory / 'local'))}"),
            ("through MLflow's server, local", None),
        ):
            run = server.new_run(server.new_experiment(root))
            _measure_run(title, f"runs:/{run['run_id']}", server.url, s3.url)


def _measure_run(title: str, run: str, tracking: str, s3: str) -> None:
    size = _fill(run)
    for what, path in PATHS.items():
        uri = f"{run}/{path}"
        counted = {who: _counted(who, what, uri, tracking, s3) for who in ("mlflow", "ours")}
        cold = {
            MLFLOW: lambda what=what, uri=uri: _cold("mlflow", what, uri),
            OURS: lambda what=what, uri=uri: _cold("ours", what, uri),
        }
        warm = {
            MLFLOW: lambda what=what, uri=uri: WAYS["mlflow", what](uri),
            OURS: lambda what=what, uri=uri: WAYS["ours", what](uri),
        }
        shown = f"{what} of a {size / 1e6:.1f} MB Parquet file" if what == "first row" else (
            f"a folder of {FILES} files"
        )  # fmt: skip
        goals = {"cold": 5, "warm": 3 if what == "folder" else None}
        for temper, ways, rounds in (("cold", cold, 5), ("warm", warm, 7)):
            seconds = interleaved(ways, rounds=rounds)
            table(f"{title}: {shown}, {temper}", seconds, MLFLOW)
            goal = f"  (goal: {goals[temper]})" if goals[temper] else ""
            print(f"  {'times as fast':<46} {seconds[MLFLOW] / seconds[OURS]:10.1f} x{goal}")
        for who, label in (("mlflow", MLFLOW), ("ours", OURS)):
            asked, fetched = counted[who]
            print(f"  {'requests: ' + label:<52} {asked:4}, {fetched:9} bytes", end="")
            share = f", {fetched / size * 100:.1f} % of the file" if what == "first row" else ""
            print(share + ("  (goal: under 25)" if share and who == "ours" else ""))


def _fill(run: str) -> int:
    """Write the file and the folder; the size of the file."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"c{n:02}": np.random.default_rng(n).random(ROWS) for n in range(20)}
    assert set(COLUMNS) < set(columns)
    uri = f"{run}/{PATHS['first row']}"
    with mlartifacts.open(uri, "wb") as file:
        pq.write_table(pa.table(columns), file, compression="none", use_dictionary=False)
    fs, path = mlartifacts.url_to_fs(f"{run}/{PATHS['folder']}")
    fs.pipe({f"{path}/{number:03}.json": b"x" * 1000 for number in range(FILES)})
    size: int = fs.size(mlartifacts.url_to_fs(uri)[1])
    return size


def _cold(who: str, what: str, uri: str, **changed: str) -> None:
    env = {**os.environ, **changed}
    # Both find their modules compiled, as installed packages are: by the first run at least.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "benchmarks.ways", who, what, uri]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _counted(who: str, what: str, uri: str, tracking: str, s3: str) -> tuple[int, int]:
    """How many requests a cold process makes, and the bytes of their answers."""
    with proxied(tracking) as asked, proxied(s3) as fetched:
        urls = {"MLFLOW_TRACKING_URI": asked.url, "MLFLOW_S3_ENDPOINT_URL": fetched.url}
        _cold(who, what, uri, **urls)
        requests = [*asked.requests, *fetched.requests]
    return len(requests), sum(request.body for request in requests)
