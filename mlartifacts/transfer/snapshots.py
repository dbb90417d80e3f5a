"""Snapshots of artifacts on this machine's disk, shared by its processes.

A snapshot is made beside the others and gets its name by a rename, under a lock, so that it is
there whole or not at all; it is never changed afterwards. ::

    lock                    held for moments, by whoever looks, lands or deletes
    entries/KEY/VERSION/    a snapshot: what it holds, when it was used, and the files
    locks/KEY               held by who fetches
    parts/KEY.RANDOM/       what is being fetched
    readers/RANDOM.lock     held by a process that was given snapshots, as long as it lives
    readers/RANDOM.list     which
    trash/                  what is being deleted

What a process leaves that was killed is told from what one is at by the locks, which end with
their process. A directory that cannot be written to has no locks either: nothing goes from it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlartifacts.transfer.state import DIRECTORY

__all__ = ["Snapshots"]

# Files of a snapshot beside what was fetched.
_MANIFEST, _USED, _FILES = "manifest", "used", "files"
_KEY = re.compile(r"[0-9a-f]+")


class Snapshots:
    """A directory of snapshots, bounded in size.

    Parameters
    ----------
    root : str
        It is made, for this user alone. One that cannot be written to may be root's, too.
    bound : int
        Bytes above which the least recently used ones go.

    Raises
    ------
    PermissionError
        `root` is another user's.
    OSError
        It is not there, and cannot be made.
    """

    def __init__(self, root: str, bound: int) -> None:
        self._root, self._bound = root, bound
        self._is_read_only = os.path.isdir(root) and not os.access(root, os.W_OK)
        if self._is_read_only:
            _refuse_strangers(root)
            return
        try:
            os.makedirs(os.path.dirname(root), exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(root, 0o700)
        except OSError as error:
            if error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
                raise
            raise _read_only(root) from error
        _make_private(root)
        for name in ("entries", "locks", "parts", "readers", "trash"):
            os.makedirs(self._at(name), exist_ok=True)

    def take(self, key: str, version: str) -> Path | None:
        """A snapshot, which is then kept as long as this process lives; ``None`` if there is none.

        One whose files are not those that were put there is thrown away.
        """
        place = self._at("entries", key, version)
        if self._is_read_only:
            return _whole(place)
        with self._guard():
            if not os.path.isdir(place):
                return None
            with contextlib.suppress(FileNotFoundError):
                os.utime(os.path.join(place, _USED))
            is_first = self._hold(place)
        path = _whole(place)
        if path is None:
            with self._guard():
                self._throw(place)
            self._empty_trash()
        if is_first:
            # What could not go before, as somebody had it, would stay where nothing is fetched.
            self.make_room(0)
        return path

    @contextlib.contextmanager
    def fetching(self, key: str) -> Iterator[bool]:
        """Be the only one who fetches something; says whether another one was waited for.

        Raises
        ------
        OSError
            Nothing can be fetched into a directory that is read-only.
        """
        if self._is_read_only:
            raise _read_only(self._root)
        lock = FileLock(self._at("locks", key))
        waited = False
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waited = True
            lock.acquire()
        try:
            self._remove_parts(key)
            yield waited
        finally:
            lock.release()

    @contextlib.contextmanager
    def part(self, key: str, name: str) -> Iterator[str]:
        """Give the path where something is to be fetched, as a file or a directory."""
        place = self._at("parts", f"{key}.{secrets.token_hex(8)}")
        os.makedirs(os.path.join(place, _FILES))
        try:
            yield os.path.join(place, _FILES, name)
        finally:
            if os.path.exists(place):
                _remove(place)

    def land(self, part: str, key: str, version: str) -> Path:
        """Make a snapshot of what was fetched, unless there is one already, and give it."""
        place = os.path.dirname(os.path.dirname(part))
        _seal(place, part)
        target = self._at("entries", key, version)
        with self._guard():
            damaged = os.path.isdir(target) and _whole(target) is None
            if damaged and not self._throw(target):
                raise OSError(errno.EBUSY, "somebody changed it, and has it open", target)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if not os.path.isdir(target):
                os.rename(place, target)
                _flush_directory(os.path.dirname(target))
            os.utime(os.path.join(target, _USED))
            self._hold(target)
        self.make_room(0)
        return Path(target, _FILES, os.path.basename(part))

    def make_room(self, size: int, least: int = 0) -> bool:
        """Delete the least recently used snapshots that no living process was given.

        Parameters
        ----------
        size : int
            Bytes that are to come.
        least : int, default 0
            Bytes that are to go at least, whatever the bound is, as the disk is full.

        Returns
        -------
        bool
            Whether one went.
        """
        some = False
        with self._guard():
            kept = self._held()
            snapshots = sorted(self._snapshots())
            excess = max(sum(each[1] for each in snapshots) + size - self._bound, least)
            for _, own, place in snapshots:
                if excess <= 0:
                    break
                if place not in kept and self._throw(place):
                    excess -= own
                    some = True
        self._empty_trash()
        self._sweep()
        return some

    # ---- What is there -------------------------------------------------------------------

    def _at(self, *names: str) -> str:
        return os.path.join(self._root, *names)

    def _guard(self) -> FileLock:
        return FileLock(self._at("lock"), poll_interval=0.01)

    def _keys(self, folder: str) -> set[str]:
        """Whose things lie in one of our directories; what is no key's is a stranger's."""
        keys = {name.partition(".")[0] for name in os.listdir(self._at(folder))}
        return {key for key in keys if _KEY.fullmatch(key)}

    def _snapshots(self) -> Iterator[tuple[int, int, str]]:
        """When each was used, its size and its place."""
        for key in self._keys("entries"):
            for version in os.listdir(self._at("entries", key)):
                place = self._at("entries", key, version)
                try:
                    with open(os.path.join(place, _USED)) as file:
                        yield os.fstat(file.fileno()).st_mtime_ns, int(file.read()), place
                except (OSError, ValueError):  # a stranger's hand: it goes first
                    yield 0, 0, place

    # ---- Who has what --------------------------------------------------------------------

    def _hold(self, place: str) -> bool:
        """Tell the other processes that this one was given a snapshot; whether it is its first."""
        with _lock_of_readers:
            reader = _readers.get(self._root)
            is_first = reader is None or not reader.is_ours()
            if reader is None or is_first:
                self._held()  # which forgets the dead
                reader = _readers[self._root] = _Reader(self._at("readers"))
            reader.add(place)
            return is_first

    def _held(self) -> set[str]:
        """What living processes were given; what is left of dead ones is removed."""
        held: set[str] = set()
        with os.scandir(self._at("readers")) as entries:
            paths = [entry.path for entry in entries if entry.name.endswith(".lock")]
        for path in paths:
            names = f"{path.removesuffix('.lock')}.list"
            if _is_locked(path):
                with contextlib.suppress(FileNotFoundError), open(names) as file:
                    held.update(self._at(*line.split()) for line in file)
            else:
                for each in (names, path):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(each)
        return held

    # ---- What goes -----------------------------------------------------------------------

    def _throw(self, place: str) -> bool:
        try:
            os.rename(place, self._at("trash", secrets.token_hex(8)))
        except OSError:  # on Windows, where somebody has one of its files open
            return False
        with contextlib.suppress(OSError):  # other versions are there
            os.rmdir(os.path.dirname(place))
        return True

    def _empty_trash(self) -> None:
        for name in os.listdir(self._at("trash")):
            _remove(self._at("trash", name))

    def _remove_parts(self, key: str) -> None:
        """Remove what was being fetched, by who holds its lock."""
        for name in os.listdir(self._at("parts")):
            if name.partition(".")[0] == key:
                _remove(self._at("parts", name))

    def _sweep(self) -> None:
        """Remove what processes left that were killed, and locks that nobody needs."""
        for key in self._keys("parts") | self._keys("locks") - self._keys("entries"):
            lock = FileLock(self._at("locks", key))
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                self._remove_parts(key)
                # Who waits for it sees that it went, and makes another.
                with contextlib.suppress(OSError):
                    os.unlink(lock.lock_file)
            finally:
                lock.release()


class _Reader:
    """What a process was given: a list, and a lock that it holds as long as it lives."""

    def __init__(self, folder: str) -> None:
        self._process = os.getpid()
        self._own: set[str] = set()
        path = os.path.join(folder, secrets.token_hex(8))
        self._list = f"{path}.list"
        self._lock = FileLock(f"{path}.lock")
        self._lock.acquire()
        open(self._list, "x").close()

    def is_ours(self) -> bool:
        """Whether others see it: not a fork's copy, nor one of a cache that was deleted."""
        return self._process == os.getpid() and os.path.exists(self._list)

    def add(self, place: str) -> None:
        if place in self._own:
            return
        # Relative to the cache, and nothing but hexadecimal digits. A full disk may have cut the
        # line before.
        with open(self._list, "a") as file:
            file.write("\n" + " ".join(place.split(os.sep)[-3:]) + "\n")
        self._own.add(place)


