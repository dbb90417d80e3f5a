"""What is to be moved: a comparison of two trees, before a byte moves."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fsspec.utils import glob_translate

from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.transfer.trees import End, File, unit
from mlartifacts.writing import temporary_beside

__all__ = ["Choice", "Overwrite", "Plan", "compare", "near", "refuse_names"]

Overwrite = Literal["always", "never", "newer", "different"]
Patterns = str | Iterable[str]
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


def refuse_names(names: Sequence[str], end: End, dry_run: bool = False) -> None:
    """Refuse, by name, what an end cannot hold.

    Parameters
    ----------
    names : sequence of str
    end : End
    dry_run : bool, default False
        Write nothing to find out, so that what folds case may not be known.

    Raises
    ------
    InvalidURI
        A name would leave the root, by a link that is there too, is too long or has characters
        that the end does not know, is a directory's as well, or a device's, or differs from
        another only by the case of its letters where a disk takes these for one. What a server
        does not say (SFTP's and FTP's the length, nobody's the case) is not known.
    """
    for name in names:
        steps = name.split("/") if name else []
        if any(step in {"", ".", ".."} for step in steps):
            raise InvalidURI(f"The name {name!r} has an empty step, '.' or '..'.")
        if reason := end.unfit(name):
            raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")
    directories = sorted({above for name in names for above in _above(name)})
    if end.has_directories and (both := sorted(set(directories) & set(names))):
        raise InvalidURI(f"{end} cannot hold {both[0]!r} as a file and as a directory.")
    disk = end.physical()
    if not disk.is_local:
        return
    for folder, one, other in nearly_equal([*directories, *names]):
        if _folds_case(_deepest(disk.path(folder)), dry_run):
            raise InvalidURI(f"{end} takes {one!r} and {other!r} for one name.")
    if os.path.lexists(disk.root):
        root = disk.real()
        for name in (*directories, *names):
            if reason := _taken(root, disk.path(name)):
                raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")


def _above(name: str) -> Iterator[str]:
    """The directories that a file lies in."""
    while name := name.rpartition("/")[0]:
        yield name


def nearly_equal(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Names in one directory that differ by the case of their letters alone.

    Yields
    ------
    (str, str, str)
        The directory, and two of the names.
    """
    seen: dict[tuple[str, str], str] = {}
    for name in names:
        folder, _, step = name.rpartition("/")
        other = seen.setdefault((folder, step.casefold()), name)
        if other != name:
            yield folder, other, name


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


def _deepest(folder: str) -> str:
    """A directory, or the nearest one above it that is there."""
    while not os.path.isdir(folder) and folder != (above := os.path.dirname(folder)):
        folder = above
    return folder


def _folds_case(folder: str, dry_run: bool = False) -> bool:
    """Whether a directory takes upper and lower case for one, as macOS's and Windows' mostly do.

    It is asked about what is in it, or by a file: the directories above may lie on another disk.
    """
    names: set[str] = set()
    with contextlib.suppress(OSError):  # it may be written to, and not read, or is not there
        names.update(os.listdir(folder))
    for name in names:
        other = name.swapcase()
        if name.isascii() and other != name:
            return other not in names and os.path.lexists(os.path.join(folder, other))
    if dry_run:
        return False
    probe = temporary_beside(f"{folder}/")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False  # nothing else lands there, either
    try:
        return os.path.lexists(os.path.join(folder, os.path.basename(probe).swapcase()))
    finally:
        os.unlink(probe)
