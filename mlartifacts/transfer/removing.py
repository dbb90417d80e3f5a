"""How files are deleted: at once where the store can, and each failure under its name."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import errno
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import unquote

from mlartifacts.errors import InvalidURI, TransferError
from mlartifacts.transfer.engine import again
from mlartifacts.transfer.outage import Outage
from mlartifacts.transfer.patterns import parents
from mlartifacts.transfer.pool import Pool, submit_all
from mlartifacts.transfer.trees import End, File, folder_of, listed_with_links
from mlartifacts.writing import probe_beside

__all__ = ["kept_by_links", "refuse_source", "remove", "remove_empty", "remove_whole"]

S = TypeVar("S")
T = TypeVar("T")

# The last step of a name, and how it ends, where another one may end so, too.
_PLAIN = re.compile(r"[^?]+(\.[0-9A-Za-z]+)|[^?.]+")

_AT_ONCE = 16
# Requests for many files each: a store may be slow with them, or find them too many.
_TOGETHER_AT_ONCE = 4
_MINUTE = 60
# How long an interrupt waits for what is on its way, and then for its removal.
_LAST_SECONDS = 0.4


def remove(end: End, names: Collection[str]) -> None:
    """Delete files; what is gone already is none the worse.

    Raises
    ------
    TransferError
        Some could not be deleted, each with its cause.
    """
    left, outage = sorted(names), Outage()
    failures: dict[str, BaseException] = {}
    most = end.fs.removed_together(end.root) if hasattr(end.fs, "removed_together") else 1
    if min(most, len(left)) > 1:
        groups = [left[first : first + most] for first in range(0, len(left), most)]
        left = []
        together = functools.partial(_remove_together, end, outage)
        for group, said in zip(groups, _each(together, groups, _TOGETHER_AT_ONCE), strict=True):
            if isinstance(said, Exception):
                failures |= dict.fromkeys(group, said)
            else:
                left += said
    remove_one = functools.partial(_remove_one, end, outage)
    singly = _each(remove_one, left, _at_once(end))
    failures |= {n: e for n, e in zip(left, singly, strict=True) if e is not None}
    if failures:
        raise TransferError(failures, "deleted")


def _each(act: Callable[[S], T], items: Collection[S], threads: int) -> list[T | Exception]:
    """Do something for each of some items, many at once, and give what came of each."""
    pool = Pool(min(len(items), threads))
    asked = [pool.submit(act, item) for item in items]
    came: list[T | Exception] = []
    try:
        for each in asked:
            try:
                came.append(each.result())
            except Exception as error:
                came.append(error)
    finally:
        for each in asked:
            each.cancel()
        pool.close()
    return came


def _at_once(end: End) -> int:
    return int(getattr(end.fs, "files_at_once", _AT_ONCE))


def _remove_together(end: End, outage: Outage, names: list[str]) -> list[str]:
    """Delete files by a request for all of them, and give those that are to be deleted singly.

    Raises
    ------
    ConnectionError, TimeoutError
        Nobody answers.
    """
    paths = {end.path(name): name for name in names}
    try:
        with outage.watching(end.path(names[0])):
            return [paths[path] for path in again(lambda: end.fs.rm_listed(list(paths)))]
    except (ConnectionError, TimeoutError):
        raise
    except Exception:  # each file has its own, by itself
        return names


def _remove_one(end: End, outage: Outage, name: str) -> None:
    path = end.path(name)
    with contextlib.suppress(FileNotFoundError), outage.watching(path):
        if hasattr(end.fs, "rm_listed"):
            again(lambda: end.fs.rm_listed([path]))
        else:
            again(lambda: end.fs.rm_file(path))


def remove_empty(end: End, name: str) -> None:
    """Remove a directory in which there are no files; one with a file, or a link, stays."""
    with contextlib.suppress(OSError):  # what is to take its place fails, and is told
        entries, links = listed_with_links(end.fs, end.path(name))
        for entry in entries:
            is_link = entry.get("islink") or entry["name"] in links
            if entry["type"] == "directory" and not is_link:
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
    try:
        again(lambda: _remove_tree(end, files))
        return
    except TransferError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise TransferError(dict.fromkeys(files, error), "deleted") from error  # nobody answers
    except OSError as error:
        first = error
    try:
        left = again(end.own)
    except FileNotFoundError:
        return
    remove(end, sorted(left))
    try:
        again(lambda: _remove_tree(end, files))
    except FileNotFoundError:
        return
    except TransferError:
        raise
    except OSError as error:
        raise TransferError({"": error}, "deleted") from first


def _remove_tree(end: End, files: Collection[str]) -> None:
    above = end.root.rstrip("/")
    if set(files) == {""}:
        try:
            end.fs.rm(end.root)
        except IsADirectoryError:
            # A key that ends with a slash and has bytes is listed below the one without, as "".
            if not end.holds_keys or end.own().keys() != {""}:
                raise
            end.fs.rm(end.root, recursive=True)
        return
    if "" in files or "/" in above:
        end.fs.rm(end.root, recursive=True)
        return
    entries = end.fs.ls(end.root, detail=True)
    # A key that begins with a slash has the bucket's own name for its directory.
    inside = [each for each in entries if each["name"].removeprefix(above).strip("/")]
    folders = [each["name"] for each in inside if each["type"] == "directory"]
    for error in _each(lambda each: end.fs.rm(each, recursive=True), folders, _TOGETHER_AT_ONCE):
        if error is not None:
            raise error
    paths = [each["name"] for each in inside if each["type"] != "directory"]
    names = {path.removeprefix(f"{above}/" if end.root else "") for path in paths}
    remove(end, names | {name for name in files if name.startswith("/")})


def refuse_source(source: End, target: End, doomed: Collection[str]) -> None:
    """Refuse to delete what is the source itself, seen by another way.

    Not every way can be told by its name: what lies behind MLflow's server, another name of a
    host, a server's view of a disk, a mount. But then names that are to be deleted end as names
    of the source do (or these as those), and what is put beside the one shows beside the other. A
    web server spells names as URLs, and may not list them all, so that each directory is tried.

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
    pairs: dict[End, set[tuple[str, str]]] = {}
    unseen: dict[str, OSError] = {}
    try:
        for place in source.everywhere():
            # Anew, and not by what was copied: somebody may be writing to it.
            place.fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                names = again(functools.partial(place.files, True, unseen))
                pairs[place] = _perhaps_one(place, names, doomed)
        for error in unseen.values():
            raise error
        if not pairs:
            raise FileNotFoundError(errno.ENOENT, "it is not there any more", str(source))
        marks = {mark for each in pairs.values() for mark, _ in each}
        if not marks:
            return
        beside = {(place, name) for place, each in pairs.items() for _, name in each}
        is_shown = any(_shown(target, marks, beside))
    except OSError as error:
        raise _nothing_deleted(target, doomed, f"of {source}", error) from error
    if is_shown:
        raise InvalidURI(
            f"{source} lies in {target}, or that in it, though no name says so: to delete what it"
            " has not would delete it, too."
        )


