"""Transfers between every two stores, on their real servers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import mlartifacts
from tests.contract.stores import Harbour, Local, Sftp
from tests.servers.static_http import StaticHttp
from tests.servers.tcp_proxy import proxied
from tests.transfer.conftest import NAMED
from tests.transfer.trees import found, odd_tree, plant

Opened = Callable[[str], Harbour]

STORES = ("local", "s3", "wasbs", "gcs", "sftp", "ftp", "hdfs", "mlflow-artifacts")
TREE = odd_tree()
#: MLflow's server lists neither times nor checksums: what has the same size may be another file,
#: and is moved again.
UNDATED = {"mlflow-artifacts", "mlflow-artifacts-s3"}


@pytest.mark.parametrize("name", [*STORES, "mlflow-artifacts-s3", "runs-s3", "hdfs-native"])
def test_up_and_down(name: str, opened: Opened, tmp_path: Path) -> None:
    store = opened(name)
    here = plant(tmp_path / "here", TREE)
    up = mlartifacts.upload(here, store.uri("tree"), **store.options)
    assert sorted(up.moved) == sorted(TREE)
    assert up.size == sum(map(len, TREE.values()))
    assert store.stored() == {f"tree/{name}": data for name, data in TREE.items()}
    again = mlartifacts.upload(here, store.uri("tree"), resume=True, **store.options)
    expected = sorted(TREE) if name in UNDATED else []
    assert sorted(again.moved) == expected

    down = mlartifacts.download(store.uri("tree"), tmp_path / "there", **store.options)
    assert down == tmp_path / "there"
    assert found(down) == TREE
    one = mlartifacts.download(store.uri("tree/ünï/日本.txt"), **store.options)
    assert (one.name, one.read_bytes()) == ("日本.txt", b"text")

    mlartifacts.delete(store.uri("tree/foo"), **store.options)
    assert set(store.stored()) == {f"tree/{name}" for name in TREE if name != "foo/a"}


def test_a_listing_without_sizes(static_http: StaticHttp, tmp_path: Path) -> None:
    """What a web server's page does not tell is asked for, and no file is fetched twice."""
    tree = {"empty": b"", "short": b"text", "large": bytes(range(256)) * 50_000}
    folder = static_http.new_folder()
    plant(folder, tree)
    with proxied(static_http.url) as proxy:
        mlartifacts.download(f"{proxy.url}/{folder.name}/", tmp_path / "there")
        came = sum(request.body for request in proxy.requests if request.method == "GET")
    assert found(tmp_path / "there") == tree
    assert came < 1.1 * sum(map(len, tree.values()))


# ---- From each store to each, itself too -------------------------------------------------


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@pytest.fixture(scope="module")
def large_tree() -> dict[str, bytes]:
    """300 files: empty and short ones, odd names, deep folders, and one of 200 MB."""
    return odd_tree(300, large=200_000_000)


@pytest.fixture(scope="module")
def expected(large_tree: dict[str, bytes]) -> dict[str, str]:
    return hashes({f"copied/{name}": data for name, data in large_tree.items()})


@pytest.fixture(scope="module")
def source(
    request: pytest.FixtureRequest,
    large_tree: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Harbour]:
    """A store that has the large tree, once for all pairs from it."""
    kind, home = NAMED[request.param], tmp_path_factory.mktemp("source")
    # A local folder of its own, as each test's folder ends with the test.
    server = home if kind is Local else request.getfixturevalue(kind.fixture)
    harbour = kind(server, home)
    harbour.seed({f"tree/{name}": data for name, data in large_tree.items()})
    yield harbour
    with pytest.MonkeyPatch.context() as patch:
        known(harbour, patch, home)
        mlartifacts.delete(harbour.uri("tree"))


def known(harbour: Harbour, patch: pytest.MonkeyPatch, home: Path) -> None:
    """Set what a client of a store needs, which another test's home has not."""
    patch.setenv("HOME", str(home))
    for variable, value in harbour.env.items():
        patch.setenv(variable, value)
    if isinstance(harbour, Sftp):
        harbour.server.set_up_home(home)


@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize(
    "source",
    [pytest.param(name, marks=pytest.mark.xdist_group(f"from {name}")) for name in STORES],
    indirect=True,
)
def test_between(
    source: Harbour,
    target: str,
    large_tree: dict[str, bytes],
    expected: dict[str, str],
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(source, monkeypatch, Path.home())
    other = opened(target)
    report = mlartifacts.copy(source.uri("tree"), other.uri("copied"))
    assert sorted(report.moved) == sorted(large_tree)
    assert report.size == sum(map(len, large_tree.values()))
    # As the store has them, without our code.
    assert hashes(other.stored()) == expected
    mlartifacts.delete(other.uri("copied"))
    assert not other.stored()
