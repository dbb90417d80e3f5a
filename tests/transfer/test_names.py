"""Which names a disk takes for one, and which Windows knows no file by."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.errors import InvalidURI
from mlartifacts.stores.local.filesystem import LocalArtifactFileSystem, unfit
from mlartifacts.transfer import names as named
from mlartifacts.transfer.trees import End
from tests.contract.stores import Harbour
from tests.servers import pyftpd
from tests.transfer.trees import found, plant


@pytest.mark.parametrize(
    "name",
    [
        *("a:b", "a?", "a*", "<a", "a>", 'a"', "a|b", "back\\slash", "tab\t"),
        *("dot.", "space ", "dir./file", "con", "CON.txt", "Aux", "nul.tar.gz", "com1", "a/LPT9.x"),
    ],
)
def test_names_that_windows_cannot_hold(name: str) -> None:
    reason = unfit(f"/data/{name}", windows=True)
    assert reason is not None
    assert reason.startswith("Windows knows no")
    assert unfit(f"/data/{name}", windows=False) is None


@pytest.mark.parametrize(
    "name", ["con sole", "console", "com", "com10", "x.con", ".hidden", "a.b.c", "ünï", "[1] {2}#%"]
)
def test_names_that_windows_holds(name: str) -> None:
    assert unfit(f"/data/{name}", windows=True) is None


@pytest.mark.parametrize("step", ["日" * 255, "\U0001f600" * 127, "a" * 255, "\ud800"])
def test_how_long_a_name_may_be_on_windows(step: str) -> None:
    assert unfit(f"/data/{step}", windows=True) is None
    assert "characters" in str(unfit(f"/data/{step * 2 if len(step) > 1 else step * 256}", True))


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="they count otherwise")
def test_how_long_a_name_may_be_on_linux(tmp_path: Path) -> None:
    for fitting, unfitting, reason in (
        ("日" * 85, "日" * 86, "bytes"),
        ("\udcff" * 255, "\udcff" * 256, "bytes"),  # bytes that are no text
        ("日", "\ud800", "half of a character"),
    ):
        (tmp_path / fitting).touch()
        with pytest.raises((OSError, UnicodeEncodeError)):
            (tmp_path / unfitting).touch()
        assert unfit(f"{tmp_path}/{fitting}", windows=False) is None
        assert reason in str(unfit(f"{tmp_path}/{unfitting}", windows=False))


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["A", "a"], [("", "A", "a")]),
        (["x/A", "x/a", "x/b"], [("x", "x/A", "x/a")]),
        # Of directories that a disk keeps apart, the files are none of one name.
        (["X", "x", "X/a", "x/A", "x/a"], [("", "X", "x"), ("x", "x/A", "x/a")]),
        (["\u00e9", "e\u0301"], [("", "\u00e9", "e\u0301")]),
        (["ä.txt", "Ä.TXT"], [("", "ä.txt", "Ä.TXT")]),
        (["a", "b", "a b", "ab/A", "b/a"], []),
    ],
)
def test_names_that_are_nearly_equal(names: list[str], pairs: list[tuple[str, str, str]]) -> None:
    assert list(named.nearly_equal(names)) == pairs


@pytest.fixture
def folding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory, below others, whose disk takes upper and lower case for one.

    Few machines let a test mount such a disk: what the system says of names is what one says.
    """
    mount = tmp_path / "mount"
    mount.mkdir()
    read = LocalArtifactFileSystem.cat_file

    def folding(self: LocalArtifactFileSystem, path: str, *args: Any, **kwargs: Any) -> bytes:
        folder, name = os.path.split(path)
        if Path(folder).is_relative_to(mount) and os.path.isdir(folder):
            names = {each.casefold(): each for each in os.listdir(folder)}
            path = os.path.join(folder, names.get(name.casefold(), name))
        return read(self, path, *args, **kwargs)

    monkeypatch.setattr(LocalArtifactFileSystem, "cat_file", folding)
    return mount


CASES = ({"A.txt": b"1", "a.txt": b"2"}, {"a": b"1", "A/b": b"2"}, {"x/A/b": b"1", "x/a/c": b"2"})


@pytest.mark.parametrize("files", CASES)
@pytest.mark.parametrize("there", [{}, {"1": b"1"}, {"old": b"1"}])
def test_a_disk_that_folds_case(
    files: dict[str, bytes],
    there: dict[str, bytes],
    folding: Path,
    tmp_path: Path,
    opened: Callable[[str], Harbour],
) -> None:
    """It is asked itself, and not the disk above it; what is in it, if anything is."""
    s3 = opened("s3")
    s3.seed(files)
    plant(folding, there)
    for target in (folding, folding / "new" / "deep"):
        with pytest.raises(InvalidURI, match="takes '.*' and '.*' for one name"):
            mlartifacts.download(s3.uri(), target)
        assert found(folding) == there
        assert [path.name for path in folding.iterdir()] == list(there)
    # Beside it, each is itself.
    assert found(mlartifacts.download(s3.uri(), tmp_path / "Other")) == files
    s3.seed({"only": b"3"})
    one = mlartifacts.download(s3.uri(), folding / "fine", include="only")
    assert found(one) == {"only": b"3"}


