"""Transfers between every two stores, on their real servers."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
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
#: Names that a URL would be read otherwise with; MLflow's server does so with two of them.
OF_URLS = {"a#b/c&d=e": b"a fragment", "%41": b"percent-encoded", "f?g": b"a query"}
DECODED = {"a#b/c&d=e", "%41"}


#: All that can be written to.
WRITABLE = sorted(set(NAMED) - {"http", "models-s3"})


@pytest.mark.parametrize("name", WRITABLE)
def test_up_and_down(name: str, opened: Opened, tmp_path: Path) -> None:
    store = opened(name)
    here = plant(tmp_path / "here", TREE)
    up = mlartifacts.upload(here, store.uri("tree"), **store.options)
    assert sorted(up.moved) == sorted(TREE)
    assert up.size == sum(map(len, TREE.values()))
    assert store.stored() == {f"tree/{name}": data for name, data in TREE.items()}
    again = mlartifacts.upload(here, store.uri("tree"), resume=True, **store.options)
    assert again.moved == ()

    down = mlartifacts.download(store.uri("tree"), tmp_path / "there", **store.options)
    assert down == tmp_path / "there"
    assert found(down) == TREE
    one = mlartifacts.download(store.uri("tree/ünï/日本.txt"), **store.options)
    assert (one.name, one.read_bytes()) == ("日本.txt", b"text")

    mlartifacts.delete(store.uri("tree/foo"), **store.options)
    assert set(store.stored()) == {f"tree/{name}" for name in TREE if name != "foo/a"}


@pytest.mark.parametrize("name", WRITABLE)
def test_folders_that_many_files_need_at_once(name: str, opened: Opened, tmp_path: Path) -> None:
    """Each is made once, by whoever comes first; the others find it there, or half of the way."""
    store = opened(name)
    here = plant(tmp_path / "here", {f"{n % 10}/a/{n}": b"x" for n in range(40)})
    for number in range(3):
        mlartifacts.upload(here, store.uri(f"{number}/tree"), **store.options)
    assert len(store.stored()) == 120


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
    """300 files: empty and short ones, odd names, deep folders, and one of 64 MB."""
    tree = odd_tree(299 - len(OF_URLS)) | OF_URLS
    return tree | {"larger.bin": random.Random(24).randbytes(64_000_000)}


#: Of 270 files, and the largest: each store gives and takes these once, and not in every pair.
LEFT_OUT = ["many/[1-4]/*", "many/0/file ???", "larger.bin"]


@pytest.fixture(scope="module")
def expected(large_tree: dict[str, bytes]) -> dict[str, str]:
    return hashes(large_tree)


def held(names: Iterable[str], *stores: str) -> list[str]:
    """Those of some names that each of these stores can hold."""
    return sorted(set(names) - (DECODED if "mlflow-artifacts" in stores else set()))


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
    harbour.seed({f"tree/{name}": large_tree[name] for name in held(large_tree, kind.name)})
    harbour.age()
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


# By one worker: it needs every server, and plants the large tree once for each.
@pytest.mark.xdist_group("hdfs")
@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize("source", STORES, indirect=True)
def test_between(
    source: Harbour,
    target: str,
    large_tree: dict[str, bytes],
    expected: dict[str, str],
    opened: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every name that both hold, with no disk in between, and nothing the second time.

    MLflow's server lists neither times nor checksums: what it has may be another file by then.
    """
    known(source, monkeypatch, Path.home())
    other = opened(target)
    ends = source.uri("tree"), other.uri("copied")
    names = held(large_tree, source.name, target)
    exclude = sorted(f"/{name}".replace("[", "[[]") for name in large_tree.keys() - names)
    if target != STORES[STORES.index(source.name) - 1]:
        exclude += LEFT_OUT
        names = [name for name in names if not any(fnmatch(name, left) for left in LEFT_OUT)]
    for uri in ends:
        mlartifacts.url_to_fs(uri)  # libraries that are imported may write files
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "no disk"))
        report = mlartifacts.copy(*ends, exclude=exclude or None)
    assert sorted(report.moved) == names
    assert report.size == sum(len(large_tree[name]) for name in names)
    # As the store has them, without our code.
    assert hashes(other.stored()) == {f"copied/{name}": expected[name] for name in names}
    undated = source.name == "mlflow-artifacts"
    again = mlartifacts.copy(*ends, exclude=exclude or None, dry_run=undated)
    if undated:  # but a large one's time is asked for, and kept where that can be
        names = [n for n in names if n != "large.bin" or target not in {"local", "sftp", "ftp"}]
    assert sorted(again.moved) == (names if undated else [])
    mlartifacts.delete(other.uri("copied"))
    assert not other.stored()
