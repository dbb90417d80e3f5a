"""Other processes: what is pickled opens there, by that process's own environment."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fsspec import AbstractFileSystem

import mlartifacts
from tests.contract import workers
from tests.contract.stores import Harbour


@pytest.fixture
def spawned() -> Iterator[concurrent.futures.Executor]:
    """A fresh process, with the environment of this test."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        yield pool


def test_pickle_in_this_process(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"file": b"data"})
    again = pickle.loads(pickle.dumps(fs))
    assert again == fs
    assert again is fs
    assert again.cat_file(f"{root}/file") == b"data"
    opened = pickle.loads(pickle.dumps(mlartifacts.open(harbour.uri("file"), **harbour.options)))
    with opened as file:
        assert file.read() == b"data"


def test_an_open_file_goes_on_where_it_was(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"file": b"some data"})
    with fs.open(f"{root}/file") as file:
        assert file.read(5) == b"some "
        pickled = pickle.dumps(file)
    with pickle.loads(pickled) as again:
        assert again.read() == b"data"


def test_json_in_this_process(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"file": b"data"})
    again = AbstractFileSystem.from_json(fs.to_json())
    assert type(again) is type(fs)
    assert again.cat_file(f"{root}/file") == b"data"


def test_spawned_process(
    harbour: Harbour, fs: Any, root: str, spawned: concurrent.futures.Executor
) -> None:
    harbour.seed({"file": b"data"})
    path = f"{root}/file"
    fs.cat_file(path)  # in use, with open connections and all
    opened = mlartifacts.open(harbour.uri("file"), **harbour.options)
    assert spawned.submit(workers.read_pickled, pickle.dumps((fs, path))).result() == b"data"
    assert spawned.submit(workers.read_pickled, pickle.dumps(opened)).result() == b"data"
    assert spawned.submit(workers.read_json, fs.to_json(), path).result() == b"data"
    if harbour.writable:
        written = pickle.dumps((fs, f"{root}/written"))
        spawned.submit(workers.write_pickled, written, b"from there").result()
        assert fs.cat_file(f"{root}/written") == b"from there"


@pytest.fixture(scope="session")
def dask_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A dask cluster with one worker process."""
    import dask
    from distributed import Client, LocalCluster

    directory = tmp_path_factory.mktemp("dask")
    with (
        dask.config.set({"temporary_directory": str(directory), "distributed.admin.log-length": 0}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=True,
            dashboard_address=":0",
            memory_limit=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_dask_workers(harbour: Harbour, fs: Any, root: str, dask_client: Any) -> None:
    harbour.seed({f"part-{n}": b"%d" % n for n in range(4)})
    dask_client.run(workers.set_environment, dict(os.environ), ("AWS_", "MLFLOW_", "AZURE_"))
    tasks = [
        dask_client.submit(workers.read_pickled, pickle.dumps((fs, f"{root}/part-{n}")), pure=False)
        for n in range(4)
    ]
    assert dask_client.gather(tasks) == [b"0", b"1", b"2", b"3"]


LEFT_OPEN = """
import sys, mlartifacts
def opened():
    with mlartifacts.open(sys.argv[1], "wb", **eval(sys.argv[2])) as file:
        file.write(bytes(6_000_000))
        yield
going_on = opened()
next(going_on)
forgotten = mlartifacts.open(sys.argv[1] + "-too", "wb", **eval(sys.argv[2])).open()
forgotten.write(bytes(6_000_000))
raise SystemExit(3)
"""


@pytest.mark.writes
def test_a_process_that_ends_amid_writes(harbour: Harbour) -> None:
    """It ends, and leaves nothing half-written."""
    harbour.seed({"file": b"old"})
    command = [sys.executable, "-c", LEFT_OPEN, harbour.uri("file"), repr(harbour.options)]
    done = subprocess.run(command, timeout=60, capture_output=True)
    assert done.returncode == 3, done.stderr.decode()
    assert harbour.stored() == {"file": b"old"}
