"""What is to be moved: a comparison of two trees, before a byte moves."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fsspec.utils import glob_translate

from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.transfer.trees import End, File

__all__ = ["Choice", "Overwrite", "Plan", "compare", "refuse_names"]

Overwrite = Literal["always", "never", "newer", "different"]
Patterns = str | Iterable[str]
Same = Callable[[File, File], bool | None]

_LONGEST_STEP = 255
_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)', re.I)


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


class Choice:
    """Which files are meant: those that match one of `include`, if there is any, none of `exclude`.

    A pattern is fsspec's (``*`` within a step, ``**`` for any number of steps), and holds for the
    whole relative name. A file that is the root itself goes by the last step of its path.

    Parameters
    ----------
    include, exclude : str or iterable of str

    Raises
    ------
    InvalidConfig
        A pattern is none, or can match no name.
    """

    def __init__(self, include: Patterns, exclude: Patterns) -> None:
        self._wanted = _matchers("include", include)
        self._unwanted = _matchers("exclude", exclude)

    @property
    def is_of_all(self) -> bool:
        """Whether there are no patterns."""
        return not self._wanted and not self._unwanted

    def among(self, files: Mapping[str, File], end: End) -> dict[str, File]:
        """The ones of an end's files."""
        return {name: file for name, file in files.items() if self._holds(name or end.name)}

    def _holds(self, name: str) -> bool:
        if self._wanted and not any(each.match(name) for each in self._wanted):
            return False
        return not any(each.match(name) for each in self._unwanted)


def _matchers(option: str, patterns: Patterns) -> list[re.Pattern[str]]:
    each = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(each, Iterable) or isinstance(each, bytes):
        raise InvalidConfig(f"{option}={patterns!r}: it takes a pattern, or several.")
    return [_matcher(option, pattern) for pattern in each]


def _matcher(option: str, pattern: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise InvalidConfig(f"{option} has {pattern!r}: a pattern is a str.")
    if {"", ".", ".."} & set(pattern.split("/")):
        # A filter that does nothing is not noticed before it is too late.
        raise InvalidConfig(
            f"{option} has {pattern!r}, which matches nothing: names are relative, without empty"
            " steps, '.' and '..' (what is in a directory is 'directory/**')."
        )
    try:
        return re.compile(glob_translate(pattern))
    except ValueError as error:
        raise InvalidConfig(f"{option} has {pattern!r}: {error}.") from error


def compare(
    source: Mapping[str, File],
    target: Mapping[str, File],
    overwrite: Overwrite = "different",
    resume: bool = False,
    same: Same | None = None,
) -> Plan:
    """What of `source` must be moved so that `target` has it.

    Parameters
    ----------
    source, target : mapping of str to File
    overwrite : {"always", "never", "newer", "different"}
        Of what both have: move all; none; what is newer in the source; what has another size
        or checksum, or is newer in the source where there is no checksum to compare.
    resume : bool, default False
        With ``"always"``: do not move again what is the same.
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
    if overwrite == "always" and resume:
        overwrite = "different"
    moves: list[File] = []
    skipped: list[File] = []
    for name, file in source.items():
        there = target.get(name)
        is_moved = there is None or _replaces(file, there, overwrite, same)
        (moves if is_moved else skipped).append(file)
    moves.sort(key=lambda file: file.size, reverse=True)
    return Plan(tuple(moves), tuple(skipped))


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


def refuse_names(names: Sequence[str], end: End) -> None:
    """Refuse, by name, what an end cannot hold.

    Raises
    ------
    InvalidURI
        A name would leave the root, by a link that is there too, is too long or has characters
        that the end does not know, is a directory's as well, or a device's, or differs from
        another only by the case of its letters where the end takes these for one.
    """
    taken: dict[str, str] = {}
    directories: set[str] = set()
    folds = end.is_local and _folds_case(end.root)
    for name in names:
        steps = name.split("/") if name else []
        if any(step in {"", ".", ".."} for step in steps):
            raise InvalidURI(f"The name {name!r} has an empty step, '.' or '..'.")
        if reason := _unfit(end, name, steps):
            raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")
        if not end.is_local:
            continue
        directories.update("/".join(steps[:depth]) for depth in range(1, len(steps)))
        same = name.casefold() if folds else name
        if same in taken:
            raise InvalidURI(f"{end} takes {taken[same]!r} and {name!r} for one name.")
        taken[same] = name
    if both := sorted(directories & set(names)):
        raise InvalidURI(f"{end} cannot hold {both[0]!r} as a file and as a directory.")
    if end.is_local and os.path.lexists(end.root):
        root = end.real()
        for name in (*sorted(directories), *names):
            if reason := _taken(root, end.path(name)):
                raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")


def _unfit(end: End, name: str, steps: list[str]) -> str | None:
    if end.is_local:
        if long := next((s for s in steps if len(os.fsencode(s)) > _LONGEST_STEP), None):
            return f"{long[:20]!r}... has more than {_LONGEST_STEP} bytes"
        longest = os.pathconf("/", "PC_PATH_MAX") if os.name == "posix" else None
        if longest is not None and len(os.fsencode(end.path(name))) >= longest:
            return "the path is too long"
        if "\0" in name:
            return "it has a NUL"
        if os.name == "nt" and (bad := next((s for s in steps if _WINDOWS.search(s)), None)):
            return f"Windows knows no {bad!r}"
        return None
    unfit = getattr(end.fs, "unfit", None)
    return None if unfit is None else unfit(end.path(name))


def _taken(root: str, path: str) -> str | None:
    """Why what is at a local path is not to be written to."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            real = os.path.realpath(path)
            if os.path.commonpath([root, real]) != root:
                return "a link there leads out of it"
            mode = os.stat(real).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "a device or a pipe is there"


def _folds_case(root: str) -> bool:
    """Whether a disk takes upper and lower case for one, as macOS and Windows mostly do."""
    while not os.path.exists(root):
        root = os.path.dirname(root)
    other = root.swapcase()
    return other != root and os.path.exists(other) and os.path.samefile(root, other)
