"""Which names an end of a transfer can hold, and which of them it takes for one."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlartifacts.errors import InvalidURI
from mlartifacts.transfer.patterns import parents
from mlartifacts.transfer.trees import End, File
from mlartifacts.writing import temporary_beside

__all__ = ["folded", "nearly_equal", "refuse_names", "respelled"]


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
        another only by the case of its letters where a disk or a server takes these for one. How
        long a name may be, SFTP and FTP do not say.
    """
    for name in names:
        steps = name.split("/") if name else []
        if any(step in {"", ".", ".."} for step in steps):
            raise InvalidURI(f"The name {name!r} has an empty step, '.' or '..'.")
        if reason := end.unfit(name):
            raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")
    directories = sorted({above for name in names for above in parents(name)})
    if end.has_directories and (both := sorted(set(directories) & set(names))):
        raise InvalidURI(f"{end} cannot hold {both[0]!r} as a file and as a directory.")
    if not getattr(end.fs, "lists_flat", False):  # object stores keep case
        folds: dict[str, bool] = {}
        for folder, one, other in nearly_equal([*directories, *names]):
            if folder not in folds:
                folds[folder] = _folds_case(end, folder, dry_run)
            if folds[folder]:
                raise InvalidURI(f"{end} takes {one!r} and {other!r} for one name.")
    disk = end.physical()
    if disk.is_local and os.path.lexists(disk.root):
        root = disk.real()
        for name in (*directories, *names):
            if reason := _taken(root, disk.path(name)):
                raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")


def folded(name: str) -> str:
    """What a name has in common with all that a disk may take for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def respelled(names: Iterable[str], there: Mapping[str, File], end: End) -> dict[str, File]:
    """Which of some names an end has, though it lists them in other letters.

    Parameters
    ----------
    names : iterable of str
    there : mapping of str to File
        What it lists.
    end : End

    Returns
    -------
    dict of str to File
        By the name that is not listed.
    """
    listed = {folded(name) for name in there}
    unsure = [name for name in names if name not in there and folded(name) in listed]
    return end.asked(unsure)


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
        other = seen.setdefault((folder, folded(step)), name)
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


def _folds_case(end: End, folder: str, dry_run: bool = False) -> bool:
    """Whether a directory takes upper and lower case for one, as macOS's and Windows' mostly do.

    It is asked about what is in it, or by a file: the directories above may lie on another disk.
    """
    fs, path = end.fs, end.path(folder)
    while not fs.isdir(path) and path != (above := fs._parent(path)):
        path = above
    inside = path and f"{path.rstrip('/')}/"
    names: set[str] = set()
    with contextlib.suppress(OSError):  # it may be written to, and not read, or is not there
        found = fs.ls(path, detail=True)
        names.update(each["name"].rpartition("/")[2] for each in found if each["type"] == "file")
    for name in names:
        other = name.swapcase()
        if name.isascii() and other != name:
            return other not in names and _is_read(fs, f"{inside}{other}")
    if dry_run:
        return False
    probe = temporary_beside(inside)
    try:
        fs.pipe_file(probe, b"?")
    except OSError:
        return False  # nothing else can be written there, either
    try:
        return _is_read(fs, f"{inside}{probe.rpartition('/')[2].swapcase()}")
    finally:
        fs.rm_file(probe)


def _is_read(fs: Any, path: str) -> bool:
    """Whether a file is there under a name, in whichever letters it is listed."""
    try:
        fs.cat_file(path, 0, 1)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
