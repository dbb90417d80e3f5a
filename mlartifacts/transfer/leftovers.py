"""What transfers left that were killed: files under temporary names that nobody asks for again."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from mlartifacts.transfer.landing import alone_with
from mlartifacts.transfer.trees import End, File, folder_of
from mlartifacts.writing import is_passing, temporary_beside

__all__ = ["remove_leftovers"]

# Who wrote nothing for so many seconds to what is written without a pause is no more.
_DAY = 86400


def remove_leftovers(end: End, names: Iterable[str]) -> None:
    """Remove what listings of a transfer's target have shown; on this disk, what is beside files.

    What cannot be removed stays. Where nothing seems old by our clock, nothing is asked.

    Parameters
    ----------
    end : End
    names : iterable of str
        The transfer's files.
    """
    with contextlib.suppress(OSError):
        if not end.has_directories:
            return  # what is written there has no other name before
        shown = _on_disk(end, names) if end.is_local else end.passing
        now = time.time()
        for folder in {folder_of(each.name) for each in shown.values() if _is_old(each, now)}:
            with contextlib.suppress(OSError):
                _remove_from(end, folder)


def _on_disk(end: End, names: Iterable[str]) -> dict[str, File]:
    found = {}
    for folder in {folder_of(name) for name in names if name}:
        with os.scandir(end.path(folder)) as entries:
            for each in entries:
                if is_passing(each.name):
                    name = f"{folder}{each.name}"
                    found[name] = File.local(name, each.stat(follow_symlinks=False))
    return found


def _remove_from(end: End, folder: str) -> None:
    """Remove what is old by the store's own clock: that of a file which is put beside it."""
    probe = temporary_beside(end.path(f"{folder}file"), passing=True)
    try:
        end.fs.pipe_file(probe, b"")
        entries = end.fs.ls(end.path(folder.rstrip("/")), detail=True)
    finally:
        with contextlib.suppress(FileNotFoundError):
            end.fs.rm_file(probe)
    files = [File.listed(each["name"], each) for each in entries if each["type"] == "file"]
    now = next((file.modified for file in files if file.name == probe), None)
    for file in files:
        if now is not None and is_passing(file.name) and _is_old(file, now):
            with contextlib.suppress(OSError):
                _remove(end, file.name)


def _remove(end: End, path: str) -> None:
    if not end.is_local:
        if not end.fs.is_written(path):
            end.fs.rm_file(path)
        return
    with alone_with(path) as alone:
        if alone:
            os.unlink(path)


def _is_old(file: File, now: float) -> bool:
    return file.modified is not None and now - file.modified > _DAY
