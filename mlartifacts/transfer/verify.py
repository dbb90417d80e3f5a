"""Whether what arrived is what was sent."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Iterable, Mapping

from mlartifacts.transfer.engine import Moved, again, differs
from mlartifacts.transfer.pool import submit_all
from mlartifacts.transfer.trees import End, File

__all__ = ["Short", "verify"]

# Files that are sooner asked about one by one than by a listing of all that is there.
_ASKED_ONE_BY_ONE = 3
# Directories that are sooner listed each than with all else that is there, unless one listing has
# all of it.
_FOLDERS_AT_ONCE = 16


class Short(OSError):
    """Not just these bytes arrived, and nobody did wrong.

    A connection was lost in a way that its server took for the end; or what the store copied itself
    had been replaced before.
    """


def verify(
    target: End, moved: Iterable[tuple[str, Moved]], seen: dict[str, File] | None = None
) -> dict[str, Exception]:
    """Compare what was moved with what is listed now, and remove what is wrong.

    The size always; a checksum where the bytes passed here and a store lists one. What a store
    lists need not be one (S3's ETag of an encrypted object), so a difference is looked into by
    reading the file. A store that said the MD5 when it had taken the file is not asked again.

    Parameters
    ----------
    target : End
    moved : iterable of (str, Moved)
        By the name at the target.
    seen : dict of str to File, optional
        Takes what is listed of those that are right.

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
            listed = again(lambda: _listed(target, asked))
        except PermissionError:
            pass  # who may write may look at each
        except OSError as error:
            gone = error  # it is each file's: nobody says what arrived
    failures: dict[str, Exception] = {}
    for name, each in moved:
        try:
            if gone is not None and not each.arrived:
                raise gone
            there = each.file if each.arrived else listed.get(name)
            if there is None:  # or its directory is a link, which a listing does not follow
                there = again(functools.partial(target.file, name))
            _compare(target, name, each, there)
            if seen is not None and not each.arrived:
                seen[name] = there
        except Exception as error:
            failures[name] = error
    return failures


def _listed(target: End, names: Iterable[str]) -> Mapping[str, File]:
    """What is in the directories of some files; where those are many, all that is there."""
    folders = {name.rpartition("/")[0] for name in names}
    is_flat = getattr(target.fs, "lists_flat", False)
    if len(folders) > (1 if is_flat else _FOLDERS_AT_ONCE):
        with contextlib.suppress(FileNotFoundError):
            return target.own()
        return {}
    found: dict[str, File] = {}
    for each in submit_all(target.inside, folders, len(folders)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found |= each.result()
    return found


def _compare(target: End, name: str, moved: Moved, there: File) -> None:
    path = target.path(name)
    reason, kind = None, OSError
    if there.size != moved.file.size:
        reason, kind = f"{there.size} bytes arrived of {moved.file.size}", Short
    elif differs(target, name, there.checksum, moved.passed):
        reason = "other bytes arrived than were sent (their checksum differs)"
        kind = Short if moved.copied else OSError
    if reason is not None:
        with contextlib.suppress(FileNotFoundError):
            target.fs.rm_file(path)
        raise kind(errno.EIO, f"{reason}: the copy was removed", path)
