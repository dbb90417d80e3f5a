"""What was brought where, as neither a checksum nor a time will tell.

A file that was moved is remembered by what both places listed of it: as long as they list the same,
it is the same. Where the target was not asked, and keeps no time that it is given, it is remembered
when the file was moved: what was changed there later is another one. Records lie in the
directory for caches, one for each directory of a target, whatever it was brought from: so what is
brought from elsewhere takes the place of what was. Where it cannot be written to, nothing is
remembered, and more is moved the next time.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig
from mlartifacts.promises import ArtifactFileSystem
from mlartifacts.transfer.state import cache_directory, hash_of, server_of
from mlartifacts.transfer.times import are_one, is_settled, same_time
from mlartifacts.transfer.trees import End, File
from mlartifacts.uri import redact

__all__ = ["Brought", "Records", "dated"]

_LAYOUT = "records-2"
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
        As the target lists it, or will, where that is known.
    span : (float, float)
        Between which times it was moved, in seconds since the epoch.
    is_told : bool, default False
        Whether a checksum that one of them lists tells that it is the same.
    """

    file: File
    there: File | None
    span: tuple[float, float]
    is_told: bool = False


def dated(target: End, file: File, modified: float | None) -> File | None:
    """What a target will list of a file that it was given with a time; ``None`` without one."""
    if modified is None:
        return None
    return File(file.name, file.size, modified, unit=0 if target.is_local else 1)


