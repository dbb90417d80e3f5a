"""What uploads, downloads, copies, syncs and deletes promise, whatever the store."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec.callbacks
import pytest

import mlartifacts
from mlartifacts.errors import InvalidConfig, InvalidURI, TransferError
from mlartifacts.transfer import engine
from mlartifacts.transfer.pool import Budget
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.moto import Moto
from tests.servers.reverse_proxy import Answer, Request
from tests.servers.static_http import StaticHttp
from tests.servers.tcp_proxy import Proxy, proxied
from tests.transfer.conftest import AtOnce, behind
from tests.transfer.trees import found, odd_tree, plant

LARGE = odd_tree()["large.bin"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return plant(tmp_path / "here", {"a.txt": b"a", "b/c.csv": b"cc", "b/d/e.txt": b"eee"})


@pytest.fixture
def s3(opened: Callable[[str], Harbour]) -> Harbour:
    return opened("s3")


@pytest.fixture
def wire(s3: Harbour, behind_s3: Callable[[], Proxy]) -> Proxy:
    """What lies between S3 and us."""
    return behind_s3()


# ---- Where it goes -----------------------------------------------------------------------


def test_a_file_goes_into_a_directory(here: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    report = mlartifacts.upload(here / "a.txt", there / "renamed.txt")
    assert (report.place, report.moved, report.size) == (str(there / "renamed.txt"), ("",), 1)
    mlartifacts.upload(here / "a.txt", there)
    mlartifacts.upload(here / "a.txt", f"{there}/new/")
    assert found(there) == {"renamed.txt": b"a", "a.txt": b"a", "new/a.txt": b"a"}
    assert mlartifacts.download(there / "new", tmp_path / "got") == tmp_path / "got"
    assert mlartifacts.download(there / "a.txt", tmp_path / "got") == tmp_path / "got" / "a.txt"
    temporary = mlartifacts.download(there)
    assert found(temporary) == found(there)


def test_what_is_not_there(tmp_path: Path, s3: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    for act in (
        lambda: mlartifacts.upload(tmp_path / "missing", s3.uri("x")),
        lambda: mlartifacts.download(s3.uri("missing"), tmp_path / "x"),
        lambda: mlartifacts.copy(s3.uri("missing"), tmp_path / "x"),
        lambda: mlartifacts.sync(s3.uri("missing"), tmp_path / "x", delete=True),
        lambda: mlartifacts.delete(s3.uri("missing")),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            act()
        assert "missing" in str(caught.value.filename)
    assert not (tmp_path / "x").exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        mlartifacts.download(s3.uri("missing"))
    assert not list(tmp_path.glob("mlartifacts-*"))


def test_a_dry_run_leaves_no_trace(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    mlartifacts.download(here, dry_run=True)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_download_gives_a_path_that_is_there(here: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert found(mlartifacts.download(tmp_path / "empty", tmp_path / "one")) == {}
    assert found(mlartifacts.download(here, tmp_path / "two", include="nothing")) == {}
    assert {path.name for path in tmp_path.iterdir()} >= {"one", "two"}


def test_places_that_are_none(here: Path, s3: Harbour, tmp_path: Path) -> None:
    with pytest.raises(InvalidURI, match="no local path"):
        mlartifacts.download(here, s3.uri("x"))
    place: Any
    for place in (os.fsencode(here), b"s3://bucket/x"):
        for act in (
            lambda place=place: mlartifacts.upload(place, tmp_path / "x"),
            lambda place=place: mlartifacts.download(here, place),
            lambda place=place: mlartifacts.copy(here, place),
            lambda place=place: mlartifacts.delete(place),
        ):
            with pytest.raises(InvalidURI, match="bytes"):
                act()
    assert s3.stored() == {}


def test_into_itself(here: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(here)
    for target in (here, here / "b" / "copy", tmp_path / "link", tmp_path / "link/b/copy"):
        with pytest.raises(InvalidURI, match="itself"):
            mlartifacts.copy(here, target)
    assert set(found(here)) == {"a.txt", "b/c.csv", "b/d/e.txt"}


# ---- Which files -------------------------------------------------------------------------


EVERYTHING = {"a.txt", "b/c.csv", "b/d/e.txt"}


@pytest.mark.parametrize(
    ("choice", "moved"),
    [
        ({"include": "*.txt"}, {"a.txt", "b/d/e.txt"}),
        ({"include": "/*.txt"}, {"a.txt"}),
        ({"include": "**/*.txt"}, {"a.txt", "b/d/e.txt"}),
        ({"include": "e.*"}, {"b/d/e.txt"}),
        ({"include": ["b/c*", "/a.*"]}, {"a.txt", "b/c.csv"}),
        # A directory is all that is in it.
        *(({"exclude": name}, {"a.txt"}) for name in ("b", "b/", "/b", "/b/", "b/*", "b/**")),
        *(({"exclude": name}, {"a.txt", "b/c.csv"}) for name in ("d", "d/", "b/d", "**/d", "b/?")),
        ({"include": "d"}, {"b/d/e.txt"}),
        ({"include": "*", "exclude": "*/*"}, {"a.txt"}),
        (
            {"exclude": ["a.txt/", "/d", "d/e.txt", "/e.txt", "B"]},
            {"a.txt", "b/c.csv", "b/d/e.txt"},
        ),
        ({"include": "b/**", "exclude": ["**/*.csv"]}, {"b/d/e.txt"}),
        ({"include": "[ab].txt"}, {"a.txt"}),
        ({"include": "nothing"}, set()),
        ({"include": None, "exclude": None}, EVERYTHING),
    ],
)
def test_patterns(here: Path, tmp_path: Path, choice: Any, moved: set[str]) -> None:
    """They are gitignore's."""
    dry = mlartifacts.upload(here, tmp_path / "there", dry_run=True, **choice)
    assert not (tmp_path / "there").exists()
    done = mlartifacts.upload(here, tmp_path / "there", **choice)
    assert set(done.moved) == set(dry.moved) == moved
    assert (set(found(tmp_path / "there")) if moved else set()) == moved


@pytest.mark.parametrize(
    ("overwrite", "moved"),
    [
        ("always", {"same", "older", "newer", "longer", "new"}),
        ("never", {"new"}),
        ("newer", {"newer", "new"}),
        ("different", {"newer", "older", "longer", "new"}),
    ],
)
def test_overwrite(tmp_path: Path, s3: Harbour, overwrite: Any, moved: set[str]) -> None:
    """By checksum where both sides have one, by time where not."""
    here = plant(tmp_path / "here", dict.fromkeys(("same", "older", "newer", "longer"), b"old"))
    mlartifacts.upload(here, s3.uri())
    plant(here, {"older": b"odd", "newer": b"new", "longer": b"longer", "new": b"new"})
    for name, age in {"same": 3600, "older": 3600, "longer": 3600, "newer": -3600}.items():
        when = time.time() - age
        os.utime(here / name, (when, when))
    report = mlartifacts.upload(here, s3.uri(), overwrite=overwrite)
    assert set(report.moved) == moved
    stored = s3.stored()
    assert {name for name in moved if stored[name] == (here / name).read_bytes()} == moved


@pytest.mark.parametrize(
    ("choice", "moves"),
    [
        ({}, False),
        ({"resume": False}, True),
        ({"overwrite": "always"}, True),
        ({"overwrite": "different", "resume": False}, False),
    ],
)
def test_what_is_there_and_the_same(
    here: Path, tmp_path: Path, s3: Harbour, choice: Any, moves: bool
) -> None:
    """A download and a copy leave it, unless they are told otherwise."""
    s3.seed({f"tree/{name}": data for name, data in found(here).items()})
    mlartifacts.download(s3.uri("tree"), tmp_path / "there")
    mlartifacts.copy(s3.uri("tree"), s3.uri("copy"))
    told = fsspec.callbacks.Callback()
    mlartifacts.download(s3.uri("tree"), tmp_path / "there", callback=told, **choice)
    assert told.value == (6 if moves else 0)
    assert len(mlartifacts.copy(s3.uri("tree"), s3.uri("copy"), **choice).moved) == 3 * moves