def test_a_dry_run_writes_nothing_to_find_out(
    folding: Path, opened: Callable[[str], Harbour]
) -> None:
    s3 = opened("s3")
    s3.seed(CASES[0])
    os.utime(folding, (1, 1))
    mlartifacts.download(s3.uri(), folding, dry_run=True)
    assert folding.stat().st_mtime == 1
    plant(folding, {"old": b"1"})
    with pytest.raises(InvalidURI, match="for one name"):  # which tells
        mlartifacts.download(s3.uri(), folding, dry_run=True)


def test_a_disk_that_folds_case_and_is_not_to_be_read(
    folding: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: LocalArtifactFileSystem, path: str, **kwargs: Any) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(LocalArtifactFileSystem, "ls", refuse)
    assert named._folds_case(End(*mlartifacts.url_to_fs(folding)), "")
    assert list(folding.parent.glob("mount/*")) == []


@pytest.mark.skipif(os.name == "nt", reason="its disks fold case")
def test_a_disk_that_keeps_case(tmp_path: Path) -> None:
    if os.path.exists(tmp_path.parent / tmp_path.name.swapcase()):
        pytest.skip("this disk folds case")
    for number, files in enumerate(({}, {"1": b""}, {"old": b""}, {"a": b"", "A": b""})):
        folder = plant(tmp_path / str(number), files)
        folder.mkdir(exist_ok=True)
        assert not named._folds_case(End(*mlartifacts.url_to_fs(folder)), "")
        assert found(folder) == files


# ---- A server that folds case ------------------------------------------------------------