def kept_by_links(
    end: End,
    there: Mapping[str, File],
    doomed: Collection[str],
    kept: Collection[str],
    dry_run: bool = False,
) -> set[str]:
    """Which files of a server that are to be deleted are kept ones, as a link leads there.

    A server may say what a link to a file leads to. It may say that a directory is a link, so that
    what is in it is not listed; or it lists that twice: then what is put beside the one file shows
    beside the other.

    Parameters
    ----------
    end : End
    there : mapping of str to File
        Its listing.
    doomed, kept : collection of str
    dry_run : bool, default False
        Write nothing to find out, so that links to directories may not be known.

    Raises
    ------
    TransferError
        Nobody can tell.
    """
    if not doomed or end.is_local or end.holds_keys:
        return set()
    linked = _linked(end, there, doomed, kept)
    return linked if dry_run else linked | _in_linked(end, there, set(doomed) - linked, kept)


def _linked(
    end: End, there: Mapping[str, File], doomed: Collection[str], kept: Collection[str]
) -> set[str]:
    """Those that links to files lead to, by the last step of what a server says of each.

    Such a link is listed as what it leads to is.
    """
    store = end.physical()
    if not hasattr(store.fs, "link_targets"):
        return set()

    unit = max([1, *(file.unit for file in there.values())])

    def alike(name: str) -> tuple[int, float | None]:
        file = there[name]
        if file.modified is None or unit > _MINUTE:  # days may be of any zone
            return file.size, None
        return file.size, file.modified // unit

    perhaps: dict[tuple[int, float | None], set[str]] = collections.defaultdict(set)
    for name in doomed:
        perhaps[alike(name)].add(name)
    linked: set[str] = set()
    asked = {name for name in kept if name in there and alike(name) in perhaps}
    while asked:
        paths = {store.path(name): name for name in asked}
        try:
            told = again(functools.partial(store.fs.link_targets, list(paths)))
        except OSError as error:
            raise _nothing_deleted(end, doomed, "what a link leads to", error) from error
        steps = [(alike(paths[path]), _step(target)) for path, target in told.items()]
        asked = {name for like, step in steps for name in perhaps[like] if _step(name) == step}
        asked -= linked  # which may be links themselves
        linked |= asked
    return linked


