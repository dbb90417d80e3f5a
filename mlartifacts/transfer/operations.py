"""Moving artifacts between any two places: what users call."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlartifacts.access import url_to_fs
from mlartifacts.errors import InvalidURI, TransferError, queries_hidden
from mlartifacts.transfer.cluster import spread
from mlartifacts.transfer.leftovers import remove_leftovers
from mlartifacts.transfer.moving import move
from mlartifacts.transfer.names import folded, refuse_linked, refuse_names, respelled
from mlartifacts.transfer.outage import about
from mlartifacts.transfer.patterns import PathFilter, Patterns, parents
from mlartifacts.transfer.plan import Overwrite, compare, unclear
from mlartifacts.transfer.pool import submit_all
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.records import Brought, Records, dated
from mlartifacts.transfer.removing import (
    kept_by_links,
    refuse_source,
    remove,
    remove_empty,
    remove_whole,
)
from mlartifacts.transfer.times import are_one, is_settled
from mlartifacts.transfer.trees import End, File, means_inside, refuse_empty_step, unverified

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

__all__ = ["Report", "copy", "delete", "download", "sync", "upload"]

_ASKED_AT_ONCE = 16
# A file of more bytes is asked about before it is moved again.
_LARGE = 8 * 2**20
# That lead to a file: more of them the system does not follow.
_MOST_LINKS = 40
_DONE = {"upload": "uploaded", "download": "downloaded", "copy": "copied", "sync": "copied"}

Place = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What a transfer did, or would do; shown as numbers, so that a notebook has one line of it.

    Attributes
    ----------
    place : str
        Where the files are now: a URI, or a local path.
    moved : tuple of str
        The names that were moved (or deleted), relative to `place`; ``""`` is `place` itself.
    skipped : tuple of str
        The names that were left as they are.
    size : int
        Bytes that were moved.
    deleted : tuple of str
        The names that :func:`sync` deleted, as its source has them not.
    done : str
        What was done to `moved`: ``"uploaded"``, ``"copied"``, ``"deleted"``.
    seconds : float
        How long it took.
    dry_run : bool
        Nothing was done.
    """

    place: str
    moved: tuple[str, ...]
    skipped: tuple[str, ...]
    size: int
    deleted: tuple[str, ...] = ()
    done: str = field(default="transferred", compare=False)
    seconds: float = field(default=0.0, compare=False)
    dry_run: bool = field(default=False, compare=False)

    def __repr__(self) -> str:
        would = "would be " if self.dry_run else ""
        files = f"{len(self.moved)} file{'' if len(self.moved) == 1 else 's'}"
        said = [f"{files} {would}{self.done}"]
        if self.skipped:
            said.append(f"{len(self.skipped)} unchanged")
        if self.deleted:
            said.append(f"{len(self.deleted)} {would}deleted")
        took = "" if self.dry_run else f" in {_duration(self.seconds)}"
        said.append(f"{_bytes(self.size)}{took}")
        return f"Report({'dry run: ' if self.dry_run else ''}{', '.join(said)})"


