"""Patterns that say which files are meant."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

import mlartifacts
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
