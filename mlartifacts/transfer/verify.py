"""Whether what arrived is what was sent."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Iterable, Mapping

from mlartifacts.checksums import matching
from mlartifacts.transfer.engine import Moved, again, differs
from mlartifacts.transfer.outage import about
from mlartifacts.transfer.pool import submit_all
from mlartifacts.transfer.trees import End, File

__all__ = ["Wrong", "compared", "verify"]

# Files that are sooner asked about one by one than by a listing of all that is there.
_ASKED_ONE_BY_ONE = 3
# Directories that are sooner listed each than with all else that is there, unless one listing has
# all of it.
_FOLDERS_AT_ONCE = 16


class Wrong(OSError):
    """Not just the bytes arrived that were sent, which another try may mend.

    A connection was lost in a way that its server took for the end, or bytes were damaged on their
    way; or what the store copied itself had been replaced before.
    """


def verify(
    target: End,
    moved: Iterable[tuple[str, Moved]],
    seen: dict[str, File] | None = None,
    source: End | None = None,
    gone: OSError | None = None,
) -> dict[str, Exception]:
    """Compare what was moved with what is listed now, and remove what is wrong.

    The size always; a checksum where the bytes passed here and a store lists one. What a store
    lists need not be one (S3's ETag of an encrypted object), so a difference is looked into by
    reading the file. A store that said the MD5 when it had taken the file is not asked again. Who
    may write and not look has the word of a store that checks what it is sent.

    Parameters
    ----------
    target : End
    moved : iterable of (str, Moved)
        By the name at the target.
    seen : dict of str to File, optional
        Takes what is listed of those that are right.
    source : End, optional
        Where they came from, which is asked of those that the store copied itself.
    gone : OSError, optional
        Why the target does not answer any more: it is not asked.

    Returns
    -------
    dict of str to Exception
        The files that were wrong.
    """
    failures = compared(target, moved, seen, source, gone)
    # Once all were looked at: a link may lead from one of them to another.
    for name, failed in failures.items():
        if isinstance(failed, Wrong):
            try:
                target.fs.rm_file(target.path(name))
            except FileNotFoundError:
                pass
            except Exception as error:
                failures[name] = error
                if isinstance(error, TimeoutError):
                    break
    return failures


def compared(
    target: End,
    moved: Iterable[tuple[str, Moved]],
    seen: dict[str, File] | None = None,
    source: End | None = None,
    gone: OSError | None = None,
) -> dict[str, Exception]:
    """As :func:`verify`, but nothing is removed."""
    moved = list(moved)
    asked = [name for name, each in moved if not each.arrived]
    listed: Mapping[str, File] = {}
    if gone is None and len(asked) > _ASKED_ONE_BY_ONE and not target.is_local:
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
                raise about(gone, target.path(name))
            there = each.file if each.arrived else listed.get(name)
            if there is None:  # or its directory is a link, which a listing does not follow
                there = _looked_at(target, name, each)
            if there is None:
                continue
            _compare(source, target, name, each, there)
            if seen is not None and not each.arrived:
                seen[name] = there
        except TimeoutError as error:
            failures[name] = gone = error  # a server that is silent is waited for once
        except Exception as error:
            failures[name] = error
    return failures


def _looked_at(target: End, name: str, moved: Moved) -> File | None:
    """What is there; ``None`` where looking is denied, and the store itself has compared it.

    It said that it had taken a file then, and takes none but with the checksum that was sent.
    """
    try:
        return again(functools.partial(target.file, name))
    except PermissionError:
        if moved.copied or not target.checks_uploads(name):
            raise
        return None


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


def _compare(source: End | None, target: End, name: str, moved: Moved, there: File) -> None:
    reason = None
    if there.size != moved.file.size:
        reason = f"{there.size} bytes arrived of {moved.file.size}"
    elif moved.copied and source is not None:
        if _are_others(source, target, name, moved, there):
            reason = "the store copied other bytes than it lists of the source"
    elif differs(target, name, there.checksum, moved.passed):
        reason = "other bytes arrived than were sent (their checksum differs)"
    if reason is not None:
        raise Wrong(errno.EIO, f"{reason}: the copy was removed", target.path(name))


def _are_others(source: End, target: End, name: str, moved: Moved, there: File) -> bool:
    """Whether a store lists checksums of a file and of its copy that differ, and are both one."""
    listed = there.checksum
    if listed is None or matching(listed, moved.passed) is not False:
        return False
    own = moved.passed[listed.kind]
    return target.vouches(name, listed) and source.vouches(moved.file.name, own)