class Records:
    """What is at a target, as both places listed it when it was brought from a source.

    Parameters
    ----------
    source, target : End
    """

    def __init__(self, source: End, target: End) -> None:
        self._source, self._target = source, target
        self._root = _root(source, target)
        self._known: dict[str, dict[str, Any]] = {}

    @functools.cached_property
    def _servers(self) -> tuple[str, str]:
        one, other = (
            hash_of([*server_of(end.fs), redact(str(end.fs.root_uri))])
            for end in (self._source, self._target)
        )
        return one, other

    def has_some(self, name: str) -> bool:
        """Whether something was brought, under a name of the source's."""
        return self._of(name) is not None

    def knows(self, file: File) -> bool:
        """Whether just this file of the source was brought."""
        known = self._of(file.name)
        return known is not None and self._is_of(file, known)

    def has(self, file: File, there: File) -> bool:
        """Whether `there` is what was brought when the source had just this file."""
        known = self._of(file.name)
        if known is None or not self._is_of(file, known):
            return False
        _, _, arrived, (began, ended) = known
        if arrived is not None:
            return _is(there, *arrived)
        return file.size == there.size and _is_between(there, began, ended)

    def forget(self, names: Iterable[str]) -> None:
        """Know nothing of files that will soon be others."""
        for folder, keys in self._by_folder(names).items():
            known = self._in(folder)
            left = {key: each for key, each in known.items() if key not in keys}
            if len(left) < len(known):
                try:
                    self._write(folder, left)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.unlink(self._path(folder))

    def keep(self, brought: Mapping[str, Brought]) -> None:
        """Remember files, by name, of which nothing else will tell that they are the same."""
        # By whichever clock.
        files = (each.file for each in brought.values() if each.file.state is None)
        newest = max((file.modified or 0 for file in files), default=0)
        new = {name: each for name, each in brought.items() if self._is_unsure(each, newest)}
        by_folder = self._by_folder(new)
        with contextlib.suppress(OSError):
            if self._root is not None and by_folder:
                os.makedirs(self._root, mode=0o700, exist_ok=True)
                _forget_old(self._root)
            for folder, keys in by_folder.items():
                told = {key: self._told(new[name]) for key, name in keys.items()}
                self._write(folder, self._read(folder) | told)

    def _is_unsure(self, brought: Brought, now: float) -> bool:
        """Whether it must be remembered, and can be: a young time may be of other content, too."""
        file, there = brought.file, brought.there
        if brought.is_told or (there is not None and are_one(file, there)):
            return False
        return file.version is not None or is_settled(file, max(brought.span[0], now))

    def _told(self, brought: Brought) -> list[object]:
        file, there = brought.file, brought.there
        return [self._place(file), _told(file), there and _told(there), brought.span]

    def _place(self, file: File) -> str | None:
        """Where a file lies; a disk's is told by its state, wherever that is."""
        if file.state is not None:
            return None
        return hash_of([self._servers[0], redact(self._source.path(file.name))])

    def _is_of(self, file: File, known: Any) -> bool:
        return known[0] == self._place(file) and _is(file, *known[1])

    def _of(self, name: str) -> Any:
        """What is remembered of a file: where it was, what it was, how it arrived, and when."""
        if self._root is None:
            return None
        folder, key = self._where(name)
        known = self._in(folder).get(key)
        return known if _is_record(known) else None

    def _where(self, name: str) -> tuple[str, str]:
        """The directory of a file at the target, and the key of its record there."""
        folder, _, base = self._target.path(name).rpartition("/")
        return folder, hash_of(base)

    def _by_folder(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """The names of files by the keys of their records, in each directory of the target."""
        found: dict[str, dict[str, str]] = {}
        for name in names if self._root is not None else ():
            folder, key = self._where(name)
            found.setdefault(folder, {})[key] = name
        return found

    def _path(self, folder: str) -> str:
        assert self._root is not None
        return os.path.join(self._root, hash_of([self._servers[1], folder]))

    def _in(self, folder: str) -> dict[str, Any]:
        if folder not in self._known:
            self._known[folder] = self._read(folder)
        return self._known[folder]

    def _read(self, folder: str) -> dict[str, Any]:
        path = self._path(folder)
        try:
            with open(path, encoding="utf-8") as file:
                known = json.load(file)
            os.utime(path)
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _write(self, folder: str, known: Mapping[str, Any]) -> None:
        path = self._path(folder)
        beside = f"{path}.{secrets.token_hex(4)}"
        with open(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            json.dump(known, file)
        os.replace(beside, path)


def _told(file: File) -> list[object] | None:
    """What is listed of a file, if that would be another thing of other content."""
    if file.version is None and file.modified is None:
        return None
    return [file.size, file.version, file.modified, file.unit, file.state]


def _is(
    file: File,
    size: int,
    version: str | None,
    modified: float | None,
    unit: float,
    state: str | None,
) -> bool:
    """Whether a file is what was listed of it once."""
    if file.size != size or file.version != version:
        return False
    if file.state is not None and state is not None:
        return file.state == state
    return version is not None or same_time(file, File("", size, modified, unit=unit))


def _is_record(known: Any) -> bool:
    """Whether something that was read is a record, and not what another program wrote."""
    if not isinstance(known, list) or len(known) != 4:
        return False
    _, brought, arrived, span = known
    are_files = all(
        isinstance(each, list) and len(each) == 5 for each in (brought, arrived or brought)
    )
    return are_files and isinstance(span, list) and len(span) == 2


def _is_between(file: File, began: float, ended: float) -> bool:
    """Whether a file was last changed in a span of our clock, as far as its time tells."""
    if file.modified is None:
        return False
    return began - max(file.unit, _APART) <= file.modified <= ended


def _root(source: End, target: End) -> str | None:
    """The directory of the records, unless nothing is to be remembered."""
    if not all(isinstance(end.fs, ArtifactFileSystem) for end in (source, target)):
        return None
    try:
        root = os.path.join(cache_directory(Environment()), _LAYOUT)
    except InvalidConfig:  # which whoever caches is told
        return None
    # What could not be forgotten is not believed.
    is_fixed = os.path.exists(root) and not os.access(root, os.W_OK)
    return root if os.path.isabs(root) and not is_fixed else None


def _forget_old(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # another process does the same
                if entry.stat().st_mtime < time.time() - _KEPT:
                    os.unlink(entry.path)