def test_unknown_overwrite(here: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="never"):
        mlartifacts.upload(here, tmp_path / "there", overwrite="sometimes")  # type: ignore[arg-type]


def test_sync(tmp_path: Path, here: Path, s3: Harbour) -> None:
    s3.seed({"old/x.txt": b"x", "a.txt": b"?", "kept.log": b"log"})
    first = mlartifacts.sync(here, s3.uri(), exclude="*.log")
    assert set(first.moved) == {"a.txt", "b/c.csv", "b/d/e.txt"}
    again = mlartifacts.sync(here, s3.uri(), exclude="*.log", delete=True)
    assert (again.moved, again.deleted) == ((), ("old/x.txt",))
    assert s3.stored() == {**found(here), "kept.log": b"log"}
    (here / "a.txt").unlink()
    would = mlartifacts.sync(here, s3.uri(), exclude="*.log", delete=True, dry_run=True)
    assert would.deleted == ("a.txt",)
    assert "a.txt" in s3.stored()
    mlartifacts.sync(here, s3.uri(), delete=True)
    assert s3.stored() == found(here)


def test_delete_touches_what_it_names(s3: Harbour) -> None:
    s3.seed({"foo/a": b"1", "foo/b.txt": b"2", "foobar": b"3", "a[1]*": b"4", "a1x": b"5"})
    report = mlartifacts.delete(s3.uri("foo"), include="*.txt", dry_run=True)
    assert (report.moved, report.skipped) == (("b.txt",), ("a",))
    mlartifacts.delete(s3.uri("foo"), include="*.txt")
    assert set(s3.stored()) == {"foo/a", "foobar", "a[1]*", "a1x"}
    mlartifacts.delete(s3.uri("foo"))
    mlartifacts.delete(s3.uri("a[1]*"))
    assert set(s3.stored()) == {"foobar", "a1x"}


def test_patterns_that_are_none(here: Path, tmp_path: Path) -> None:
    """A filter that does nothing would be noticed too late."""
    patterns: list[Any] = ["./a.txt", "../x", "", "/", "//a", "b//", "a**", b"a", 3, [None], [], ()]
    patterns += ["{a,b}.txt", "{a.txt}", "b\\\\c.csv", "[[:alpha:]]*", iter([])]
    for pattern in patterns:
        for choice in ({"include": pattern}, {"exclude": pattern}):
            with pytest.raises(InvalidConfig, match="include|exclude"):
                mlartifacts.upload(here, tmp_path / "there", **choice)
            with pytest.raises(InvalidConfig):
                mlartifacts.delete(here, **choice)
    assert not (tmp_path / "there").exists()
    assert len(found(here)) == 3


def test_patterns_for_a_single_file(here: Path, tmp_path: Path) -> None:
    file = here / "a.txt"
    assert mlartifacts.upload(file, tmp_path / "b.txt", include="*.csv").moved == ()
    assert mlartifacts.download(file, tmp_path / "b.txt", include="a.*").read_bytes() == b"a"
    assert mlartifacts.delete(file, exclude="*.txt").moved == ()
    assert file.exists()


def test_sync_of_a_file_deletes_nothing(here: Path, s3: Harbour) -> None:
    s3.seed({"b/old": b"old"})
    for _ in range(2):
        mlartifacts.sync(here / "a.txt", s3.uri("b"), delete=True)
        mlartifacts.sync(here / "a.txt", s3.uri("b"), exclude="*", delete=True)
        assert s3.stored() == {"b/old": b"old", "b/a.txt": b"a"}


def test_a_directory_that_an_object_has_the_name_of(here: Path, s3: Harbour) -> None:
    s3.seed({"x": b"object", "x/a.txt": b"mine", "x/old": b"old"})
    mlartifacts.upload(here, s3.uri("x"), overwrite="never")
    assert s3.stored()["x/a.txt"] == b"mine"
    assert mlartifacts.upload(here, s3.uri("x"), resume=True).moved == ("a.txt",)
    mlartifacts.sync(here, s3.uri("x"), delete=True)
    expected = {"x": b"object", **{f"x/{name}": data for name, data in found(here).items()}}
    assert s3.stored() == expected


@pytest.mark.parametrize("name", ["wasbs", "gcs", "runs-s3"])
def test_what_is_below_an_object(name: str, opened: Callable[[str], Harbour], here: Path) -> None:
    store = opened(name)
    empty = here / "empty"
    empty.mkdir()
    store.seed({"x": b"object", "x/old": b"old", "x/y/old": b"old"})
    for _ in range(2):
        mlartifacts.sync(empty, store.uri("x"), delete=True)
        assert store.stored() == {"x": b"object"}


@pytest.mark.parametrize("name", ["local", "sftp"])
def test_what_somebody_is_writing(name: str, opened: Callable[[str], Harbour], here: Path) -> None:
    """It is neither read, nor taken from them."""
    store = opened(name)
    written = {
        ".mlartifacts-0123456789abcdef.part": b"half",
        "b/.mlartifacts-0123456789abcdef-0123456789abcdef.part": b"half",
    }
    store.seed({"a.txt": b"??", ".mlartifacts-x.part": b"a user's", **written})
    assert set(found(mlartifacts.download(store.uri()))) == {"a.txt", ".mlartifacts-x.part"}
    mlartifacts.sync(here, store.uri(), delete=True)
    assert store.stored() == {**found(here), **written}
    mlartifacts.delete(store.uri("b"))
    assert set(store.stored()) == {"a.txt", ".mlartifacts-0123456789abcdef.part"}


def test_sync_with_patterns_that_can_be_read_once(here: Path, tmp_path: Path) -> None:
    there = plant(tmp_path / "there", {"kept.csv": b"1", "old.txt": b"2"})
    mlartifacts.sync(here, there, include=iter(["/*.txt"]), delete=True)
    assert found(there) == {"a.txt": b"a", "kept.csv": b"1"}


def test_sync_does_not_delete_its_source(here: Path, tmp_path: Path, s3: Harbour) -> None:
    s3.seed({"b/c": b"1", "d": b"2"})
    (tmp_path / "link").symlink_to(here)
    for source, target in (
        (here / "b", here),
        (here / "b", tmp_path / "link"),
        (tmp_path / "link/b", here),
        (s3.uri("b"), s3.uri()),
        (s3.uri("b"), s3.uri().replace("s3:", "s3a:")),
    ):
        with pytest.raises(InvalidURI, match="lies in"):
            mlartifacts.sync(source, target, delete=True)
    assert len(found(here)) == 3
    assert s3.stored() == {"b/c": b"1", "d": b"2"}


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs"])
def test_a_bucket_stays(name: str, opened: Callable[[str], Harbour], here: Path) -> None:
    store = opened(name)
    for _ in range(2):
        mlartifacts.upload(here, store.uri())
        assert len(mlartifacts.delete(store.uri()).moved) == 3
        assert store.stored() == {}


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs"])
def test_a_bucket_with_a_key_that_begins_with_a_slash_stays(
    name: str, opened: Callable[[str], Harbour], here: Path
) -> None:
    """Its directory has the bucket's own name in listings."""
    store = opened(name)
    store.seed({"/lead": b"1", "/deep/er": b"2", "a/b": b"3", "c": b"4"})
    deleted = mlartifacts.delete(store.uri()).moved
    assert {"a/b", "c"} <= set(deleted)
    left = {"/lead", "/deep/er"} - set(deleted)  # what a listing does not show
    assert set(store.stored()) == left
    mlartifacts.upload(here, store.uri("new"))  # the bucket is there
    assert len(store.stored()) == 3 + len(left)


def test_a_disk_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    for root in ("/", "file:///", tmp_path / "link", f"{tmp_path}/../../../../../../../.."):
        with pytest.raises(InvalidURI, match="root of a disk"):
            mlartifacts.delete(root, dry_run=True)


