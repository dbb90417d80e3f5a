"""Failures of a whole store, told from those of one file."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator

from mlartifacts.errors import is_of_store

__all__ = ["Outage", "about"]

# How long a file waits, in seconds, for what becomes of those that are on their way when one met
# silence: the others meet it soon, too, or it was that one's alone.
_DOUBT = 1.0


class Outage:
    """Finds out that the files which are left would fail as others did.

    A store says at the first file that it refuses the login, or that there is no such bucket. That
    it fell silent or cannot be reached shows by files that fail one after the other, while no file
    arrives.

    Attributes
    ----------
    error : Exception or None
        The reason, once it is known.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        # Files that arrived, by now and when the last one failed, and failures since.
        self._arrived = self._before = self._in_a_row = 0
        self._doubted = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def watching(self, path: str) -> Iterator[None]:
        """Do something to a file, unless it would fail as it did for others.

        Raises
        ------
        Exception
            The reason, where there is one; what is raised inside.
        """
        begun = self.begin()
        if self.error is not None:
            raise about(self.error, path)
        try:
            yield
        except Exception as error:
            self.fail(error, begun)
            raise
        self.arrive()

    def begin(self) -> int:
        """Say that a file begins, unless there is an error by then.

        The number is for :meth:`fail`.
        """
        with self._changed:
            if self._doubted:
                self._changed.wait_for(lambda: not self._doubted, _DOUBT)
                self._doubted = False
            return self._arrived

    def arrive(self) -> None:
        """Say that a file arrived."""
        with self._changed:
            self._arrived += 1
            self._end_doubt()

    def fail(self, error: Exception, begun: int) -> None:
        """Say that a file failed."""
        with self._changed:
            if not is_of_store(error) and not isinstance(error, ConnectionError | TimeoutError):
                return
            self._in_a_row = 1 if self._before != self._arrived else self._in_a_row + 1
            self._before = self._arrived
            is_first_word = is_of_store(error) and not self._arrived
            # One connection of several may have been lost while others went on.
            is_alone = begun == self._arrived or isinstance(error, TimeoutError)
            if is_first_word or (is_alone and self._in_a_row > 1):
                self.error = error
            if self.error is None and isinstance(error, TimeoutError):
                self._doubted = True
            else:
                self._end_doubt()

    def _end_doubt(self) -> None:
        self._doubted = False
        self._changed.notify_all()


def about(error: Exception, path: str) -> Exception:
    """The same error, about `path`."""
    error = copy.copy(error)
    if isinstance(error, OSError):
        error.filename = path
    return error
