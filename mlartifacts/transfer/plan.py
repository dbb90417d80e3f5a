"""What is to be moved: a comparison of two trees, before a byte moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from mlartifacts.errors import InvalidConfig
from mlartifacts.transfer.trees import File, unit

__all__ = ["Overwrite", "Plan", "compare", "near"]

Overwrite = Literal["always", "never", "newer", "different"]
Same = Callable[[File, File], bool | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """A transfer before it begins.

    Attributes
    ----------
    moves : tuple of File
        What is to be moved, the largest first.
    skipped : tuple of File
        What is there already, or is not to be overwritten.
    """

    moves: tuple[File, ...]
    skipped: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes to be moved."""
        return sum(file.size for file in self.moves)


def compare(
    source: Mapping[str, File],
    target: Mapping[str, File],
    overwrite: Overwrite = "different",
    same: Same | None = None,
) -> Plan:
    """What of `source` must be moved so that `target` has it.

    Parameters
    ----------
    source, target : mapping of str to File
    overwrite : {"always", "never", "newer", "different"}
        Of what both have: move all; none; what is newer in the source; what has another size
        or checksum, or is newer in the source where there is no checksum to compare.
    same : callable, optional
        Whether two files of one name and size have the same checksum; ``None`` where nobody knows.

    Raises
    ------
    InvalidConfig
        `overwrite` is something else.
    """
    if overwrite not in get_args(Overwrite):
        known = ", ".join(get_args(Overwrite))
        raise InvalidConfig(f"overwrite={overwrite!r}: it takes one of {known}.")
    moves: list[File] = []
    skipped: list[File] = []
    for name, file in source.items():
        there = target.get(name)
        is_moved = there is None or _replaces(file, there, overwrite, same)
        (moves if is_moved else skipped).append(file)
    moves.sort(key=lambda file: file.size, reverse=True)
    return Plan(tuple(moves), tuple(skipped))


def near(files: Mapping[str, File], others: Mapping[str, File], overwrite: Overwrite) -> list[str]:
    """What is listed by the minute or the day, and may be newer or older than it seems by that.

    A version says more than a time, and a size where what is different is to be moved.
    """
    found = []
    for name, file in files.items():
        other = others.get(name)
        if other is None or file.modified is None or other.modified is None:
            continue
        if file.version is not None or (overwrite == "different" and file.size != other.size):
            continue
        own = unit(file.modified)
        if own > 1 and max(own, unit(other.modified)) > abs(file.modified - other.modified):
            found.append(name)
    return found


def _replaces(
    file: File,
    there: File,
    overwrite: Overwrite,
    same: Same | None,
) -> bool:
    if overwrite in {"always", "never"}:
        return overwrite == "always"
    if overwrite == "newer":
        return _is_newer(file, there)
    if file.size != there.size:
        return True
    is_same = None if same is None else same(file, there)
    return _is_newer(file, there) if is_same is None else not is_same


def _is_newer(file: File, there: File) -> bool:
    if file.modified is None or there.modified is None:
        return True  # nobody knows that it is not
    # Most stores keep whole seconds.
    return int(file.modified) > int(there.modified)
