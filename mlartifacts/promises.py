"""The promises that hold on every store, where the drivers keep them differently or not.

A store's filesystem is its driver's own class with one of these in front:
:class:`SyncArtifactFileSystem` or :class:`AsyncArtifactFileSystem`. They add

- settings: the caller's options over the URI's over the environment's, read when a
  filesystem is made, never pickled (see :class:`ArtifactFileSystem`);
- errors: the builtins, with ``filename`` set and the driver's error as the cause;
- names: a path that exists is that file, whatever characters are in it;
- writes: whole or not at all (:mod:`mlartifacts.writing`);
- reads: no short answer passes for a whole one (:mod:`mlartifacts.reading`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import functools
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from glob import has_magic
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import quote

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.local import LocalFileSystem, make_path_posix, trailing_sep
from fsspec.utils import glob_translate, isfilelike, other_paths, stringify_path

from mlartifacts import reading  # noqa: F401  (registers its cache with fsspec)
from mlartifacts.carrying import Carrier
from mlartifacts.checksums import Checksum
from mlartifacts.environment import Environment, values
from mlartifacts.errors import ArtifactError, InvalidURI
from mlartifacts.reading import checked
from mlartifacts.secrets import fingerprint
from mlartifacts.store import Store, merge
from mlartifacts.uri import ALIAS, ArtifactURI, parse, redact
from mlartifacts.writing import WholeText, WholeWrite, landing

if TYPE_CHECKING:
    from mlartifacts.signing import Signer

__all__ = [
    "TOO_LARGE",
    "ArtifactFileSystem",
    "AsyncArtifactFileSystem",
    "SyncArtifactFileSystem",
    "abandoned",
    "begun",
    "mirrored",
    "stoppable",
    "synced",
    "texts",
    "unfit_key",
    "unfit_text",
    "unless_missing",
]

T = TypeVar("T")

#: What 413 means: errno.EFBIG, as another try is of no use.
TOO_LARGE = (
    "the server, or a proxy before it, takes no body of this size (413); the limit is one of its"
    " settings (for nginx, client_max_body_size)"
)

# The operations that talk to a store. Everything else in fsspec is made of these.
_OPERATIONS = (
    "info ls find cat_file pipe_file put_file get_file rm_file rm rmdir cp_file mv mv_file mkdir"
    " makedirs touch created modified expand_path"
).split()

# What is mirrored as a plain method even where the driver has one.
_MIRRORED = frozenset({*_OPERATIONS, "exists", "isdir", "isfile"})

# S3, Azure and Google's store agree on it, but for what they count.
_LONGEST_KEY = 1024

# Directories in directories.
_DEEPEST = 200

_TEXT = ("encoding", "errors", "newline")

# How long Ctrl-C waits for what is to be tidied up: the parts of an upload, say.
_STOP_SECONDS = 1.0

_ERRNO_OF: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    TimeoutError: errno.ETIMEDOUT,
    ConnectionRefusedError: errno.ECONNREFUSED,
    ConnectionResetError: errno.ECONNRESET,
    ConnectionAbortedError: errno.ECONNABORTED,
    BrokenPipeError: errno.EPIPE,
    ConnectionError: errno.ECONNABORTED,
}


def _about(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The path that an operation is about: what it is given first, or for an upload second."""
    given = (*args, *kwargs.values())
    at = 1 if name.endswith("put_file") and len(given) > 1 else 0
    path = given[at] if given else ""
    return path[0] if isinstance(path, list) and len(path) == 1 else path


def _explained(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operation raise what :meth:`ArtifactFileSystem._explain` says."""
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call(self: ArtifactFileSystem, *args: Any, **kwargs: Any) -> Any:
            with _partaking(), self._explaining(_about(method.__name__, args, kwargs)):
                return await method(self, *args, **kwargs)

    else:

        @functools.wraps(method)
        def call(self: ArtifactFileSystem, *args: Any, **kwargs: Any) -> Any:
            with self._explaining(_about(method.__name__, args, kwargs)):
                return method(self, *args, **kwargs)

    call._explains = True  # type: ignore[attr-defined]
    return call


class _Run:
    """What one call of :func:`synced` has on its way, so that all of it can be stopped."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.state = "waiting"

    async def stop(self) -> None:
        """Cancel everything, and wait a while for what it does at its end."""
        self.state = "stopped"
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)

    def stop_on(self, loop: Any) -> Callable[[], None]:
        """Do it on the loop that it runs on, from another thread, unless it has ended.

        What is given waits for it.
        """
        if self.state != "begun":
            return lambda: None
        stopping = asyncio.run_coroutine_threadsafe(self.stop(), loop)

        def wait() -> None:
            with contextlib.suppress(TimeoutError):
                stopping.result(2 * _STOP_SECONDS)

        return wait


