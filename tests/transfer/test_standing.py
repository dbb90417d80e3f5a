"""A file where a directory is to be, and the other way round; and a single file that is synced."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.errors import InvalidURI, TransferError
from tests.contract.stores import Harbour
from tests.transfer.trees import found, plant

Opened = Callable[[str], Harbour]

# Of those with directories, and of others: a file may have the name of a directory there.
DIRECTORIES = ("local", "sftp", "ftp", "vsftpd", "hdfs", "mlflow-artifacts", "runs-local")
KEYS = ("s3", "wasbs", "gcs", "mlflow-artifacts-s3", "runs-s3")

TREE = {"a": b"a file", "b/in/it": b"in two", "c": b"c"}
# A file of the tree is a directory here, with what nobody else has, and the other way round.
OTHER = {"a/x/1": b"?", "a/2": b"?", "b": b"?", "kept": b"?"}

pytestmark = pytest.mark.xdist_group("mlflow")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return plant(tmp_path / "here", TREE)


def failures(act: Callable[[], object]) -> dict[str, BaseException]:
    with pytest.raises(TransferError) as caught:
        act()
    return caught.value.failures


@pytest.mark.parametrize("name", [*DIRECTORIES, *KEYS])
def test_sync_deletes_what_stands_in_its_way(name: str, opened: Opened, here: Path) -> None:
    store = opened(name)
    store.seed(OTHER)
    expected = ("a/2", "a/x/1", "b", "kept")
    assert mlartifacts.sync(here, store.uri(), delete=True, dry_run=True).deleted == expected
    assert store.stored() == OTHER
    report = mlartifacts.sync(here, store.uri(), delete=True)
    assert (report.moved, report.deleted) == (tuple(TREE), expected)
    assert store.stored() == TREE


@pytest.mark.parametrize("name", DIRECTORIES)
def test_what_stands_in_the_way_of_a_name_in_other_letters(
    name: str, opened: Opened, tmp_path: Path
) -> None:
    """A directory is no file that is there already, though another's name is nearly the same."""
    store = opened(name)
    there: dict[str, bytes] = {"1/Data/x": b"0", "1/data": b"2", "2/a": b"2"}
    files = {"1/Data": b"1", "1/data": b"2", "2/A": b"1", "2/a/b": b"2"}
    store.seed(there)
    fs, root = mlartifacts.url_to_fs(store.uri())
    with contextlib.suppress(NotImplementedError):  # MLflow's server makes no empty ones
        fs.makedirs(f"{root}/2/A", exist_ok=True)
    report = mlartifacts.sync(plant(tmp_path / "here", files), store.uri(), delete=True)
    assert report.deleted == ("1/Data/x", "2/a")
    assert store.stored() == files


@pytest.mark.parametrize("name", DIRECTORIES)
def test_nothing_is_deleted_unless_it_is_asked_for(name: str, opened: Opened, here: Path) -> None:
    """The error names what stands there, and what should."""
    store = opened(name)
    store.seed(OTHER)
    for act in (mlartifacts.sync, mlartifacts.copy, mlartifacts.upload):
        failed = failures(lambda act=act: act(here, store.uri()))
        assert {each: type(error) for each, error in failed.items()} == {
            "a": IsADirectoryError,
            "b/in/it": NotADirectoryError,
        }
        assert str(failed["a"]).endswith("/a'")
        assert "must be: 'b'" in str(failed["b/in/it"])
        assert str(failed["b/in/it"]).endswith("/b'")
    assert store.stored() == {**OTHER, "c": b"c"}


