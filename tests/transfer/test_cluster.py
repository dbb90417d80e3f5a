"""A copy spread over a Dask cluster of several processes, one of which is killed."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec.callbacks
import pytest

import mlartifacts
from mlartifacts.errors import InvalidConfig, TransferError
from mlartifacts.transfer import cluster as cluster_module
from mlartifacts.transfer.trees import End
from tests.contract.stores import Harbour
from tests.servers.process import wait_until
from tests.servers.static_http import StaticHttp
from tests.transfer.trees import odd_tree, plant

# What Dask's own processes leave when they are killed.
pytestmark = pytest.mark.filterwarnings("default::ResourceWarning", "default::RuntimeWarning")


@pytest.fixture
def stores(opened: Callable[[str], Harbour]) -> tuple[Harbour, Harbour]:
    """Where from and where to; their variables are set, so that the workers have them."""
    return opened("sftp"), opened("s3")


@pytest.fixture
def client(stores: tuple[Harbour, Harbour], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    monkeypatch.setattr(cluster_module, "_FILES", 10)
    with (
        LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_copy_with_a_worker_that_is_lost(
    client: Any, stores: tuple[Harbour, Harbour], tmp_path: Path
) -> None:
    source, target = stores
    tree = odd_tree(files=150)
    source.seed({f"tree/{name}": data for name, data in tree.items()})
    pids = list(client.run(os.getpid).values())
    seen = fsspec.callbacks.Callback()
    fs, root = mlartifacts.url_to_fs(target.uri("copied"))

    def kill() -> None:
        wait_until(lambda: len(fs.find(root)) > 15, "the copy", 60)
        os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    report = mlartifacts.copy(
        source.uri("tree"), target.uri("copied"), cluster=client, callback=seen
    )
    killer.join()
    assert sorted(report.moved) == sorted(tree)
    assert target.stored() == {f"copied/{name}": data for name, data in tree.items()}
    assert seen.value == seen.size == sum(map(len, tree.values()))
    # And what is there is not copied again.
    again = mlartifacts.copy(source.uri("tree"), target.uri("copied"), cluster=client)
    assert again.moved == ()


def test_failures_come_back(client: Any, stores: tuple[Harbour, Harbour], tmp_path: Path) -> None:
    here = plant(tmp_path / "here", {f"file {n}": b"x" for n in range(25)})
    there = tmp_path / "there"
    (there / "file 7").mkdir(parents=True)
    with pytest.raises(TransferError) as caught:
        mlartifacts.copy(here, there, cluster=client)
    assert list(caught.value.failures) == ["file 7"]
    assert isinstance(caught.value.failures["file 7"], IsADirectoryError)
    assert len([path for path in there.iterdir() if path.is_file()]) == 24


def test_batches_that_are_cancelled(
    client: Any, stores: tuple[Harbour, Harbour], tmp_path: Path
) -> None:
    """Each of their files is told of, and what was moved is not moved again."""
    from distributed import Future

    source, target = stores
    tree = odd_tree(files=150)
    source.seed({f"tree/{name}": data for name, data in tree.items()})
    fs, root = mlartifacts.url_to_fs(target.uri("copied"))

    def cancel() -> None:
        wait_until(lambda: len(fs.find(root)) > 15, "the copy", 60)
        for key in list(client.futures):
            Future(key, client).cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(TransferError) as caught:
        mlartifacts.copy(source.uri("tree"), target.uri("copied"), cluster=client)
    canceller.join()
    assert 0 < len(caught.value.failures) < len(tree)
    assert all("cancelled" in str(cause) for cause in caught.value.failures.values())
    again = mlartifacts.copy(source.uri("tree"), target.uri("copied"), cluster=client)
    assert 0 < len(again.moved) <= len(caught.value.failures)
    assert target.stored() == {f"copied/{name}": data for name, data in tree.items()}


def test_what_is_no_client(client: Any, tmp_path: Path) -> None:
    from distributed import Client

    here = plant(tmp_path / "here", {"a": b"a"})
    with Client(client.cluster) as closed:
        pass
    bad: Any
    for bad in (client.cluster, client.cluster.scheduler_address, closed, True):
        with pytest.raises(InvalidConfig, match=r"distributed\.Client"):
            mlartifacts.copy(here, tmp_path / "there", cluster=bad)
    assert not (tmp_path / "there").exists()


def test_no_signature_travels(static_http: StaticHttp, tmp_path: Path) -> None:
    folder = plant(static_http.new_folder(), {"a": b"a"})
    url = f"{static_http.url}/{folder.name}/a?X-Amz-Signature=signed-by-me"
    with pytest.raises(InvalidConfig, match="signature") as caught:
        mlartifacts.copy(url, tmp_path / "a", cluster=object())
    assert "signed-by-me" not in str(caught.value)


def test_no_secret_travels(opened: Callable[[str], Harbour], tmp_path: Path) -> None:
    s3, ftp = opened("s3"), opened("ftp")
    fs, root = mlartifacts.url_to_fs(s3.uri("x"))
    described = cluster_module._described(End(fs, root))
    assert described == (s3.uri("x"), {})
    assert b"testing-secret" not in pickle.dumps(described)
    for place, options in (
        (ftp.uri("x"), {}),
        (s3.uri("x"), {"key": "testing", "secret": "explicit-secret"}),
    ):
        with pytest.raises(InvalidConfig, match="environment") as caught:
            mlartifacts.copy(
                plant(tmp_path / "here", {"a": b"a"}),
                place,
                target_options=options,
                cluster=object(),
            )
        assert "explicit-secret" not in str(caught.value)
