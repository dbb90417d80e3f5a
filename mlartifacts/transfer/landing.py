"""Files that land on this machine's disk whole; a large one goes on where it broke off."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from mlartifacts.writing import create_like, landing, naming, temporary_beside

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Damaged", "Landing", "growing"]

_WRITING = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)


class Damaged(OSError):
    """Other bytes came than were sent: none of them is of use."""


class Landing:
    """Puts the whole files of one transfer on the disk, and makes directories for them.

    A file is made as by :func:`~mlartifacts.writing.landing`, in a third of its calls where
    nothing is there: with each, another thread goes on, and this one waits for its turn. In a
    directory that the transfer made, what others put there meanwhile is replaced.
    """

    def __init__(self) -> None:
        self._mark = secrets.token_hex(4)
        self._count = itertools.count()
        # Whether each was made here, so that nothing was in it.
        self._directories: dict[str, bool] = {}

    def land(self, target: str, pieces: Iterable[Any]) -> None:
        """Make a file, or replace it."""
        directory = os.path.dirname(target)
        if not self.make_directory(directory) and os.path.lexists(target):
            with landing(target) as temporary:
                _fill(os.open(temporary, _WRITING | os.O_TRUNC, 0o666), pieces)
            return
        name = f".mlartifacts-{self._mark}{next(self._count) % 2**32:08x}.part"
        with naming(os.path.join(directory, name), target) as temporary:
            file = os.open(temporary, _WRITING | os.O_EXCL, 0o666)
            try:
                _fill(file, pieces)
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise

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


def _fill(file: int, pieces: Iterable[Any]) -> None:
    """Write all of some bytes, and close: a disk that is nearly full takes fewer than it is given.

    A file object would ask the system about the file first.
    """
    try:
        for piece in pieces:
            done = os.write(file, piece)
            while done < len(piece):
                piece = memoryview(piece)[done:]
                done = os.write(file, piece)
    finally:
        os.close(file)


@contextlib.contextmanager
def growing(target: str, version: str, keep: bool) -> Iterator[Any]:
    """Give a file with what has come of `target` so far, to add to; it gets its name at the end.

    Parameters
    ----------
    target : str
        No link.
    version : str
        What the bytes are of: those of another version are removed.
    keep : bool
        Leave what came for the next time where an exception ends this one, unless it is
        :class:`Damaged` or there is no such file any more. Who finds another process or thread at
        it begins a file of its own, which is not kept.

    Raises
    ------
    OSError
        What the disk says, of `target`.
    """
    part = _part(target, version)
    with naming(part, target), contextlib.suppress(FileExistsError):
        create_like(target, part)
    with _alone_with(part) as alone:
        keep = keep and alone
        if alone:
            _forget_others(part)
        else:
            part = temporary_beside(target)
            create_like(target, part)
        try:
            with naming(part, target):
                with open(part, "ab+" if keep else "wb+") as local:
                    yield local
                os.replace(part, target)
        except BaseException as error:
            keep = keep and not isinstance(error, Damaged | FileNotFoundError)
            with contextlib.suppress(FileNotFoundError):
                if not keep or not os.path.getsize(part):
                    os.unlink(part)
            raise


@contextlib.contextmanager
def _alone_with(part: str) -> Iterator[bool]:
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


def _part(target: str, version: str) -> str:
    """The name of what has come of a file: another one for another version of it."""
    directory, name = os.path.split(target)
    return os.path.join(directory, f".mlartifacts-{_mark(name)}-{_mark(version)}.part")


def _mark(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _forget_others(part: str) -> None:
    """Remove what has come of other versions of a file."""
    directory, name = os.path.split(part)
    begin = name.rpartition("-")[0]
    with os.scandir(directory) as entries:
        others = [e.path for e in entries if e.name.startswith(begin) and e.name != name]
    for other in others:
        with _alone_with(other) as alone:
            if alone:
                os.unlink(other)