@pytest.mark.parametrize("name", sorted({*DIRECTORIES} - {"mlflow-artifacts"}))
def test_a_dry_run_fails_as_the_transfer_would(name: str, opened: Opened, here: Path) -> None:
    """Also for a directory in which there is nothing, and a target that is a file."""
    store: Any = opened(name)
    fs, root = mlartifacts.url_to_fs(store.uri())
    store.seed({**OTHER, "file": b"?"})
    fs.makedirs(f"{root}/empty")
    plant(here, {"empty": b"?", "deep/new": b"?"})
    uri, before = store.uri(), store.stored()
    patterns = {"delete": True, "exclude": ["2", "b"]}
    acts: list[Callable[[bool], object]] = [
        lambda dry: mlartifacts.sync(here, uri, dry_run=dry),
        lambda dry: mlartifacts.copy(here, uri, dry_run=dry, overwrite="never"),
        lambda dry: mlartifacts.upload(here, uri, dry_run=dry),
        lambda dry: mlartifacts.upload(here, store.uri("file"), dry_run=dry),
        lambda dry: mlartifacts.sync(here, uri, dry_run=dry, **patterns),
    ]
    if name == "local":
        acts.append(lambda dry: mlartifacts.download(here, store.folder, dry_run=dry))
    for act in acts:
        with pytest.raises(TransferError) as caught:
            act(True)
        assert store.stored() == before
        with pytest.raises(TransferError, match=re.escape(str(caught.value))) as raised:
            act(False)
        told = [{n: str(e) for n, e in each.value.failures.items()} for each in (caught, raised)]
        assert told[0] == told[1]
        before = store.stored()
    assert mlartifacts.sync(here, uri, delete=True, dry_run=True).deleted == (
        *("a/2", "b", "file", "kept"),
    )
    mlartifacts.sync(here, uri, delete=True)
    assert store.stored() == found(here)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_what_patterns_leave_out_is_left_there(name: str, opened: Opened, here: Path) -> None:
    store = opened(name)
    store.seed(OTHER)
    failed = failures(lambda: mlartifacts.sync(here, store.uri(), delete=True, exclude=["2", "b"]))
    assert set(failed) == {"a"}
    assert store.stored() == {"a/2": b"?", "b": b"?", "kept": b"?", "c": b"c"}


@pytest.mark.parametrize("name", ["local", "sftp", "ftp", "vsftpd", "hdfs", "runs-local"])
def test_an_empty_directory_in_the_way(name: str, opened: Opened, here: Path) -> None:
    store = opened(name)
    fs, root = mlartifacts.url_to_fs(store.uri())
    for folder in ("a/x/y", "a/z"):
        fs.makedirs(f"{root}/{folder}")
    report = mlartifacts.sync(here, store.uri(), delete=True)
    assert (report.moved, report.deleted) == (tuple(TREE), ())
    assert store.stored() == TREE


def test_a_directory_with_a_link_in_the_way(here: Path, tmp_path: Path) -> None:
    """Where a link leads is nobody's business, and a link to a directory is no file to delete."""
    there, out = tmp_path / "there", plant(tmp_path / "out", {"file": b"out"})
    (there / "a").mkdir(parents=True)
    (there / "a/link").symlink_to(out)
    assert set(failures(lambda: mlartifacts.sync(here, there, delete=True))) == {"a"}
    assert os.listdir(there / "a") == ["link"]
    assert found(out) == {"file": b"out"}


def test_nothing_is_deleted_before_all_names_are_known_to_fit(
    opened: Opened, tmp_path: Path
) -> None:
    s3, there = opened("s3"), plant(tmp_path / "there", OTHER)
    s3.seed({**{f"tree/{name}": data for name, data in TREE.items()}, "tree/" + "x" * 256: b"1"})
    with pytest.raises(InvalidURI, match="255"):
        mlartifacts.sync(s3.uri("tree"), there, delete=True)
    assert found(there) == OTHER


def test_a_source_that_is_in_the_way_itself(opened: Opened, tmp_path: Path) -> None:
    """Though no name says that the one lies in the other."""
    sftp: Any = opened("sftp")
    sftp.seed({"a/a": b"1", "a/in/b": b"2"})
    with pytest.raises(InvalidURI, match="lies in"):
        mlartifacts.sync(sftp.uri("a"), sftp.folder, delete=True)
    assert sftp.stored() == {"a/a": b"1", "a/in/b": b"2"}


