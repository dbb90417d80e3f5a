"""How far a transfer is: fsspec's callbacks, and a bar on a terminal or in a notebook."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from mlartifacts.environment import Environment
from mlartifacts.errors import printable

__all__ = ["VARIABLE", "Progress"]

#: MLflow's switch.
VARIABLE = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"

# A bar for what takes no longer would flash. tqdm's own `delay` would wait for bytes as well, which
# of a large file on a slow line take a minute to come.
_AFTER = 0.5
# What stands beside the bar on a narrow terminal, and on one that is wider.
_NARROW = "{l_bar}{bar}| {n_fmt}/{total_fmt}"
_MEDIUM = _NARROW + " [{remaining}, {rate_fmt}{postfix}]"


class _Raised(BaseException):
    """What a callback raised: it ends the transfer, and is no failure of the file at hand."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Progress:
    """The bytes and files of one transfer that are done.

    What a callback raises ends the block that this is the context of, as it is.

    Parameters
    ----------
    callback : fsspec.callbacks.Callback, optional
        Hears of bytes. Unless one is given, a bar of tqdm's is shown for what takes longer than a
        moment, where tqdm is installed, somebody can see it, and
        ``MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR`` is not false.
    size : int
        Bytes in all.
    files : int
        Files in all.
    label : str
        What is done, and to what.
    """

    def __init__(self, callback: Callback | None, size: int, files: int, label: str = "") -> None:
        self._lock = threading.Lock()
        self._label, self._size, self._files = printable(label), size, files
        self._passed = self._done = 0
        self._began = time.time()
        self._is_over = False
        self._raised: _Raised | None = None
        self._bar: Any = None
        self._callback = callback or DEFAULT_CALLBACK
        self._callback.set_size(size)
        self._later = threading.Timer(_AFTER, self._show)
        self._later.daemon = True
        if callback is None and files and _is_wanted():
            self._later.start()

    def passing(self) -> Passing:
        """A file that begins to move."""
        return Passing(self)

    def add(self, size: int) -> None:
        """So many bytes more have passed; below 0, where they must pass again."""
        with self._lock:
            self._tell(size)
            self._passed += size
            if self._bar is not None:
                self._bar.update(size)

    def file_done(self) -> None:
        """One file more has ended."""
        with self._lock:
            self._done += 1
            self._tell_files()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._later.cancel()
        with self._lock:
            self._is_over = True
            if self._bar is not None:
                self._bar.close()
        if isinstance(error, _Raised):
            raise error.error from error.error.__cause__

    def _tell(self, size: int) -> None:
        if self._raised is None:
            try:
                self._callback.relative_update(size)
                return
            except BaseException as error:
                self._raised = _Raised(error)
        raise self._raised

    def _show(self) -> None:
        try:
            make = _bar_class()
        except ModuleNotFoundError:
            return
        with self._lock:
            if self._is_over:
                return
            label, form = _fitting(self._label)
            # Not shown at once, as a notebook takes a description that is given here for HTML.
            self._bar = make(
                total=self._size,
                initial=self._passed,
                unit="B",
                unit_scale=True,
                bar_format=form,
                delay=1e-9,
            )
            self._bar.initial, self._bar.start_t = 0, self._began
            self._bar.set_description(label, refresh=False)
            self._tell_files()
            self._bar.refresh()

    def _tell_files(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._done}/{self._files} files", refresh=False)


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


def _is_wanted() -> bool:
    if Environment().boolean(VARIABLE) is False:
        return False
    return _is_in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _is_in_notebook() -> bool:
    """Whether this process is a kernel of Jupyter's: scripts may import its modules, too."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None) is not None


def _bar_class() -> Any:
    # tqdm.auto goes by what was imported.
    if _is_in_notebook():
        from tqdm.auto import tqdm
    else:
        from tqdm.std import tqdm
    return tqdm


def _columns() -> int:
    if _is_in_notebook():
        return 150
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):  # something stands before the terminal
        return 80


def _fitting(label: str) -> tuple[str, str | None]:
    """A label, and what stands beside a bar (tqdm's own where None), that leave it room."""
    from tqdm.utils import disp_len, disp_trim

    columns = _columns()
    most = max(columns // 5, 14)
    if disp_len(label) > most:
        label = f"{disp_trim(label, most - 3)}..."
    return label, _NARROW if columns < 70 else _MEDIUM if columns < 100 else None