@pytest.mark.parametrize("act", ["delete", "upload", "download", "copy", "sync", "cached"])
def test_a_step_up_from_where_a_link_leads(act: str, tmp_path: Path) -> None:
    """The system goes up from the directory that the link leads to."""
    tree = {"real/sub/a": b"1", "real/b/old": b"2", "b/mine": b"3", "here/c": b"4"}
    plant(tmp_path, tree)
    (tmp_path / "link").symlink_to("real/sub")
    doubtful, here = f"{tmp_path}/link/../b", tmp_path / "here"
    calls: dict[str, Callable[[str], object]] = {
        "delete": lambda path: mlartifacts.delete(f"file://{path}"),
        "upload": lambda path: mlartifacts.upload(path, here),
        "download": lambda path: mlartifacts.download(here, path),
        "copy": lambda path: mlartifacts.copy(path, here),
        "sync": lambda path: mlartifacts.sync(here, path, delete=True),
        "cached": mlartifacts.cached,
    }
    with pytest.raises(InvalidURI, match=r"link/\.\./b.*link"):
        calls[act](doubtful)
    assert found(tmp_path).items() >= tree.items()
    calls[act](f"{tmp_path}/real/sub/../../b")
    calls[act](f"{tmp_path}/real/none/../b")


def test_a_delete_with_patterns_leaves_directories(here: Path) -> None:
    (here / "b/empty").mkdir()
    mlartifacts.delete(here / "b", include="**")
    assert (here / "b/empty").exists()
    assert found(here) == {"a.txt": b"a"}
    mlartifacts.delete(here / "b")
    assert not (here / "b").exists()


# ---- Links and names ---------------------------------------------------------------------


def test_deletes_follow_no_links(here: Path, tmp_path: Path) -> None:
    """A file is deleted under its own name, not under one that a link gives it."""
    out = plant(tmp_path / "out", {"file": b"out"})
    (here / "linked").symlink_to("b")
    (here / "out").symlink_to(out)
    (here / "nowhere").symlink_to("missing")
    report = mlartifacts.delete(here, exclude="b/**")
    assert report.moved == ("a.txt", "nowhere")
    for choice in ({"include": "missing"}, {"include": "**"}, {}):
        for name in ("linked", "out/", "nowhere"):
            link = here / name
            if not link.is_symlink():
                link.symlink_to({"linked": "b", "out/": out, "nowhere": "missing"}[name])
            report = mlartifacts.delete(f"{here}/{name}", **choice)
            assert report.moved == (() if "missing" in choice.values() else ("",))
            assert link.is_symlink() == ("missing" in choice.values())
    assert found(out) == {"file": b"out"}
    assert found(here) == {"b/c.csv": b"cc", "b/d/e.txt": b"eee"}
    mlartifacts.delete(here)
    assert not here.exists()
    assert found(out) == {"file": b"out"}


def test_deletes_follow_no_links_of_a_server(opened: Callable[[str], Harbour], here: Path) -> None:
    store: Any = opened("sftp")
    store.seed({"tree/b/c.csv": b"?", "tree/b/old": b"1", "tree/old": b"2", "out/x": b"3"})
    (store.folder / "tree/linked").symlink_to("b")
    (store.folder / "tree/out").symlink_to("../out")
    (store.folder / "tree/file").symlink_to("../out/x")
    mlartifacts.sync(here, store.uri("tree"), delete=True)
    assert found(store.folder / "tree") == found(here)
    mlartifacts.delete(store.uri("tree"), include="linked/**")
    assert mlartifacts.delete(store.uri("tree/linked"), include="**", dry_run=True).moved == ("",)
    mlartifacts.delete(store.uri("tree"), include="**", exclude="b/**")
    assert found(store.folder) == {
        "tree/b/c.csv": b"cc",
        "tree/b/d/e.txt": b"eee",
        "out/x": b"3",
    }


@pytest.mark.parametrize("name", ["ftp", "vsftpd"])
def test_deletes_follow_no_links_of_an_ftp_server(
    name: str, opened: Callable[[str], Harbour], here: Path
) -> None:
    """LIST says what is a link, also where MLSD does not."""
    store: Any = opened(name)
    store.seed({"tree/x.log": b"1", "tree/b/y.log": b"2", "out/kept.log": b"3"})
    for link, place in (("link", "../out"), ("b/link", "../../out")):
        (store.folder / "tree" / link).symlink_to(place)
    kept = {"out/kept.log": b"3"}
    mlartifacts.delete(store.uri("tree"), include="*.log")
    assert (store.folder / "tree/link").is_symlink()
    report = mlartifacts.delete(store.uri("tree/link"), include="**")
    assert report.moved == ("",)
    assert not (store.folder / "tree/link").is_symlink()
    mlartifacts.sync(here, store.uri("tree"), delete=True)
    assert found(store.folder / "out") == {"kept.log": b"3"}
    mlartifacts.delete(store.uri("tree"))
    assert found(store.folder) == kept


def test_sync_deletes_nothing_that_it_copied_through_a_link(here: Path, tmp_path: Path) -> None:
    there = plant(tmp_path / "there", {"b/c.csv": b"?", "old": b"?"})
    (there / "linked").symlink_to("b")
    mlartifacts.sync(here, there, delete=True)
    assert found(there) == found(here)
    (here / "b").rename(here / "linked")
    mlartifacts.sync(here, there, delete=True)
    assert found(there) == {"a.txt": b"a", "b/c.csv": b"cc", "b/d/e.txt": b"eee"}


def test_never_means_never(here: Path, tmp_path: Path) -> None:
    """Also beside a link that leads nowhere, and below one that leads on."""
    there = plant(tmp_path / "there", {"a.txt": b"mine", "other/c.csv": b"mine"})
    (there / "nowhere").symlink_to("missing")
    (there / "b").symlink_to("other")
    mlartifacts.upload(here, there, overwrite="never")
    assert found(there) == {"a.txt": b"mine", "other/c.csv": b"mine", "other/d/e.txt": b"eee"}


def test_nothing_lands_outside_of_the_target(s3: Harbour, tmp_path: Path) -> None:
    s3.seed({"b/c": b"1", "file": b"1"})
    out = plant(tmp_path / "out", {"c": b"out", "file": b"out"})
    for name, leads in {"b": out, "file": out / "file"}.items():
        there = tmp_path / f"there {name}"
        there.mkdir()
        (there / name).symlink_to(leads)
        for resume in (True, False):
            with pytest.raises(InvalidURI, match=f"hold '{name}': a link there leads out"):
                mlartifacts.download(s3.uri(), there, resume=resume)
        if name == "file":
            with pytest.raises(InvalidURI, match="a link there leads out"):
                mlartifacts.download(s3.uri("file"), there)
        assert os.listdir(there) == [name]
    assert found(out) == {"c": b"out", "file": b"out"}


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes in directories")
def test_pipes_are_no_files(here: Path, tmp_path: Path) -> None:
    os.mkfifo(here / "pipe")
    (tmp_path / "there").mkdir()
    os.mkfifo(tmp_path / "there" / "a.txt")
    with pytest.raises(InvalidURI, match="neither a file nor a directory"):
        mlartifacts.upload(here / "pipe", tmp_path / "copy")
    for act in (
        lambda: mlartifacts.upload(here, tmp_path / "there"),
        lambda: mlartifacts.download(here / "a.txt", tmp_path / "there" / "a.txt"),
    ):
        with pytest.raises(InvalidURI, match="a pipe is there"):
            act()
    assert mlartifacts.upload(here, tmp_path / "new").moved == ("a.txt", "b/c.csv", "b/d/e.txt")
    mlartifacts.delete(here / "pipe")
    assert not (here / "pipe").exists()


