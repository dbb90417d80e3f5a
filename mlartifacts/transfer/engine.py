"""How files are moved: many at once, large ones by ranges, each hashed on its way and landed whole.

A file's bytes pass in order, in pieces; several ranges of a large one are on their way at once.
All of them share one bound of memory.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mlartifacts.carrying import Carrier
from mlartifacts.checksums import MD5, Checksum, Hasher, Kind, matching
from mlartifacts.transfer.landing import Landing, growing
from mlartifacts.transfer.pool import Budget, Pool, Stopped
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.trees import End, File

__all__ = ["MEMORY", "Engine", "Moved"]

T = TypeVar("T")

#: Bytes of files that are held in memory at once. With Python, the drivers and what an allocator
#: keeps for the next piece, in an arena for each few threads, a process takes three times that.
MEMORY = 80 * 2**20

# One request costs about as much as so many bytes, so that less is never asked for by itself.
_PIECE = 8 * 2**20
_AHEAD = 4
# Parts of an upload: drivers hold one, and the one that is being sent.
_BLOCK = 16 * 2**20
_MOST_PARTS = 9000
_PARTS_AHEAD = 6
# Files and ranges at once. Most drivers' event loops gain nothing from more, but a carrier does:
# its threads wait for the network, and not for each other.
_AT_ONCE = 16
_CARRIED_AT_ONCE = 32
# Where not even the quickest file takes less, the network is what is waited for: twice as many are
# on their way then.
_FAR = 0.02
_RANGES_AT_ONCE = 8
_READERS = 2
# What is longer is read by a few threads alone: an allocator keeps what was freed for the thread
# that took it, several pieces for each.
_SHORT = 2**18

_TRIES = 4
_WAIT = 0.5
_LONGEST_WAIT = 20.0
# What another try may mend: a lost connection, a server that is busy, an answer cut short.
_TRANSIENT = (ConnectionError, TimeoutError)
_TRANSIENT_NUMBERS = frozenset({errno.EBUSY, errno.EAGAIN, errno.EIO, errno.ESTALE})

# How long an interrupt waits for what is on its way, and then for what is to be removed.
_LAST_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Moved:
    """A file that was moved.

    Attributes
    ----------
    file : File
        As it was at the source.
    passed : mapping of Kind to Checksum
        Of the bytes that passed; none where neither side has one to compare with, or the store
        copied them itself.
    arrived : bool
        The target has said that it holds just these bytes.
    """

    file: File
    passed: Mapping[Kind, Checksum]
    arrived: bool = False


class Engine:
    """Moves files from one end to another.

    Parameters
    ----------
    source, target : End
    progress : Progress
    resume : bool
        Keep what came of a large download that broke off, and go on there.
    memory : int
        Bytes of files that are held at once.
    hashed : bool, default False
        Give the MD5 of each file also where neither side lists one to compare with.
    """

    def __init__(
        self,
        source: End,
        target: End,
        progress: Progress,
        resume: bool,
        memory: int = MEMORY,
        hashed: bool = False,
    ) -> None:
        self._hashed = hashed
        self._source, self._target = source, target
        self._progress = progress
        self._resume = resume
        self._budget = Budget(memory)
        self._ranges = Pool(_RANGES_AT_ONCE)
        self._disk = Pool(_READERS)
        self._landing = Landing()
        # What ends the writes that go on.
        self._open: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._is_one = source.fs is target.fs and not source.is_local
        self._reader = None if self._is_one else _carrier(source)
        self._writer = None if self._is_one else _carrier(target)
        piece, block = _chunks(source)[0], _chunks(target)[1]
        self._block = min(_BLOCK, block or _BLOCK)
        self._piece = min(_PIECE, piece or _PIECE)
        self._lists_md5 = bool(getattr(target.fs, "lists_md5", False))

    def run(self, files: Mapping[str, File]) -> tuple[list[Moved], dict[str, Exception]]:
        """Move files, each to the name that it is given.

        Parameters
        ----------
        files : mapping of str to File
            By the name at the target.

        Returns
        -------
        moved : list of Moved
        failures : dict of str to Exception
            By the name at the target.
        """
        left = collections.deque(files.items())
        moved: list[Moved] = []
        failures: dict[str, Exception] = {}
        at_once = min(_at_once(self._source, self._reader), _at_once(self._target, self._writer))
        pool = Pool(2 * at_once)
        working: list[concurrent.futures.Future[None]] = []
        ends = [(self._source, self._reader), (self._target, self._writer)]
        is_carried = all(end.is_local or carrier for end, carrier in ends)
        far = _Far(at_once) if is_carried and (self._reader or self._writer) else None

        def begin() -> None:
            # A task for each thread and none for each file: to hand them out, and to be woken by
            # each, would keep the threads from their work.
            asked = (left, moved, failures, far, begin)
            workers = range(min(at_once, len(left)))
            working.extend(pool.submit(self._work_off, *asked) for _ in workers)

        try:
            begin()
            for worker in working:  # those that join them, too
                worker.result()
        except BaseException:
            left.clear()
            self._interrupt(working)
            raise
        finally:
            pool.close()
            self._ranges.close()
            self._disk.close()
        return moved, failures

    def _work_off(
        self,
        left: collections.deque[tuple[str, File]],
        moved: list[Moved],
        failures: dict[str, Exception],
        far: _Far | None,
        begin: Callable[[], None],
    ) -> None:
        while True:
            try:
                name, file = left.popleft()
            except IndexError:
                return
            began = time.monotonic()
            try:
                moved.append(self._move(file, name))
            except Exception as error:
                failures[name] = error
            self._progress.file_done()
            if far is not None and file.size <= _SHORT and far.is_found(time.monotonic() - began):
                with contextlib.suppress(RuntimeError):  # no more threads: these do it
                    begin()

    def _interrupt(self, working: list[concurrent.futures.Future[None]]) -> None:
        """End within a second, with nothing half-written."""
        self._budget.stop()
        concurrent.futures.wait(working, _LAST_SECONDS)
        with self._lock:
            abandons = list(self._open)
        # At once, and no longer: an answer may never come.
        abandoning = Pool(len(abandons))
        concurrent.futures.wait([abandoning.submit(each) for each in abandons], _LAST_SECONDS)
        abandoning.close()

    # ---- One file ----------------------------------------------------------------------------

    def _move(self, file: File, name: str) -> Moved:
        tries = 0
        while True:
            tries += 1
            self._budget.check()
            passed = self._progress.passing()
            try:
                return self._once(file, name, passed)
            except Stopped:
                raise
            except Exception as error:
                passed.take_back()
                if tries >= _TRIES or not _is_transient(error):
                    raise
                changed = isinstance(error, OSError) and error.errno == errno.ESTALE
            if changed:
                file = self._source.file(file.name)
            longest = min(_WAIT * 2.0 ** (tries - 1), _LONGEST_WAIT)
            time.sleep(longest * random.uniform(0.5, 1))  # noqa: S311  (no secret hangs on it)

    def _once(self, file: File, name: str, passed: Any) -> Moved:
        if copy := self._within(file, name):
            copy()
            passed(file.size)
            return Moved(file, {})
        target = self._target.path(name)
        if file.size > _PIECE:
            file = self._asked(file)
        hasher = Hasher(self._kinds(file, target))
        if file.size <= _PIECE:
            with self._budget.holding(2 * file.size):  # a driver has a copy of its own
                data = self._whole(file)
                for piece in data:
                    hasher.update(piece)
                said = self._put(target, data)
                passed(file.size)
            made = hasher.checksums()
            return Moved(file, made, arrived=matching(said, made) is True)
        _keep_memory()
        with self._budget.holding(self._held(target)):
            if self._target.is_local:
                self._download(file, target, hasher, passed)
            elif self._writes(target):
                self._carry(file, target, hasher, passed)
            else:
                self._stream(file, target, hasher, passed)
        return Moved(file, hasher.checksums())

    def _within(self, file: File, name: str) -> Callable[[], None] | None:
        """What copies a file within its store, if it is not to leave that."""
        if self._is_one:
            source, target = self._source.path(file.name), self._target.path(name)
            return functools.partial(self._target.fs.cp_file, source, target)
        if (one := self._source.where(file.name)) is None:
            return None
        other = self._target.where(name, writing=True)
        if other is None or one[0] is not other[0]:
            return None
        return functools.partial(one[0].cp_file, one[1], other[1])

    def _held(self, target: str) -> int:
        """Bytes of a large file that are held while it moves."""
        read = 1 if self._source.is_local else _AHEAD + 1
        if self._target.is_local:
            return read * _PIECE
        if self._writes(target):
            return (read + _PARTS_AHEAD) * _PIECE
        return read * _PIECE + 2 * _BLOCK

    def _asked(self, file: File) -> File:
        """A large file with what its store says of it when it is asked, and not in a listing."""
        path = self._source.path(file.name)
        listed = None if self._source.is_local or file.version else file.modified
        if listed is not None and listed % 60 == 0:
            # FTP's listings have minutes alone. By them, it would seem changed in the end.
            file = self._source.file(file.name)
        if file.checksum is None and (carrier := self._reads(path)):
            return dataclasses.replace(file, checksum=carrier.checksum(path, file.version))
        return file

    def _kinds(self, file: File, target: str) -> set[Kind]:
        """The checksums that somebody else has, or will have, to compare with."""
        kinds = {MD5} if self._hashed else set()
        if file.checksum is not None:
            kinds.add(file.checksum.kind)
        # S3 lists no MD5 of what comes in parts.
        if self._lists_md5 and (file.size <= _PIECE or not self._writes(target)):
            kinds.add(MD5)
        return kinds

    def _reads(self, path: str) -> Carrier | None:
        return self._reader if self._reader is not None and self._reader.takes(path) else None

    def _writes(self, path: str) -> Carrier | None:
        return self._writer if self._writer is not None and self._writer.takes(path) else None

    def _range(self, path: str, start: int, end: int, version: str | None) -> list[Any]:
        if carrier := self._reads(path):
            return carrier.read(path, start, end, version)
        return [self._source.fs.cat_file(path, start, end)]

    def _whole(self, file: File) -> list[Any]:
        path = self._source.path(file.name)
        if self._source.is_local:
            data = [_by(self._disk, file.size, _contents, path, file.size + 1)]
        elif carrier := self._reads(path):
            asked = (path, 0, file.size, file.version, True)
            data = _by(self._ranges, file.size, carrier.read, *asked)
        else:
            data = [self._source.fs.cat_file(path)]
        if (size := sum(map(len, data))) != file.size:
            reason = f"it had {file.size} bytes when it was listed, and has {size}"
            raise OSError(errno.ESTALE, reason, path)
        return data

    def _put(self, target: str, data: list[Any]) -> Checksum | None:
        """Write a small file; the checksum that its store says of it at once, if it says one."""
        if carrier := self._writes(target):
            return carrier.write(target, data[0] if len(data) == 1 else b"".join(data))
        if not self._target.is_local:
            self._target.fs.pipe_file(target, b"".join(data))
            return None
        self._landing.land(target, data)
        return None

    def _carry(self, file: File, target: str, hasher: Hasher, passed: Any) -> None:
        assert self._writer is not None
        part = max(_PIECE, -(-file.size // _MOST_PARTS))

        def pieces() -> Iterator[bytes]:
            for piece in self._pieces(file, 0):
                hasher.update(piece)
                yield piece
                passed(len(piece))
            self._is_unchanged(file)

        with self._abandoning(functools.partial(self._writer.abandon, target)):
            self._writer.write_pieces(target, pieces(), part, _PARTS_AHEAD)

    @contextlib.contextmanager
    def _abandoning(self, abandon: Callable[[], None]) -> Iterator[None]:
        """Have an interrupt end a write that does not hear of it by itself."""
        with self._lock:
            self._open.add(abandon)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(abandon)

    def _stream(self, file: File, target: str, hasher: Hasher, passed: Any) -> None:
        block = max(self._block, -(-file.size // _MOST_PARTS))
        writer = self._target.fs.open(target, "wb", block_size=block)
        with self._abandoning(writer.abandon):
            try:
                for piece in self._pieces(file, 0):
                    hasher.update(piece)
                    writer.write(bytes(piece))
                    passed(len(piece))
                self._is_unchanged(file)
            except BaseException:
                writer.abandon()
                raise
            else:
                writer.close()

    def _download(self, file: File, target: str, hasher: Hasher, passed: Any) -> None:
        target = os.path.realpath(target)  # a link stays a link
        self._landing.make_directory(os.path.dirname(target))
        of = f"{self._source}\0{file.name}\0{file.size}\0{file.version}\0{file.modified}"
        # Without a time or a version, nobody knows that what came before is of the same file.
        is_known = (file.version or file.modified) is not None
        with growing(target, of, keep=self._resume and is_known) as local:
            done = self._before(local, file, hasher)
            passed(done)
            for piece in self._pieces(file, done):
                hasher.update(piece)
                local.write(piece)
                passed(len(piece))
            self._is_unchanged(file)

    def _before(self, local: Any, file: File, hasher: Hasher) -> int:
        """How many bytes came before; they are hashed again."""
        size = local.seek(0, os.SEEK_END)
        if size > file.size:
            local.truncate(0)
            return 0
        if hasher:
            local.seek(0)
            while piece := local.read(_PIECE):
                hasher.update(piece)
        return int(size)

    def _pieces(self, file: File, start: int) -> Iterator[bytes]:
        """A file's bytes in order; several ranges are asked for at once."""
        path = self._source.path(file.name)
        if self._source.is_local or not _is_ranged(self._source.fs, path):
            yield from self._read(path, file, start)
            return
        waiting: collections.deque[tuple[int, concurrent.futures.Future[list[Any]]]]
        waiting = collections.deque()
        begins = iter(range(start, file.size, self._piece))
        try:
            while True:
                while len(waiting) < _AHEAD and (begin := next(begins, None)) is not None:
                    end = min(begin + self._piece, file.size)
                    ask = self._ranges.submit(self._range, path, begin, end, file.version)
                    waiting.append((end - begin, ask))
                if not waiting:
                    return
                size, asked = waiting.popleft()
                pieces = asked.result()
                self._budget.check()
                if (got := sum(map(len, pieces))) != size:
                    raise OSError(errno.EIO, f"short read: {got} of {size} bytes", path)
                yield from pieces
        finally:
            for _, asked in waiting:
                asked.cancel()

    def _read(self, path: str, file: File, start: int) -> Iterator[bytes]:
        left = file.size - start
        with open(path, "rb") if self._source.is_local else self._source.fs.open(path) as whole:
            whole.seek(start)
            while left:
                self._budget.check()
                size = min(self._piece, self._block, left)
                piece = _by(self._disk, size, whole.read, size)
                if not piece:
                    raise OSError(errno.ESTALE, "it became shorter while it was read", path)
                left -= len(piece)
                yield piece

    def _is_unchanged(self, file: File) -> None:
        """Refuse a file that was replaced while its ranges were read."""
        path = self._source.path(file.name)
        if file.version is not None and self._reads(path):
            return  # each range was asked of that version
        now = self._source.file(file.name)
        if now.size != file.size or not _is_same(now, file):
            raise OSError(errno.ESTALE, "it changed while it was read", path)


