"""How files are moved: many at once, large ones by ranges, each hashed on its way and landed whole.

A file's bytes pass in order, in pieces; several ranges of a large one are on their way at once.
All of them share one bound of memory.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlartifacts.transfer.pool import Budget, Pool, Stopped
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.trees import End, File
from mlartifacts.writing import landing

__all__ = ["MEMORY", "Engine", "Moved"]

#: Bytes of files that are held in memory at once.
MEMORY = 192 * 2**20

# One request costs about as much as so many bytes, so that less is never asked for by itself.
_PIECE = 8 * 2**20
_AHEAD = 4
# Parts of an upload: drivers hold one, and the one that is being sent.
_BLOCK = 16 * 2**20
_MOST_PARTS = 9000
_AT_ONCE = 16
_RANGES_AT_ONCE = 16

_TRIES = 4
_WAIT = 0.5
_LONGEST_WAIT = 20.0
# What another try may mend: a lost connection, a server that is busy, an answer cut short.
_TRANSIENT = (ConnectionError, TimeoutError)
_TRANSIENT_NUMBERS = frozenset({errno.EBUSY, errno.EAGAIN, errno.EIO, errno.ESTALE})

# How long an interrupt waits for what is on its way.
_LAST_SECONDS = 0.8


@dataclass(frozen=True, slots=True)
class Moved:
    """A file that was moved.

    Attributes
    ----------
    file : File
        As it was at the source.
    md5 : str or None
        Of the bytes that passed; ``None`` where the store copied them itself.
    """

    file: File
    md5: str | None


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
    """

    def __init__(
        self, source: End, target: End, progress: Progress, resume: bool, memory: int = MEMORY
    ) -> None:
        self._source, self._target = source, target
        self._progress = progress
        self._resume = resume
        self._budget = Budget(memory)
        self._ranges = Pool(_RANGES_AT_ONCE)
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        # The store copies within itself.
        self._within = source.fs is target.fs and not source.is_local

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
        pool = Pool(min(_AT_ONCE, len(files)) or 1)
        waiting = {pool.submit(self._move, file, name): name for name, file in files.items()}
        moved, failures = [], {}
        try:
            for future in concurrent.futures.as_completed(waiting):
                try:
                    moved.append(future.result())
                except Exception as error:
                    failures[waiting[future]] = error
                self._progress.file_done()
        except BaseException:
            self._interrupt(list(waiting))
            raise
        finally:
            pool.close()
            self._ranges.close()
        return moved, failures

    def _interrupt(self, waiting: list[concurrent.futures.Future[Moved]]) -> None:
        """End within a second, with nothing half-written."""
        self._budget.stop()
        for future in waiting:
            future.cancel()
        concurrent.futures.wait(waiting, _LAST_SECONDS)
        with self._lock:
            left = list(self._open)
        for writer in left:
            writer.abandon()

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
        source, target = self._source.path(file.name), self._target.path(name)
        if self._within:
            self._target.fs.cp_file(source, target)
            passed(file.size)
            return Moved(file, None)
        digest = hashlib.md5(usedforsecurity=False)
        if file.size <= _PIECE:
            with self._budget.holding(file.size):
                data = self._whole(file)
                digest.update(data)
                self._put(target, data)
                passed(len(data))
            return Moved(file, digest.hexdigest())
        with self._budget.holding((_AHEAD + 2) * _PIECE + 2 * _BLOCK):
            if self._target.is_local:
                self._download(file, target, digest, passed)
            else:
                self._stream(file, target, digest, passed)
        return Moved(file, digest.hexdigest())

    def _whole(self, file: File) -> bytes:
        path = self._source.path(file.name)
        if self._source.is_local:
            with open(path, "rb") as local:
                data = local.read()
        else:
            data = self._source.fs.cat_file(path)
        if len(data) != file.size:
            reason = f"it had {file.size} bytes when it was listed, and has {len(data)}"
            raise OSError(errno.ESTALE, reason, path)
        return data

    def _put(self, target: str, data: bytes) -> None:
        if not self._target.is_local:
            self._target.fs.pipe_file(target, data)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with landing(target) as temporary, open(temporary, "wb") as local:
            local.write(data)

    def _stream(self, file: File, target: str, digest: Any, passed: Any) -> None:
        block = max(_BLOCK, -(-file.size // _MOST_PARTS))
        writer = self._target.fs.open(target, "wb", block_size=block)
        with self._lock:
            self._open.add(writer)
        try:
            for piece in self._pieces(file, 0):
                digest.update(piece)
                writer.write(piece)
                passed(len(piece))
            self._is_unchanged(file)
        except BaseException:
            writer.abandon()
            raise
        else:
            writer.close()
        finally:
            with self._lock:
                self._open.discard(writer)

    def _download(self, file: File, target: str, digest: Any, passed: Any) -> None:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        part = _part(target, file, str(self._source))
        _forget_others(part)
        try:
            with open(part, "ab+") as local:
                done = self._before(local, file, digest)
                passed(done)
                for piece in self._pieces(file, done):
                    digest.update(piece)
                    local.write(piece)
                    passed(len(piece))
            self._is_unchanged(file)
            os.replace(part, target)
        except BaseException:
            if not self._resume:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)
            raise

    def _before(self, local: Any, file: File, digest: Any) -> int:
        """How many bytes came before; they are hashed again."""
        size = local.seek(0, os.SEEK_END)
        # Without a time or a version, nobody knows that they are of the same file.
        known = self._resume and (file.version or file.modified) is not None
        if not known or size > file.size:
            local.truncate(0)
            return 0
        local.seek(0)
        while piece := local.read(_PIECE):
            digest.update(piece)
        return int(size)

    def _pieces(self, file: File, start: int) -> Iterator[bytes]:
        """A file's bytes in order; several ranges are asked for at once."""
        path = self._source.path(file.name)
        if self._source.is_local:
            yield from self._read(path, file, start)
            return
        waiting: collections.deque[tuple[int, concurrent.futures.Future[bytes]]]
        waiting = collections.deque()
        begins = iter(range(start, file.size, _PIECE))
        try:
            while True:
                while len(waiting) < _AHEAD and (begin := next(begins, None)) is not None:
                    end = min(begin + _PIECE, file.size)
                    ask = self._ranges.submit(self._source.fs.cat_file, path, begin, end)
                    waiting.append((end - begin, ask))
                if not waiting:
                    return
                size, asked = waiting.popleft()
                piece = asked.result()
                self._budget.check()
                if len(piece) != size:
                    reason = f"short read: {len(piece)} of {size} bytes"
                    raise OSError(errno.EIO, reason, path)
                yield piece
        finally:
            for _, asked in waiting:
                asked.cancel()

    def _read(self, path: str, file: File, start: int) -> Iterator[bytes]:
        left = file.size - start
        with open(path, "rb") as local:
            local.seek(start)
            while left:
                self._budget.check()
                piece = local.read(min(_PIECE, left))
                if not piece:
                    raise OSError(errno.ESTALE, "it became shorter while it was read", path)
                left -= len(piece)
                yield piece

    def _is_unchanged(self, file: File) -> None:
        """Refuse a file that was replaced while its ranges were read."""
        now = self._source.file(file.name)
        if (now.size, now.version, now.modified) != (file.size, file.version, file.modified):
            path = self._source.path(file.name)
            raise OSError(errno.ESTALE, "it changed while it was read", path)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _TRANSIENT):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_NUMBERS


def _part(target: str, file: File, source: str) -> str:
    """The name of what has come of a file: another one for another version of it."""
    directory, name = os.path.split(target)
    version = f"{source}\0{file.name}\0{file.size}\0{file.version}\0{file.modified}"
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
        with contextlib.suppress(FileNotFoundError):
            os.unlink(other)