_run: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("_run", default=None)


class _Calls:
    """What one thread is at and another may stop: runs, with their loops, and writes."""

    def __init__(self) -> None:
        self.runs: dict[_Run, Any] = {}
        self.abandons: list[Callable[[], None]] = []
        self.are_stopped = False

    def check(self) -> None:
        if self.are_stopped:
            raise asyncio.CancelledError

    def stop(self) -> None:
        self.are_stopped = True
        waits = [run.stop_on(loop) for run, loop in list(self.runs.items())]
        for end in (*self.abandons, *waits):
            with contextlib.suppress(Exception):  # each in its turn
                end()


_stoppable: contextvars.ContextVar[_Calls | None]
_stoppable = contextvars.ContextVar("_stoppable", default=None)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Give what stops the writes and the calls of :func:`synced` inside, as Ctrl-C does.

    None begins any more, but for what tidies up (:func:`mlartifacts.writing.surely`), and the block
    ends by a ``CancelledError``, as what it did may not be there.
    """
    calls = _Calls()
    token = _stoppable.set(calls)
    try:
        yield calls.stop
        calls.check()
    finally:
        _stoppable.reset(token)


def abandoned(abandon: Callable[[], None]) -> None:
    """Have a write be abandoned where the thread that is at it is stopped (:func:`stoppable`)."""
    if (calls := _stoppable.get()) is not None:
        calls.abandons.append(abandon)
        if calls.are_stopped:
            abandon()
            raise asyncio.CancelledError


@contextlib.contextmanager
def _partaking() -> Iterator[None]:
    """Count the current task to those of the run, whose context it inherited.

    fsspec transfers many files by tasks that outlive the one that made them.
    """
    run, task = _run.get(), asyncio.current_task()
    if run is None or task is None or task in run.tasks:
        yield
        return
    if run.state == "stopped":
        raise asyncio.CancelledError
    run.tasks.add(task)
    try:
        yield
    finally:
        run.tasks.discard(task)


def synced(
    loop: Any,
    method: Callable[..., Any],
    *args: Any,
    timeout: float | None = None,
    **kwargs: Any,
) -> Any:
    """Run a coroutine to its end, as fsspec's ``sync``, with the coroutine's own timeouts.

    fsspec puts one of its own, without a file's name, in the place of every ``TimeoutError``;
    and it leaves the coroutine running where Ctrl-C ends the waiting, so that a write that was
    interrupted is published afterwards. Here the coroutine is cancelled.
    """
    run = _Run()
    if (calls := _stoppable.get()) is not None:
        calls.runs[run] = loop

    async def whole() -> Any:
        _run.set(run)
        with _partaking():
            try:
                return await method(*args, **kwargs)
            finally:
                if run.state != "stopped":
                    run.state = "ended"

    def begin() -> Any:
        run.state = "begun"
        if calls is not None:
            calls.check()
        return whole()

    try:
        result = sync(loop, begin, timeout=timeout)
    except FSTimeoutError as error:
        cause = error.__cause__
        if isinstance(cause, TimeoutError) and cause.filename is not None:
            raise cause from cause.__cause__
        raise
    except BaseException:
        run.stop_on(loop)()  # where it is the waiting that ended
        raise
    finally:
        if calls is not None:
            del calls.runs[run]
    if run.state == "stopped":  # which fsspec takes for a result
        raise asyncio.CancelledError
    return result


async def begun(beginning: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[object]]) -> T:
    """Begin something on a server, and undo it where that is cancelled.

    Only the server's answer says what to undo, so that it is waited for even then.
    """
    task = asyncio.ensure_future(beginning)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # the cancellation is what counts
            await undo(await task)
        raise


def mirrored(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a plain method of a coroutine, as fsspec does, for what has a loop."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return synced(self.loop, method, self, *args, **kwargs)

    return call


def _moving(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a move onto itself do nothing, and one into itself an error.

    fsspec's, and most drivers', copy and then delete: both would leave nothing.
    """
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call(self: Any, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
            path1, path2, kept, inside = _moved(self, path1, path2)
            for path in inside:
                with self._explaining(path):
                    await self._info(path)
                    if _recursive(args, kwargs) or await self._isdir(path):
                        raise _into_itself(path)
            for path in kept:
                await self._info(path)
            return await method(self, path1, path2, *args, **kwargs) if path1 else None

    else:

        @functools.wraps(method)
        def call(self: Any, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
            path1, path2, kept, inside = _moved(self, path1, path2)
            for path in inside:
                self.info(path)
                if _recursive(args, kwargs) or self.isdir(path):
                    raise _into_itself(path)
            for path in kept:
                self.info(path)
            if isinstance(path1, list) and isinstance(self, SyncArtifactFileSystem):
                for source, target in zip(path1, path2, strict=True):
                    method(self, source, target, *args, **kwargs)
                return None
            return method(self, path1, path2, *args, **kwargs) if path1 else None

    call._moves = True  # type: ignore[attr-defined]
    return call


def _opening(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have ``_open``, which other filesystems of fsspec's call, keep what ``open`` promises.

    What opens a driver's file for writing is beneath it (``__wrapped__``).
    """

    @functools.wraps(method)
    def call(self: Any, path: Any, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        path = self._strip_protocol(path)
        if mode != "rb":
            return self.open(path, mode, *args, **kwargs)
        explaining = functools.partial(self._explaining, path)
        with explaining():
            file = method(self, path, mode, *args, **kwargs)
        cache: Any = getattr(file, "cache", None)
        if getattr(cache, "fetcher", None) is not None:
            cache.fetcher = checked(cache.fetcher, path, file.size, explaining)
        return file

    call._opens = True  # type: ignore[attr-defined]
    return call


def _moved(fs: Any, path1: Any, path2: Any) -> tuple[Any, Any, list[str], list[str]]:
    """What is to be moved, what would stay where it is, and what would go into itself."""
    single = isinstance(path1, str | os.PathLike)
    sources = [stringify_path(path1)] if single else [stringify_path(each) for each in path1]
    into = isinstance(path2, str | os.PathLike)
    targets = [stringify_path(path2)] * len(sources) if into else list(path2)
    moved, kept, inside = [], [], []
    for source, target in zip(sources, targets, strict=True):
        here, there = fs._strip_protocol(source), fs._strip_protocol(target)
        above = here.rpartition("/")[0]
        if here == there or (into and above == there):
            kept.append(here)
        elif into and has_magic(above) and re.fullmatch(glob_translate(above), there):
            raise OSError(errno.EINVAL, "some of these files are there already", here)
        else:
            if there.startswith(f"{here}/"):
                inside.append(here)
            moved.append((source, target))
    # A pattern that leaves its files where they are names none to look for.
    kept = [path for path in kept if not has_magic(path)]
    if single:
        return (sources[0], targets[0], kept, inside) if moved else (None, None, kept, inside)
    first = [source for source, _ in moved]
    # A driver takes a list and a directory, or two lists.
    second = [target for _, target in moved]
    if into and isinstance(fs, SyncArtifactFileSystem):
        second = [f"{each.rstrip('/')}/{own.rpartition('/')[2]}" for own, each in moved]
    elif into:
        return first, path2, kept, inside
    return first, second, kept, inside


def _recursive(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args[0] if args else kwargs.get("recursive", False))


def _into_itself(path: str) -> OSError:
    return OSError(errno.EINVAL, "a directory cannot move into itself", path)


class _EnvironmentToken:
    """A class attribute whose value changes with the variables that the store reads.

    fsspec keys its cache of instances by it, so that a variable changed in a notebook takes
    effect at the next open.
    """

    def __get__(self, instance: object, owner: type[ArtifactFileSystem]) -> str:
        return _fingerprint(values(owner.store.variables))


@functools.lru_cache(maxsize=32)
def _fingerprint(values: tuple[object, ...]) -> str:
    return fingerprint(repr(values).encode())


class ArtifactFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """A driver's filesystem under this package's promises; mixed in before the driver.

    ``storage_options``, and so pickles, ``to_json()`` and reprs, hold what the caller gave
    and the URI without its password, nothing else: a copy in another process reads its own
    environment.

    Parameters
    ----------
    uri : str, optional
        The root of the URI that was opened (``sftp://user@host``), where it names a server.
    **explicit
        The driver's options; they win over `uri` and the environment.
    """

    store: ClassVar[Store]
    #: Whether the store makes an MD5 of what it takes, and lists it.
    lists_md5: ClassVar[bool] = False
    #: Whether a write is told its size where that is known (``open(..., size=)``).
    told_size: ClassVar[bool] = False
    #: Whether listings show all there is; else a name that is not listed is asked for by itself.
    lists_all: ClassVar[bool] = True
    #: Whether one listing has all below a directory, in answers of a thousand files or more.
    lists_flat: ClassVar[bool] = False
    #: How many files a transfer moves at once. Few drivers gain from more.
    files_at_once: ClassVar[int] = 16
    #: How many small files of those a thread reads together, by the driver's event loop; 0: none.
    files_together: ClassVar[int] = 0
    #: Whether who logs in may be shown a root of their own: then a path may be two places.
    roots_by_login: ClassVar[bool] = False
    _extra_tokenize_attributes = ("_environment",)
    _environment = _EnvironmentToken()

    def __init__(self, *args: Any, uri: str | None = None, **explicit: Any) -> None:
        if self._cached:
            return
        self.root_uri = ArtifactURI(self.store.schemes[0]) if uri is None else parse(uri)
        derived = self.store.options(self.root_uri, Environment())
        super().__init__(*args, **self._driver_options(merge(derived, explicit)))

    def _driver_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """What the driver is made with, where that takes more than the options themselves."""
        return options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "store" in vars(cls):
            names = [scheme for scheme in cls.store.schemes if scheme]
            # DuckDB knows a registered filesystem's URLs by these names.
            cls.protocol = (*names, *(ALIAS + name for name in names))
        for name in _OPERATIONS:
            for spelling in (name, f"_{name}"):
                method = getattr(cls, spelling, None)
                # fsspec's own defaults are made of other operations, and it mirrors the
                # asynchronous ones only where it finds them untouched.
                default = getattr(AsyncFileSystem, spelling, None)
                if method not in (None, default) and not hasattr(method, "_explains"):
                    setattr(cls, spelling, _explained(method))
        if "store" in vars(cls):
            for name in ("mv", "mv_file", "_mv", "_mv_file"):
                method = getattr(cls, name, None)
                if method is not None and not hasattr(method, "_moves"):
                    setattr(cls, name, _moving(method))
            if not hasattr(cls._open, "_opens"):
                cls._open = _opening(cls._open)

    # ---- URIs ----------------------------------------------------------------------------

    @classmethod
    def _get_kwargs_from_urls(cls, path: str) -> dict[str, Any]:
        """The root alone: fsspec refuses options of a URL that differ from the caller's."""
        root = cls.store.root(parse(path)) if _has_scheme(cls, path) else None
        return {} if root is None else {"uri": root.with_handle()}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = stringify_path(path)
        if _has_scheme(cls, path):
            path = cls.store.path(parse(path))
        return cls._clean(path)

    @classmethod
    def _clean(cls, path: str) -> str:
        """A path as this filesystem's methods take it."""
        return path.rstrip("/") or cls.root_marker

    def unstrip_protocol(self, name: str) -> str:
        """The ``scheme://`` URL of a path; it never holds a password."""
        if _has_scheme(type(self), name):
            return name
        root = self.root_uri
        user = f"{quote(root.username, safe='')}@" if root.username is not None else ""
        path = self._strip_protocol(name)
        if root.netloc:
            return f"{root.scheme}://{user}{root.netloc}/{path.lstrip('/')}"
        return f"{root.scheme}://{path}"

    def unfit(self, path: str) -> str | None:
        """Why the store cannot hold a name; ``None`` where it can, as far as is known."""
        return None

    def has_directories(self, path: str) -> bool:
        """Whether no file in a directory may have the name of a directory in it."""
        return False

    def is_written(self, path: str) -> bool:
        """Whether somebody may be writing to a file though its time is old."""
        return False

    def where(self, path: str, writing: bool = False) -> tuple[Any, str] | None:
        """The filesystem and the path where a file lies, or is written; ``None``: look for it."""
        return self, path

    def everywhere(self, path: str) -> list[tuple[Any, str]]:
        """The filesystems and paths where a path, or what is below it, may lie."""
        return [(self, path)]

    def servers(self) -> frozenset[str]:
        """Who holds the files, by all names, each in one spelling; empty where nobody can say.

        Filesystems of a store that share a name have the same files under the same paths.
        """
        return frozenset()

    def ranged(self, path: str) -> bool:
        """Whether a part of a file that is not empty comes without the rest of it."""
        return True

    def carrier(self, path: str) -> Carrier | None:
        """What moves many files in a directory faster than this; ``None`` where nothing does."""
        return None

    def signer(self) -> Signer | None:
        """What lets others read and write files; ``None`` where nothing does."""
        return None

    def entries(self, path: str) -> dict[str, dict[str, Any]] | None:
        """The entry of a file, or those of all files below a directory, by path.

        ``None`` where that takes as many requests as :meth:`info` and :meth:`find`.
        """
        return None

    def find_surely(self, path: str) -> dict[str, dict[str, Any]]:
        """The entries of all files below a directory, by path, so that a missing one is not there.

        Raises
        ------
        OSError
            The server may not have said all.
        """
        found: dict[str, dict[str, Any]] = self.find(path, detail=True)
        return found

    def chunks(self, path: str) -> tuple[int | None, int | None]:
        """Bytes of each read and of each write of a large file, at most; ``None``: any."""
        return None, None

    def keeps_times(self, path: str) -> bool:
        """Whether :meth:`set_modified` works for what is at a path, or below it."""
        return False

    def set_modified(self, path: str, seconds: int) -> None:
        """Say when a file was last changed, in seconds since the epoch.

        Raises
        ------
        NotImplementedError
            The store keeps no such time.
        """
        raise NotImplementedError(f"{self.store.schemes[0]}: keeps no time that is given to it.")

    def ranges(self, path: str, size: int, modified: float | None) -> Callable[[int, int], bytes]:
        """What gives ranges of one version of a file, to several threads.

        Parameters
        ----------
        path : str
        size : int
            How many bytes it has.
        modified : float or None
            When that version was last changed, where it is known.
        """
        return functools.partial(self.cat_file, path)

    def in_order(self, path: str) -> Any:
        """A file that is read from one end to the other, of one version; it can skip bytes."""
        return self.open(path)

    def cp_listed(self, path1: str, path2: str, size: int, version: str | None) -> None:
        """Copy a file as it was listed; by then it may be another where no version is known.

        Raises
        ------
        OSError
            ``ESTALE``: the file is of another version.
        """
        self.cp_file(path1, path2)

    def removed_together(self, path: str) -> int:
        """How many files below a path :meth:`rm_listed` deletes quicker than one by one."""
        return 1

    def rm_listed(self, paths: list[str]) -> list[str]:
        """Delete files of a listing, of which none is looked at before.

        Returns
        -------
        list of str
            Those that may still be there; whoever deletes such a one by itself is told why.

        Raises
        ------
        OSError
            All of them may still be there; or the only one was not deleted.
        """
        for path in paths:
            self.rm_file(path)
        return []

    def vouches(self, path: str, checksum: Checksum) -> bool:
        """Whether what is listed as a file's checksum is one."""
        return checksum.certain

    def checks_uploads(self, path: str) -> bool:
        """Whether the store is sent a checksum of all it gets, and refuses what has another one."""
        return False

    def copies_within(self, path: str) -> bool:
        """Whether :meth:`cp_file` has the store copy; elsewhere the bytes pass here."""
        return True

    # ---- Errors --------------------------------------------------------------------------

    def _translate(self, error: Exception, path: str) -> Exception | None:
        """The error to raise for one of the driver's own; ``None`` where it has none."""
        return None

    def _explain(self, error: Exception, path: Any) -> Exception:
        """The builtin that says what `error` means for `path`."""
        name = path if isinstance(path, str) else str(path)
        if isinstance(error, FSTimeoutError) and isinstance(error.__cause__, TimeoutError):
            error = error.__cause__  # fsspec's own, in its place, has no words
        if isinstance(error, ArtifactError):
            return error
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            return error
        translated = self._translate(error, name)
        if translated is not None:
            return translated
        if isinstance(error, OSError | asyncio.TimeoutError):
            kinds = (number for kind, number in _ERRNO_OF.items() if isinstance(error, kind))
            number = next(kinds, None) or getattr(error, "errno", None) or errno.EIO
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if reason in {"", name}:  # as s3fs says what is not there
                reason = os.strerror(number)
            return OSError(number, redact(reason), name)
        return error

    @contextlib.contextmanager
    def _explaining(self, path: Any) -> Iterator[None]:
        """Raise what :meth:`_explain` says of the errors inside."""
        try:
            yield
        except Exception as error:
            explained = self._explain(error, path)
            if explained is error:
                raise
            raise explained from error

    # ---- Reads and writes ----------------------------------------------------------------

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        explaining = functools.partial(self._explaining, path)
        if "+" in mode:
            raise ValueError(
                f"Artifacts open as r, w, x and a, not {mode!r}: none change in place."
            )
        if "r" in mode:
            with explaining():
                return super().open(path, mode, block_size, cache_options, compression, **kwargs)
        text = {name: kwargs.pop(name) for name in _TEXT if name in kwargs}
        if not self.told_size:
            kwargs.pop("size", None)
        kwargs.setdefault("autocommit", not self._intrans)
        with explaining():
            writer = self._open_whole(
                path,
                mode.replace("t", "").replace("b", "") + "b",
                block_size=block_size,
                cache_options=cache_options,
                **kwargs,
            )
        abandoned(writer.abandon)
        if not kwargs["autocommit"]:
            self.transaction.files.append(writer)
        if compression is not None:
            packer = compr[get_compression(path, compression)](writer, mode=mode[0])
            writer = WholeWrite(packer, _both(packer, writer), writer.abandon, explaining)
        return writer if "b" in mode else WholeText(writer, **text)

    def _open_whole(self, path: str, mode: str, **kwargs: Any) -> WholeWrite:
        """Open a file for writing; a store whose driver writes in place overrides this."""
        file = self._drivers_own(path, mode, **kwargs)
        abandon = functools.partial(self._abandon, file)
        return WholeWrite(file, file.close, abandon, functools.partial(self._explaining, path))

    def _drivers_own(self, path: str, mode: str, **kwargs: Any) -> Any:
        """A file of the driver's, for writing."""
        opening: Any = type(self)._open
        return opening.__wrapped__(self, path, mode=mode, **kwargs)

    def _abandon(self, file: Any) -> None:
        """End a driver's buffered write without publishing it."""
        started = file.offset is not None
        file.closed = True  # first of all: the driver's finalizer commits what is not closed
        if started:
            file.discard()


class SyncArtifactFileSystem(ArtifactFileSystem):
    """The promises on a driver that is synchronous."""

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether there is something at `path`; a store that cannot tell raises."""
        try:
            self.info(path, **kwargs)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def isdir(self, path: str) -> bool:
        """Whether `path` is a directory; a store that cannot tell raises."""
        return self._kind(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Whether `path` is a file; a store that cannot tell raises."""
        return self._kind(path) == "file"

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = None,
        detail: bool = False,
        **kwargs: Any,
    ) -> Iterator[Any]:
        # As the asynchronous one.
        path = self._strip_protocol(path)
        one = super().walk(path, 1, on_error=on_error or unless_missing, detail=True, **kwargs)
        for _, dirs, files in one:
            shown = (dirs, files) if detail else (list(dirs), list(files))
            if topdown:
                yield path, *shown
            for below in _below(path, dirs, shown[0], maxdepth):
                depth = None if maxdepth is None else maxdepth - 1
                yield from self.walk(below, depth, topdown, on_error, detail, **kwargs)
            if not topdown:
                yield path, *shown

    def _kind(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        if isfilelike(lpath) or os.path.isdir(lpath) or self.isdir(rpath):
            super().get_file(rpath, lpath, callback=callback, **kwargs)
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        with landing(lpath) as temporary:
            super().get_file(rpath, temporary, callback=callback, **kwargs)

    def expand_path(
        self,
        path: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        assume_literal: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        expand = functools.partial(
            super().expand_path, recursive=recursive, maxdepth=maxdepth, **kwargs
        )
        paths = self._strip_protocol([path] if isinstance(path, str | os.PathLike) else list(path))
        literal = [p for p in paths if assume_literal or (has_magic(p) and self.exists(p))]
        if not literal:
            return expand(path)  # type: ignore[no-any-return]
        patterns = [p for p in paths if p not in literal]
        found = set(expand(literal, assume_literal=True))
        return sorted(found | set(expand(patterns)) if patterns else found)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        self._refuse_existing(path, mode)
        kwargs.setdefault("size", memoryview(value).nbytes)
        super().pipe_file(path, value, mode=mode, **kwargs)

    def put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        self._refuse_existing(rpath, mode)
        super().put_file(lpath, rpath, callback=callback, mode=mode, **kwargs)

    def _refuse_existing(self, path: str, mode: str) -> None:
        if mode == "create" and self.exists(path):
            path = self._strip_protocol(path)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete what `path` names: a pattern is never expanded."""
        path = texts(path)
        for each in path:
            if has_magic(each) and not self.exists(each):
                raise _missing(each)
        super().rm(path, recursive=recursive, maxdepth=maxdepth)

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **kwargs: Any,
    ) -> None:
        if _is_pattern(path1) and self.exists(path1):
            found = self.expand_path([path1], recursive, maxdepth, assume_literal=True)
            if not recursive:
                found = [p for p in found if not self.isdir(p)]
            path1, path2 = _pairs(
                found, path1, self._strip_protocol(path2), trailing_sep(path2) or self.isdir(path2)
            )
        super().copy(
            path1,
            path2,
            recursive=recursive,
            maxdepth=maxdepth,
            on_error=on_error or "raise",
            **kwargs,
        )

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        if _is_pattern(rpath) and isinstance(lpath, str) and self.exists(rpath):
            found = self.expand_path([rpath], recursive, maxdepth, assume_literal=True)
            if not recursive:
                found = [p for p in found if not self.isdir(p)]
            rpath, lpath = _local_pairs(found, rpath, lpath)
        super().get(
            rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs
        )

    def put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        if _is_pattern(lpath) and os.path.lexists(lpath):
            found = _local_sources(lpath, recursive, maxdepth)
            lpath, rpath = _pairs(
                found, lpath, self._strip_protocol(rpath), trailing_sep(rpath) or self.isdir(rpath)
            )
        super().put(
            lpath, rpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs
        )


class AsyncArtifactFileSystem(ArtifactFileSystem, AsyncFileSystem):  # type: ignore[misc]
    """The promises on a driver that is asynchronous; fsspec mirrors them as plain methods."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for coroutine in {*dir(AsyncFileSystem), *(f"_{name}" for name in _MIRRORED)}:
            name = coroutine.removeprefix("_")
            method = getattr(cls, coroutine, None)
            if name == coroutine or not inspect.iscoroutinefunction(method):
                continue
            # Where a driver mirrors a coroutine itself, it mirrors its own, not ours.
            default = getattr(AbstractFileSystem, name, None)
            if getattr(cls, name, None) is default or name in _MIRRORED:
                setattr(cls, name, mirrored(method))

    def rm_listed(self, paths: list[str]) -> list[str]:
        if len(paths) == 1 or self.removed_together(paths[0]) == 1:
            return super().rm_listed(paths)
        # A store that deletes several together has a coroutine for it.
        with self._explaining(paths[0].rpartition("/")[0]):
            left: list[str] = synced(self.loop, self._rm_listed, paths)
            return left

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        try:
            await self._info(path, **kwargs)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def _isdir(self, path: str) -> bool:
        return await self._kind(path) == "directory"

    async def _isfile(self, path: str) -> bool:
        return await self._kind(path) == "file"

    async def _kind(self, path: str) -> str | None:
        try:
            return str((await self._info(path))["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def _walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = None,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        # One level by fsspec's, which below it forgets what is to be done about errors.
        path = self._strip_protocol(path)
        one = super()._walk(path, 1, on_error=on_error or unless_missing, detail=True, **kwargs)
        async for _, dirs, files in one:
            shown = (dirs, files) if detail else (list(dirs), list(files))
            if topdown:
                yield path, *shown
            for below in _below(path, dirs, shown[0], maxdepth):
                depth = None if maxdepth is None else maxdepth - 1
                steps = self._walk(below, depth, topdown, on_error, detail, **kwargs)
                async for step in steps:
                    yield step
            if not topdown:
                yield path, *shown

    def walk(self, path: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        steps = self._walk(path, *args, **kwargs)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield synced(self.loop, steps.__anext__)

    async def _get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        if isfilelike(lpath) or os.path.isdir(lpath):
            await super()._get_file(rpath, lpath, **kwargs)
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        try:
            with landing(lpath) as temporary:
                await super()._get_file(rpath, temporary, **kwargs)
        except Exception as error:
            explained = self._explain(error, rpath)
            is_no_file = isinstance(explained, FileNotFoundError | IsADirectoryError)
            if not is_no_file or not await self._isdir(rpath):
                raise
            # Of a tree that is fetched, an empty directory.
            os.makedirs(lpath, exist_ok=True)

    async def _expand_path(
        self,
        path: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        assume_literal: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        expand = functools.partial(
            super()._expand_path, recursive=recursive, maxdepth=maxdepth, **kwargs
        )
        paths = self._strip_protocol([path] if isinstance(path, str | os.PathLike) else list(path))
        literal = [p for p in paths if assume_literal or (has_magic(p) and await self._exists(p))]
        if not literal:
            return await expand(path)  # type: ignore[no-any-return]
        patterns = [p for p in paths if p not in literal]
        found = set(await expand(literal, assume_literal=True))
        return sorted(found | set(await expand(patterns)) if patterns else found)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        path = texts(path)
        for each in path:
            if has_magic(each) and not await self._exists(each):
                raise _missing(each)
        await super()._rm(path, recursive=recursive, **kwargs)

    async def _copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        on_error: str | None = None,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        if _is_pattern(path1) and await self._exists(path1):
            found = await self._literal_sources(path1, recursive, maxdepth)
            target_is_dir = trailing_sep(path2) or await self._isdir(path2)
            path1, path2 = _pairs(found, path1, self._strip_protocol(path2), target_is_dir)
        await super()._copy(
            path1,
            path2,
            recursive=recursive,
            on_error=on_error or "raise",
            maxdepth=maxdepth,
            **kwargs,
        )

    async def _get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if _is_pattern(rpath) and isinstance(lpath, str) and await self._exists(rpath):
            found = await self._literal_sources(rpath, recursive, maxdepth)
            rpath, lpath = _local_pairs(found, rpath, lpath)
        return await super()._get(
            rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs
        )

    async def _put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if _is_pattern(lpath) and os.path.lexists(lpath):
            found = _local_sources(lpath, recursive, maxdepth)
            target_is_dir = trailing_sep(rpath) or await self._isdir(rpath)
            lpath, rpath = _pairs(found, lpath, self._strip_protocol(rpath), target_is_dir)
        return await super()._put(
            lpath, rpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs
        )

    async def _within(
        self, path: str, start: int | None, end: int | None
    ) -> tuple[int | None, int | None] | None:
        """The range that a slice means, without negative bounds; ``None`` for an empty one.

        Drivers and servers differ on negative, reversed and empty ranges; Python's slices do
        not. The size is asked for only where a bound counts from the end.
        """
        if (start or 0) < 0 or (end or 0) < 0:
            size = (await self._info(path))["size"]
            start, end, _ = slice(start, end).indices(size)
        return None if end is not None and end <= (start or 0) else (start, end)

    async def _literal_sources(self, path: str, recursive: bool, maxdepth: int | None) -> list[str]:
        found = await self._expand_path([path], recursive, maxdepth, assume_literal=True)
        return found if recursive else [p for p in found if not await self._isdir(p)]


def unless_missing(error: Exception) -> None:
    """Raise what is wrong with a directory, unless it is that it went while it was walked."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _below(
    path: str, dirs: dict[str, Any], chosen: Collection[str], maxdepth: int | None
) -> Iterator[str]:
    """The directories to be walked next; whoever walks may have left some out.

    Raises
    ------
    OSError
        They lie deeper than any that a person made: the store lists itself in itself.
    """
    if maxdepth is not None and maxdepth <= 1:
        return
    for name in list(chosen):
        below: str = dirs[name]["name"].rstrip("/")
        if below.count("/") > _DEEPEST:
            raise OSError(errno.ELOOP, "directories without end", path)
        yield below


def _has_scheme(cls: type[ArtifactFileSystem], path: str) -> bool:
    scheme, colon, _ = path.partition("://")
    return bool(colon) and scheme.lower().removeprefix(ALIAS) in cls.store.schemes


def _both(upper: Any, lower: Any) -> Callable[[], None]:
    """Close a layer, which flushes what it holds, and then the file beneath it."""

    def close() -> None:
        upper.close()
        lower.close()

    return close


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def unfit_key(key: str, unit: str = "bytes") -> str | None:
    """Why a store of objects, which counts in bytes or in characters, cannot hold a key."""
    if half := unfit_text(key):
        return half
    size = len(key.encode() if unit == "bytes" else key)
    return f"the key has {size} {unit}, of {_LONGEST_KEY}" if size > _LONGEST_KEY else None


def unfit_text(name: str) -> str | None:
    """Why a store of names that are texts cannot hold one."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "it has half of a character (a lone surrogate)"
    return None


def texts(path: Any) -> list[str]:
    """Paths, one or many, as texts."""
    return [
        stringify_path(each) for each in ([path] if isinstance(path, str | os.PathLike) else path)
    ]


def _is_pattern(path: Any) -> bool:
    return isinstance(path, str) and has_magic(path)


def _pairs(
    found: list[str], source: str, target: str, target_is_dir: bool
) -> tuple[list[str], list[str]]:
    """Where each file found under a literal `source` goes, by fsspec's rules for copies."""
    inside = target_is_dir and not trailing_sep(source)
    return found, other_paths(found, target, exists=inside, flatten=False)


def _local_pairs(found: list[str], source: str, target: str) -> tuple[list[str], list[str]]:
    target_is_dir = trailing_sep(target) or os.path.isdir(target)
    found, locals_ = _pairs(found, source, make_path_posix(target), target_is_dir)
    root = os.path.abspath(target)
    for name, local in zip(found, locals_, strict=True):
        if os.path.commonpath([root, os.path.abspath(local)]) != root:
            raise InvalidURI(f"{name!r} would land outside of {target!r}: nothing was written.")
    return found, locals_


def _local_sources(path: str, recursive: bool, maxdepth: int | None) -> list[str]:
    local = LocalFileSystem()
    found: list[str] = local.expand_path(
        [make_path_posix(path)], recursive=recursive, maxdepth=maxdepth, assume_literal=True
    )
    return found if recursive else [p for p in found if not local.isdir(p)]