class _Far:
    """Finds out, once, whether the network is what small files wait for.

    Parameters
    ----------
    sample : int
        How many of them tell.
    """

    def __init__(self, sample: int) -> None:
        self._left = sample
        self._quickest = math.inf
        self._lock = threading.Lock()

    def is_found(self, seconds: float) -> bool:
        """Take the time of one more; true at the last of the sample, where none was quick."""
        with self._lock:
            self._quickest = min(self._quickest, seconds)
            self._left -= 1
            return self._left == 0 and self._quickest > _FAR


def _by(pool: Pool, size: int, read: Callable[..., T], *args: Any) -> T:
    """What a read gives, by a thread of `pool` unless it is short."""
    return read(*args) if size <= _SHORT else pool.submit(read, *args).result()


def _contents(path: str, most: int) -> bytes:
    """The bytes of a file; a file object would ask the system about it first."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return os.read(file, most)
    finally:
        os.close(file)


@functools.cache
def _keep_memory() -> None:
    """Have the C library keep some of the memory that is freed, for the next piece.

    glibc gives it back to the system, and takes new pages that must be cleared, unless a large
    block was freed before: that took a third of the CPU time of a download.
    """
    bytearray(2 * _PIECE)


def _chunks(end: End) -> tuple[int | None, int | None]:
    return end.fs.chunks(end.root) if hasattr(end.fs, "chunks") else (None, None)


def _is_ranged(fs: Any, path: str) -> bool:
    """Whether a range of a file can be asked for, and does not come with all before it."""
    return not hasattr(fs, "ranged") or fs.ranged(path)


def _carrier(end: End) -> Carrier | None:
    """What moves bytes faster than the filesystem, if its store offers it."""
    if end.is_local or not hasattr(end.fs, "carrier"):
        return None
    offered: Carrier | None = end.fs.carrier(end.root)
    return offered


def _at_once(end: End, carrier: Carrier | None) -> int:
    """How many files an end is asked for at once."""
    if end.is_local or carrier is not None:
        return _CARRIED_AT_ONCE
    return int(getattr(end.fs, "files_at_once", _AT_ONCE))


def _is_same(one: File, other: File) -> bool:
    if one.version is not None and other.version is not None:
        return one.version == other.version
    if one.modified is None or other.modified is None:
        return True  # nobody knows
    # A listing may say the time more exactly than the file's own entry, or the other way.
    return int(one.modified) == int(other.modified)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _TRANSIENT):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_NUMBERS
