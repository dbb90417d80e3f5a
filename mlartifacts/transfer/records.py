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
from dataclasses import dataclass
from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig
from mlartifacts.promises import ArtifactFileSystem
from mlartifacts.transfer.state import cache_directory, hash_of, key_of
from mlartifacts.transfer.times import same_time
from mlartifacts.transfer.trees import End, File

__all__ = ["Brought", "Records"]

_LAYOUT = "records-1"
# How far the clock of another machine may be from this one, in seconds.
_APART = 1.0
# Seconds after which one that nobody asked for is removed.
_KEPT = 90 * 86400


@dataclass(frozen=True, slots=True)
class Brought:
    """A file that was moved.

    Attributes
    ----------
    file : File
        As the source lists it.
    there : File or None
        As the target lists it, where that is known.
    span : (float, float)
        Between which times it was moved, in seconds since the epoch.
    is_told : bool, default False
        Whether a checksum that one of them lists tells that it is the same.
    """

    file: File
    there: File | None
    span: tuple[float, float]
    is_told: bool = False


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
        known = self._of(file)
        return known is not None and _is(file, *known[0])

    def denies(self, file: File) -> bool:
        """Whether another version of a file was brought."""
        known = self._of(file)
        return (
            known is not None
            and None not in {known[0][1], file.version}
            and (known[0][1] != file.version)
        )

    def has(self, file: File, there: File) -> bool:
        """Whether `there` is what was brought when the source had just this file."""
        known = self._of(file)
        if known is None or not _is(file, *known[0]):
            return False
        _, arrived, (began, ended) = known
        if arrived is not None:
            return _is(there, *arrived)
        return file.size == there.size and _is_between(there, began, ended)

    def keep(self, brought: Mapping[str, Brought]) -> None:
        """Remember files, by name."""
        new = {
            hash_of(name): [_told(each.file), each.there and _told(each.there), each.span]
            for name, each in brought.items()
            if _told(each.file) is not None
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

    def _of(self, file: File) -> Any:
        """What is remembered of a file: as it was, as it arrived, and when."""
        if self._known is None:
            self._known = self._read()
        known = self._known.get(hash_of(file.name))
        return known if _is_record(known) else None

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


def _is_record(known: Any) -> bool:
    """Whether something that was read is a record, and not what another program wrote."""
    if not isinstance(known, list) or len(known) != 3:
        return False
    brought, arrived, span = known
    are_files = all(
        isinstance(each, list) and len(each) == 4 for each in (brought, arrived or brought)
    )
    return are_files and isinstance(span, list) and len(span) == 2


def _is_between(file: File, began: float, ended: float) -> bool:
    """Whether a file was last changed in a span of our clock, as far as its time tells."""
    if file.modified is None:
        return False
    return began - max(file.unit, _APART) <= file.modified <= ended


def _path(source: End, target: End) -> str | None:
    if not all(isinstance(end.fs, ArtifactFileSystem) for end in (source, target)):
        return None
    try:
        root = cache_directory(Environment())
    except InvalidConfig:  # which whoever caches is told
        return None
    name = hash_of([key_of(source), key_of(target)])
    return os.path.join(root, _LAYOUT, name) if os.path.isabs(root) else None


def _forget_old(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # another process does the same
                if entry.stat().st_mtime < time.time() - _KEPT:
                    os.unlink(entry.path)
