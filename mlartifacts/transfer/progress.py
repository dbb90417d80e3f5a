"""How far a transfer is: fsspec's callbacks, and a bar on a terminal or in a notebook."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from mlartifacts.environment import Environment

__all__ = ["VARIABLE", "Progress"]

#: MLflow's switch.
VARIABLE = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


class Progress:
    """The bytes and files of one transfer that are done.

    Parameters
    ----------
    callback : fsspec.callbacks.Callback, optional
        Hears of bytes. Unless one is given, a bar of tqdm's is shown where it is installed,
        somebody can see it, and ``MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR`` is not false.
    size : int
        Bytes in all.
    files : int
        Files in all.
    """

    def __init__(self, callback: Callback | None, size: int, files: int) -> None:
        self._lock = threading.Lock()
        self._files, self._done = files, 0
        self._bar = _bar(size) if callback is None and files else None
        self._callback = callback or DEFAULT_CALLBACK
        self._callback.set_size(size)

    def passing(self) -> Passing:
        """A file that begins to move."""
        return Passing(self)

    def add(self, size: int) -> None:
        """So many bytes more have passed; below 0, where they must pass again."""
        with self._lock:
            self._callback.relative_update(size)
            if self._bar is not None:
                self._bar.update(size)

    def file_done(self) -> None:
        """One file more has ended."""
        with self._lock:
            self._done += 1
            if self._bar is not None:
                self._bar.set_postfix_str(f"{self._done}/{self._files} files", refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class Passing:
    """The bytes of one file in one try."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._size = 0

    def __call__(self, size: int) -> None:
        self._size += size
        self._progress.add(size)

    def take_back(self) -> None:
        """The try failed: its bytes do not count."""
        self._progress.add(-self._size)
        self._size = 0


def _bar(size: int) -> Any:
    if Environment().boolean(VARIABLE) is False or not _is_watched():
        return None
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024)


def _is_watched() -> bool:
    if "ipykernel" in sys.modules:
        return True
    return sys.stderr is not None and sys.stderr.isatty()
