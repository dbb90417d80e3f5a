"""Files that land on this machine's disk whole; a large one goes on where it broke off."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mlartifacts.writing import create_like, landing, temporary_beside

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Damaged", "Full", "Landing", "alone_with", "growing", "lacks_room"]

_WRITING = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
# The disk is full, the user's share of it, or the file is larger than it or the process may have.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Damaged(OSError):
    """Other bytes came than were sent: none of them is of use."""


class Full(OSError):
    """A disk, or a user's share of it, has no room for a file: what came of it was removed."""


def lacks_room(error: BaseException) -> bool:
    """Whether a file would land if something else went from its disk."""
    return isinstance(error, Full) and error.errno != errno.EFBIG


class Landing:
    """Puts the whole files of one transfer on the disk, and makes directories for them.

    A file is made as by :func:`~mlartifacts.writing.landing`, in a third of its calls where
    nothing is there: with each, another thread goes on, and this one waits for its turn. In a
    directory that the transfer made, what others put there meanwhile is replaced.
    """

    def __init__(self) -> None:
        self._mark = secrets.token_hex(8)
        self._count = itertools.count()
        # Whether each was made here, so that nothing was in it.
        self._directories: dict[str, bool] = {}

    def land(self, target: str, pieces: Sequence[Any], modified: float | None) -> None:
        """Make a file, or replace it; it has the time of its last change before its name."""
        directory = os.path.dirname(target)
        if not self.make_directory(directory) and os.path.lexists(target):
            with _naming(target, target), landing(target) as temporary:
                file = os.open(temporary, _WRITING | os.O_TRUNC, 0o666)
                _fill(temporary, file, pieces, modified)
            return
        name = f".mlartifacts-{self._mark}{next(self._count):016x}.part"
        temporary = os.path.join(directory, name)
        try:
            file = os.open(temporary, _WRITING | os.O_EXCL, 0o666)
            try:
                _fill(temporary, file, pieces, modified)
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            _raise_of_target(error, temporary, target)

    def make_directory(self, path: str) -> bool:
        """Make a directory that is not there; whether it was made by this transfer."""
        made = self._directories.get(path)
        if made is None:
            made = not os.path.isdir(path)
            try:
                os.makedirs(path, exist_ok=True)
            except FileExistsError as error:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
            made = self._directories.setdefault(path, made)
        return made


def _fill(path: str, file: int, pieces: Sequence[Any], modified: float | None) -> None:
    """Write all of some bytes, and close: a disk that is nearly full takes fewer than it is given.

    A file object would ask the system about the file first.
    """
    try:
        for piece in pieces:
            done = os.write(file, piece)
            while done < len(piece):
                piece = memoryview(piece)[done:]
                done = os.write(file, piece)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(file)
    _give_time(path, modified)


def _give_time(path: str, modified: float | None) -> None:
    """Give a file the time of its last change, as far as its disk can tell that."""
    if modified is not None:
        seconds = math.floor(modified)
        times = time.time_ns(), seconds * 10**9 + round(modified % 1 * 1e9)
        with contextlib.suppress(OSError, OverflowError):
            os.utime(path, ns=times)


class _Part(io.FileIO):
    """What has come of a file; an error of its disk has its name, as one of its source has not."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.name)) from error


@contextlib.contextmanager
def _naming(temporary: str, target: str) -> Iterator[None]:
    """Have the errors about a temporary name name `target`, and say which disk has no room for it.

    Raises
    ------
    Full
    """
    try:
        yield
    except OSError as error:
        _raise_of_target(error, temporary, target)


def _raise_of_target(error: OSError, temporary: str, target: str) -> NoReturn:
    """Raise the error about a temporary name, or its target, as the target's."""
    if error.errno in _FULL and error.filename in (temporary, target):
        mount = next(filter(os.path.ismount, Path(os.path.realpath(target)).parents))
        raise Full(error.errno, f"{error.strerror} (the disk at {mount})", target) from error
    if error.filename != temporary:
        raise error
    raise OSError(error.errno, error.strerror, target) from error


@contextlib.contextmanager
def growing(target: str, version: str, keep: bool, modified: float | None) -> Iterator[Any]:
    """Give a file with what has come of `target` so far, to add to; it gets its name at the end.

    Parameters
    ----------
    target : str
        No link.
    version : str
        What the bytes are of: those of another version are removed.
    keep : bool
        Leave what came for the next time where an exception ends this one, unless it is
        :class:`Damaged` or :class:`Full`, or there is no such file, or version of it, any more.
        Who finds another process or thread at it begins a file of its own, which is not kept.
    modified : float or None
        The time of its last change, in seconds since the epoch; ``None``: now.

    Raises
    ------
    Full
        The disk has no room for it.
    OSError
        What the disk says, of `target`.
    """
    if os.path.isdir(target):  # before all of the bytes have come
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    part = _part(target, version, keep)
    with _naming(part, target), contextlib.suppress(FileExistsError):
        create_like(target, part)
    with alone_with(part) as alone:
        keep = keep and alone
        if alone:
            _forget_others(target, part)
        else:
            part = temporary_beside(target, passing=True)
            create_like(target, part)
        try:
            with _naming(part, target):
                with io.BufferedRandom(_Part(part, "ab+" if keep else "wb+")) as local:
                    yield local
                _give_time(part, modified)
                os.replace(part, target)
        except BaseException as error:
            is_gone = isinstance(error, FileNotFoundError) or (
                isinstance(error, OSError) and error.errno == errno.ESTALE
            )
            keep = keep and not is_gone and not isinstance(error, Damaged | Full)
            with contextlib.suppress(FileNotFoundError):
                if not keep or not os.path.getsize(part):
                    os.unlink(part)
            raise


@contextlib.contextmanager
def alone_with(part: str) -> Iterator[bool]:
    """Say whether no other process or thread is at what has come of a file, and keep them off.

    The lock ends with its process. On Windows, which has none of the kind, a file that another
    one has open cannot be renamed, so that what comes last fails.
    """
    if fcntl is None:
        yield True
        return
    with contextlib.ExitStack() as stack:
        try:
            held = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            stack.callback(os.close, held)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have got its name, or another one's, since it was opened; and in a directory
            # that others write to, too, it may be theirs.
            status = os.fstat(held)
            alone = os.path.samestat(status, os.stat(part)) and status.st_uid == os.geteuid()
        except OSError as error:
            alone = error.errno in {errno.ENOLCK, errno.EOPNOTSUPP}  # a network file system
        yield alone


def _part(target: str, version: str, keep: bool) -> str:
    """The name of what has come of a file: another one for another version of it.

    Where it is not kept for the next time, the name says that nobody misses it.
    """
    dash = "-" if keep else ""
    return f"{_begin_of_parts(target)}{dash}{_mark(version)}.part"


def _begin_of_parts(target: str) -> str:
    directory, name = os.path.split(target)
    return os.path.join(directory, f".mlartifacts-{_mark(name)}")


def _mark(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _forget_others(target: str, part: str) -> None:
    """Remove what else has come of a file, of other versions."""
    begin = _begin_of_parts(target)
    with os.scandir(os.path.dirname(target)) as entries:
        others = [e.path for e in entries if e.path.startswith(begin) and e.path != part]
    for other in others:
        with alone_with(other) as alone:
            if alone:
                os.unlink(other)
