"""Files and directories of a source that cannot be looked at, or are gone when they are read."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.errors import TransferError
from mlartifacts.stores.sftp.filesystem import SFTPArtifactFileSystem
from mlartifacts.transfer.trees import End
from tests.contract.stores import Harbour
from tests.transfer.trees import found, plant

Opened = Callable[[str], Harbour]

TREE = {"a": b"a", "logs/1": b"1", "logs/old/2": b"2", "z": b"z"}
READABLE = ("s3", "wasbs", "gcs", "sftp", "ftp", "hdfs", "mlflow-artifacts", "http")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return plant(tmp_path / "here", TREE)


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Callable[[], None]], None]:
    """Have something happen once a local directory was listed, and before anybody goes on."""
    scandir = os.scandir

    def after(folder: Path, act: Callable[[], None]) -> None:
        @contextlib.contextmanager
        def scan(path: Any) -> Iterator[list[os.DirEntry[str]]]:
            with scandir(path) as entries:
                listed = list(entries)
            if os.path.isdir(folder) and os.path.samestat(os.stat(path), os.stat(folder)):
                act()
            yield listed

        monkeypatch.setattr(os, "scandir", scan)

    return after


def without(tree: dict[str, bytes], start: str) -> dict[str, bytes]:
    return {name: data for name, data in tree.items() if not name.startswith(start)}


def failures(act: Callable[[], object]) -> dict[str, BaseException]:
    with pytest.raises(TransferError) as caught:
        act()
    return caught.value.failures


@pytest.mark.parametrize("name", ["logs/1", "logs/old/"])
def test_a_local_one_that_vanished_since_its_directory_was_listed(
    name: str, here: Path, tmp_path: Path, listing: Any
) -> None:
    """All others arrive, and nothing is deleted: who knows what else was not seen."""
    there = plant(tmp_path / "there", {**TREE, "extra": b"?", "logs/old/x": b"?"})
    gone = here / name
    listing(here / "logs", lambda: shutil.rmtree(gone, True) if gone.is_dir() else os.remove(gone))
    failed = failures(lambda: mlartifacts.sync(here, there / "new"))
    assert set(failed) == {name}
    assert isinstance(failed[name], FileNotFoundError)
    assert found(there / "new") == without(TREE, name)


def test_nothing_is_deleted_where_something_was_not_seen(
    here: Path, tmp_path: Path, listing: Any
) -> None:
    there = plant(tmp_path / "there", {"logs/old/2": b"?", "extra": b"?"})
    listing(here / "logs", lambda: shutil.rmtree(here / "logs/old", ignore_errors=True))
    for dry_run in (True, False):
        plant(here / "logs/old", {"2": b"2"})
        failed = failures(
            lambda dry=dry_run: mlartifacts.sync(here, there, delete=True, dry_run=dry)
        )
        assert set(failed) == {"logs/old/"}
    assert found(there) == {**without(TREE, "logs/old"), "logs/old/2": b"?", "extra": b"?"}


def test_a_local_directory_that_is_not_to_be_read(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, unless a pattern leaves out all that may be in it."""
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if os.path.basename(os.path.normpath(path)) == "old":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    failed = failures(lambda: mlartifacts.upload(here, tmp_path / "there"))
    assert isinstance(failed["logs/old/"], PermissionError)
    assert found(tmp_path / "there") == {"a": b"a", "logs/1": b"1", "z": b"z"}
    failures(lambda: mlartifacts.upload(here, tmp_path / "there", include="*.csv"))
    for pattern in ("old/", "logs", "logs/**"):
        assert mlartifacts.upload(here, tmp_path / "there", exclude=pattern).moved[0] == "a"
    with pytest.raises(PermissionError):
        mlartifacts.upload(here / "logs/old", tmp_path / "new")


def test_a_link_whose_file_was_rotated_away(here: Path, tmp_path: Path) -> None:
    (here / "logs/latest").symlink_to("3")
    failed = failures(lambda: mlartifacts.upload(here, tmp_path / "there"))
    assert "leads nowhere" in str(failed["logs/latest"])
    assert found(tmp_path / "there") == TREE