def test_a_directory_is_not_put_in_the_place_of_a_target_that_is_a_file(
    here: Path, tmp_path: Path
) -> None:
    there = plant(tmp_path / "there", {"file": b"mine"})
    failed = failures(lambda: mlartifacts.sync(here, there / "file", delete=True))
    assert set(failed) == set(TREE)
    assert all(str(error).endswith("/file'") for error in failed.values())
    assert found(there) == {"file": b"mine"}


@pytest.mark.parametrize("name", [*DIRECTORIES, *KEYS])
def test_a_single_file_is_synced_into_a_directory(name: str, opened: Opened, here: Path) -> None:
    store = opened(name)
    store.seed({"there/old": b"?"})
    for target in ("new/", "there", "there/"):
        for _ in range(2):
            mlartifacts.sync(here / "c", store.uri(target), delete=True)
    assert store.stored() == {"new/c": b"c", "there/c": b"c", "there/old": b"?"}
    mlartifacts.sync(here / "c", store.uri("name"))
    assert store.stored()["name"] == b"c"


@pytest.mark.parametrize("name", ["local", "sftp", "ftp", "vsftpd"])
@pytest.mark.parametrize("link", ["a", "a/deep"])
def test_no_directory_behind_a_link_is_removed(
    name: str, link: str, opened: Opened, here: Path, tmp_path: Path
) -> None:
    """Where a file is to be, or in a directory there."""
    store: Any = opened(name)
    away = tmp_path / "away"
    (away / "empty").mkdir(parents=True)
    away.chmod(0o777)
    store.seed({"kept": b"?"})
    (store.folder / link).parent.mkdir(exist_ok=True)
    (store.folder / link).symlink_to(away)
    with contextlib.suppress(TransferError, InvalidURI):
        mlartifacts.sync(here, store.uri(), delete=True)
    assert (away / "empty").is_dir()


@pytest.mark.parametrize("name", KEYS)
def test_a_slash_at_the_end_means_what_is_in_a_directory(
    name: str, opened: Opened, tmp_path: Path
) -> None:
    """An object of its name is another thing, for a delete above all."""
    store = opened(name)
    other = {"x": b"a file", "xy": b"?"}
    inside = {"1": b"1", "deep/2": b"22"}
    store.seed(other | {f"x/{name}": data for name, data in inside.items()})
    uri = f"{store.uri('x')}/"
    mlartifacts.download(uri, tmp_path / "fetched")
    assert found(tmp_path / "fetched") == found(mlartifacts.cached(uri)) == inside
    assert mlartifacts.cached(uri.rstrip("/")).read_bytes() == b"a file"
    assert mlartifacts.copy(uri, store.uri("copied")).moved == (*inside,)
    assert mlartifacts.delete(store.uri("copied")).moved == (*inside,)
    assert mlartifacts.delete(uri, exclude="1", dry_run=True).moved == ("deep/2",)
    assert mlartifacts.delete(uri).moved == (*inside,)
    assert store.stored() == other
    assert mlartifacts.delete(store.uri("x")).moved == ("",)
    assert store.stored() == {"xy": b"?"}


@pytest.mark.parametrize("name", [*DIRECTORIES, *KEYS])
def test_a_slash_at_the_end_of_a_file(name: str, opened: Opened, tmp_path: Path) -> None:
    store = opened(name)
    store.seed({"x": b"a file"})
    uri = f"{store.uri('x')}/"
    for act in (
        mlartifacts.delete,
        mlartifacts.cached,
        mlartifacts.download,
        lambda uri: mlartifacts.sync(uri, tmp_path / "synced", delete=True),
    ):
        with pytest.raises(NotADirectoryError, match="a slash at the end"):
            act(uri)
    assert store.stored() == {"x": b"a file"}
    assert not (tmp_path / "synced").exists()