def test_links_are_followed_inside_of_the_root(here: Path, tmp_path: Path) -> None:
    (here / "link.txt").symlink_to("a.txt")
    (here / "linked").symlink_to("b")
    mlartifacts.upload(here, tmp_path / "there")
    assert found(tmp_path / "there") == {
        **found(here),
        "link.txt": b"a",
        "linked/c.csv": b"cc",
        "linked/d/e.txt": b"eee",
    }


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname", "."])
def test_other_links_are_refused(here: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (here / "b" / "link").symlink_to({"../secret": "../../secret", ".": "../b"}.get(target, target))
    with pytest.raises(InvalidURI, match="link"):
        mlartifacts.upload(here, tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("target", ["b", "../out", ".", "b/c.csv", "../out/x"])
def test_links_of_a_server_are_followed_inside_of_the_root(
    opened: Callable[[str], Harbour], here: Path, tmp_path: Path, target: str
) -> None:
    store: Any = opened("sftp")
    store.seed({**{f"tree/{name}": data for name, data in found(here).items()}, "out/x": b"3"})
    (store.folder / "tree/link").symlink_to(target)
    if target not in {"b", "b/c.csv"}:
        with pytest.raises(InvalidURI, match="link"):
            mlartifacts.download(store.uri("tree"), tmp_path / "there")
        assert not (tmp_path / "there").exists()
        return
    mlartifacts.download(store.uri("tree"), tmp_path / "there")
    linked = {"b": {"link/c.csv": b"cc", "link/d/e.txt": b"eee"}, "b/c.csv": {"link": b"cc"}}
    assert found(tmp_path / "there") == {**found(here), **linked[target]}


@pytest.mark.parametrize("folders", [1, 20])
def test_what_else_a_server_has_is_no_matter(
    opened: Callable[[str], Harbour], tmp_path: Path, folders: int
) -> None:
    """What arrived is looked for where it was written, also by a link."""
    store: Any = opened("sftp")
    tree = {f"{number % folders}/{number}": b"%d" % number for number in range(40)}
    here = plant(tmp_path / "here", tree)
    (store.folder / "elsewhere").mkdir()
    (store.folder / "tree").mkdir()
    (store.folder / "tree/0").symlink_to("../elsewhere")
    (store.folder / "tree/away").symlink_to("/etc")
    (store.folder / "tree/nowhere").symlink_to("nothing")
    mlartifacts.upload(here, store.uri("tree"))
    assert all((store.folder / "tree" / name).read_bytes() == data for name, data in tree.items())


def test_names_that_a_disk_cannot_hold(s3: Harbour, tmp_path: Path) -> None:
    for files, reason in (
        ({"x" * 300: b"1"}, "255 bytes"),
        ({"both": b"1", "both/below": b"2"}, "as a file and as a directory"),
        ({"a/../b": b"1"}, r"'\.\.'"),
        ({"/".join(["x" * 200] * 5): b"1"}, "path is too long"),
    ):
        for name in s3.stored():
            s3.server.request("DELETE", f"/{s3.base.removeprefix('s3://')}/{name}")
        s3.seed({"fine": b"0", **files})
        with pytest.raises(InvalidURI, match=reason):
            mlartifacts.download(s3.uri() + "/", _far(tmp_path / "there"))
        assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("folder", ["", "b"])
def test_a_run_on_a_disk(
    folder: str, opened: Callable[[str], Harbour], here: Path, tmp_path: Path
) -> None:
    """What is there is looked at as on the disk itself, in the run's own directory, too."""
    store: Any = opened("runs-local")
    (store.folder / folder).mkdir(exist_ok=True)
    there = store.folder / folder / "a.txt"
    there.symlink_to(tmp_path / "out")
    with pytest.raises(InvalidURI, match="a link there leads out of it"):
        mlartifacts.upload(here, store.uri(folder))
    there.unlink()
    os.mkfifo(there)
    with pytest.raises(InvalidURI, match="a device or a pipe is there"):
        mlartifacts.upload(here, store.uri(folder))
    there.unlink()
    assert store.stored() == {}


def test_a_single_name_that_a_disk_cannot_hold(s3: Harbour, tmp_path: Path) -> None:
    s3.seed({"x" * 300: b"1"})
    for target in (f"{tmp_path}/there/", None):
        with pytest.raises(InvalidURI, match="255 bytes"):
            mlartifacts.download(s3.uri("x" * 300), target)
    assert not (tmp_path / "there").exists()


def _far(folder: Path) -> Path:
    """A directory whose path is nearly as long as one can be."""
    return folder.joinpath(*(["d" * 200] * 16))


def test_names_that_a_store_cannot_hold(opened: Callable[[str], Harbour], tmp_path: Path) -> None:
    for name, bad in (
        ("mlflow-artifacts", "a#b"),
        ("hdfs", "a:b"),
        ("hdfs", "half \udcff"),
        ("ftp", "two\nlines"),
        ("s3", "half \udcff"),
        ("s3", "/".join(["é" * 110] * 5)),
        ("gcs", "half \udcff"),
        ("gcs", "two\nlines"),
        ("wasbs", "back\\slash"),
        ("wasbs", "half \udcff"),
    ):
        store = opened(name)
        here = plant(tmp_path / f"{name} {len(bad)}", {"fine": b"0", bad: b"1"})
        with pytest.raises(InvalidURI, match=re.escape(f"cannot hold {bad!r}")):
            mlartifacts.upload(here, store.uri("tree"))
        assert store.stored() == {}


@pytest.mark.parametrize(
    ("name", "files", "reason"),
    [
        *(
            (name, {"both": b"1", "both/below": b"2"}, "'both' as a file and as a directory")
            for name in ("sftp", "ftp", "hdfs", "runs-local")
        ),
        ("hdfs", {"é" * 128: b"1"}, "more than 255 bytes"),
        ("hdfs", {"é" * 127 + "x": b"1"}, None),
        ("runs-local", {"x" * 256: b"1"}, "more than 255 bytes"),
    ],
)
def test_names_that_a_store_cannot_hold_of_another(
    name: str,
    files: dict[str, bytes],
    reason: str | None,
    opened: Callable[[str], Harbour],
    s3: Harbour,
) -> None:
    """Before a byte moves, and no others; a bucket holds them all."""
    store = opened(name)
    s3.seed({"fine": b"0", **files})
    copy = lambda: mlartifacts.copy(s3.uri() + "/", store.uri("tree"))  # noqa: E731
    if reason is None:
        copy()
        assert set(store.stored()) == {"tree/fine", *(f"tree/{name}" for name in files)}
        return
    with pytest.raises(InvalidURI, match=reason):
        copy()
    assert store.stored() == {}


# ---- What is told ------------------------------------------------------------------------


def told(report: mlartifacts.Report) -> str:
    """How a report is shown, but for the time."""
    assert report.seconds > 0
    return re.sub(r" in \d+\.\d s\)$", " in ? s)", repr(report))


def test_a_report_is_a_line_of_numbers(here: Path, s3: Harbour) -> None:
    there = s3.uri("tree")
    assert (
        told(mlartifacts.upload(here / "a.txt", f"{there}/"))
        == "Report(1 file uploaded, 1 B in ? s)"
    )
    assert told(mlartifacts.upload(here, there)) == "Report(3 files uploaded, 6 B in ? s)"
    (here / "b/c.csv").unlink()
    (here / "new").write_bytes(bytes(48_200_000))
    dry = mlartifacts.sync(here, there, delete=True, dry_run=True)
    assert told(dry) == (
        "Report(dry run: 1 file would be copied, 2 unchanged, 1 would be deleted, 48.2 MB)"
    )
    done = mlartifacts.sync(here, there, delete=True)
    assert told(done) == "Report(1 file copied, 2 unchanged, 1 deleted, 48.2 MB in ? s)"
    assert done == dry
    same = pickle.loads(pickle.dumps(done))
    assert (same, repr(same), same.deleted) == (done, repr(done), ("b/c.csv",))
    again = mlartifacts.copy(here, there, overwrite="never", exclude="new")
    assert told(again) == "Report(0 files copied, 2 unchanged, 0 B in ? s)"
    dry = mlartifacts.delete(there, include="a.txt", dry_run=True)
    assert told(dry) == "Report(dry run: 1 file would be deleted, 2 unchanged, 1 B)"
    assert told(mlartifacts.delete(there)) == "Report(3 files deleted, 48.2 MB in ? s)"


@pytest.mark.parametrize(
    ("size", "seconds", "said"),
    [
        (0, 0.04, "0 B in 0.0 s"),
        (999, 59.9, "999 B in 59.9 s"),
        (1000, 59.97, "1.0 kB in 1 min 0 s"),
        (999_949, 3725, "999.9 kB in 62 min 5 s"),
        (999_960, 1, "1.0 MB in 1.0 s"),
        (2_340_000_000, 1, "2.3 GB in 1.0 s"),
        (5_000_000_000_000_000, 1, "5000.0 TB in 1.0 s"),
    ],
)
def test_bytes_and_seconds_of_a_report(size: int, seconds: float, said: str) -> None:
    report = mlartifacts.Report("/x", ("",), (), size, seconds=seconds)
    assert repr(report) == f"Report(1 file transferred, {said})"


# ---- What fails --------------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_rest(tmp_path: Path, here: Path, s3: Harbour) -> None:
    s3.seed({f"file {n}": bytes([n]) for n in range(20)})
    target = tmp_path / "there"
    (target / "file 7").mkdir(parents=True)
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(s3.uri() + "/", target)
    assert list(caught.value.failures) == ["file 7"]
    assert isinstance(caught.value.failures["file 7"], IsADirectoryError)
    assert set(found(target)) == {f"file {n}" for n in range(20)} - {"file 7"}


def test_a_login_that_is_refused(opened: Callable[[str], Harbour], here: Path) -> None:
    """By the builtin, for each file: nothing else of the server's is raised before."""
    wrong = opened("ftp").wrong_credentials()
    assert wrong is not None
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here, wrong.uri)
    assert caught.value.failures.keys() == found(here).keys()
    assert all(isinstance(each, PermissionError) for each in caught.value.failures.values())


def test_a_message_is_short(tmp_path: Path) -> None:
    here = plant(tmp_path / "here", {f"file {n}": b"x" for n in range(1000)})
    plant(tmp_path / "there", {f"file {n}/x": b"x" for n in range(1000)})
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here, tmp_path / "there")
    assert len(caught.value.failures) == 1000
    assert str(caught.value) == (
        "1000 files were not uploaded: Is a directory (file 0, file 1, file 10, and 997 more)"
    )


