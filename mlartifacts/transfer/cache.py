"""Artifacts that are read again and again, kept on this machine's disk.

fsspec's ``filecache`` is not underneath: it asks a store for a file's state only if it is told to,
writes its index without a lock, gives one path to every version of a file, and knows neither
directories nor a bound.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlartifacts.access import filesystem, url_to_fs
from mlartifacts.checksums import MD5
from mlartifacts.environment import Environment
from mlartifacts.errors import (
    InvalidConfig,
    InvalidURI,
    MissingDriver,
    TransferError,
    queries_hidden,
)
from mlartifacts.filesystems.delegating import DelegatingFileSystem
from mlartifacts.promises import ArtifactFileSystem
from mlartifacts.tracking.logical import split_model
from mlartifacts.transfer.engine import Engine
from mlartifacts.transfer.landing import lacks_room
from mlartifacts.transfer.names import refuse_names
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.state import DIRECTORY, cache_directory, hash_of, key_of
from mlartifacts.transfer.times import is_settled
from mlartifacts.transfer.trees import End, File, means_inside, refuse_empty_step, unverified
from mlartifacts.transfer.verify import verify
from mlartifacts.uri import shown

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

    from mlartifacts.transfer.snapshots import Snapshots

__all__ = ["cached"]

_SIZE = "MLARTIFACTS_CACHE_SIZE"
_DEFAULT_SIZE = 10 * 2**30
#: Another layout of the directory has another name.
_LAYOUT = "cached-1"

_TRIES = 3
# How far clocks may be apart, in seconds.
_MARGIN = 1.0


@queries_hidden()
def cached(
    uri: str | os.PathLike[str],
    *,
    verify: bool = True,
    callback: Callback | None = None,
    **options: Any,
) -> Path:
    """Give a local copy of an artifact, or of a directory of artifacts, fetched when it changed.

    The store is asked each time what is there: by one look at a file, one listing of a
    directory. A version that was fetched before, by any process of this user, is given as it
    is; another one is fetched, once for all processes that ask for it, to a path of its own.
    So what is at a path that was given never changes. What an alias of a model means is asked
    each time, too.

    A version is told by what the store lists: the ETag or the generation (S3, Azure, Google;
    web servers, where it is no weak one), of a local file its inode and times, else size and time
    of the last change (SFTP, FTP, HDFS, other web servers). Times are no proof while they are
    young: a file is fetched again until it is older than its store's clock can tell apart (a second
    or two, mostly), and a clock that is further behind ours could hide a change within that span to
    content of the same size. Where times are whole seconds, a file that is renamed over one of its
    size and second is not seen. ``mlflow-artifacts:``, and a web server that tells no times, list
    sizes alone: what is there is fetched *each time*, and only the path stays the same for the same
    content.

    The cache is the directory ``MLARTIFACTS_CACHE_DIR``, else the user's own for caches, and
    can be deleted whenever no process uses it. It is kept below ``MLARTIFACTS_CACHE_SIZE``
    bytes (10 GiB): the least recently used snapshots go first, but none that a living process
    was given, even if the bound is exceeded by them. So do those that a full disk has no room
    beside. A process that goes on with a path of its parent's, after that has ended, must ask for
    it itself. What is in a cache that is read-only, as in the image of a container, is given, and
    nothing is written there: nobody else may write to it, either, while it is used.

    Parameters
    ----------
    uri : str or path-like
        An artifact URI; no chain.
    verify : bool, default True
    callback : fsspec.callbacks.Callback, optional
        As for :func:`mlartifacts.download`.
    **options
        The driver's.

    Returns
    -------
    pathlib.Path
        Of a file, or a directory, by its own name. The files are read-only; one that is changed
        all the same is noticed by its size or time, and fetched again.

    Raises
    ------
    FileNotFoundError
        There is nothing.
    NotADirectoryError
        `uri` ends with a slash, and there is a file.
    InvalidURI
        This machine's disk cannot hold a name, or a link leads out of a local directory.
    InvalidConfig
        A variable cannot be used, or the cache lies in what is to be cached.
    MissingDriver
        The extra ``cache``, or the store's driver, is not installed.
    TransferError
        Some files could not be fetched, each with its cause.
    OSError
        It changes again and again while it is fetched; or the store, or the disk, fails; or the
        cache is read-only, and has not what is there.
    PermissionError
        The store refuses, whatever is in the cache; or the cache is another user's.
    """
    source, explaining = _source(uri, options)
    snapshots = _snapshots(source)
    with explaining:
        return _cached(snapshots, source, verify, callback)


def _cached(snapshots: Snapshots, source: End, verify: bool, callback: Callback | None) -> Path:
    while True:
        state = _State.of(source)
        try:
            return _given(snapshots, source, state, verify, callback)
        except OSError as error:
            if not _is_full(error) or not snapshots.make_room(0, max(state.size, 1)):
                raise


def _is_full(error: OSError) -> bool:
    """Whether the cache's disk has no room for something."""
    if isinstance(error, TransferError):
        return any(map(lacks_room, error.failures.values()))
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def _given(
    snapshots: Snapshots, source: End, state: _State, verify: bool, callback: Callback | None
) -> Path:
    key, name = key_of(source), source.name or "artifacts"
    if path := state.known(snapshots, key):
        return path
    with snapshots.fetching(key) as waited:
        for attempt in range(_TRIES):
            if waited or attempt:
                state = _State.of(source)
            if path := state.known(snapshots, key):
                return path
            snapshots.make_room(state.size)
            with snapshots.part(key, name) as part:
                try:
                    files = state.files if verify else unverified(state.files)
                    content = _fetch(source, files, part, callback)
                except TransferError as error:
                    is_silent = any(isinstance(e, TimeoutError) for e in error.failures.values())
                    if is_silent or _State.of(source).mark == state.mark:
                        raise
                    continue
                if _State.of(source).mark != state.mark:
                    continue  # what came may be of one version, or of two
                return snapshots.land(part, key, state.mark if state.is_version else content)
    raise OSError(errno.ESTALE, "it changes while it is fetched", str(source))


