"""A copy spread over a Dask cluster of several processes, one of which is killed."""

from __future__ import annotations

import errno
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
from mlartifacts.errors import InvalidConfig, MissingDriver, TransferError
from mlartifacts.transfer import cluster as cluster_module
from mlartifacts.transfer.trees import File
from tests.contract.stores import Harbour
from tests.servers.process import wait_until
from tests.servers.static_http import StaticHttp
from tests.servers.tcp_proxy import proxied
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
    source.age()
    pids = client.run(os.getpid)
    seen = fsspec.callbacks.Callback()
    lost: list[str] = []

    def kill() -> None:
        # How far it is comes back while it goes on.
        wait_until(lambda: 0 < seen.value < seen.size, "the first batch", 60)
        while not lost:
            address = next(each for each, keys in client.processing().items() if keys)
            os.kill(pids[address], signal.SIGSTOP)
            # What it has now, it will not end any more; what it said before is heard first.
            client.processing()
            lost.extend(client.processing()[address])
            os.kill(pids[address], signal.SIGKILL if lost else signal.SIGCONT)

    killer = threading.Thread(target=kill)
    killer.start()
    report = mlartifacts.copy(
        source.uri("tree"), target.uri("copied"), cluster=client, callback=seen
    )
    killer.join()
    assert lost
    told = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.story(*lost))
    for key in lost:
        ends = [event[2] for event in told if event[0] == key and event[1] == "processing"]
        assert ends[0] == "released"  # its worker was lost
        assert ends[-1] == "memory"  # and another did it
    assert sorted(report.moved) == sorted(tree)
    assert target.stored() == {f"copied/{name}": data for name, data in tree.items()}
    assert seen.value == seen.size == sum(map(len, tree.values()))
    # And what is there is not copied again.
    again = mlartifacts.copy(source.uri("tree"), target.uri("copied"), cluster=client)
    assert again.moved == ()


def test_an_interrupt_stops_the_workers(
    client: Any,
    stores: tuple[Harbour, Harbour],
    static_http: StaticHttp,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, target = stores
    monkeypatch.setattr(cluster_module, "_SIZE", 10_000_000)  # each large file is a batch
    large = odd_tree()["large.bin"] * 3
    tree = {"a": b"a", "large1": large, "large2": large}
    folder = plant(static_http.new_folder(), tree)

    class Interrupt(fsspec.callbacks.Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            wait_until(lambda: wire.bytes_to_client > 9_000_000, "the large files", 20)
            wire.delay = 0.5  # by which all of it would take half a minute
            raise KeyboardInterrupt

    def working() -> bool:
        return any(client.run(lambda dask_worker: bool(dask_worker.active_threads)).values())

    with proxied(static_http.url) as wire:
        wire.delay = 0.02
        url = f"{wire.url}/{folder.name}/"
        with pytest.raises(KeyboardInterrupt):
            mlartifacts.copy(url, target.uri("tree"), cluster=client, callback=Interrupt())
        wait_until(lambda: not working(), "their end", 20)
        assert wire.bytes_to_client < len(large)  # and both of them are asked for at once
        assert target.stored() == {"tree/a": b"a"}
        assert target.uploads() == []
        wire.delay = 0
        again = mlartifacts.copy(url, target.uri("tree"), cluster=client)
    assert {"large1", "large2"} <= set(again.moved)
    assert target.stored() == {f"tree/{name}": data for name, data in tree.items()}


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By files and by bytes; a file that is larger than a batch is one."""
    monkeypatch.setattr(cluster_module, "_FILES", 4)
    monkeypatch.setattr(cluster_module, "_SIZE", 100)
    sizes = [0, 0, 0, 0, 0, 60, 40, 1, 99, 1, 300, 100, 5]
    files = [File(str(number), size) for number, size in enumerate(sizes)]
    batches = [[file.size for file in batch] for batch in cluster_module._batches(files)]
    assert batches == [[0, 0, 0, 0], [0, 60, 40], [1, 99], [1], [300], [100], [5]]


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
    source.age()

    def done() -> set[str]:
        return {key for key, each in dict(client.futures).items() if each.status == "finished"}

    def cancel() -> None:
        wait_until(done, "the first batch", 60)
        # What is done may not be taken yet, and would be cancelled as well.
        for key in set(client.futures) - done():
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


def test_nothing_of_the_environment_travels(
    client: Any, stores: tuple[Harbour, Harbour], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it lie in the cluster's tasks: in what is said to the scheduler."""
    from distributed.protocol import dumps

    source, target = stores
    source.seed({"tree/a file": b"its bytes"})
    source.age()
    said: list[bytes] = []
    send = client._send_to_scheduler

    def listening(message: Any) -> None:
        said.extend(map(bytes, dumps(message)))
        send(message)

    monkeypatch.setattr(client, "_send_to_scheduler", listening)
    mlartifacts.copy(source.uri("tree"), target.uri("copied"), cluster=client)
    assert target.stored() == {"copied/a file": b"its bytes"}
    message = b"".join(said)
    assert b"a file" in message
    for secret in (*target.secrets, "its bytes"):
        assert secret.encode() not in message


def test_no_secret_travels(opened: Callable[[str], Harbour], tmp_path: Path) -> None:
    s3, ftp = opened("s3"), opened("ftp")
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


class Strange(OSError):
    """Of a driver that is not where the client is."""


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (FileNotFoundError(errno.ENOENT, "no such thing", "/x"), FileNotFoundError, "'/x'"),
        (OSError("only a text"), OSError, "only a text"),
        (TimeoutError("too late"), TimeoutError, "too late"),
        (ValueError("a bad value"), ValueError, "a bad value"),
        (InvalidConfig("a bad setting"), InvalidConfig, "a bad setting"),
        (MissingDriver("s3", "s3fs"), MissingDriver, "mlartifacts[s3]"),
        (Strange("only a text"), OSError, "Strange: only a text"),
        (Strange(errno.EACCES, "refused", "/x"), PermissionError, "refused"),
        (pytest.UsageError("of no kind"), RuntimeError, "UsageError: of no kind"),
        (ValueError(threading.Lock()), RuntimeError, "ValueError: <unlocked"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_causes_survive_the_way(error: Exception, kind: type[Exception], text: str) -> None:
    arrived = pickle.loads(pickle.dumps(cluster_module._alone(error)))
    assert type(arrived) is kind
    assert text in str(arrived)
