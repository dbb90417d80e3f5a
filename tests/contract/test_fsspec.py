"""fsspec's own contracts: copy, get, put, mv, open and pipe."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from tests.contract.stores import Harbour

pytestmark = pytest.mark.writes


class Seeds:
    """Stands in for a filesystem where fsspec plants its files, and writes them down."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def makedirs(self, path: str) -> None:
        pass

    def touch(self, path: str) -> None:
        self.files[path] = b""

    def pipe(self, path: str, value: bytes) -> None:
        self.files[path] = value


class Fixtures(AbstractFixtures):
    """fsspec's fixtures, from the harbour's.

    What each test begins with is planted behind our backs, which is faster, and is never removed:
    no two tests share a base.
    """

    def _planted(self, harbour: Harbour, root: str, plant: Callable[..., str]) -> str:
        seeds = Seeds()
        source = plant(seeds, posixpath.join, "")
        harbour.seed(seeds.files)
        return posixpath.join(root, source)

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, harbour: Harbour, root: str) -> str:
        return self._planted(harbour, root, self._bulk_operations_scenario_0)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, harbour: Harbour, root: str) -> str:
        return self._planted(harbour, root, self._glob_edge_cases_files)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, harbour: Harbour, root: str) -> str:
        return self._planted(harbour, root, self._dir_and_file_with_same_name_prefix)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, harbour: Harbour, root: str) -> str:
        return self._planted(harbour, root, self._10_files_with_hashed_names)

    @pytest.fixture
    def fs_target(self, root: str) -> str:
        return posixpath.join(root, "target")

    @pytest.fixture
    def fs(self, located: tuple[Any, str]) -> Any:
        return located[0]

    @pytest.fixture
    def fs_path(self, located: tuple[Any, str]) -> str:
        return located[1]

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return posixpath.join

    @pytest.fixture
    def supports_empty_directories(self, harbour: Harbour) -> bool:
        return harbour.directories


class TestCopy(Fixtures, AbstractCopyTests):
    pass


class TestGet(Fixtures, AbstractGetTests):
    pass


class TestPut(Fixtures, AbstractPutTests):
    pass


class TestOpen(Fixtures, AbstractOpenTests):
    pass


class TestPipe(Fixtures, AbstractPipeTests):
    pass


# fsspec's tests of mv are for local files alone; these say the same of every store.


def test_mv(fs: Any, root: str) -> None:
    fs.pipe_file(f"{root}/a/file", b"content")
    fs.mv(f"{root}/a/file", f"{root}/b/moved")
    assert not fs.exists(f"{root}/a/file")
    assert fs.cat_file(f"{root}/b/moved") == b"content"


def test_mv_a_tree(fs: Any, root: str) -> None:
    fs.pipe({f"{root}/tree/one": b"1", f"{root}/tree/deep/two": b"2", f"{root}/treetop": b"3"})
    fs.mv(f"{root}/tree", f"{root}/moved", recursive=True)
    found = {path.removeprefix(f"{root}/") for path in fs.find(root)}
    assert found == {"moved/one", "moved/deep/two", "treetop"}
    assert not fs.exists(f"{root}/tree")


def test_mv_onto_a_file(fs: Any, root: str) -> None:
    fs.pipe({f"{root}/new": b"new", f"{root}/old": b"old"})
    fs.mv(f"{root}/new", f"{root}/old")
    assert fs.cat_file(f"{root}/old") == b"new"
    assert not fs.exists(f"{root}/new")


def test_mv_of_nothing(fs: Any, root: str) -> None:
    fs.pipe_file(f"{root}/other", b"x")
    with pytest.raises(FileNotFoundError):
        fs.mv(f"{root}/missing", f"{root}/other")
    assert fs.cat_file(f"{root}/other") == b"x"