# ---- Where -------------------------------------------------------------------------------


def _snapshots(source: End) -> Snapshots:
    environment = Environment()
    size = environment.integer(_SIZE)
    if size is not None and size < 0:
        raise InvalidConfig(f"{_SIZE}={size}: it takes a number of bytes, not below 0.")
    try:
        from mlartifacts.transfer.snapshots import Snapshots
    except ModuleNotFoundError as error:
        raise MissingDriver("cache", "filelock") from error
    root = os.path.join(cache_directory(environment), _LAYOUT)
    place = source.where("") or (source.fs, source.root)
    if End(filesystem("file"), root).lies_in(End(*place)):
        raise InvalidConfig(
            f"The cache lies in what is to be cached ({source}), which changes by that: set"
            f" {DIRECTORY} to a directory outside of it."
        )
    return Snapshots(root, _DEFAULT_SIZE if size is None else size)


def _source(
    uri: str | os.PathLike[str], options: Mapping[str, Any]
) -> tuple[End, AbstractContextManager[None]]:
    """Where an artifact lies, and what says errors about it in the terms of its URI."""
    fs, path = url_to_fs(uri, **options)
    inside_alone = means_inside(uri)
    if not isinstance(fs, ArtifactFileSystem):
        raise InvalidURI(f"{shown(os.fspath(uri))!r} is a chain, and cannot be cached.")
    if isinstance(fs, DelegatingFileSystem) and "models" in fs.protocol:
        # A version is what it is by its place.
        fs.resolver.forget(split_model(path)[0])
        place = fs.places(path)[0]
        return End(place.fs, place.path, inside_alone), place.explaining()
    end = End(fs, path, inside_alone)
    refuse_empty_step(uri, end)
    return end, contextlib.nullcontext()


# ---- What --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _State:
    """What a store lists.

    Attributes
    ----------
    files : mapping of str to File
    mark : str
        A hash of all that is listed of them.
    is_version : bool
        Whether other content would have another mark.
    """

    files: Mapping[str, File]
    mark: str
    is_version: bool

    @classmethod
    def of(cls, source: End) -> _State:
        """Ask a store."""
        # A share that is mounted has a clock of its own, too.
        now = time.time() - (_MARGIN if source.is_local else 0)
        files = source.files()
        marks, is_version = [], True
        for name, file in sorted(files.items()):
            version = file.version
            marks.append([name, file.size, version or file.state or file.modified])
            if source.is_local:
                status = os.stat(source.path(name))
                file = dataclasses.replace(file, modified=max(status.st_mtime, status.st_ctime))
            is_version &= version is not None or is_settled(file, now)
        return cls(files, hash_of(marks), is_version)

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files.values())

    def known(self, snapshots: Snapshots, key: str) -> Path | None:
        """The snapshot of this version, if there is one."""
        return snapshots.take(key, self.mark) if self.is_version else None


def _fetch(source: End, files: Mapping[str, File], part: str, callback: Callback | None) -> str:
    """Fetch files, and give a hash of what came."""
    local = filesystem("file")
    folder, _, name = local._strip_protocol(part).rpartition("/")
    refuse_names([name], End(local, folder))
    target = End(local, f"{folder}/{name}")
    refuse_names(list(files), target)
    if "" not in files:
        os.mkdir(part)
    size = sum(file.size for file in files.values())
    with Progress(callback, size, len(files), f"download {source.name}") as progress:
        engine = Engine(source, target, progress, resume=False, hashed=True)
        moved, failures = engine.run({file.name: file for file in files.values()})
    failures |= verify(target, [(each.file.name, each) for each in moved])
    if failures:
        raise TransferError(failures, "downloaded")
    return hash_of(sorted([m.file.name, m.file.size, m.passed[MD5].digest.hex()] for m in moved))
