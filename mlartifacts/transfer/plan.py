"""What is to be moved: a comparison of two trees, before a byte moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from mlartifacts.errors import InvalidConfig
from mlartifacts.transfer.times import same_time
from mlartifacts.transfer.trees import File

__all__ = ["Overwrite", "Plan", "compare", "unclear"]

Overwrite = Literal["always", "never", "newer", "different"]
Same = Callable[[File, File], bool]

# What the zones of the world differ by, in seconds.
_ZONES = 900


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
        or checksum, or another time where there is no checksum to compare.
    same : callable, optional
        Whether two files of one name and size are the same; by their times unless given.

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


def unclear(
    files: Mapping[str, File], others: Mapping[str, File], overwrite: Overwrite, least: int
) -> list[File]:
    """The files whose time must be asked for: it is listed by the minute or the day, or not at all.

    A version says more than a time, and a size where what is different is to be moved. A small
    file whose time is not listed is as soon moved.
    """
    found = []
    for name, file in files.items():
        other = others.get(name)
        if other is None or file.version is not None or file.checksum is not None:
            continue
        if overwrite == "different" and file.size != other.size:
            continue
        if file.modified is None:
            is_asked = file.size >= least
        else:
            is_asked = file.unit > 1 and (overwrite == "newer" or _may_be_one(file, other))
        if is_asked:
            found.append(file)
    return found


def _may_be_one(file: File, other: File) -> bool:
    """Whether the times of two files may be one; a listing may be of any zone, and its summer."""
    if file.modified is None or other.modified is None:
        return True
    apart = abs(file.modified - other.modified) % _ZONES
    unit = max(file.unit, other.unit)
    return apart < unit or _ZONES - apart < unit


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
    return not (same or same_time)(file, there)


def _is_newer(file: File, there: File) -> bool:
    if file.modified is None or there.modified is None:
        return True  # nobody knows that it is not
    return file.modified > there.modified and not same_time(file, there)
