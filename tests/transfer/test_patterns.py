"""Patterns that say which files are meant."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.errors import InvalidConfig
from tests.contract.stores import Harbour
from tests.transfer.trees import plant

PAGE = Path(__file__).parents[2] / "docs" / "patterns.md"
NAMES = re.findall(r"^    (\S+)$", PAGE.read_text(), re.MULTILINE)
ROWS = [
    (row[0].strip("`"), *row[1:])
    for row in re.findall(r"^\| (`.*`) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
]


def test_the_page_has_a_table() -> None:
    assert len(NAMES) == 4
    assert len(ROWS) > 10


@pytest.mark.parametrize(("pattern", "here", "aws"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_page(pattern: str, here: str, aws: str, tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree", dict.fromkeys(NAMES, b"x"))

    def moved(**choice: str) -> list[str]:
        report = mlartifacts.copy(tree, tmp_path / "there", dry_run=True, **choice)  # type: ignore[arg-type]
        return sorted(report.moved)

    assert (", ".join(moved(include=pattern)) or "nothing") == here
    assert moved(exclude=pattern) == sorted(set(NAMES) - set(moved(include=pattern)))
    # As awscli matches the whole of a key.
    matched = [name for name in sorted(NAMES) if fnmatch.fnmatchcase(name, pattern)]
    assert (", ".join(matched) or "nothing") == aws


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("step[!0-9]*", {"step_a"}),
        ("v[^1]", {"v2"}),
        ("x[!a]y", {"x-y"}),
        ("x[!]]y", {"x-y"}),
        ("v[+-3]", {"v2"}),
    ],
)
def test_no_set_has_the_slash(pattern: str, matched: set[str], tmp_path: Path) -> None:
    names = ["step/00100/model", "step_a", "v/x", "v2", "x/y", "x-y"]
    tree = plant(tmp_path / "tree", dict.fromkeys(names, b"x"))
    assert set(mlartifacts.delete(tree, include=pattern, dry_run=True).moved) == matched


@pytest.mark.parametrize("pattern", ["!keep.bin", "[z-a]", "a[9-0]b", "nul\0"])
def test_what_could_be_misunderstood_is_refused(pattern: str, tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree", {"keep.bin": b"x", "b": b"x"})
    for option in ("include", "exclude"):
        with pytest.raises(InvalidConfig, match=re.escape(repr(pattern))):
            mlartifacts.delete(tree, **{option: ["*", pattern]})
    assert len(list(tree.iterdir())) == 2


def test_a_name_that_begins_with_a_mark(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree", {"!a": b"x", "b/!a": b"x", "c": b"x"})
    assert mlartifacts.delete(tree, include="**/!a", dry_run=True).moved == ("!a", "b/!a")


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.pt", {"/b.pt", "a.pt", "d//c.pt", "d/e.pt"}),
        ("/*.pt", {"a.pt"}),
        ("c.pt", {"d//c.pt"}),
        ("d/**/c.pt", {"d//c.pt"}),
        ("d/*/c.pt", {"d//c.pt"}),
        ("d/*.pt", {"d/e.pt"}),
        ("*/*", {"/b.pt", "d//c.pt", "d/e.pt"}),
        ("*/", {"/b.pt", "d//c.pt", "d/e.pt"}),
        ("**", {"/b.pt", "a.pt", "d//c.pt", "d/e.pt"}),
    ],
)
def test_keys_with_empty_steps(
    pattern: str, matched: set[str], opened: Callable[[str], Harbour], tmp_path: Path
) -> None:
    """A step of no letters is one, at the beginning too."""
    store = opened("s3")
    names = ["a.pt", "/b.pt", "d//c.pt", "d/e.pt"]
    store.seed({f"x/{name}": b"1" for name in names})
    assert set(mlartifacts.delete(store.uri("x"), include=pattern, dry_run=True).moved) == matched
    here = plant(tmp_path / "here", {"new": b"1"})
    report = mlartifacts.sync(here, store.uri("x"), delete=True, exclude=pattern)
    assert set(report.deleted) == {*names} - matched
