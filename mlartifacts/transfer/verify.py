"""Whether what arrived is what was sent."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Mapping

from mlartifacts.checksums import Checksum, matching
from mlartifacts.transfer.engine import Moved
from mlartifacts.transfer.trees import End, File, checksum_of

__all__ = ["Short", "verify"]

# Files that are sooner asked about one by one than by a listing of all that is there.
_ASKED_ONE_BY_ONE = 3


class Short(OSError):
    """Not all bytes arrived: a connection was lost in a way that its server took for the end."""


def verify(source: End, target: End, moved: Iterable[tuple[str, Moved]]) -> dict[str, Exception]:
    """Compare what was moved with what is listed now, and remove what is wrong.

    The size always; a checksum where the bytes passed here and a store lists one. What a store
    lists need not be one (S3's ETag of an encrypted object), so a difference is looked into by
    reading the file. A store that said the MD5 when it had taken the file is not asked again.

    Parameters
    ----------
    source, target : End
    moved : iterable of (str, Moved)
        By the name at the target.

    Returns
    -------
    dict of str to Exception
        The files that were wrong.
    """
    moved = list(moved)
    asked = [name for name, each in moved if not each.arrived]
    listed: Mapping[str, File] = {}
    gone: OSError | None = None
    if len(asked) > _ASKED_ONE_BY_ONE and not target.is_local:
        try:
            listed = _listed(target)
        except OSError as error:
            gone = error  # it is each file's: nobody says what arrived
    failures: dict[str, Exception] = {}
    for name, each in moved:
        try:
            if gone is not None and not each.arrived:
                raise gone
            there = each.file if each.arrived else listed.get(name) if listed else target.file(name)
            _compare(source, target, name, each, there)
        except Exception as error:
            failures[name] = error
    return failures


def _listed(target: End) -> Mapping[str, File]:
    with contextlib.suppress(FileNotFoundError):
        return target.files()
    return {}


def _compare(source: End, target: End, name: str, moved: Moved, there: File | None) -> None:
    path = target.path(name)
    if there is None:
        raise OSError(errno.EIO, "it is not there after it was written", path)
    reason, kind = None, OSError
    if there.size != moved.file.size:
        reason, kind = f"{there.size} bytes arrived of {moved.file.size}", Short
    elif _differs(target, name, there.checksum, moved):
        reason = "other bytes arrived than were sent (their checksum differs)"
    elif _differs(source, moved.file.name, moved.file.checksum, moved):
        reason = "other bytes were read than are stored (their checksum differs)"
    if reason is not None:
        with contextlib.suppress(FileNotFoundError):
            target.fs.rm_file(path)
        raise kind(errno.EIO, f"{reason}: the copy was removed", path)


def _differs(end: End, name: str, listed: Checksum | None, moved: Moved) -> bool:
    if listed is None or matching(listed, moved.passed) is not False:
        return False
    return listed.certain or checksum_of(end, name, listed.kind) != moved.passed[listed.kind]
