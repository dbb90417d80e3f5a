"""``sync`` against a model of two trees, with files that change, vanish and come meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fsspec.callbacks import Callback
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlartifacts
from mlartifacts.errors import InvalidURI, TransferError
from mlartifacts.transfer import engine
from tests.contract.stores import Harbour
from tests.servers import pyftpd
from tests.transfer.trees import found

Opened = Callable[[str], Harbour]
Tree = dict[str, bytes]

NAMES = st.sampled_from(["a", "A", "b", "d", "d/x", "d/X", "D/x", "d/y", "e/f/g"])
#: Of the same sizes, mostly, and of more than a piece.
CONTENTS = st.sampled_from([b"", b"1", b"2", b"1" * 2500, b"2" * 2500])
TREES = st.dictionaries(NAMES, CONTENTS, max_size=6)


@dataclass(frozen=True)
class Change:
    """What happens to the source once so many pieces have passed."""

    after: int
    name: str
    data: bytes | None


CHANGES = st.lists(st.builds(Change, st.integers(0, 4), NAMES, st.none() | CONTENTS), max_size=3)
#: For each run: what happens before it, and during it, and whether it deletes.
RUNS = st.lists(st.tuples(CHANGES, CHANGES, st.booleans()), min_size=1, max_size=3)


class Folder:
    """A tree on a disk."""

    def __init__(self, path: Path, uri: str | None = None) -> None:
        self.path, self.uri = path, uri or str(path)
        path.mkdir(parents=True, exist_ok=True)

    def read(self) -> Tree:
        return found(self.path)

    def put(self, name: str, data: bytes) -> bool:
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError:  # a file is where a directory must be, or the other way round
            return False
        return True

    def remove(self, name: str) -> bool:
        try:
            (self.path / name).unlink()
        except OSError:
            return False
        return True


class Objects:
    """A tree on an object store."""

    def __init__(self, store: Harbour, name: str) -> None:
        self.store, self.name, self.uri = store, name, store.uri(name)
        self.fs, self.root = mlartifacts.url_to_fs(self.uri)

    def read(self) -> Tree:
        above = f"{self.name}/"
        stored = self.store.stored().items()
        return {n.removeprefix(above): data for n, data in stored if n.startswith(above)}

    def put(self, name: str, data: bytes) -> bool:
        self.store.seed({f"{self.name}/{name}": data})
        return True

    def remove(self, name: str) -> bool:
        self.fs.rm_file(f"{self.root}/{name}")
        return True


Place = Folder | Objects


@dataclass
class Source:
    """A tree that changes, and what each of its files was since a run began."""

    place: Place
    was: dict[str, set[bytes | None]] = field(default_factory=dict)

    def begin(self) -> None:
        self.was = {name: {data} for name, data in self.place.read().items()}

    def change(self, change: Change) -> None:
        now = self.place.read()
        if change.data is None and change.name not in now:
            return
        if isinstance(self.place, Folder) and change.data is not None:
            # It may be seen half-written: what it is in between counts, too.
            self.was.setdefault(change.name, {None}).add(b"")
        if change.data is None:
            done = self.place.remove(change.name)
        else:
            done = self.place.put(change.name, change.data)
        if done:
            self.was.setdefault(change.name, {None}).add(change.data)


class Meanwhile(Callback):  # type: ignore[misc]
    """Changes the source as pieces pass."""

    def __init__(self, source: Source, changes: list[Change]) -> None:
        super().__init__()
        self._source = source
        self._left = sorted(changes, key=lambda each: each.after)
        self._count = itertools.count()

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        passed = next(self._count)
        while self._left and self._left[0].after <= passed:
            self._source.change(self._left.pop(0))


def holds(source: Source, before: Tree, after: Tree, deletes: bool, fold: Any) -> None:
    """Each file is as it was in the source since the call, or is none of its files."""
    was: dict[str, set[bytes | None]] = {}
    for name, data in source.was.items():
        was.setdefault(fold(name), set()).update(data)
    there = {fold(name): data for name, data in after.items()}
    assert len(there) == len(after)
    old = {fold(name): data for name, data in before.items()}
    for name, versions in was.items():
        may_stay = {old.get(name)} if None in versions and not deletes else set()
        assert there.get(name) in versions | may_stay, (name, versions, there.get(name))
    kept = {name: data for name, data in there.items() if name not in was}
    others = {name: data for name, data in old.items() if name not in was}
    assert kept == ({} if deletes else others)


def is_whole(source: Source, before: Tree, after: Tree, fold: Any) -> None:
    """After an error, too, no file has other bytes than it had, or than its source has."""
    old = {fold(name): data for name, data in before.items()}
    was: dict[str, set[bytes | None]] = {}
    for name, data in source.was.items():
        was.setdefault(fold(name), set()).update(data)
    for name, data in after.items():
        assert data == old.get(fold(name)) or data in was.get(fold(name), set())


def check(
    here: Place,
    target: Place,
    beside: Place,
    trees: tuple[Tree, Tree],
    runs: list[Any],
    fold: Any = str,
) -> None:
    """Plant both trees, and sync them in several runs."""
    planted(here, trees[0])
    planted(target, trees[1], age=60)
    beside.put("kept", b"beside")
    source = Source(here)
    for first, meanwhile, deletes in runs:
        source.begin()
        for change in first:
            source.change(change)
        source.begin()
        before = target.read()
        try:
            mlartifacts.sync(
                source.place.uri,
                target.uri,
                delete=deletes,
                callback=Meanwhile(source, meanwhile),
            )
        except (TransferError, InvalidURI, FileNotFoundError):
            is_whole(source, before, target.read(), fold)
        else:
            holds(source, before, target.read(), deletes, fold)
        assert beside.read() == {"kept": b"beside"}


_numbers = itertools.count()


def patient(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@contextlib.contextmanager
def new_folder(above: Path) -> Iterator[Path]:
    folder = above / f"example-{next(_numbers)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_PIECE", 1000)


def planted(place: Place, tree: Tree, age: float = 0) -> None:
    for name, data in tree.items():
        place.put(name, data)
    if isinstance(place, Folder):
        # Of equal size and time, two files are taken for the same.
        for name in place.read():
            os.utime(place.path / name, (time.time() - age,) * 2)


@patient(60)
@given(here=TREES, there=TREES, runs=RUNS)
def test_on_a_disk(
    here: Tree, there: Tree, runs: list[Any], tmp_path: Path, small_pieces: None
) -> None:
    with new_folder(tmp_path) as folder:
        source, target = Folder(folder / "source"), Folder(folder / "target" / "in")
        check(source, target, Folder(folder / "target" / "beside"), (here, there), runs)


@patient(30)
@given(here=TREES, there=TREES, runs=RUNS)
def test_to_an_object_store(
    here: Tree, there: Tree, runs: list[Any], tmp_path: Path, opened: Opened
) -> None:
    with new_folder(tmp_path) as folder:
        store = opened("s3")
        source, target = Folder(folder / "source"), Objects(store, "in")
        check(source, target, Objects(store, "beside"), (here, there), runs)


@patient(30)
@given(here=TREES, there=TREES, runs=RUNS)
def test_from_an_object_store(
    here: Tree, there: Tree, runs: list[Any], tmp_path: Path, opened: Opened, small_pieces: None
) -> None:
    with new_folder(tmp_path) as folder:
        source = Objects(opened("s3"), "source")
        target = Folder(folder / "target" / "in")
        check(source, target, Folder(folder / "target" / "beside"), (here, there), runs)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[pyftpd.Ftp]:
    """A server that takes upper and lower case for one."""
    with pyftpd.serve(tmp_path / "share", folding=True) as server:
        yield server


@patient(25)
@given(here=TREES, there=TREES, runs=RUNS)
def test_to_a_server_that_folds_case(
    here: Tree, there: Tree, runs: list[Any], tmp_path: Path, share: pyftpd.Ftp
) -> None:
    with new_folder(tmp_path) as folder:
        uri = share.new_root()
        root = max(share.root.iterdir(), key=os.path.getctime)
        source = Folder(folder / "source")
        target = Folder(root / "in", f"{uri}/in")
        named = {name.lower(): name for name in there}
        trees = here, {name: there[name] for name in named.values()}
        check(source, target, Folder(root / "beside"), trees, runs, str.lower)