def refusing(*methods: str) -> Callable[[Request], Answer | None]:
    """A server that refuses each request of some kinds, and says of which path."""

    def answer(request: Request) -> Answer | None:
        if request.method not in methods:
            return None
        text = f"<Error><Code>Odd</Code><Message>at {request.path}</Message></Error>"
        return Answer(400, text.encode(), {"Content-Type": "application/xml"})

    return answer


def test_a_message_says_what_was_not_done(
    here: Path, tmp_path: Path, s3: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a cause once, though the server names each file in it."""
    mlartifacts.upload(here, s3.uri("tree"))
    with reverse_proxy.serve(s3.server.url) as front:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        new, there = s3.uri("new"), s3.uri("tree")
        for act, done, *methods in (
            (lambda: mlartifacts.upload(here, new), "uploaded", "PUT"),
            (lambda: mlartifacts.copy(here, new), "copied", "PUT"),
            (lambda: mlartifacts.sync(here, new), "copied", "PUT"),
            (lambda: mlartifacts.delete(there, include="**"), "deleted", "DELETE", "POST"),
        ):
            front.answer = refusing(*methods)
            with pytest.raises(TransferError) as caught:
                act()
            assert str(caught.value) == (
                f"3 files were not {done}: Odd: at ... (a.txt, b/c.csv, b/d/e.txt)"
            )
            assert caught.value.failures.keys() == found(here).keys()
    assert s3.stored() == {f"tree/{name}": data for name, data in found(here).items()}
    plant(tmp_path / "way", {"a.txt/x": b""})
    with pytest.raises(TransferError, match=r"^a\.txt was not downloaded: Is a directory$"):
        mlartifacts.download(here, tmp_path / "way")


def test_a_connection_that_breaks_is_tried_again(wire: Proxy, s3: Harbour, tmp_path: Path) -> None:
    here = plant(tmp_path / "here", odd_tree())

    class Cut(fsspec.callbacks.Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > 2_000_000 and not cuts:
                cuts.append(wire.cut())

    for move in (
        lambda: mlartifacts.upload(here, s3.uri("tree"), callback=Cut()),
        lambda: mlartifacts.download(s3.uri("tree"), tmp_path / "there", callback=Cut()),
    ):
        cuts: list[int] = []
        move()
        assert cuts
    assert found(tmp_path / "there") == found(here)


def test_a_server_that_is_gone(wire: Proxy, s3: Harbour, here: Path, tmp_path: Path) -> None:
    mlartifacts.upload(here, s3.uri("tree"))
    fs, root = mlartifacts.url_to_fs(s3.uri("tree"))
    listed = fs.find(root)
    assert len(listed) == 3
    wire.close()
    with pytest.raises(ConnectionError):
        mlartifacts.download(s3.uri("tree"), tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_large_download_goes_on_where_it_broke_off(
    wire: Proxy, s3: Harbour, tmp_path: Path
) -> None:
    data = LARGE * 4
    s3.seed({"large": data})
    target = tmp_path / "there" / "large"

    class Broken(Exception):
        pass

    class Break(fsspec.callbacks.Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > 2 * 8 * 2**20:
                raise Broken

    with pytest.raises(Broken):
        mlartifacts.download(s3.uri("large"), target, callback=Break())
    assert not target.exists()
    (part,) = target.parent.iterdir()
    came = part.stat().st_size
    assert came >= 2 * 8 * 2**20
    wire.reset()
    mlartifacts.download(s3.uri("large"), target)
    assert target.read_bytes() == data
    assert list(target.parent.iterdir()) == [target]
    # A range that the first began may still have come in between: it lies further on.
    ranges = [request.headers["range"] for request in wire.requests if "range" in request.headers]
    begins = [int(each.removeprefix("bytes=").split("-")[0]) for each in ranges]
    assert min(begins) == came
    assert len(begins) == len(set(begins))

    # What came of another version is no use, and is not kept.
    s3.seed({"large": data[1:]})
    with pytest.raises(Broken):
        mlartifacts.download(s3.uri("large"), target, callback=Break())
    assert target.read_bytes() == data
    s3.seed({"large": data[::-1]})
    mlartifacts.download(s3.uri("large"), target)
    assert target.read_bytes() == data[::-1]
    assert list(target.parent.iterdir()) == [target]


def test_a_second_download_asks_for_what_differs(wire: Proxy, s3: Harbour, tmp_path: Path) -> None:
    tree = {"a": b"a" * 1000, "b/c": b"c", "large": LARGE}
    s3.seed({f"tree/{name}": data for name, data in tree.items()})

    def asked() -> list[str]:
        """Which of the files, besides what is there."""
        wire.reset()
        mlartifacts.download(s3.uri("tree"), tmp_path / "there")
        seen = [r for r in wire.requests if "list-type" not in r.target and r.method == "GET"]
        assert len(wire.requests) == len(seen) + 1  # the listing
        return sorted({request.target.partition("/tree/")[2] for request in seen})

    assert asked() == sorted(tree)
    assert asked() == []
    (tmp_path / "there" / "a").unlink()
    s3.seed({"tree/b/c": b"C"})
    assert asked() == ["a", "b/c"]
    assert found(tmp_path / "there") == {**tree, "b/c": b"C"}


@pytest.mark.skipif(os.name == "nt", reason="there is no other user who could")
def test_a_part_that_is_a_link(s3: Harbour, tmp_path: Path) -> None:
    """Whoever may write to the directory, too, could have made it."""
    s3.seed({"large": LARGE})
    victim = tmp_path / "victim"
    victim.write_bytes(LARGE[:100])

    class Break(fsspec.callbacks.Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            if inc:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        mlartifacts.download(s3.uri("large"), tmp_path / "there/large", callback=Break())
    (part,) = (tmp_path / "there").iterdir()
    part.unlink()
    part.symlink_to(victim)
    assert mlartifacts.download(s3.uri("large"), tmp_path / "there/large").read_bytes() == LARGE
    assert victim.read_bytes() == LARGE[:100]


AT_ONCE = """
import sys, mlartifacts
print("ready", flush=True)
sys.stdin.read()
mlartifacts.download(sys.argv[1], sys.argv[2])
"""


def test_a_large_download_of_several_at_once(wire: Proxy, s3: Harbour, tmp_path: Path) -> None:
    """Of processes, and of threads, with other versions beside it."""
    s3.seed({"large": LARGE * 2, "other": LARGE})
    wire.delay = 0.02
    target = plant(tmp_path / "there", {"large": b"old"}) / "large"
    command = [sys.executable, "-c", AT_ONCE, s3.uri("large"), target]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert found(target.parent) == {"large": LARGE * 2}
    names = ["large", "other"] * 3
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: mlartifacts.download(s3.uri(name), target), names))
    assert found(target.parent) in ({"large": LARGE * 2}, {"large": LARGE})


@pytest.mark.parametrize("size", [10, len(LARGE)])
def test_who_may_read_a_file_and_where_a_link_leads(size: int, tmp_path: Path) -> None:
    here = plant(tmp_path / "here", {"file": LARGE[:size]})
    there = plant(tmp_path / "there", {"private": b"old"})
    (there / "private").chmod(0o600)
    (there / "file").symlink_to("private")
    mlartifacts.upload(here, there)
    assert (there / "file").is_symlink()
    assert (there / "private").stat().st_mode & 0o777 == 0o600
    assert found(there) == {"file": LARGE[:size], "private": LARGE[:size]}


FULL = """
import resource, sys, mlartifacts
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    mlartifacts.upload(sys.argv[1], sys.argv[2])
except mlartifacts.TransferError as error:
    print(error.failures[""].errno)
"""


@pytest.mark.skipif(os.name == "nt", reason="a process can have no such limit")
@pytest.mark.parametrize("size", [5_000_000, len(LARGE)])
def test_a_disk_that_takes_a_part(size: int, tmp_path: Path) -> None:
    here = plant(tmp_path / "here", {"file": LARGE[:size]})
    there = plant(tmp_path / "there", {"file": b"old"})
    command = [sys.executable, "-c", FULL, here / "file", there / "file"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == errno.EFBIG
    assert found(there) == {"file": b"old"}


def test_a_file_that_changes_while_it_is_read(s3: Harbour, tmp_path: Path) -> None:
    data = LARGE * 2
    s3.seed({"large": data})
    changed: list[bool] = []

    class Change(fsspec.callbacks.Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if not changed:
                changed.append(True)
                s3.seed({"large": data[::-1]})

    mlartifacts.download(s3.uri("large"), tmp_path / "large", callback=Change())
    assert changed
    assert (tmp_path / "large").read_bytes() == data[::-1]


@pytest.mark.parametrize("name", ["sftp", "wasbs"])
def test_small_files_that_change_while_others_are_read(
    name: str, opened: Callable[[str], Harbour], tmp_path: Path
) -> None:
    """Each is its own, also where several are read together."""
    harbour = opened(name)
    tree = {f"{number:02}": b"%d" % number for number in range(30)}
    harbour.seed({f"tree/{each}": data for each, data in tree.items()})
    fs, root = mlartifacts.url_to_fs(harbour.uri("tree"))

    class Meanwhile(fsspec.callbacks.Callback):  # type: ignore[misc]
        def set_size(self, size: int) -> None:
            fs.rm_file(f"{root}/07")
            fs.pipe_file(f"{root}/08", b"longer than it was")
            super().set_size(size)

    with pytest.raises(TransferError) as caught:
        mlartifacts.download(harbour.uri("tree"), tmp_path / "there", callback=Meanwhile())
    assert list(caught.value.failures) == ["07"]
    assert isinstance(caught.value.failures["07"], FileNotFoundError)
    del tree["07"]
    assert found(tmp_path / "there") == {**tree, "08": b"longer than it was"}


# ---- What arrived is what was sent -------------------------------------------------------


def test_other_bytes_than_were_sent(opened: Callable[[str], Harbour], here: Path) -> None:
    """A store that keeps something else: said by its listing, and the copy is removed."""
    store = opened("gcs")
    fs, root = mlartifacts.url_to_fs(store.uri("tree"))

    class Replace(fsspec.callbacks.Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value == self.size:
                store.seed({"tree/a.txt": b"?"})

    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here, store.uri("tree"), callback=Replace())
    assert list(caught.value.failures) == ["a.txt"]
    assert "checksum" in str(caught.value)
    assert not fs.exists(f"{root}/a.txt")
    assert fs.cat_file(f"{root}/b/c.csv") == b"cc"


def change_a_mark(body: bytes) -> bytes:
    return body.replace(b"a mark", b"a mArk")


@pytest.mark.parametrize(("name", "size"), [("s3", 1000), ("az", 1000), ("az", len(LARGE))])
def test_other_bytes_than_are_stored_get_no_name(
    opened: Callable[[str], Harbour],
    name: str,
    size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old file stays, nothing of them is kept for the next time, and none asks for more."""
    data = b"a mark" + LARGE[: size - 6]
    store = opened(name)
    mlartifacts.upload(plant(tmp_path / "here", {"file": data}), store.uri("tree"))
    there = plant(tmp_path / "there", {"file": b"old"})
    tries = []
    once = engine.Engine._once
    monkeypatch.setattr(engine.Engine, "_once", lambda *args: tries.append(args) or once(*args))
    with reverse_proxy.serve(store.server.url) as front:
        front.damage = change_a_mark
        with monkeypatch.context() as patch:
            behind(store, front.host, front.port, patch)
            with pytest.raises(TransferError, match="checksum") as caught:
                mlartifacts.download(store.uri("tree"), there)
            assert found(there) == {"file": b"old"}
            assert len(tries) == 2
            assert caught.value.failures["file"].filename == str(there / "file")  # type: ignore[attr-defined]
            front.damage = bytes
            mlartifacts.download(store.uri("tree"), there)
    assert found(there) == {"file": data}


@pytest.mark.parametrize("target", ["s3", "gcs", "sftp"])
def test_other_bytes_than_are_stored_are_not_copied(
    opened: Callable[[str], Harbour], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, or in a stream: what was there stays."""
    store, other = opened("az"), opened(target)
    data = b"a mark" + LARGE
    mlartifacts.filesystem("az").pipe(f"{store.base.removeprefix('az://')}/file", data)
    other.seed({"file": b"old"})
    with reverse_proxy.serve(store.server.url) as front, monkeypatch.context() as patch:
        front.damage = change_a_mark
        behind(store, front.host, front.port, patch)
        with pytest.raises(TransferError, match="other bytes were read than are stored"):
            mlartifacts.copy(store.uri("file"), other.uri("file"))
        assert other.stored() == {"file": b"old"}
        front.damage = bytes
        mlartifacts.copy(store.uri("file"), other.uri("file"))
    assert other.stored() == {"file": data}


@pytest.mark.parametrize("losses", [1, 2])
def test_what_arrives_in_part_is_sent_once_more(
    opened: Callable[[str], Harbour],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: int,
) -> None:
    """An FTP server takes the end of a connection that is lost for the end of the file."""
    store = opened("ftp")
    lost = itertools.count()
    fs, path = mlartifacts.url_to_fs(store.uri("tree"))
    pipe = type(fs).pipe_file

    def losing(self: Any, path: str, data: bytes, **kwargs: Any) -> None:
        cut = path.endswith("/c.csv") and next(lost) < losses
        pipe(self, path, data[:1] if cut else data, **kwargs)

    monkeypatch.setattr(type(fs), "pipe_file", losing)
    told = fsspec.callbacks.Callback()
    if losses == 1:
        mlartifacts.upload(here, store.uri("tree"), callback=told)
        assert told.value == told.size
    else:
        with pytest.raises(TransferError, match="1 bytes arrived of 2") as caught:
            mlartifacts.upload(here, store.uri("tree"), callback=told)
        assert list(caught.value.failures) == ["b/c.csv"]
    assert fs.exists(f"{path}/b/c.csv") == (losses == 1)


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs"])
def test_within_one_store_its_own_copy_is_used(
    name: str, opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the bytes comes here."""
    store = opened(name)
    tree = {f"file {n}": bytes([n]) * 20_000 for n in range(5)} | {"large": LARGE}
    store.seed({f"tree/{name}": data for name, data in tree.items()})
    with proxied(store.server.url) as proxy:
        behind(store, proxy.host, proxy.port, monkeypatch)
        assert len(mlartifacts.copy(store.uri("tree"), store.uri("copied")).moved) == len(tree)
        assert 0 < proxy.bytes_to_client + proxy.bytes_to_server < 90_000
    assert {
        n.removeprefix("copied/"): d for n, d in store.stored().items() if "copied" in n
    } == tree


def test_what_s3_does_not_copy_at_once(
    wire: Proxy, s3: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 5 GB on S3, and here above less: in parts, of which none comes here either."""
    monkeypatch.setattr("mlartifacts.stores.s3.driver._COPIED_AT_ONCE", 2**20)
    data = bytes(range(256)) * (52 * 2**12)
    s3.seed({"tree/large": data, "tree/small": b"x"})
    mlartifacts.copy(s3.uri("tree"), s3.uri("copied"))
    copied = [r for r in wire.requests if "x-amz-copy-source" in r.headers]
    assert sorted("partNumber" in request.target for request in copied) == [False, True, True]
    assert wire.bytes_to_client + wire.bytes_to_server < 90_000
    stored = s3.stored()
    assert stored["copied/large"] == data
    assert stored["copied/small"] == b"x"


def test_a_target_does_not_shorten_what_is_asked_of_a_source(
    wire: Proxy, s3: Harbour, opened: Callable[[str], Harbour]
) -> None:
    s3.seed({"tree/large": LARGE})
    ftp = opened("ftp")
    mlartifacts.copy(s3.uri("tree"), ftp.uri("tree"))
    assert ftp.stored() == {"tree/large": LARGE}
    ranges = [request for request in wire.requests if "range" in request.headers]
    assert len(ranges) == -(-len(LARGE) // 2**23)


@pytest.mark.parametrize("name", ["ftp", "vsftpd", "sftp"])
def test_a_large_file_passes_once(
    opened: Callable[[str], Harbour], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing without seconds, as vsftpd's, does not make it seem changed in the end."""
    store = opened(name)
    store.seed({"tree/large": LARGE})
    seconds = time.time() // 60 * 60 - 3573  # 27 after a minute
    os.utime(store.folder / "tree" / "large", (seconds, seconds))  # type: ignore[attr-defined]
    tries = []
    once = engine.Engine._once
    monkeypatch.setattr(engine.Engine, "_once", lambda *args: tries.append(args) or once(*args))
    mlartifacts.download(store.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there") == {"large": LARGE}
    assert len(tries) == 1


@pytest.mark.parametrize(("age", "step"), [(2, 10), (300, 7200)])
def test_a_listing_without_seconds_or_hours(
    opened: Callable[[str], Harbour], age: int, step: int, tmp_path: Path
) -> None:
    """vsftpd's has minutes, and days alone after half a year: the file itself is asked then."""
    store, here = opened("vsftpd"), plant(tmp_path / "here", {"a": b"1", "b": b"2", "c": b"3"})
    store.seed({f"tree/{name}": b"?" for name in "abc"})
    there: Path = store.folder / "tree"  # type: ignore[attr-defined]
    day = (time.time() // 86400 - age) * 86400
    for name, own, other in (("a", 2, 1), ("b", 3, 4), ("c", 5, 5)):
        os.utime(here / name, (day + own * step,) * 2)
        os.utime(there / name, (day + other * step,) * 2)
    newer = mlartifacts.upload(here, store.uri("tree"), overwrite="newer", dry_run=True)
    assert (newer.moved, newer.skipped) == (("a",), ("b", "c"))
    mlartifacts.download(store.uri("tree"), here, overwrite="newer")
    assert found(here) == {"a": b"1", "b": b"?", "c": b"3"}
    mlartifacts.download(store.uri("tree"), here)  # one second tells nothing
    assert found(here) == {"a": b"?", "b": b"?", "c": b"?"}
    assert mlartifacts.sync(store.uri("tree"), here).moved == ()


@pytest.mark.parametrize("name", ["runs-s3", "models-s3"])
def test_a_logical_place_and_its_own_store(
    opened: Callable[[str], Harbour], behind_s3: Callable[[], Proxy], name: str
) -> None:
    """No byte of a model passes here that is promoted to another place in its store."""
    s3, other, logical = opened("s3"), opened("runs-s3"), opened(name)
    wire = behind_s3()
    tree = {"a": b"a" * 500_000, "b/c": b"c" * 500_000}
    logical.seed(tree)
    mlartifacts.copy(logical.uri(), s3.uri("promoted"))
    assert s3.stored() == {f"promoted/{n}": data for n, data in tree.items()}
    mlartifacts.copy(logical.uri(), other.uri("of another run"))
    assert other.stored() == {f"of another run/{n}": data for n, data in tree.items()}
    assert sum(request.body for request in wire.requests) < 50_000
    assert 0 < wire.bytes_to_server < 100_000
    back = logical.uri("back")
    if name == "models-s3":
        with pytest.raises(TransferError, match="can only be read"):
            mlartifacts.copy(s3.uri("promoted"), back)
        assert set(logical.stored()) == set(tree)
        return
    mlartifacts.copy(s3.uri("promoted"), back)
    assert {n: d for n, d in logical.stored().items() if n.startswith("back/")} == {
        f"back/{n}": data for n, data in tree.items()
    }
    assert wire.bytes_to_server < 200_000
    own = mlartifacts.resolve(logical.uri("a"))
    with pytest.raises(InvalidURI, match="itself"):
        mlartifacts.copy(logical.uri("a"), own, overwrite="always")
    assert logical.stored()["a"] == tree["a"]


# ---- Progress and memory -----------------------------------------------------------------


class PartsAtOnce(AtOnce):
    """Those of the requests that have to do with a part of a file.

    Attributes
    ----------
    longest
        Bytes of the largest part.
    """

    longest = 0

    def __call__(self, request: Request) -> None:
        said = {name.lower(): value for name, value in request.headers.items()}
        if request.method == "PUT" and re.search("partNumber=|comp=block(&|$)", request.path):
            size = int(said["content-length"])
        elif span := re.match(r"bytes=(\d+)-(\d+)", said.get("x-ms-range", said.get("range", ""))):
            size = int(span[2]) - int(span[1]) + 1
        else:
            return
        self.longest = max(self.longest, size)
        self.pass_by()


@pytest.mark.parametrize(
    ("name", "direction", "parts", "expected"),
    [
        ("s3", "down", 9000, 8),
        ("s3", "up", 9000, 8),
        ("s3", "up", 6, 4),
        ("s3", "up", 3, 1),
        ("az", "down", 9000, 4),
        ("az", "up", 9000, 3),
        ("az", "up", 3, 1),
    ],
)
def test_parts_of_a_large_file_on_their_way(
    opened: Callable[[str], Harbour],
    name: str,
    direction: str,
    parts: int,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several at once, fewer where they are larger, and no more than is counted as held."""
    data = LARGE * 10
    store = opened(name)
    monkeypatch.setattr(engine, "_MOST_PARTS", parts)
    held = []
    holding = Budget.holding
    monkeypatch.setattr(Budget, "holding", lambda *args: held.append(args[1]) or holding(*args))
    here = plant(tmp_path / "here", {"large": data})
    if direction == "down":
        mlartifacts.upload(here, store.uri("tree"))
        held.clear()
    with reverse_proxy.serve(store.server.url) as front, monkeypatch.context() as patch:
        front.answer = at_once = PartsAtOnce(expected)
        behind(store, front.host, front.port, patch)
        if direction == "up":
            mlartifacts.upload(here, store.uri("tree"))
        else:
            mlartifacts.download(store.uri("tree"), tmp_path / "there")
    assert at_once.most == expected
    assert at_once.longest == (2**23 if parts == 9000 else len(data) // parts)
    assert (at_once.most + 1) * at_once.longest <= held[0]
    if direction == "up":
        assert store.stored() == {"tree/large": data}
    else:
        assert found(tmp_path / "there") == {"large": data}


def test_a_callback_hears_of_every_byte(here: Path, tmp_path: Path) -> None:
    callback = fsspec.callbacks.Callback()
    mlartifacts.upload(here, tmp_path / "there", callback=callback)
    assert callback.size == callback.value == 6


MEMORY = """
import sys
import mlartifacts
mlartifacts.copy(sys.argv[1], sys.argv[2])
# Not by getrusage, which counts what the parent had.
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def used(source: object, target: object) -> int:
    """Bytes of memory that a process had at most that copied something."""
    command = [sys.executable, "-c", MEMORY, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def test_memory_of_small_files(opened: Callable[[str], Harbour], tmp_path: Path) -> None:
    """3,000 of them; nothing is kept, as they have more bytes than that."""
    noise = random.Random(7).randbytes(2**18)
    here = plant(tmp_path / "here", {f"{n % 100}/{n}": noise[n : n + 2**17] for n in range(3000)})
    store = opened("ftp")
    assert used(here, store.uri("tree")) < 256_000_000
    folder: Path = store.folder / "tree"  # type: ignore[attr-defined]
    assert sum(path.stat().st_size for path in folder.rglob("*")) > 3000 * 2**17
    assert (folder / "77/2977").read_bytes() == noise[2977 : 2977 + 2**17]


@pytest.mark.parametrize("name", ["ftp", "gcs"])
def test_memory_of_files_that_are_moved_whole(
    opened: Callable[[str], Harbour], tmp_path: Path, name: str
) -> None:
    """The largest of those: a few at once are as much as may be held."""
    for number in range(40):
        sparse(tmp_path / "here" / str(number), 2**23)
    store = opened(name)
    assert used(tmp_path / "here", store.uri("tree")) < 256_000_000
    assert used(store.uri("tree"), tmp_path / "there") < 256_000_000
    assert len(list((tmp_path / "there").iterdir())) == 40


@pytest.mark.parametrize("name", ["wasbs", "gcs", "mlflow-artifacts"])
def test_memory_of_files_of_some_parts(
    opened: Callable[[str], Harbour], tmp_path: Path, name: str
) -> None:
    """Whichever thread has the turn of each, few of them gather what a driver sends."""
    for number in range(16):
        sparse(tmp_path / "here" / str(number), 24 * 2**20)
    store = opened(name)
    assert used(tmp_path / "here", store.uri("tree")) < 256_000_000
    fs, path = mlartifacts.url_to_fs(store.uri("tree"))
    assert fs.du(path) == 16 * 24 * 2**20


def test_memory_between_runs_of_two_stores(opened: Callable[[str], Harbour]) -> None:
    """One process is asked for both, but neither store copies from the other."""
    disk, s3 = opened("runs-local"), opened("runs-s3")
    folder: Path = disk.folder  # type: ignore[attr-defined]
    for number in range(6):
        sparse(folder / str(number), 2**25)
    assert used(disk.uri(), s3.uri()) < 256_000_000
    assert {len(data) for data in s3.stored().values()} == {2**25}


def test_memory_of_a_large_file(opened: Callable[[str], Harbour], tmp_path: Path) -> None:
    """A GiB, up in one stream."""
    sparse(tmp_path / "large", 2**30)
    store = opened("ftp")
    try:
        assert used(tmp_path / "large", store.uri("large")) < 256_000_000
        assert (store.folder / "large").stat().st_size == 2**30  # type: ignore[attr-defined]
    finally:
        (store.folder / "large").unlink(missing_ok=True)  # type: ignore[attr-defined]


def test_memory_of_a_large_file_in_ranges(
    opened: Callable[[str], Harbour], static_http: StaticHttp, tmp_path: Path
) -> None:
    """A GiB, down in ranges, several of which are on their way."""
    store = opened("http")
    sparse(store.folder / "large", 2**30)  # type: ignore[attr-defined]
    static_http.requests.clear()
    try:
        assert used(store.uri("large"), tmp_path / "large") < 256_000_000
        assert (tmp_path / "large").stat().st_size == 2**30
    finally:
        (tmp_path / "large").unlink(missing_ok=True)
        (store.folder / "large").unlink()  # type: ignore[attr-defined]
    assert [each.sent for each in static_http.requests].count(2**23) == 2**30 // 2**23


# ---- A store that is busy -----------------------------------------------------------------


def test_a_store_that_is_busy(
    s3: Harbour, moto_server: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers some requests with 503, and is asked again."""
    here = plant(tmp_path / "here", odd_tree(40))
    asked = itertools.count()
    busy = (
        b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    )

    def answer(request: Request) -> Answer | None:
        return Answer(503, busy) if next(asked) % 7 == 3 else None

    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = answer
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        mlartifacts.upload(here, s3.uri("tree"))
        mlartifacts.download(s3.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there") == found(here)
    assert next(asked) > 90


def test_the_waits_between_tries(
    s3: Harbour, moto_server: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each twice the one before up to a limit, and a different part of it for each file."""
    s3.seed({f"tree/file {n}": b"x" for n in range(6)})
    waits: dict[int, list[float]] = {}

    def sleep(seconds: float) -> None:
        waits.setdefault(threading.get_ident(), []).append(seconds)
        both.wait(20)  # so that no thread has two files

    both = threading.Barrier(6)
    monkeypatch.setattr(Budget, "wait", lambda self, seconds: sleep(seconds))
    monkeypatch.setattr(engine, "_TRIES", 9)
    monkeypatch.setattr("mlartifacts.stores.s3.asking._SOON", 0.0)
    again = Answer(400, b"<Error><Code>RequestTimeout</Code></Error>")

    def answer(request: Request) -> Answer | None:
        return again if request.method == "GET" and "/file" in request.path else None

    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = answer
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        with pytest.raises(TransferError) as caught:
            mlartifacts.download(s3.uri("tree"), tmp_path / "there")
    assert len(caught.value.failures) == len(waits) == 6
    for number, longest in enumerate([0.5, 1, 2, 4, 8, 16, 20, 20]):
        same = [each[number] for each in waits.values()]
        assert all(longest / 2 <= wait <= longest for wait in same)
        assert len(set(same)) == 6
    assert all(len(each) == 8 for each in waits.values())


# ---- Settings ----------------------------------------------------------------------------


def test_chunks_of_the_size_that_the_user_sets(
    opened: Callable[[str], Harbour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened("gcs")
    here = plant(tmp_path / "here", {"large": LARGE})
    with reverse_proxy.serve(store.server.url) as front:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
        monkeypatch.setenv("MLFLOW_GCS_UPLOAD_CHUNK_SIZE", str(3 * 2**20))
        monkeypatch.setenv("MLFLOW_GCS_DOWNLOAD_CHUNK_SIZE", str(2 * 2**20))
        mlartifacts.upload(here, store.uri("tree"))
        mlartifacts.download(store.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there") == {"large": LARGE}
    sent = [int(e.headers["Content-Length"]) for e in front.asked("POST", "upload_id=")]
    assert len(sent) == 4
    assert sum(sent) == len(LARGE)
    assert max(sent) <= 3 * 2**20
    ranges = [each.headers["Range"] for each in front.requests if "Range" in each.headers]
    bounds = [each.removeprefix("bytes=").split("-") for each in ranges]
    assert len(bounds) == 6
    assert all(int(last) - int(first) < 2 * 2**20 for first, last in bounds)
