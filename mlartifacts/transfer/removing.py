"""How files are deleted: at once where the store can, and each failure under its name."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping

from mlartifacts.errors import InvalidURI, TransferError
from mlartifacts.transfer.engine import again
from mlartifacts.transfer.pool import Pool, submit_all
from mlartifacts.transfer.trees import End, File
from mlartifacts.writing import temporary_beside

__all__ = ["refuse_source", "remove", "remove_empty", "remove_whole"]

_AT_ONCE = 16
# How long an interrupt waits for what is on its way, and then for its removal.
_LAST_SECONDS = 0.4


def remove(end: End, names: Collection[str]) -> None:
    """Delete files; what is gone already is none the worse.

    Raises
    ------
    TransferError
        Some could not be deleted, each with its cause.
    """
    pool = _pool(end, names)
    removals = {name: pool.submit(_remove_one, end, name) for name in names}
    failures: dict[str, BaseException] = {}
    try:
        for name, removal in removals.items():
            try:
                removal.result()
            except Exception as error:
                failures[name] = error
    finally:
        for removal in removals.values():
            removal.cancel()
        pool.close()
    if failures:
        raise TransferError(failures)


def _pool(end: End, names: Collection[str]) -> Pool:
    return Pool(min(len(names), getattr(end.fs, "files_at_once", _AT_ONCE)))


def _remove_one(end: End, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        again(lambda: end.fs.rm_file(end.path(name)))


def remove_empty(end: End, name: str) -> None:
    """Remove a directory in which there are no files; one with a file, or a link, stays."""
    with contextlib.suppress(OSError):  # what is to take its place fails, and is told
        for entry in end.fs.ls(end.path(name), detail=True):
            if entry["type"] == "directory" and not entry.get("islink"):
                remove_empty(end, f"{name}/{entry['name'].rstrip('/').rpartition('/')[2]}")
        end.fs.rmdir(end.path(name))


def remove_whole(end: End, files: Mapping[str, File]) -> None:
    """Delete a place with all that is in it, but of a bucket or a root only that.

    Parameters
    ----------
    end : End
    files : mapping of str to File
        What is there.

    Raises
    ------
    TransferError
        As for :func:`remove`; under ``""``, why a directory stays.
    """
    is_file = "" in files
    try:
        again(lambda: _at_once(end, is_file))
        return
    except (ConnectionError, TimeoutError) as error:
        raise TransferError(dict.fromkeys(files, error)) from error  # nobody answers
    except OSError as error:
        first = error
    try:
        left: Iterable[str] = again(end.own)
    except FileNotFoundError:
        return
    remove(end, sorted(left))
    try:
        again(lambda: _at_once(end, is_file))
    except FileNotFoundError:
        return
    except OSError as error:
        raise TransferError({"": error}) from first


def _at_once(end: End, is_file: bool) -> None:
    if is_file or "/" in end.root.rstrip("/"):
        end.fs.rm(end.root, recursive=not is_file)
        return
    for entry in end.fs.ls(end.root, detail=True):
        end.fs.rm(entry["name"], recursive=entry["type"] == "directory")


def refuse_source(source: End, target: End, doomed: Collection[str]) -> None:
    """Refuse to delete what is the source itself, seen by another way.

    Not every way can be told by its name: what lies behind MLflow's server, another name of a
    host, a server's view of a disk, a mount. But then names that are to be deleted end as names
    of the source do (or these as those), and what is put beside the one shows beside the other.

    Parameters
    ----------
    source : End
    target : End
    doomed : collection of str
        What of the target is to be deleted.

    Raises
    ------
    InvalidURI
        They are the source's.
    TransferError
        Nobody can tell: the source could not be listed, or a file put there, looked for or
        removed again.
    """
    # Not hidden by its name, as a server may not show what is.
    marker = temporary_beside("").lstrip(".")
    pairs: dict[End, set[tuple[str, str]]] = {}
    unseen: dict[str, OSError] = {}
    try:
        for place in source.everywhere():
            # Anew, and not by what was copied: somebody may be writing to it.
            place.fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                names = again(functools.partial(place.files, failed=unseen))
                pairs[place] = _perhaps_one(names, doomed)
        for error in unseen.values():
            raise error
        if not pairs:
            raise FileNotFoundError(errno.ENOENT, "it is not there any more", str(source))
        marks = {f"{folder}{marker}" for each in pairs.values() for folder, _ in each}
        if not marks:
            return
        shown = {(place, folder) for place, each in pairs.items() for _, folder in each}
        with _written(target, marks):
            asked = submit_all(lambda each: _is_there(each[0], each[1] + marker), shown, _AT_ONCE)
            answers = [each.result() for each in asked]
    except OSError as error:
        reason = f"nothing was deleted, as it may be of {source}: {error.strerror or error}"
        number = error.errno or errno.EIO
        failures = {name: OSError(number, reason, target.path(name)) for name in doomed}
        raise TransferError(failures) from error
    if any(answers):
        raise InvalidURI(
            f"{source} lies in {target}, or that in it, though no name says so: to delete what it"
            " has not would delete it, too."
        )


def _perhaps_one(names: Collection[str], doomed: Collection[str]) -> set[tuple[str, str]]:
    """Folders of the target and of the source that are one if one of these lies in the other.

    There is one pair for each place where it may lie.
    """
    below = _ending(doomed, set(names))
    above = _ending(names, set(doomed))
    return {*below.values(), *((tail, name) for name, tail in above.values())}


def _ending(names: Iterable[str], others: Collection[str]) -> dict[str, tuple[str, str]]:
    """The folders of a name and of another one that it ends with, by what stands before that."""
    found: dict[str, tuple[str, str]] = {}
    for name in sorted(names):
        for tail in _tails(name):
            if tail in others:
                found.setdefault(name.removesuffix(tail), (_folder(name), _folder(tail)))
    return found


def _tails(name: str) -> Iterator[str]:
    """A name, and what is left of it without its first steps."""
    while name:
        yield name
        name = name.partition("/")[2]


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _is_there(end: End, name: str) -> bool:
    return bool(again(lambda: end.fs.exists(end.path(name))))


@contextlib.contextmanager
def _written(end: End, names: Collection[str]) -> Iterator[None]:
    """Have empty files at an end for a while; an interrupt waits a little for them to go."""

    def write(name: str) -> None:
        again(lambda: end.fs.pipe_file(end.path(name), b""))

    pool = _pool(end, names)
    written: list[concurrent.futures.Future[None]] = []
    patience: float | None = _LAST_SECONDS
    failed = False
    try:
        written += [pool.submit(write, name) for name in names]
        for each in written:
            each.result()
        yield
        patience = None
    except Exception:
        patience, failed = None, True
        raise
    finally:
        for each in written:
            each.cancel()
        concurrent.futures.wait(written, patience)  # what is on its way would come afterwards
        removed = pool.submit(remove, end, names)
        pool.close()
        concurrent.futures.wait([removed], patience)
        if patience is None and not failed:
            removed.result()
