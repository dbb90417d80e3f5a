"""What was brought where: for targets that keep no time of what they were given.

A file that was moved is remembered by what both places listed of it: as long as they list the same,
it is the same. Where the target was not asked, it is remembered when the file was moved: what was
changed there later is another one. Records lie in the directory for caches, one for a source and a
target; where it cannot be written to, nothing is remembered, and more is moved the next time.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.promises import ArtifactFileSystem
from mlartifacts.transfer.state import cache_directory, hash_of, key_of
from mlartifacts.transfer.times import same_time
from mlartifacts.transfer.trees import End, File

__all__ = ["Records"]

_LAYOUT = "records-1"
# How far the clock of another machine may be from this one, in seconds.
_APART = 1.0
# Seconds after which one that nobody asked for is removed.
_KEPT = 90 * 86400


class Records:
    """What was brought from one place to another, as both listed it.

    Parameters
    ----------
    source, target : End
    """

    def __init__(self, source: End, target: End) -> None:
        self._path = _path(source, target)
        self._known: dict[str, Any] | None = None

    def knows(self, file: File) -> bool:
        """Whether just this file of the source was brought."""
        return self._of(file) is not None

    def has(self, file: File, there: File) -> bool:
        """Whether `there` is what was brought when the source had just this file."""
        known = self._of(file)
        if known is None:
            return False
        arrived, (began, ended) = known
        if arrived is not None:
            return _is(there, *arrived)
        return file.size == there.size and _is_between(there, began, ended)

    def _of(self, file: File) -> Any:
        """How a file arrived, and when."""
        if self._known is None:
            self._known = self._read()
        try:
            brought, *arrived = self._known[file.name]
            return arrived if _is(file, *brought) else None
        except (KeyError, TypeError, ValueError):
            return None

    def keep(
        self, brought: Mapping[str, tuple[File, File | None]], moved: tuple[float, float]
    ) -> None:
        """Remember files.

        Parameters
        ----------
        brought : mapping of str to (File, File or None)
            By name, as the source lists them, and the target, where that is known.
        moved : (float, float)
            Between which times they were moved, in seconds since the epoch.
        """
        new = {
            name: [_told(file), there and _told(there), moved]
            for name, (file, there) in brought.items()
            if _told(file) is not None
        }
        if self._path is None or not new:
            return
        with contextlib.suppress(OSError):
            folder = os.path.dirname(self._path)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            _forget_old(folder)
            beside = f"{self._path}.{secrets.token_hex(4)}"
            with open(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                json.dump(self._read() | new, file)
            os.replace(beside, self._path)

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            with open(self._path, encoding="utf-8") as file:
                known = json.load(file)
            os.utime(self._path)
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _told(file: File) -> list[object] | None:
    """What is listed of a file, if that would be another thing of other content."""
    if file.version is None and file.modified is None:
        return None
    return [file.size, file.version, file.modified, file.unit]


def _is(file: File, size: int, version: str | None, modified: float | None, unit: float) -> bool:
    """Whether a file is what was listed of it once."""
    if file.size != size or file.version != version:
        return False
    return version is not None or same_time(file, File("", size, modified, unit=unit))


def _is_between(file: File, began: float, ended: float) -> bool:
    """Whether a file was last changed in a span of our clock, as far as its time tells."""
    if file.modified is None:
        return False
    return began - max(file.unit, _APART) <= file.modified <= ended + _APART


def _path(source: End, target: End) -> str | None:
    if not all(isinstance(end.fs, ArtifactFileSystem) for end in (source, target)):
        return None
    name = hash_of([key_of(source), key_of(target)])
    return os.path.join(cache_directory(Environment()), _LAYOUT, name)


def _forget_old(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.stat().st_mtime < time.time() - _KEPT:
                os.unlink(entry.path)