def test_a_local_one_that_vanishes_before_it_is_compared(
    here: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = opened("s3")
    s3.seed({"tree/a": b"a", "tree/z": b"z"})
    monkeypatch.setattr(End, "files", afterwards(lambda: (here / "a").unlink()))
    failed = failures(lambda: mlartifacts.upload(here, s3.uri("tree"), resume=True))
    assert set(failed) == {"a"}
    assert isinstance(failed["a"], FileNotFoundError)
    assert s3.stored() == {f"tree/{name}": data for name, data in TREE.items()}


def afterwards(act: Callable[[], None]) -> Callable[..., Any]:
    """List what is at an end, and then do something, once."""
    files, acts = End.files, [act]

    def listed(self: End, *args: Any, **kwargs: Any) -> Any:
        said = files(self, *args, **kwargs)
        while acts:
            acts.pop()()
        return said

    return listed


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", READABLE)
def test_a_file_of_a_store_that_is_gone_when_it_is_read(
    name: str, large: bool, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(name)
    gone = b"3" * (12_000_000 if large else 1)
    store.seed({"tree/one": b"1", "tree/two/2": b"22", "tree/gone": gone})

    def vanish() -> None:
        if name == "http":
            (store.folder / "tree/gone").unlink()  # type: ignore[attr-defined]
        else:
            mlartifacts.delete(store.uri("tree/gone"))

    monkeypatch.setattr(End, "files", afterwards(vanish))
    failed = failures(lambda: mlartifacts.download(store.uri("tree"), tmp_path / "there"))
    assert set(failed) == {"gone"}
    assert isinstance(failed["gone"], FileNotFoundError)
    assert found(tmp_path / "there") == {"one": b"1", "two/2": b"22"}


def test_a_directory_of_an_sftp_server_that_vanishes(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = opened("sftp")
    store.seed(TREE)
    (store.folder / "nowhere").symlink_to("missing")
    ls = SFTPArtifactFileSystem.ls

    def listed(self: SFTPArtifactFileSystem, path: str, *args: Any, **kwargs: Any) -> Any:
        said = ls(self, path, *args, **kwargs)
        if path.endswith("logs"):
            shutil.rmtree(store.folder / "logs/old")
        return said

    monkeypatch.setattr(SFTPArtifactFileSystem, "ls", listed)
    failed = failures(lambda: mlartifacts.download(store.uri(), tmp_path / "there"))
    assert {name: type(error) for name, error in failed.items()} == {
        "logs/old/": FileNotFoundError,
        "nowhere": FileNotFoundError,
    }
    assert found(tmp_path / "there") == without(TREE, "logs/old")


@pytest.mark.skipif(os.geteuid() != 0, reason="the server serves as this user, who may read all")
def test_a_directory_of_an_ftp_server_that_is_not_to_be_read(
    opened: Opened, tmp_path: Path
) -> None:
    store: Any = opened("vsftpd")
    store.seed(TREE)
    (store.folder / "logs/old").chmod(0)
    failed = failures(lambda: mlartifacts.download(store.uri(), tmp_path / "there"))
    assert {name: type(error) for name, error in failed.items()} == {"logs/old/": PermissionError}
    assert found(tmp_path / "there") == without(TREE, "logs/old")


def test_what_vanishes_while_a_target_is_listed_need_not_be_deleted(
    here: Path, tmp_path: Path, listing: Any
) -> None:
    there = plant(tmp_path / "there", {**TREE, "logs/extra": b"?", "logs/more/1": b"?"})

    def vanish() -> None:
        (there / "logs/extra").unlink(missing_ok=True)
        shutil.rmtree(there / "logs/more", ignore_errors=True)

    listing(there / "logs", vanish)
    assert mlartifacts.sync(here, there, delete=True).deleted == ()
    assert found(there) == TREE