@queries_hidden()
def upload(
    local: Place,
    uri: Place,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    overwrite: Overwrite | None = None,
    resume: bool = False,
    dry_run: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> Report:
    """Write a local file, or what is in a local directory, to a URI.

    Parameters
    ----------
    local : str or path-like
        A file, or a directory whose content is meant, and with a slash at its end that alone.
        Links in it are followed inside of it; empty directories, pipes and devices in it are left
        out.
    uri : str or path-like
        Where the content goes; a file goes into a directory, or a URI that ends with a slash.
    include, exclude : str or iterable of str, optional
        Patterns over the relative names, by the rules of gitignore: move the files that match one
        of `include`, if given, and none of `exclude`. ``*.log`` matches at every depth, ``/*.log``
        at the top alone, ``data/*.csv`` from the top, and the name of a directory all that is in
        it.
    overwrite : {"always", "never", "newer", "different"}, optional
        Which of the files that are there already are written again: all of them; none; those
        that are newer here; those that have another size, or another MD5 where both sides list
        one, or another time where they do not (files are given the time of what they are copies
        of; what was brought is remembered in the cache, as a time in whole seconds does not tell
        that files are the same). All unless given, and with `resume` what is different.
    resume : bool, default False
        Do not move again what is there already.
    dry_run : bool, default False
        Move nothing, and say what would be moved; what stands in its way is raised as it would be,
        but behind MLflow's server, which does not say whether it keeps files in directories.
    callback : fsspec.callbacks.Callback, optional
        Hears of bytes; what it raises ends the transfer. Without one, what takes longer than half
        a second shows a bar on terminals and in notebooks, where tqdm is installed and
        ``MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR`` is not false.
    **options
        The driver's.

    Returns
    -------
    Report

    Raises
    ------
    FileNotFoundError
        There is no such file or directory.
    NotADirectoryError
        The source ends with a slash, and is a file.
    InvalidURI
        A link leads out of `local`, or the target cannot hold a name, or takes two for one file by
        a link of its own: nothing was moved.
    InvalidConfig
        A pattern can match nothing, `include` or `exclude` is empty, or `overwrite` is none of
        these.
    TransferError
        Some files could not be moved, each with its cause; the others were.
    """
    report, _ = _transfer(
        "upload",
        _source(local, {}),
        _end(uri, options),
        into=means_inside(uri),
        paths=PathFilter(include, exclude),
        overwrite=overwrite,
        resume=resume,
        dry_run=dry_run,
        callback=callback,
    )
    return report


@queries_hidden()
def download(
    uri: Place,
    local: Place | None = None,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    overwrite: Overwrite | None = None,
    resume: bool = True,
    verify: bool = True,
    dry_run: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> Path:
    """Fetch an artifact, or what is in a directory of artifacts, to this machine.

    Parameters
    ----------
    uri : str or path-like
        Of a file or a directory, with a slash at its end of the latter alone: in a store of objects
        one may have the other's name.
    local : str or path-like, optional
        Where the content goes; a new temporary directory unless given. A file goes into a
        directory, or a path that ends with a slash.
    include, exclude, overwrite, dry_run, callback, **options
        As for :func:`upload`.
    resume : bool, default True
        Do not fetch again what is there already, unless `overwrite` says so, and go on with a
        large file that broke off.
    verify : bool, default True
        Compare what comes with the checksum that its store lists. Turn it off for an Azure blob
        whose Content-MD5, which is whatever its writer said, is not that of its bytes.

    Returns
    -------
    pathlib.Path
        Of the file, or of the directory.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, InvalidURI, TransferError
        As for :func:`upload`; `local` may be no other store's, either.
    """
    source = _source(uri, options)
    temporary = tempfile.mkdtemp(prefix="mlartifacts-") if local is None else None
    try:
        target = _end(f"{temporary}/" if local is None else local, {})
        if not target.is_local:
            raise InvalidURI(f"{target} is no local path: mlartifacts.copy copies between URIs.")
        report, is_directory = _transfer(
            "download",
            source,
            target,
            into=local is None or means_inside(local),
            paths=PathFilter(include, exclude),
            overwrite=overwrite,
            resume=resume,
            verify=verify,
            dry_run=dry_run,
            callback=callback,
        )
        if dry_run and temporary is not None:
            os.rmdir(temporary)
        elif not dry_run and not os.path.lexists(report.place) and is_directory:
            os.makedirs(report.place)  # there was nothing to put into it
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Path(report.place)


@queries_hidden()
def copy(
    source: Place,
    target: Place,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    overwrite: Overwrite | None = None,
    resume: bool = True,
    verify: bool = True,
    dry_run: bool = False,
    callback: Callback | None = None,
    source_options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
    cluster: Any = None,
) -> Report:
    """Copy an artifact, or what is in a directory of artifacts, from one URI to another.

    A store copies within itself where its driver can; otherwise the bytes pass through this
    machine's memory, and not over its disk: but for a large file of a server of MLflow's that gives
    no ranges, which is kept in a temporary one.

    Parameters
    ----------
    source : str or path-like
        As for :func:`download`.
    target : str or path-like
        A file goes into a directory, or a URI that ends with a slash.
    include, exclude, overwrite, resume, dry_run, callback
        As for :func:`upload`.
    verify : bool, default True
        As for :func:`download`.
    source_options, target_options : mapping, optional
        The drivers' options.
    cluster : distributed.Client, optional
        Have the workers of a Dask cluster (extra ``dask``) move the bytes, store to store. Each
        logs in by its own environment: passwords of URIs do not reach it, and options that could
        be secret are refused. A local path must be the same on each worker.

    Returns
    -------
    Report

    Raises
    ------
    FileNotFoundError, NotADirectoryError, InvalidURI, TransferError
        As for :func:`upload`.
    InvalidConfig
        As for :func:`upload`; with `cluster`: an option or a query that could be secret, or it is
        not a client that is connected.
    """
    report, _ = _transfer(
        "copy",
        _source(source, source_options or {}),
        _end(target, target_options or {}),
        into=means_inside(target),
        paths=PathFilter(include, exclude),
        overwrite=overwrite,
        resume=resume,
        verify=verify,
        dry_run=dry_run,
        callback=callback,
        cluster=cluster,
    )
    return report


@queries_hidden()
def sync(
    source: Place,
    target: Place,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    delete: bool = False,
    verify: bool = True,
    dry_run: bool = False,
    callback: Callback | None = None,
    source_options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
) -> Report:
    """Have at one place what is at another: copy what is missing or differs.

    Parameters
    ----------
    source, target : str or path-like
        As for :func:`copy`.
    include, exclude, verify, dry_run, callback, source_options, target_options
        As for :func:`copy`. What they leave out is neither copied nor deleted.
    delete : bool, default False
        Delete the files that the source, a directory, has not, once everything was copied; those
        before that stand where it has a directory, or are in a directory where it has a file.

    Returns
    -------
    Report
        Of what was copied, and deleted.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, TransferError
        As for :func:`upload`; of `delete`, as for :func:`delete`.
    InvalidURI
        As for :func:`upload`; with `delete`, the source lies in the target, by whichever names, or
        may: then nothing is deleted. Where no name tells, an empty file is put into the target for
        a moment, and looked for in the source.
    """
    one, other = _source(source, source_options or {}), _end(target, target_options or {})
    paths = PathFilter(include, exclude)
    if delete and one.lies_in(other, perhaps=True):
        raise InvalidURI(f"{one} lies in {other}: to delete what it has not would delete it, too.")
    began = time.monotonic()
    report, is_directory = _transfer(
        "sync",
        one,
        other,
        into=means_inside(target),
        paths=paths,
        overwrite="different",
        resume=True,
        verify=verify,
        dry_run=dry_run,
        callback=callback,
        delete=delete,
    )
    if delete and is_directory:
        kept = {*report.moved, *report.skipped}
        there: Mapping[str, File] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            there = other.own()
        if "" in there and not other.has_directories:
            there = other.below()
        extra = _extra(other, there, paths, kept)
        doomed = _remove_extra(one, other, extra, there, kept, dry_run)
        deleted = tuple(sorted({*report.deleted, *doomed}))
        seconds = time.monotonic() - began
        return dataclasses.replace(report, deleted=deleted, seconds=seconds)
    return report


@queries_hidden()
def delete(
    uri: Place,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    dry_run: bool = False,
    **options: Any,
) -> Report:
    """Delete an artifact, or a directory of artifacts, and nothing beside it.

    Of a bucket or a container, and of a run, all that is in it is deleted, and it stays.

    Parameters
    ----------
    uri : str or path-like
        As for :func:`download`. Links are deleted, and not followed, as far as a server tells them,
        which MLflow's does not.
    include, exclude, dry_run, **options
        As for :func:`upload`. Directories, and links to them, go with all that is in them alone,
        where there are no patterns.

    Returns
    -------
    Report

    Raises
    ------
    FileNotFoundError
        There is nothing.
    NotADirectoryError
        As for :func:`upload`.
    InvalidURI
        It is the root of this machine's disk.
    TransferError
        Some files could not be deleted, each with its cause: that of all where nobody answers any
        more, and under ``""`` that of a directory which stays.
    """
    began = time.monotonic()
    end, paths = _source(uri, options), PathFilter(include, exclude)
    if end.is_local and os.path.dirname(end.real()) == end.real():
        raise InvalidURI(f"{end} is the root of a disk, and is not deleted.")
    files = {"": File("", 0)} if end.is_link() else end.own()
    doomed = paths.among(files, end)
    if not dry_run:
        if paths.takes_all and not end.has_file_beside():
            remove_whole(end, files)
        else:
            remove(end, sorted(doomed))
    kept = tuple(sorted(files.keys() - doomed.keys()))
    size = sum(file.size for file in doomed.values())
    names = tuple(sorted(doomed))
    return Report(
        str(end),
        names,
        kept,
        size,
        done="deleted",
        seconds=time.monotonic() - began,
        dry_run=dry_run,
    )


def _missing(source: End, names: list[str]) -> list[str]:
    """Those of some names that the source has not, also where its listings do not show all."""
    for place in source.everywhere():
        if names and not getattr(place.fs, "lists_all", True):
            asked = submit_all(place.has, names, _ASKED_AT_ONCE)
            names = [n for n, answer in zip(names, asked, strict=True) if not answer.result()]
    return names


def _extra(end: End, there: Mapping[str, File], paths: PathFilter, kept: set[str]) -> list[str]:
    """What is there and is not kept, under its name or by another one that leads to it."""
    names = paths.among(there, end)
    real = End(end.fs, end.real())
    same = {step for name in kept for step in _steps_of(real, name)}
    other_letters = {folded(name) for name in respelled(kept, there, end)}
    kept = {*kept, ""}  # an object of the directory's name is not in it
    return sorted(
        name
        for name in names
        if name not in kept and real.path(name) not in same and folded(name) not in other_letters
    )


def _remove_extra(
    source: End,
    target: End,
    extra: list[str],
    there: Mapping[str, File],
    kept: Collection[str],
    dry_run: bool = False,
) -> list[str]:
    """Delete of a target what its source has not, nor is a kept file; say what that was, or is."""
    doomed = _missing(source, extra)
    if doomed and not dry_run:
        refuse_source(source, target, doomed)
    linked = kept_by_links(target, there, doomed, kept, dry_run)
    doomed = [name for name in doomed if name not in linked]
    if doomed and not dry_run:
        remove(target, doomed)
    return doomed


def _steps_of(real: End, name: str) -> Iterator[str]:
    """The paths that the links of a local name lead to, one after the other."""
    path = real.path(name)
    for _ in range(_MOST_LINKS if real.is_local else 0):
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        yield path
    yield real.real(name)


def _transfer(
    act: str,
    source: End,
    target: End,
    *,
    into: bool,
    paths: PathFilter,
    overwrite: Overwrite | None,
    resume: bool,
    dry_run: bool,
    callback: Callback | None,
    verify: bool = True,
    cluster: Any = None,
    delete: bool = False,
) -> tuple[Report, bool]:
    """Move what is to be moved, and say whether the source is a directory."""
    began, started = time.time(), time.monotonic()
    unseen: dict[str, OSError] = {}
    files = source.files(delete, unseen)
    is_directory = "" not in files
    if "" in files and (into or target.may_be_directory()):
        refuse_names([source.name], target, dry_run)
        target = End(target.fs, target.path(source.name))
    if target.lies_in(source):
        raise InvalidURI(f"{source} cannot be copied onto or into itself ({target}).")
    files = paths.among(files, source)
    failures: dict[str, Exception] = {**paths.among(unseen, source)}
    links = refuse_names(list(files), target, dry_run)
    if overwrite is None:
        overwrite = "different" if resume else "always"
    there = {} if overwrite == "always" else target.there(files)
    try:
        refuse_linked(source, target, files, None if overwrite == "always" else there, links)
    except (ConnectionError, TimeoutError, PermissionError) as error:  # each file would meet it
        raise TransferError(
            {name: about(error, target.path(name)) for name in files}, _DONE[act]
        ) from error
    there |= respelled(files, there, target)
    records = Records(source, target)
    if overwrite in ("newer", "different"):
        is_newer = overwrite == "newer"
        asked = {n: file for n, file in files.items() if is_newer or records.has_some(n)}
        files = files | source.timed(unclear(asked, there, overwrite, _LARGE))
        asked = {n: there[n] for n in there if n in files and (is_newer or records.knows(files[n]))}
        there = there | target.timed(unclear(asked, files, overwrite, 0))
    if not verify:
        files = unverified(files)

    def same(one: File, other: File) -> bool:
        # The time of what a store made itself tells nothing of what it was made from, and one that
        # is young is none that was given.
        is_given = are_one(one, other) and target.keeps_times and is_settled(one, began)
        is_known = is_given or records.has(one, other)
        # A listed one first: without it, there is nothing to compare.
        listed = one.checksum if target.is_local else other.checksum
        if listed is None:
            return is_known
        far, near = (target, other) if target.is_local else (source, one)
        try:
            made = far.checksum(near, listed.kind)
        except OSError:
            return False  # it vanished, say, and whoever reads it is told
        if made is None or made == listed:
            return made is not None or is_known
        lister = source if target.is_local else target
        return is_known and not lister.vouches(one.name, listed)

    plan = compare(files, there, overwrite, same)
    place = target.root if target.is_local else str(target)
    skipped = tuple(sorted(file.name for file in plan.skipped))
    cleared: list[str] = []
    emptied: set[str] = set()
    if delete and is_directory and not (failures or target.holds_keys):
        listed: Mapping[str, File] = {} if target.is_local else there
        if target.is_local:
            with contextlib.suppress(OSError):  # told once all was copied
                listed = target.own()
        new = {file.name for file in plan.moves} - there.keys()
        extra = _extra(target, listed, paths, {*files})
        cleared, emptied = _clear_way(source, target, new, extra, listed, skipped, dry_run)
    if dry_run and target.has_directories:
        failures |= _obstructed(target, [file.name for file in plan.moves], {*cleared, *emptied})
    if not dry_run and plan.moves:
        records.forget(file.name for file in plan.moves)
        brought: dict[str, Brought] = {}
        try:
            label = f"{act} {source.name}"
            with Progress(callback, plan.size, len(plan.moves), label) as progress:
                if cluster is None:
                    failures |= move(source, target, plan.moves, progress, resume, brought=brought)
                else:
                    failures |= spread(cluster, source, target, plan.moves, progress, resume)
                    span, keeps = (began, time.time()), target.keeps_times
                    for file in plan.moves:
                        if file.name not in failures:
                            arrived = dated(target, file, file.modified if keeps else None)
                            brought[file.name] = Brought(file, arrived, span)
        finally:
            records.keep(brought)
    if failures:
        raise TransferError(_told_what_stands(target, failures), _DONE[act])
    if not dry_run:
        remove_leftovers(target, files)
    moved = tuple(sorted(file.name for file in plan.moves))
    seconds = time.monotonic() - started
    report = Report(place, moved, skipped, plan.size, tuple(cleared), _DONE[act], seconds, dry_run)
    return report, is_directory


def _clear_way(
    source: End,
    target: End,
    new: set[str],
    extra: list[str],
    there: Mapping[str, File],
    kept: Collection[str],
    dry_run: bool,
) -> tuple[list[str], set[str]]:
    """Delete what of the target stands where something new is to be, and say what that was, or is.

    That is a file where a directory must be, and what is in a directory where a file must be; and
    those of such directories that go.
    """
    needed = {above for name in new for above in parents(name)}
    taken = target.directories(new)
    doomed = [name for name in extra if name in needed or taken & {*parents(name)}]
    doomed = _remove_extra(source, target, doomed, there, kept, dry_run)
    if dry_run:
        staying = {above for name in there.keys() - {*doomed} for above in parents(name)}
        linked = {above for link in target.links for above in parents(link)}
        return doomed, {n for n in taken - staying - linked if not _has_links(target, n)}
    for name in taken:
        remove_empty(target, name)
    return doomed, taken


def _has_links(end: End, folder: str) -> bool:
    """Whether there are links to directories in a local one, which therefore stays."""
    return end.is_local and any(
        os.path.islink(os.path.join(above, each))
        for above, folders, _ in os.walk(end.path(folder))
        for each in folders
    )


def _obstructed(target: End, names: list[str], cleared: Collection[str]) -> dict[str, Exception]:
    """What each of some files would meet that is to be where a directory is, or in a file."""
    kinds = {n: kind for n, kind in _kinds(target, names).items() if n not in cleared}
    failures: dict[str, Exception] = {}
    for name in names:
        path = target.path(name)
        if kinds.get(name) == "directory":
            failures[name] = IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        elif any(kinds.get(each) == "file" for each in [*parents(name), ""] if each != name):
            failures[name] = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return failures


def _kinds(end: End, names: Collection[str]) -> dict[str, str]:
    """What is at some names, and above them: a file or a directory, or what a link leads to."""
    above = {"", *(folder for name in names for folder in parents(name))}
    known = {end.path(name): name for name in {*names, *above}}
    found: dict[str, str] = {}
    level = [""]
    while level:
        paths = [end.path(folder) for folder in level]
        asked = submit_all(lambda path: end.fs.ls(path, detail=True), paths, _ASKED_AT_ONCE)
        level = []
        for answer in asked:
            # There is nothing, or a file above all of them, or who writes may not look.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                for each in answer.result():
                    name = known.get(each["name"].rstrip("/"))
                    if name is not None:
                        found[name] = each["type"]
                        if each["type"] == "directory" and name and name in above:
                            level.append(name)
    return found


def _told_what_stands(target: End, failures: Mapping[str, Exception]) -> dict[str, Exception]:
    """Failures, of which those for lack of a directory name the file that is in its place."""

    @functools.cache
    def is_file(folder: str) -> bool:
        with contextlib.suppress(OSError):
            return bool(target.fs.isfile(target.path(folder)))
        return False

    told = dict(failures)
    for name, error in failures.items():
        if isinstance(error, NotADirectoryError):
            file = next(filter(is_file, [*parents(name), ""]), None)
            if file is not None:
                standing = file or target.name
                reason = f"a file is there, where a directory must be: {standing!r}"
                told[name] = NotADirectoryError(errno.ENOTDIR, reason, target.path(file))
                told[name].__cause__ = error
    return told


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95:
            return f"{size:.{0 if unit == 'B' else 1}f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s"


def _source(place: Place, options: Mapping[str, Any]) -> End:
    end = _end(place, options)
    return End(end.fs, end.root, inside_alone=means_inside(place))


def _end(place: Place, options: Mapping[str, Any]) -> End:
    end = End(*url_to_fs(place, **options))
    refuse_empty_step(place, end)
    return end