_readers: dict[str, _Reader] = {}
_lock_of_readers = threading.Lock()


def _renew() -> None:
    global _lock_of_readers
    _lock_of_readers = threading.Lock()


if hasattr(os, "register_at_fork"):
    # It may be held by a thread that the child does not have.
    os.register_at_fork(after_in_child=_renew)


def _make_private(root: str) -> None:
    """See that nobody else can read a directory, or change what is in it."""
    if not hasattr(os, "getuid"):
        return  # Windows: in the user's own profile, it is
    status = os.lstat(root)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), root)
    if status.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "another user's directory is no cache of ours", root)
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.chmod(root, 0o700)


def _refuse_strangers(root: str) -> None:
    """See that what is in a directory which cannot be written to is ours, or this machine's root's.

    An image of a container is made by root, and used by somebody else.
    """
    if not hasattr(os, "getuid"):
        return
    status = os.lstat(root)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), root)
    if status.st_uid not in {0, os.getuid()} or status.st_mode & 0o022:
        reason = "a directory that another user made, or can write to, is no cache of ours"
        raise PermissionError(errno.EPERM, reason, root)


def _read_only(root: str) -> OSError:
    reason = (
        "the cache is read-only, and does not have the current version"
        f" ({DIRECTORY} says where it is)"
    )
    return OSError(errno.EROFS, reason, root)