def _in_linked(
    end: End, there: Mapping[str, File], doomed: Collection[str], kept: Collection[str]
) -> set[str]:
    """Those that are in a directory of kept files, too, which is tried."""
    inside: dict[str, set[tuple[str, int]]] = collections.defaultdict(set)
    for name, file in there.items():
        inside[folder_of(name)].add((_step(name), file.size))
    folders: dict[str, set[str]] = collections.defaultdict(set)
    for name in kept:
        if not end.tells_links or name not in there:
            folders[_step(name)].add(folder_of(name))
    # By a folder of theirs and one of kept files, which may be one: these names.
    pairs: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for name in doomed:
        own = folder_of(name)
        for other in folders[_step(name)] - {own}:
            if end.tells_links or inside[other] == inside[own]:
                pairs[own, other].add(name)
    if not pairs:
        return set()
    marks = {own: probe_beside("") for own, _ in pairs}
    beside = [(end, other + marks[own]) for own, other in pairs]
    try:
        shown = _shown(end, [own + mark for own, mark in marks.items()], beside)
    except OSError as error:
        raise _nothing_deleted(end, doomed, "what a link leads to", error) from error
    return set().union(*itertools.compress(pairs.values(), shown))


def _shown(end: End, marks: Collection[str], beside: Collection[tuple[End, str]]) -> list[bool]:
    """Which names show, each at its end, while there are files of other names at `end`."""
    with _written(end, marks):
        asked = submit_all(lambda each: _is_there(*each), beside, _AT_ONCE)
        return [each.result() for each in asked]


def _nothing_deleted(end: End, doomed: Collection[str], what: str, error: OSError) -> TransferError:
    reason = f"nothing was deleted, as it may be {what}: {error.strerror or error}"
    number = error.errno or errno.EIO
    failures = {name: OSError(number, reason, end.path(name)) for name in doomed}
    return TransferError(failures, "deleted")


def _perhaps_one(
    source: End, names: Collection[str], doomed: Collection[str]
) -> set[tuple[str, str]]:
    """Files to put into the target and to look for in the source, in folders that may be one.

    There is one pair for each place where one of these ends may lie in the other.
    """
    if getattr(source.fs, "lists_all", True):
        marker = probe_beside("")
        below = _ending(doomed, set(names))
        above = _ending(names, set(doomed))
        pairs = {*below.values(), *((tail, name) for name, tail in above.values())}
    else:
        marker = probe_beside("", ending=_ending_shown(source, names))
        pairs = {
            *itertools.product(_folders(doomed), [""]),
            *itertools.product([""], _folders(names)),
        }
    return {(folder + marker, other + marker) for folder, other in pairs}


def _ending_shown(source: End, names: Collection[str]) -> str:
    """How the name of a file ends that a web server surely shows, as some know no other kinds.

    Raises
    ------
    OSError
        There is none.
    """
    likes: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name.count("/")):
        if plain := _PLAIN.fullmatch(_step(unquote(name))):
            likes.setdefault(plain[1] or "", name)
    for ending in sorted(likes, reverse=True):
        if again(functools.partial(source.has, likes[ending])):
            return ending
    reason = "its server lists no file like which it would surely show one that is put there"
    raise OSError(errno.ENOTSUP, reason, str(source))


def _folders(names: Iterable[str]) -> set[str]:
    """The directories of some names, and those above, with the slash at their ends."""
    return {"", *(f"{folder}/" for name in names for folder in parents(name))}


def _ending(names: Iterable[str], others: Collection[str]) -> dict[str, tuple[str, str]]:
    """The folders of a name and of another one that it ends with, by what stands before that."""
    found: dict[str, tuple[str, str]] = {}
    for name in sorted(names):
        for tail in _tails(name):
            if tail in others:
                found.setdefault(name.removesuffix(tail), (folder_of(name), folder_of(tail)))
    return found


def _tails(name: str) -> Iterator[str]:
    """A name, and what is left of it without its first steps."""
    while name:
        yield name
        name = name.partition("/")[2]


def _step(name: str) -> str:
    return name.rpartition("/")[2]


def _is_there(end: End, name: str) -> bool:
    path = end.path(name)
    if again(lambda: end.fs.exists(path)):
        return True
    if getattr(end.fs, "lists_all", True):
        return False
    # A web server may list what it does not give.
    end.fs.invalidate_cache()
    listed = again(lambda: end.fs.ls(end.path(folder_of(name)), detail=False))
    return _step(name) in {_step(unquote(each)) for each in listed}


@contextlib.contextmanager
def _written(end: End, names: Collection[str]) -> Iterator[None]:
    """Have empty files at an end for a while; an interrupt waits a little for them to go."""

    def write(name: str) -> None:
        again(lambda: end.fs.pipe_file(end.path(name), b""))

    pool = Pool(min(len(names), _at_once(end)))
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
