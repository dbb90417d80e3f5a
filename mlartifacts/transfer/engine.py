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
from mlartifacts.errors import hide_query, is_final
from mlartifacts.promises import stoppable
from mlartifacts.retrying import pause
from mlartifacts.transfer.landing import Damaged, Landing, growing
from mlartifacts.transfer.outage import Outage, about
from mlartifacts.transfer.pool import Budget, Pool, Stopped, submit_all
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.times import given, same_time, until_settled
from mlartifacts.transfer.trees import End, File, checksum_of, state_of

__all__ = ["MEMORY", "Engine", "Moved", "again", "differs"]

T = TypeVar("T")
_Ranges = Callable[[int, int], bytes]

#: Bytes of files that are held in memory at once. With Python, the drivers and what an allocator
#: keeps for the next piece, in an arena for each few threads, a process takes twice that and more.
MEMORY = 96 * 2**20

# One request costs about as much as so many bytes, so that less is never asked for by itself.
_PIECE = 8 * 2**20
# Pieces of a large file that are on their way before one is taken: more where nobody copies them,
# and fewer where other large files want their share of what may be held.
_AHEAD = 4
_CARRIED_AHEAD = 8
_LARGE_AT_ONCE = 3
_KEPT = _PIECE // 2
# Parts of an upload: drivers hold one and those that are being sent, in all so much twice.
_BLOCK = 16 * 2**20
# S3 takes 10,000. A part must be at hand for its checksum, so that the parts of what is larger than
# 450 GB are more than the bound of memory: two of them are held then.
_MOST_PARTS = 9000
# Files and ranges at once. Most drivers' event loops gain nothing from more, but a carrier does:
# its threads wait for the network, and not for each other.
_AT_ONCE = 16
_CARRIED_AT_ONCE = 32
# Where not even the quickest file takes less, the network is what is waited for: twice as many are
# on their way then.
_FAR = 0.02
_RANGES_AT_ONCE = 8
_READERS = 2
_STREAMS = 2
# What is longer is read by a few threads alone, and a few write what a driver gathers of a large
# file: an allocator keeps what was freed for the thread that took it, several pieces for each.
_SHORT = 2**18
# The same for drivers: of what is longer, the bound of memory lets no more files pass at once.
_MEDIUM = 2**22

# What came of a file before is read again at so many places, so many bytes each: at fewer ones
# where what follows a place is on its way, too.
_SAMPLES = 16
_JUMPS = 4
_SAMPLE = 2**16

_TRIES = 4
_WAIT = 0.5
_LONGEST_WAIT = 20.0
# What another try may mend, besides a lost connection: a server that is busy, an answer cut short.
# A wait that was in vain is not repeated: it was as long as the user had said.
_TRANSIENT_NUMBERS = frozenset({errno.EBUSY, errno.EAGAIN, errno.EIO, errno.ESTALE})

# How long an interrupt waits for what is on its way, and then for what is to be removed: a second
# in all, with what else there is to do.
_LAST_SECONDS = 0.45
# How long a file that was just changed is waited for until a next change would show, at most.
_SOON = 2.5
# How often somebody is asked who may not want it any more.
_LOOK = 0.2