def _seal(place: str, part: str) -> None:
    """Write down what is in a snapshot, make its files read-only, and have it all on the disk."""
    files: list[tuple[str, int, int]] = []
    for folder, _, names in os.walk(os.path.join(place, _FILES)):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(path, 0o444)
            status = os.stat(path)
            own = os.path.relpath(path, place)
            files.append((own, status.st_size, status.st_mtime_ns))
        _flush_directory(folder)
    for name, text in (
        (_USED, str(sum(size for _, size, _ in files))),
        (_MANIFEST, json.dumps({"name": os.path.basename(part), "files": files})),
    ):
        with open(os.path.join(place, name), "w") as written:
            written.write(text)
            written.flush()
            os.fsync(written.fileno())
    _flush_directory(place)


def _whole(place: str) -> Path | None:
    """What is in a snapshot, if its files are those that were put there."""
    try:
        with open(os.path.join(place, _MANIFEST)) as file:
            manifest: dict[str, Any] = json.load(file)
        for name, size, modified in manifest["files"]:
            status = os.lstat(os.path.join(place, name))
            if not stat.S_ISREG(status.st_mode):
                return None
            # Images of containers keep whole seconds.
            times = (modified, modified // 10**9 * 10**9)
            if status.st_size != size or status.st_mtime_ns not in times:
                return None
        path = Path(place, _FILES, manifest["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if path.exists() else None


def _flush_directory(folder: str) -> None:
    """Have the names in a directory on the disk, where the system can be told so."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(path: str) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def _remove(place: str) -> None:
    """Remove a directory; another process may be at it, too."""
    if os.name == "nt":  # which keeps what is read-only
        for folder, _, names in os.walk(place):
            for name in names:
                with contextlib.suppress(OSError):
                    os.chmod(os.path.join(folder, name), stat.S_IWRITE)
    shutil.rmtree(place, ignore_errors=True)
