"""Threads that do many things at once within a bound of memory, and stop when they are told to."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Budget", "Pool", "Stopped", "submit_all"]

S = TypeVar("S")
T = TypeVar("T")


class Stopped(Exception):
    """The transfer was interrupted."""


class Pool:
    """Threads that do not keep a process from ending, unlike those of ``concurrent.futures``.

    Parameters
    ----------
    threads : int
        How many there are at most; one begins where there is something to do and none is idle.
    """

    def __init__(self, threads: int) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)

    def submit(self, act: Callable[..., T], *args: Any) -> Future[T]:
        """Have something done by the next thread that is free."""
        future: Future[T] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(act(*args))
            except BaseException as error:
                future.set_exception(error)

        self._tasks.put(task)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()
        return future

    def close(self) -> None:
        """Let the threads end when nothing is left to do."""
        for _ in self._threads:
            self._tasks.put(None)

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                self._idle.release()
                task = self._tasks.get()
            if task is None:
                return
            task()


def submit_all(act: Callable[[S], T], items: Iterable[S], threads: int) -> list[Future[T]]:
    """Have something done for each of some items, by threads that end when all is done."""
    pool = Pool(threads)
    futures = [pool.submit(act, item) for item in items]
    pool.close()
    return futures


class Budget:
    """Bytes that may be held in memory at once, by all threads together.

    Parameters
    ----------
    size : int
    """

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._changed = threading.Condition(threading.Lock())
        self._stopped = False

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Wait until so many bytes are free; who wants more than all is alone with it.

        Raises
        ------
        Stopped
            The transfer was interrupted.
        """
        size = min(size, self._size)
        with self._changed:
            if self._left < size:
                self._changed.wait_for(lambda: self._left >= size or self._stopped)
            self.check()
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait, unless the transfer is interrupted.

        Raises
        ------
        Stopped
            It was interrupted.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)
        self.check()

    def stop(self) -> None:
        """Let everybody who waits or asks end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def check(self) -> None:
        """Raise where the transfer was interrupted."""
        if self._stopped:
            raise Stopped
