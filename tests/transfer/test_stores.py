"""Transfers between every two stores, on their real servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import mlartifacts
from tests.contract.stores import Harbour
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


@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize("source", [name for name in STORES if name != "local"])
def test_between(source: str, target: str, opened: Opened, tmp_path: Path) -> None:
    tree = {name: data for name, data in TREE.items() if not name.startswith("many/3")}
    one, other = opened(source), opened(target)
    one.seed({f"tree/{name}": data for name, data in tree.items()})
    report = mlartifacts.copy(
        one.uri("tree"),
        other.uri("copied"),
        source_options=one.options,
        target_options=other.options,
    )
    assert sorted(report.moved) == sorted(tree)
    assert other.stored() == {f"copied/{name}": data for name, data in tree.items()}