@pytest.fixture
def share(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URI of a directory of a server that takes upper and lower case for one, and its path."""
    with pyftpd.serve(tmp_path, folding=True) as server:
        yield server.new_root(), next(server.root.iterdir())


@pytest.mark.parametrize("files", CASES)
@pytest.mark.parametrize("there", [{}, {"old": b"1"}])
def test_two_names_that_a_server_takes_for_one(
    files: dict[str, bytes], there: dict[str, bytes], share: tuple[str, Path], tmp_path: Path
) -> None:
    uri, folder = share
    here, _ = plant(tmp_path / "here", files), plant(folder, there)
    with pytest.raises(InvalidURI, match="takes '.*' and '.*' for one name"):
        mlartifacts.upload(here, uri)
    assert found(folder) == there


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("is_newer", [True, False])
def test_a_sync_to_other_letters_deletes_nothing_that_it_copied(
    is_newer: bool, dry_run: bool, share: tuple[str, Path], tmp_path: Path
) -> None:
    uri, folder = share
    plant(folder, {"readme.md": b"old", "data/f": b"old", "x/Y/z": b"old", "extra": b"?"})
    here = plant(tmp_path / "here", {"README.md": b"newer", "Data/f": b"newer", "x/y/Z": b"newer"})
    if not is_newer:
        mlartifacts.sync(here, uri)
    before = found(folder)
    report = mlartifacts.sync(here, uri, delete=True, dry_run=dry_run)
    assert set(report.moved) == ({"README.md", "Data/f", "x/y/Z"} if is_newer else set())
    assert report.deleted == ("extra",)
    if dry_run:
        assert found(folder) == before
    else:
        assert found(folder) == {"readme.md": b"newer", "data/f": b"newer", "x/Y/z": b"newer"}
    # Whatever is there by now, a source without it has it deleted.
    (here / "README.md").unlink()
    report = mlartifacts.sync(here, uri, delete=True, dry_run=dry_run)
    assert report.deleted == (("extra", "readme.md") if dry_run else ("readme.md",))
    assert (folder / "readme.md").exists() == dry_run


# ---- What servers do not say -------------------------------------------------------------


@pytest.mark.xdist_group("mlflow")
def test_a_file_and_a_directory_of_one_name_behind_mlflows_server(
    opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It depends on what is behind it, which is tried."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    s3, on_s3, on_a_disk = map(opened, ("s3", "mlflow-artifacts-s3", "mlflow-artifacts"))
    files = {"both": b"1", "both/below": b"2", "fine": b"3"}
    s3.seed(files)
    mlartifacts.copy(s3.uri() + "/", on_s3.uri())
    assert on_s3.stored() == files
    for target in (on_a_disk.uri(), on_a_disk.uri("new/deep")):
        with pytest.raises(InvalidURI, match="'both' as a file and as a directory"):
            mlartifacts.copy(s3.uri() + "/", target)
    assert on_a_disk.stored() == {}
    # Nothing is tried where nothing is to be written.
    assert mlartifacts.copy(s3.uri() + "/", on_a_disk.uri(), dry_run=True).moved == (*files,)


@pytest.mark.parametrize("step", ["x" * 256, "\u65e5" * 120, "\u00e9" * 250])
@pytest.mark.parametrize("name", ["sftp", "ftp", "vsftpd", "mlflow-artifacts"])
@pytest.mark.xdist_group("mlflow")
def test_a_name_that_is_too_long_for_a_server(
    name: str, step: str, opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    s3, store = opened("s3"), opened(name)
    s3.seed({"tree/fine": b"1", f"tree/deep/{step}/file": b"2"})
    for target in (store.uri(), store.uri("new/tree")):
        with pytest.raises(InvalidURI, match=re.escape(f"{step[:20]!r}... has")):
            mlartifacts.copy(s3.uri("tree"), target)
    assert store.stored() == {}


@pytest.mark.parametrize("name", ["sftp", "ftp", "vsftpd", "mlflow-artifacts"])
@pytest.mark.xdist_group("mlflow")
def test_a_name_that_is_just_short_enough(name: str, opened: Callable[[str], Harbour]) -> None:
    s3, store = opened("s3"), opened(name)
    step = "\u65e5" * 85
    s3.seed({f"tree/{step}": b"2"})
    mlartifacts.copy(s3.uri("tree"), store.uri())
    assert store.stored() == {step: b"2"}


# Bytes that are no text, as Python has them, and some that are.
ODD = ["\udcff", "\udcfe", "fine"]


@pytest.mark.parametrize("name", ["sftp", "ftp", "vsftpd", "hdfs", "hdfs-native"])
@pytest.mark.xdist_group("hdfs")
def test_names_that_are_no_text(
    name: str, opened: Callable[[str], Harbour], tmp_path: Path
) -> None:
    """A server keeps their bytes, or none of them: pyftpdlib has one name for both."""
    files = {f"deep/{step}.bin": step.encode(errors="surrogateescape") for step in ODD}
    here, store = plant(tmp_path / "here", files), opened(name)
    if name in {"sftp", "vsftpd"}:
        mlartifacts.sync(here, store.uri("new"), delete=True)
        mlartifacts.download(store.uri("new"), tmp_path / "back")
        assert found(tmp_path / "back") == files
        return
    with pytest.raises(InvalidURI, match=r"cannot hold 'deep/\\udcf[ef].bin': "):
        mlartifacts.sync(here, store.uri("new"), delete=True)
    (here / "deep/\udcff.bin").unlink()  # a single one would not be found again
    with pytest.raises(InvalidURI, match=r"cannot hold 'deep/\\udcfe.bin': "):
        mlartifacts.upload(here, store.uri("new"))
    assert store.stored() == {}


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs", "runs-s3"])
def test_keys_that_are_no_paths(
    name: str, opened: Callable[[str], Harbour], tmp_path: Path
) -> None:
    """Stores of objects hold them, and no others do."""
    keys = {"x//y": b"1", "/lead": b"2", "z": b"3", "v/w": b"4"}
    s3, store = opened("s3"), opened(name)
    s3.seed({f"tree/{key}": data for key, data in keys.items()})
    assert set(mlartifacts.copy(s3.uri("tree"), store.uri("copy")).moved) == set(keys)
    assert mlartifacts.sync(s3.uri("tree"), store.uri("copy"), delete=True).deleted == ()
    mlartifacts.copy(store.uri("copy"), s3.uri("back"))
    copied = {f"{folder}/{key}": data for key, data in keys.items() for folder in ("tree", "back")}
    assert {n: data for n, data in s3.stored().items() if not n.startswith("copy")} == copied
    for target in (tmp_path / "there", opened("sftp").uri()):
        with pytest.raises(InvalidURI, match="has an empty step"):
            mlartifacts.copy(store.uri("copy"), target)
    s3.seed({"tree/a/../b": b"5"})
    with pytest.raises(InvalidURI, match=r"'\.\.'"):
        mlartifacts.copy(s3.uri("tree"), store.uri("copy"))


@pytest.mark.parametrize("character", ["\x01", "\ufffe"])
def test_a_name_that_azure_cannot_list(
    character: str, opened: Callable[[str], Harbour], tmp_path: Path
) -> None:
    azure = opened("wasbs")
    here = plant(tmp_path / "here", {"fine": b"1", f"a{character}b": b"2"})
    with pytest.raises(InvalidURI, match="no listing can have"):
        mlartifacts.upload(here, azure.uri())
    assert azure.stored() == {}


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs", "runs-s3"])
def test_an_empty_step_at_the_end(
    name: str, opened: Callable[[str], Harbour], tmp_path: Path
) -> None:
    """What lies below ``d//`` is not all that lies below ``d/``."""
    store = opened(name)
    keys = {"d//c": b"1", "d/e": b"2"}
    store.seed(keys)
    here = plant(tmp_path / "here", {"f": b"3"})
    url = store.uri("d//")
    acts: list[Callable[[], object]] = [
        lambda: mlartifacts.delete(url),
        lambda: mlartifacts.copy(f"{url}/", here),
        lambda: mlartifacts.sync(here, url, delete=True),
        lambda: mlartifacts.upload(here, url),
        lambda: mlartifacts.cached(url),
    ]
    for act in acts:
        with pytest.raises(InvalidURI, match="d//.*empty step"):
            act()
    assert store.stored() == keys