@dataclass(frozen=True, slots=True)
class Moved:
    """A file that was moved.

    Attributes
    ----------
    file : File
        As it was at the source.
    passed : mapping of Kind to Checksum
        Of the bytes that passed, or of the source where the store copied it itself; none where
        there is none to compare with.
    arrived : bool
        The target has said that it holds just these bytes.
    copied : bool
        The store copied it itself, what it was by then.
    span : (float, float)
        When it was moved, in seconds since the epoch.
    time : float or None
        What it was given for the time of its last change.
    """

    file: File
    passed: Mapping[Kind, Checksum]
    arrived: bool = False
    copied: bool = False
    span: tuple[float, float] = (0.0, 0.0)
    time: float | None = None


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
    is_wanted : callable, optional
        Asked several times a second whether to go on; else it ends as by Ctrl-C.
    """

    def __init__(
        self,
        source: End,
        target: End,
        progress: Progress,
        resume: bool,
        memory: int = MEMORY,
        hashed: bool = False,
        is_wanted: Callable[[], bool] | None = None,
    ) -> None:
        self._hashed = hashed
        self._is_wanted = is_wanted
        self._source, self._target = source, target
        self._progress = progress
        self._resume = resume
        self._budget = Budget(memory)
        self._memory = self._share = memory
        self._ranges = Pool(_RANGES_AT_ONCE)
        self._disk = Pool(_READERS)
        self._streams = Pool(_STREAMS)
        self._landing = Landing()
        #: What was moved so far.
        self.moved: list[Moved] = []
        # What ends the writes that go on.
        self._open: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._outage = Outage()
        # Where that is.
        self._failing = target
        self._is_one = (
            source.fs is target.fs
            and not source.is_local
            and _copies_within(target.fs, target.root)
            and _are_in_one_store(source, target)
        )
        self._reader = None if self._is_one else _carrier(source)
        self._writer = None if self._is_one else _carrier(target)
        piece, block = _chunks(source)[0], _chunks(target)[1]
        self._block = min(_BLOCK, block or _BLOCK)
        self._piece = min(_PIECE, piece or _PIECE)
        # A driver has copies of its own (of what it joins, of a body), and they are kept a while.
        is_read = source.is_local or self._reader is not None
        is_written = target.is_local or self._writes(target.path("x"), _PIECE) is not None
        self._is_carried = is_read and is_written
        self._copies = 2 if self._is_carried else 6
        reads_singly = self._reader is not None or not target.is_local
        self._together = 0 if reads_singly else getattr(source.fs, "files_together", 0)
        self._lists_md5 = bool(getattr(target.fs, "lists_md5", False))
        # By how much the source's clock is ahead, at least.
        self._ahead_of_us = 0.0

    @property
    def gone(self) -> OSError | None:
        """Why the target does not answer any more."""
        error = self._outage.error
        if self._failing is self._target and isinstance(error, ConnectionError | TimeoutError):
            return error
        return None

    @functools.cached_property
    def _keeps_times(self) -> bool:
        """Whether the target keeps times; a server is not asked before it has taken a file."""
        return self._target.keeps_times

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

        Raises
        ------
        Stopped
            It was not wanted any more.
        """
        if not self._source.is_local:
            newest = max((file.modified or 0 for file in files.values()), default=0)
            self._ahead_of_us = max(newest - time.time(), 0)
        largest = max((file.size for file in files.values()), default=0)
        large = sum(file.size > max(_PIECE, largest // 8) for file in files.values())
        are_read = not self._source.is_local and not self._target.is_local
        self._share = self._memory // (min(max(large, 1), _LARGE_AT_ONCE) * (1 + are_read))
        left = collections.deque(files.items())
        together: collections.deque[tuple[str, File]] = collections.deque()
        if self._together:
            together.extend(each for each in left if each[1].size <= _SHORT)
            left = collections.deque(each for each in left if each[1].size > _SHORT)
        moved = self.moved
        failures: dict[str, Exception] = {}
        at_once = min(_at_once(self._source, self._reader), _at_once(self._target, self._writer))
        pool = Pool(2 * at_once)
        working: list[concurrent.futures.Future[None]] = []
        broken: concurrent.futures.Future[None] = concurrent.futures.Future()
        far = _Far(at_once) if self._is_carried and (self._reader or self._writer) else None

        def work(act: Callable[..., None], *args: Any) -> None:
            worker = pool.submit(act, *args)
            worker.add_done_callback(tell)
            working.append(worker)

        def tell(worker: concurrent.futures.Future[None]) -> None:
            if (error := worker.exception()) is not None:
                with contextlib.suppress(concurrent.futures.InvalidStateError):  # the first counts
                    broken.set_exception(error)

        def begin() -> None:
            # A task for each thread and none for each file: to hand them out, and to be woken by
            # each, would keep the threads from their work.
            for _ in range(min(at_once, len(left))):
                work(self._work_off, left, moved, failures, far, begin)
            for _ in range(-(-min(at_once, len(together)) // (self._together or 1))):
                work(self._work_off_together, together, moved, failures, singly)

        def singly(*file: Any) -> None:
            work(self._settle, *file)

        look = _LOOK if self._is_wanted else None
        try:
            begin()
            for worker in working:  # those that join them, too
                while not worker.done():
                    both = worker, broken
                    concurrent.futures.wait(both, look, concurrent.futures.FIRST_COMPLETED)
                    if broken.done():
                        broken.result()
                    if self._is_wanted and not worker.done() and not self._is_wanted():
                        raise Stopped
                worker.result()
        except BaseException:
            left.clear()
            self._interrupt(working)
            raise
        finally:
            pool.close()
            self._ranges.close()
            self._disk.close()
            self._streams.close()
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
            self._settle(file, name, moved, failures)
            if far is not None and file.size <= _SHORT and far.is_found(time.monotonic() - began):
                with contextlib.suppress(RuntimeError):  # no more threads: these do it
                    begin()

    def _work_off_together(
        self,
        left: collections.deque[tuple[str, File]],
        moved: list[Moved],
        failures: dict[str, Exception],
        singly: Callable[..., None],
    ) -> None:
        while True:
            some: list[tuple[str, File]] = []
            with contextlib.suppress(IndexError):
                while len(some) < self._together:
                    some.append(left.popleft())
            if not some:
                return
            with contextlib.suppress(Stopped):
                self._move_together(some, moved, failures, singly)

    def _move_together(
        self,
        some: list[tuple[str, File]],
        moved: list[Moved],
        failures: dict[str, Exception],
        singly: Callable[..., None],
    ) -> None:
        """Move small files that are read at once: a thread for each would wait for the others.

        What could not be read is moved `singly`, which may have to wait: but for what was waited
        for in vain.
        """
        with self._budget.holding(2 * sum(file.size for _, file in some)):
            paths = [self._source.path(file.name) for _, file in some]
            starts, ends = [0] * len(paths), [None] * len(paths)
            came: list[Any] = [None] * len(paths)
            begun = self._outage.begin()
            try:
                if self._outage.error is None:
                    came = self._source.fs.cat_ranges(paths, starts, ends, on_error="return")
            except Exception as error:
                came = [error] * len(paths)
            for (name, file), each in zip(some, came, strict=True):
                if each is None or isinstance(each, bytes | TimeoutError):
                    self._settle(file, name, moved, failures, each, begun)
                else:
                    self._budget.check()
                    failed = each if isinstance(each, Exception) else None
                    singly(file, name, moved, failures, failed)

    def _settle(
        self,
        file: File,
        name: str,
        moved: list[Moved],
        failures: dict[str, Exception],
        came: bytes | Exception | None = None,
        begun: int | None = None,
    ) -> None:
        if begun is None:
            begun = self._outage.begin()
        if self._outage.error is not None:
            failures[name] = about(self._outage.error, self._failing.path(name))
        else:
            try:
                moved.append(self._move(file, name, came))
                self._outage.arrive()
            except Exception as error:
                failures[name] = _with_size(error, file.size)
                self._fail(error, file, begun)
        self._progress.file_done()

    def _fail(self, error: Exception, file: File, begun: int) -> None:
        """Find out whether a failure means that the rest would fail, too."""
        if not all(map(_are_in_one_store, (self._source, self._target))):
            return
        if self._outage.error is None:
            named = hide_query(self._source.path(file.name))
            is_of_source = getattr(error, "filename", None) == named
            self._failing = self._source if is_of_source else self._target
            self._outage.fail(error, begun)

    def _interrupt(self, working: list[concurrent.futures.Future[None]]) -> None:
        """End within a second, with nothing half-written.

        Another interrupt ends the waiting, and nothing else.
        """
        try:
            self._budget.stop()
            concurrent.futures.wait(working, _LAST_SECONDS)
        finally:
            # By a thread from the first on, which hears of no interrupt.
            abandoning = submit_all(Engine._abandon, [self], 1)
        concurrent.futures.wait(abandoning, _LAST_SECONDS)

    def _abandon(self) -> None:
        """End at once what is still on its way."""
        self._budget.stop()
        with self._lock:
            abandons = list(self._open)
        abandoning = submit_all(lambda abandon: abandon(), abandons, len(abandons))
        concurrent.futures.wait(abandoning)

    # ---- One file ----------------------------------------------------------------------------

    def _move(self, file: File, name: str, came: bytes | Exception | None) -> Moved:
        """Move a file, of which the bytes may have come, or the first try to read it failed."""
        tries = damages = 0
        changed = False
        while True:
            tries += 1
            self._budget.check()
            passed = self._progress.passing()
            try:
                read, came = came, None
                if read is None:
                    file = self._settled(file)
                if changed and self._source.is_local:
                    file = self._held_still(file)
                return self._once(file, name, passed, read)
            except Stopped:
                raise
            except Exception as error:
                passed.take_back()
                damages += isinstance(error, Damaged)
                is_last = tries >= _TRIES or damages > 1 or self._outage.error is not None
                if is_last or not _is_transient(error):
                    raise
                changed = isinstance(error, OSError) and error.errno == errno.ESTALE
            if changed:
                file = self._source.file(file.name)
            self._budget.wait(_pause(tries))

    def _settled(self, file: File) -> File:
        """A file as it is once a change of it would show, where that is soon.

        A small one of another machine is read at once, so that nothing is waited for.
        """
        if file.unit > 1 and self._keeps_times:
            # A listing has minutes; the time that is given is that of what is read.
            file = self._source.file(file.name)
        is_read_at_once = file.size <= _PIECE and not self._source.is_local
        if file.modified is None or is_read_at_once or file.version is not None:
            return file
        left = until_settled(file, time.time())
        if not 0 < left <= _SOON:
            return file
        self._budget.wait(left)
        return self._source.file(file.name)

    def _held_still(self, file: File) -> File:
        """A local file that changes as it is read, as far as it goes now, with its MD5.

        If the same bytes are read again, the file was just these when the first reading came to its
        end: it may grow on, as a log does.
        """
        hasher, size = Hasher([MD5]), 0
        with open(self._source.path(file.name), "rb") as whole:
            while piece := whole.read(_SHORT):
                self._budget.check()
                hasher.update(piece)
                size += len(piece)
        return dataclasses.replace(file, size=size, checksum=hasher.checksums()[MD5])

    def _time(self, file: File, began: float) -> float | None:
        """The time that the target is given with what is read of a file, if it keeps one."""
        if not self._keeps_times:
            return None
        return given(file, began + self._ahead_of_us, 0 if self._target.is_local else 1)

    def _once(self, file: File, name: str, passed: Any, came: bytes | Exception | None) -> Moved:
        began = time.time()
        target = self._target.path(name)
        arrived = False
        copy = self._within(file, name)
        with self._stoppable():
            if copy is not None:
                copy()
                passed(file.size)
                made = {file.checksum.kind: file.checksum} if file.checksum else {}
            elif file.size <= _PIECE:
                made, arrived = self._move_small(file, target, passed, came, began)
            else:
                file = self._asked(file)
                made = self._move_large(file, target, passed, began)
        span = (began, time.time())
        modified = self._time(file, began)
        if not self._target.is_local and modified is not None:
            self._target.give_time(name, modified)
        return Moved(file, made, arrived, copy is not None, span, modified)

    def _move_small(
        self, file: File, target: str, passed: Any, came: bytes | Exception | None, began: float
    ) -> tuple[dict[Kind, Checksum], bool]:
        """Move a small file; its checksums, and whether the target said that it has these."""
        hasher = Hasher(self._kinds(file, target))
        with self._budget.holding(self._copies * file.size if came is None else 0):
            data = self._whole(file, came)
            for piece in data:
                hasher.update(piece)
            made = hasher.checksums()
            self._compare(file, made, target)
            if self._target.is_local:
                self._landing.land(target, data, self._time(file, began))
                said = None
            else:
                said = self._put(target, data)
            passed(file.size)
        return made, matching(said, made) is True

    def _move_large(
        self, file: File, target: str, passed: Any, began: float
    ) -> dict[Kind, Checksum]:
        """Move a large file; its checksums."""
        _keep_memory()
        hasher = Hasher(self._kinds(file, target))
        with self._budget.holding(self._held(target, file.size)):
            if self._target.is_local:
                self._download(file, target, hasher, passed, self._time(file, began))
            elif self._writes(target, file.size):
                self._carry(file, target, hasher, passed)
            else:
                self._streams.submit(self._stream, file, target, hasher, passed).result()
        return hasher.checksums()

    def _within(self, file: File, name: str) -> Callable[[], None] | None:
        """What copies a file within its store, if it is not to leave that."""
        if self._is_one:
            source, target = self._source.path(file.name), self._target.path(name)
            return functools.partial(_copy, self._target.fs, source, target, file)
        if (one := self._source.where(file.name)) is None:
            return None
        other = self._target.where(name, writing=True)
        if other is None or one[0] is not other[0] or not _copies_within(*other):
            return None
        return functools.partial(_copy, one[0], one[1], other[1], file)

    def _held(self, target: str, size: int) -> int:
        """Bytes of a large file that are held while it moves."""
        read = 1 if self._source.is_local else self._ahead(_PIECE, self._reader) + 1
        if self._target.is_local:
            return read * _PIECE
        if self._writes(target, size):
            part, ahead = self._parts(size)
            # The piece at hand is one of the part that is gathered.
            return (read - 1) * _PIECE + (ahead + 1) * part
        return read * _PIECE + 2 * max(_BLOCK, _part(size))

    def _ahead(self, piece: int, carrier: Carrier | None) -> int:
        """How many pieces of a large file are on their way: not more than its share."""
        return max(min(self._share // piece - 1, _CARRIED_AHEAD if carrier else _AHEAD), 1)

    def _parts(self, size: int) -> tuple[int, int]:
        """Bytes of each part of a file, and how many are on their way: fewer of larger ones."""
        part = max(_PIECE, _part(size))
        return part, self._ahead(part, self._writer)

    def _asked(self, file: File) -> File:
        """A large file with what its store says of it when it is asked, and not in a listing."""
        path = self._source.path(file.name)
        is_undated = file.modified is None and self._keeps_times
        if file.version is None and (is_undated or file.unit > 1):
            # FTP's listings have minutes alone. By them, it would seem changed in the end.
            file = self._source.timed([file]).get(file.name, file)
        if file.checksum is None and (carrier := self._reads(path)):
            return dataclasses.replace(file, checksum=carrier.checksum(path, file.version))
        return file

    def _kinds(self, file: File, target: str) -> set[Kind]:
        """The checksums that somebody else has, or will have, to compare with."""
        kinds = {MD5} if self._hashed else set()
        if file.checksum is not None:
            kinds.add(file.checksum.kind)
        # S3, which has a carrier, lists no MD5 of what comes in parts.
        if self._lists_md5 and (file.size <= _PIECE or self._writer is None):
            kinds.add(MD5)
        return kinds

    def _reads(self, path: str) -> Carrier | None:
        return self._reader if self._reader is not None and self._reader.takes(path) else None

    def _writes(self, path: str, size: int) -> Carrier | None:
        return self._writer if self._writer is not None and self._writer.sends(path, size) else None

    def _reading(self, path: str, file: File) -> Callable[[int, int], list[Any]]:
        """What gives ranges of a file, all of one version where its store tells versions."""
        if carrier := self._reads(path):
            return lambda start, end: carrier.read(path, start, end, file.version)
        fs = self._source.fs
        ranges = fs.ranges(path, file.size, file.modified) if hasattr(fs, "ranges") else None
        read = ranges or functools.partial(fs.cat_file, path)
        return lambda start, end: [read(start, end)]

    def _whole(self, file: File, came: bytes | Exception | None) -> list[Any]:
        path = self._source.path(file.name)
        if isinstance(came, Exception):
            raise came
        if isinstance(came, bytes):
            data: list[Any] = [came]
        elif self._source.is_local:
            data = [_by(self._disk, file.size, _contents, path, file)]
        elif carrier := self._reads(path):
            asked = (path, 0, file.size, file.version, True)
            data = _by(self._ranges, file.size, carrier.read, *asked)
        else:
            data = [_by(self._ranges, file.size, self._source.fs.cat_file, path, most=_MEDIUM)]
        if (size := sum(map(len, data))) != file.size:
            raise _resized(path, file.size, size)
        return data

    def _put(self, target: str, data: list[Any]) -> Checksum | None:
        """Write a small file to a store; its checksum, if the store says it at once."""
        if carrier := self._writes(target, sum(map(len, data))):
            return carrier.write(target, data[0] if len(data) == 1 else b"".join(data))
        self._target.fs.pipe_file(target, b"".join(data))
        return None

    def _carry(self, file: File, target: str, hasher: Hasher, passed: Any) -> None:
        assert self._writer is not None
        part, ahead = self._parts(file.size)

        def pieces() -> Iterator[bytes]:
            for piece in self._pieces(file):
                hasher.update(piece)
                yield piece
                passed(len(piece))
            self._is_unchanged(file)
            self._compare(file, hasher.checksums(), target)

        with contextlib.ExitStack() as stack:
            self._writer.write_pieces(
                target,
                pieces(),
                part,
                ahead,
                lambda abandon: stack.enter_context(self._abandoning(abandon)),
            )

    @contextlib.contextmanager
    def _abandoning(self, abandon: Callable[[], None]) -> Iterator[None]:
        """Have an interrupt end what does not hear of it by itself."""
        with self._lock:
            self._budget.check()  # it may have been looked what there is
            self._open.add(abandon)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(abandon)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Have an interrupt end what this thread writes, and what event loops do for it."""
        with stoppable() as stop, self._abandoning(stop):
            yield

    def _stream(self, file: File, target: str, hasher: Hasher, passed: Any) -> None:
        block = max(self._block, _part(file.size))
        with self._stoppable():
            writer = self._target.fs.open(target, "wb", block_size=block, size=file.size)
            try:
                for piece in self._pieces(file):
                    hasher.update(piece)
                    writer.write(bytes(piece))
                    passed(len(piece))
                self._is_unchanged(file)
                self._compare(file, hasher.checksums(), target)
            except BaseException:
                writer.abandon()
                raise
            else:
                writer.close()

    def _download(
        self, file: File, target: str, hasher: Hasher, passed: Any, modified: float | None
    ) -> None:
        target = os.path.realpath(target)  # a link stays a link
        self._landing.make_directory(os.path.dirname(target))
        version = file.version or file.state or file.modified
        of = f"{self._source}\0{file.name}\0{file.size}\0{version}"
        # Without a time or a version, nobody knows that what came before is of the same file.
        keep = self._resume and version is not None
        with growing(target, of, keep, modified) as local:
            before = functools.partial(self._before, local, file, hasher, passed)
            for piece in self._pieces(file, before):
                hasher.update(piece)
                local.write(piece)
                passed(len(piece))
            self._is_unchanged(file)
            self._compare(file, hasher.checksums(), target)

    def _before(
        self, local: Any, file: File, hasher: Hasher, passed: Any, read: _Ranges, places: int
    ) -> int:
        """How many bytes came before; they are hashed again.

        Of a file without a version, it is read again whether they are of what is there now.
        """
        size = int(local.seek(0, os.SEEK_END))
        is_told = file.version is not None or file.state is not None
        if size > file.size or not (is_told or _is_begin(local, size, read, places)):
            local.truncate(0)
            return 0
        if hasher:
            local.seek(0)
            while piece := local.read(_PIECE):
                hasher.update(piece)
        local.seek(size)
        passed(size)
        return size

    def _pieces(
        self, file: File, before: Callable[[_Ranges, int], int] = lambda *_: 0
    ) -> Iterator[bytes]:
        """A file's bytes in order, but for those `before`; several ranges are asked for at once."""
        path = self._source.path(file.name)
        if self._source.is_local or not _is_ranged(self._source.fs, path):
            yield from self._read(path, file, before)
            return
        waiting: collections.deque[tuple[int, concurrent.futures.Future[list[Any]]]]
        waiting = collections.deque()
        ahead = self._ahead(self._piece, self._reads(path))
        read = self._reading(path, file)
        start = before(lambda begin, end: b"".join(read(begin, end)), _SAMPLES)
        begins = iter(range(start, file.size, self._piece))
        try:
            while True:
                while len(waiting) < ahead and (begin := next(begins, None)) is not None:
                    end = min(begin + self._piece, file.size)
                    ask = self._ranges.submit(read, begin, end)
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

    def _read(
        self, path: str, file: File, before: Callable[[_Ranges, int], int]
    ) -> Iterator[bytes]:
        fs = self._source.fs
        in_order = getattr(fs, "in_order", fs.open)
        with open(path, "rb") if self._source.is_local else in_order(path) as whole:
            if (size := getattr(whole, "size", None)) not in {None, file.size}:
                raise _resized(path, file.size, size)
            start = before(functools.partial(_range_of, whole), _JUMPS)
            left = file.size - start
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
        """Refuse a file that was replaced since it was listed; the next try takes the new one."""
        path = self._source.path(file.name)
        if file.version is not None and self._reads(path):
            return  # each range was asked of that version
        if self._source.is_local and file.checksum is not None:
            return  # what was read is compared with that
        now = self._source.file(file.name)
        if now.modified is None and file.modified is not None and now.version is None:
            now = self._source.timed([now]).get(file.name, now)
        if now.size != file.size or not _is_same(now, file):
            raise _changed(path)

    def _compare(self, file: File, made: Mapping[Kind, Checksum], target: str) -> None:
        """Refuse bytes that are not what their store lists, before they get their name."""
        if differs(self._source, file.name, file.checksum, made):
            self._is_unchanged(file)  # they may be right, and a new file's
            if self._source.is_local:
                raise _changed(self._source.path(file.name))
            reason = "other bytes were read than are stored (their checksum differs): they were not"
            more = " kept. verify=False keeps them, if the checksum that is listed is a wrong one"
            raise Damaged(errno.EIO, reason + more, target)


def differs(end: End, name: str, listed: Checksum | None, made: Mapping[Kind, Checksum]) -> bool:
    """Whether a file is of other bytes than a checksum was `made` of.

    What a store lists need not be a checksum: then the file is read.
    """
    if listed is None or matching(listed, made) is not False:
        return False
    return end.vouches(name, listed) or checksum_of(end, name, listed.kind) != made[listed.kind]


def _is_begin(local: Any, size: int, read: _Ranges, places: int) -> bool:
    """Whether the first bytes of a file are `local`'s, by its last ones and some in between."""
    last = max(size - _SAMPLE, 0)
    others = range(last - _SAMPLE, -1, -_SAMPLE)
    # In order, as not every source can jump back.
    for start in sorted([last, *random.sample(others, min(places - 1, len(others)))]):
        local.seek(start)
        sample = local.read(_SAMPLE)
        if sample and read(start, start + len(sample)) != sample:
            return False
    return True


def _range_of(file: Any, start: int, end: int) -> bytes:
    file.seek(start)
    data: bytes = file.read(end - start)
    return data


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


def _by(pool: Pool, size: int, read: Callable[..., T], *args: Any, most: int = _SHORT) -> T:
    """What a read gives, by a thread of `pool` unless it is short."""
    return read(*args) if size <= most else pool.submit(read, *args).result()


def _contents(path: str, listed: File) -> bytes:
    """The bytes of a file; a file object would ask the system about it first."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        if listed.checksum is not None:
            return os.read(file, listed.size)
        data = os.read(file, listed.size + 1)
        status = os.fstat(file)
        if len(data) != listed.size:
            raise _resized(path, listed.size, max(status.st_size, len(data)))
        if state_of(status) != listed.state:
            raise _changed(path)
        return data
    finally:
        os.close(file)


@functools.cache
def _keep_memory() -> None:
    """Have the C library keep some of the memory that is freed, for the next piece.

    glibc gives it back to the system, and takes new pages that must be cleared, unless a large
    block was freed before. Twice that block is then kept for each few threads, which is why it is
    no larger: every transfer has new threads, so that a process that goes on held half a gigabyte
    after some.
    """
    bytearray(_KEPT)


def _changed(path: str) -> OSError:
    return OSError(errno.ESTALE, "it changed while it was read", path)


def _resized(path: str, listed: int, size: int) -> OSError:
    reason = f"it had {listed} bytes when it was listed, and has {size}"
    return OSError(errno.ESTALE, reason, path)


def _with_size(error: Exception, size: int) -> Exception:
    """Say how large a file is where it is too large."""
    if not isinstance(error, OSError) or error.errno != errno.EFBIG:
        return error
    told = OSError(error.errno, f"{error.strerror}; the file has {size} bytes", error.filename)
    told.__cause__ = error
    return told


def _part(size: int) -> int:
    """The least that a part of a file may be: a store takes so many."""
    return -(-size // _MOST_PARTS)


def _chunks(end: End) -> tuple[int | None, int | None]:
    return end.fs.chunks(end.root) if hasattr(end.fs, "chunks") else (None, None)


def _is_ranged(fs: Any, path: str) -> bool:
    """Whether a range of a file can be asked for, and does not come with all before it."""
    return not hasattr(fs, "ranged") or fs.ranged(path)


def _copy(fs: Any, source: str, target: str, file: File) -> None:
    """Have a store copy a file itself, as it was listed where it can tell."""
    if hasattr(fs, "cp_listed"):
        fs.cp_listed(source, target, file.size, file.version)
    else:
        fs.cp_file(source, target)


def _copies_within(fs: Any, path: str) -> bool:
    """Whether a store copies a file itself, so that its bytes do not pass here."""
    return not hasattr(fs, "copies_within") or bool(fs.copies_within(path))


def _are_in_one_store(*ends: End) -> bool:
    """Whether ends of one filesystem lie in one store, which those of a logical one need not."""
    fs = ends[0].fs
    if not hasattr(fs, "everywhere"):
        return True
    return len({id(store) for end in ends for store, _ in fs.everywhere(end.root)}) == 1


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
    if one.state is not None and other.state is not None:
        return one.state == other.state
    if one.modified is None or other.modified is None:
        return True  # nobody knows
    # A listing may say the time more exactly than the file's own entry, or the other way.
    return same_time(one, other, 1)


def again(act: Callable[[], T]) -> T:
    """Do something, and where that fails for a reason that may pass, a few times more."""
    tries = 0
    while True:
        tries += 1
        try:
            return act()
        except Exception as error:
            if tries >= _TRIES or not _is_transient(error):
                raise
        time.sleep(_pause(tries))


def _pause(tries: int) -> float:
    """Seconds to wait before another try."""
    return pause(_WAIT, tries, _LONGEST_WAIT)


def _is_transient(error: Exception) -> bool:
    if is_final(error):
        return False
    if isinstance(error, ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_NUMBERS
