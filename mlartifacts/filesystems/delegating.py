"""A filesystem whose paths lie in other filesystems, and whose operations are theirs.

Every path has a *place*: a store's filesystem and a directory in it. An operation is the
store's own, on the place's path, and what it says (names, errors) is said again in the logical
path. Nothing is copied. A store that is synchronous is asked on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.utils import is_exception

from mlartifacts.access import url_to_fs
from mlartifacts.carrying import Carrier
from mlartifacts.checksums import Checksum
from mlartifacts.environment import Environment
from mlartifacts.errors import ArtifactError, InvalidURI, UnknownScheme
from mlartifacts.filesystems.carrying import DelegatingCarrier
from mlartifacts.promises import AsyncArtifactFileSystem, texts
from mlartifacts.registry import store_for, store_of
from mlartifacts.tracking.resolver import Resolver, resolver_for, tracking_uri_of
from mlartifacts.uri import PORTS, parse
from mlartifacts.writing import WholeWrite

__all__ = ["DelegatingFileSystem", "Place"]

_OF_FSSPEC = frozenset(
    "asynchronous loop batch_size skip_instance_cache use_listings_cache listings_expiry_time"
    " max_paths".split()
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a logical directory lies, and a path in it.

    Attributes
    ----------
    fs : fsspec.AbstractFileSystem
    base : str
        The directory's path in `fs`.
    logical : str
        The same directory's path in the logical filesystem.
    rest : str
        The path below both.
    """

    fs: Any
    base: str
    logical: str
    rest: str = ""

    @property
    def path(self) -> str:
        """The path in `fs`."""
        return f"{self.base.rstrip('/')}/{self.rest}" if self.rest else self.base

    def said(self, path: str) -> str:
        """A path of `fs`, in logical terms."""
        below = path[len(self.base) :].strip("/") if path.startswith(self.base) else path
        return f"{self.logical}/{below}" if below else self.logical

    def entry(self, info: dict[str, Any]) -> dict[str, Any]:
        """An entry of `fs`, under its logical name."""
        return {**info, "name": self.said(info["name"])}

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Name the logical path in the errors about `fs`'s."""
        try:
            yield
        except OSError as error:
            named = error.filename
            if not isinstance(named, str) or not named.startswith(self.base):
                raise
            renamed = OSError(error.errno, error.strerror, self.said(named))
            if type(renamed) is not type(error) and type(error).__module__ != "builtins":
                raise
            vars(renamed).update(vars(error))
            raise renamed from error


class DelegatingFileSystem(AsyncArtifactFileSystem):
    """Base of the logical filesystems.

    Parameters
    ----------
    tracking_uri : str, optional
        Who knows the runs; ``MLFLOW_TRACKING_URI`` unless given.
    registry_uri : str, optional
        Who knows the registered models; ``MLFLOW_REGISTRY_URI``, else the tracking store.
    **explicit
        fsspec's options, and those of the store's driver.
    """

    lists_md5 = True  # a store beneath may

    def _driver_options(self, options: dict[str, Any]) -> dict[str, Any]:
        self._uris = options.pop("tracking_uri", None), options.pop("registry_uri", None)
        self._of_store = {n: v for n, v in options.items() if n not in _OF_FSSPEC}
        return options

    @property
    def resolver(self) -> Resolver:
        """Who is asked where things lie."""
        return resolver_for(*self._uris)

    # ---- Places --------------------------------------------------------------------------

    def uris(self, path: str, hopeful: bool = False) -> list[tuple[str, str, str]]:
        """Where a path may lie, the likeliest first; asks the tracking store where it must.

        Parameters
        ----------
        path : str
        hopeful : bool
            It was not where it was looked for.

        Returns
        -------
        list of (str, str, str)
            The URI of a directory, its logical path, and the path below both.
        """
        raise NotImplementedError

    def places(self, path: str, hopeful: bool = False) -> list[Place]:
        """The places of :meth:`uris`."""
        return [self._at(*each) for each in self.uris(path, hopeful)]

    def mounted(self, path: str) -> list[str]:
        """Names of directories in `path` that lie elsewhere than it."""
        return []

    def _at(self, uri: str, logical: str, rest: str) -> Place:
        options = dict(self._of_store)
        if self.asynchronous:
            options["asynchronous"] = True
        try:
            store = store_for(parse(uri))
            if store in (store_of("runs"), store_of("models")):
                raise InvalidURI(f"{self.protocol[0]}:/{logical} lies at {uri}, which is no place.")
            proxied = store is store_of("mlflow-artifacts")
            fs, base = url_to_fs(uri, **(self._asking(uri) if proxied else {}), **options)
        except UnknownScheme as error:
            raise InvalidURI(f"{self.protocol[0]}:/{logical} lies at {uri}. {error}") from error
        return Place(fs, base, logical, rest)

    def _asking(self, uri: str) -> dict[str, Any]:
        """Which of MLflow's proxies is asked, and whether it is told who asks.

        Whoever may make a run may choose where its artifacts lie. The login is the tracking
        server's: no other server is told it unless the caller wishes so.
        """
        derived: dict[str, Any] = {} if self._uris[0] is None else {"tracking_uri": self._uris[0]}
        tracking = parse(tracking_uri_of(self._uris[0], Environment()))
        if (place := parse(uri)).netloc:
            # mlflow-artifacts://host is asked as the tracking server is.
            scheme = place.scheme if place.scheme in PORTS else tracking.scheme
            there = scheme, place.host, place.port or PORTS.get(scheme)
            ours = tracking.scheme, tracking.host, tracking.port or PORTS.get(tracking.scheme)
            derived["anon"] = there != ours
        return {name: value for name, value in derived.items() if name not in self._of_store}

    async def _places(self, path: str, hopeful: bool = False) -> list[Place]:
        # Asked on a thread; but fsspec keeps asynchronous filesystems apart by thread.
        return [self._at(*each) for each in await asyncio.to_thread(self.uris, path, hopeful)]

    async def _rounds(self, path: str) -> AsyncIterator[list[Place]]:
        """The places where a path may be, and then those that had to be asked for anew."""
        tried: list[Place] = []
        for hopeful in (False, True):
            places = [each for each in await self._places(path, hopeful) if each not in tried]
            tried += places
            yield places

    async def _candidates(self, path: str) -> AsyncIterator[Place]:
        """Each place of :meth:`_rounds`."""
        async for places in self._rounds(path):
            for place in places:
                yield place

    async def _first(self, path: str, operation: str, *args: Any, **kwargs: Any) -> Any:
        """An operation at the first place of `path` that has it."""
        missing: FileNotFoundError | None = None
        async for place in self._candidates(path):
            try:
                return await _on(place, operation, *args, **kwargs)
            except FileNotFoundError as error:
                missing = missing or error
        raise missing or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    async def _target(self, path: str) -> Place:
        """Where `path` is written: where it is found, if it is there."""
        return (await self._places(path, hopeful=True))[0]

    def sure_place(self, path: str) -> Place | None:
        """The place of a file that can be in no other; ``None`` where it must be looked for."""
        places = self.places(path)
        return places[0] if len(places) == 1 and places[0].rest else None

    def where(self, path: str, writing: bool = False) -> tuple[Any, str] | None:
        """The store and the path in it, where it can be in no other."""
        place = self.sure_place(path)
        return None if place is None else (place.fs, place.path)

    def everywhere(self, path: str) -> list[tuple[Any, str]]:
        """Each place of a path, and those of the directories in it that lie elsewhere.

        The first one is where it is written.
        """
        path = self._strip_protocol(path)
        places = self.places(path, hopeful=True)
        for name in self.mounted(path):
            with contextlib.suppress(ArtifactError):  # what cannot be opened is no other end
                places += self.places(f"{path}/{name}", hopeful=True)
        return [(place.fs, place.path) for place in places]

    def carrier(self, path: str) -> Carrier | None:
        """What moves many files faster, if the directory's store has such a thing."""
        if self.asynchronous:
            return None
        place = self.places(path)[0]
        return None if place.fs.carrier(place.path) is None else DelegatingCarrier(self)

    # ---- Looking -------------------------------------------------------------------------

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return (await self._look(self._strip_protocol(path), **kwargs))[1]

    async def _look(self, path: str, **kwargs: Any) -> tuple[Place, dict[str, Any]]:
        """The place where a path is, and its entry."""
        missing: FileNotFoundError | None = None
        async for place in self._candidates(path):
            if not place.rest:  # it is there, whether or not it has artifacts
                return place, {"name": path, "size": 0, "type": "directory"}
            try:
                return place, place.entry(await _on(place, "info", **kwargs))
            except FileNotFoundError as error:
                missing = missing or error
        raise missing or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        path = self._strip_protocol(path)
        found: dict[str, dict[str, Any]] = {}
        there = False
        missing: FileNotFoundError | None = None
        async for places in self._rounds(path):
            for place in places:
                there = there or not place.rest
                try:
                    entries = await _on(place, "ls", detail=True, **kwargs)
                except FileNotFoundError as error:
                    missing = missing or error
                    continue
                there = True
                for each in map(place.entry, entries):
                    found.setdefault(each["name"], each)
            if there:
                break
        if not there:
            raise missing or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        for name in await asyncio.to_thread(self.mounted, path):
            found[f"{path}/{name}"] = {"name": f"{path}/{name}", "size": 0, "type": "directory"}
        listed = [found[name] for name in sorted(found)]
        return listed if detail else [each["name"] for each in listed]

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        found: dict[str, dict[str, Any]] = {}
        options = {"maxdepth": maxdepth, "withdirs": withdirs, "detail": True, **kwargs}
        async for places in self._rounds(path):
            for place in places:
                entries = await _on(place, "find", **options)
                for each in map(place.entry, entries.values()):
                    found.setdefault(each["name"], each)
            if found:
                break
        for name in await asyncio.to_thread(self.mounted, path):
            inside = f"{path}/{name}"
            if withdirs:
                found[inside] = {"name": inside, "size": 0, "type": "directory"}
            if maxdepth is None or maxdepth > 1:
                depth = None if maxdepth is None else maxdepth - 1
                found |= await self._find(inside, depth, withdirs, detail=True, **kwargs)
        ordered = {name: found[name] for name in sorted(found)}
        return ordered if detail else list(ordered)

    def unfit(self, path: str) -> str | None:
        """Why the store where a path lies cannot hold its name."""
        place = self.places(self._strip_protocol(path))[0]
        reason: str | None = place.fs.unfit(place.path)
        return reason

    def has_directories(self, path: str) -> bool:
        """What is said of the store where a path lies."""
        place = self.places(self._strip_protocol(path))[0]
        return bool(place.fs.has_directories(place.path))

    def is_written(self, path: str) -> bool:
        """What is said of the store where a path lies."""
        place = self.places(self._strip_protocol(path))[0]
        return bool(place.fs.is_written(place.path))

    def chunks(self, path: str) -> tuple[int | None, int | None]:
        """What is said of the store where a path lies."""
        place = self.places(self._strip_protocol(path))[0]
        said: tuple[int | None, int | None] = place.fs.chunks(place.path)
        return said

    def checks_uploads(self, path: str) -> bool:
        """What is said of the store where a path lies."""
        place = self.places(self._strip_protocol(path))[0]
        said: bool = place.fs.checks_uploads(place.path)
        return said

    def copies_within(self, path: str) -> bool:
        """Whether the store where a path lies copies itself."""
        place = self.places(self._strip_protocol(path))[0]
        known: bool = place.fs.copies_within(place.path)
        return known

    def keeps_times(self, path: str) -> bool:
        """What is said of the store where a path lies."""
        place = self.places(self._strip_protocol(path))[0]
        return bool(place.fs.keeps_times(place.path))

    def set_modified(self, path: str, seconds: int) -> None:
        """Say when a file was last changed, where its store keeps that."""
        self._plainly(path, "set_modified", seconds=seconds)

    def ranges(self, path: str, size: int, modified: float | None) -> Callable[[int, int], bytes]:
        """What gives ranges of one version of a file, to several threads."""
        given: Callable[[int, int], bytes]
        given = self._plainly(path, "ranges", size=size, modified=modified)
        return given

    def find_surely(self, path: str) -> dict[str, dict[str, Any]]:
        """The entries of all files below a directory; raises where a store may not say all."""
        for fs, place in self.everywhere(path):
            if not fs.lists_all:
                fs.find_surely(place)
        found: dict[str, dict[str, Any]] = self.find(path, detail=True)
        return found

    def cp_listed(self, path1: str, path2: str, size: int, version: str | None) -> None:
        """Copy a file as it was listed, within the store where both lie if that is one."""
        one, other = self.where(path1), self.where(path2, writing=True)
        if one is None or other is None or one[0] is not other[0]:
            self.cp_file(path1, path2)
        else:
            one[0].cp_listed(one[1], other[1], size, version)

    def removed_together(self, path: str) -> int:
        """What is said of the store where a path lies."""
        place = self.places(self._strip_protocol(path))[0]
        said: int = place.fs.removed_together(place.path)
        return said

    def rm_listed(self, paths: list[str]) -> list[str]:
        """Delete files of a listing, each at all of its places."""
        if len(paths) == 1:
            return super().rm_listed(paths)
        stores: dict[Any, list[tuple[Place, str]]] = {}
        for path in paths:
            for place in self.places(path, hopeful=True):
                stores.setdefault(place.fs, []).append((place, path))
        left: set[str] = set()
        for fs, found in stores.items():
            most = fs.removed_together(found[0][0].path)
            for first in range(0, len(found), most):
                named = {place.path: path for place, path in found[first : first + most]}
                try:
                    with found[first][0].explaining():
                        left |= {named[each] for each in fs.rm_listed(list(named))}
                except FileNotFoundError:
                    left |= set(named.values()) if len(named) > 1 else set()
        return [path for path in paths if path in left]

    def vouches(self, path: str, checksum: Checksum) -> bool:
        """Whether what is listed as a file's checksum is one."""
        return bool(self._plainly(path, "vouches", checksum=checksum))

    def ranged(self, path: str) -> bool:
        """Whether a part of a file comes without the rest of it."""
        known: bool = self._plainly(path, "ranged")
        return known

    def modified(self, path: str) -> Any:
        """When a file was last changed."""
        return self._plainly(path, "modified")

    def created(self, path: str) -> Any:
        """When a file was made, where its store knows."""
        return self._plainly(path, "created")

    def checksum(self, path: str) -> Any:
        """What changes with a file's content."""
        return self._plainly(path, "checksum")

    def ukey(self, path: str) -> Any:
        """What changes with a file's content."""
        return self._plainly(path, "ukey")

    def sign(self, path: str, expiration: int = 100, **kwargs: Any) -> Any:
        """A URL that opens a file without a login, where its store can make one."""
        return self._plainly(path, "sign", expiration=expiration, **kwargs)

    def _plainly(self, path: str, operation: str, **kwargs: Any) -> Any:
        path = self._strip_protocol(path)
        with self._found(path) as place:
            return getattr(place.fs, operation)(place.path, **kwargs)

    @contextlib.contextmanager
    def _found(self, path: str) -> Iterator[Place]:
        """The place where a path is."""
        candidates = self.places(path)
        place = candidates[0]
        if len(candidates) > 1 or not place.fs.exists(place.path):
            candidates = candidates if len(candidates) > 1 else self.places(path, hopeful=True)
            place = next((c for c in candidates if c.fs.exists(c.path)), candidates[0])
        with place.explaining():
            yield place

    # ---- Reading -------------------------------------------------------------------------

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        path = self._strip_protocol(path)
        data: bytes = await self._first(path, "cat_file", start=start, end=end, **kwargs)
        return data

    async def _cat_ranges(
        self, paths: Any, *args: Any, on_error: str = "return", **kwargs: Any
    ) -> Any:
        # A store is asked for all that lies in it at once: it may know how to say it in less.
        names = dict.fromkeys(map(self._strip_protocol, paths if isinstance(paths, list) else ()))
        places = {name: (await self._places(name))[0] for name in names}
        stores = {id(place.fs): place.fs for place in places.values()}
        if len(stores) == 1 and isinstance(store := next(iter(stores.values())), AsyncFileSystem):
            there = [places[self._strip_protocol(path)].path for path in paths]
            found = await store._cat_ranges(there, *args, on_error="return", **kwargs)
            if not any(map(is_exception, found)):
                return found
        return await super()._cat_ranges(paths, *args, on_error=on_error, **kwargs)

    async def _get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        rpath = self._strip_protocol(rpath)
        if await self._isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        await self._first(rpath, "get_file", lpath, **kwargs)

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        """Open a file where it lies; the file is its store's own."""
        path = self._strip_protocol(path)
        if "r" not in mode:
            place = self.places(path, hopeful=True)[0]
            self._refuse_directory(place, path)
            if self._intrans:
                kwargs["autocommit"] = False
            with place.explaining():
                file = _renamed(place.fs.open(place.path, mode, *args, **kwargs), place)
            if self._intrans:
                # It is our transaction that ends, not the store's, which has it last.
                self.transaction.files.append(place.fs.transaction.files.pop())
            return file
        missing: FileNotFoundError | None = None
        tried: list[Place] = []
        for hopeful in (False, True):
            for place in self.places(path, hopeful):
                if place in tried:
                    continue
                tried.append(place)
                self._refuse_directory(place, path)
                try:
                    with place.explaining():
                        return _renamed(place.fs.open(place.path, mode, *args, **kwargs), place)
                except FileNotFoundError as error:
                    missing = missing or error
        raise missing or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return self.open(path, mode, **kwargs)

    def _refuse_directory(self, place: Place, path: str) -> None:
        if not place.rest:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    # ---- Writing -------------------------------------------------------------------------

    async def _pipe_file(self, path: str, value: Any, *args: Any, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        place = await self._target(path)
        self._refuse_directory(place, path)
        await _on(place, "pipe_file", value, *args, **kwargs)

    async def _put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        rpath = self._strip_protocol(rpath)
        if os.path.isdir(lpath):
            await self._makedirs(rpath, exist_ok=True)
            return
        place = await self._target(rpath)
        self._refuse_directory(place, rpath)
        await _on(place, "put_file", lpath, *args, before=True, **kwargs)

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        place = await self._target(self._strip_protocol(path))
        await _on(place, "mkdir", create_parents=create_parents, **kwargs)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        place = await self._target(self._strip_protocol(path))
        if place.rest or not exist_ok:
            await _on(place, "makedirs", exist_ok=exist_ok)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        place, info = await self._look(source)
        if info["type"] == "directory":
            await self._makedirs(target, exist_ok=True)
            return
        there = await self._target(target)
        self._refuse_directory(there, target)
        if place.fs is there.fs:
            with there.explaining():
                await _on(place, "cp_file", there.path, **kwargs)
        elif self.asynchronous:
            with tempfile.TemporaryDirectory() as folder:
                local = os.path.join(folder, "file")
                await self._get_file(source, local)
                await self._put_file(local, target)
        else:
            stopped = threading.Event()  # a thread hears of nothing else
            try:
                await asyncio.to_thread(self._streamed, source, target, stopped)
            finally:
                stopped.set()

    def _streamed(self, source: str, target: str, stopped: threading.Event) -> None:
        with self.open(source, "rb") as old, self.open(target, "wb") as new:
            while (piece := old.read(2**22)) and not stopped.is_set():
                new.write(piece)
            if stopped.is_set():
                new.abandon()

    # ---- Deleting ------------------------------------------------------------------------

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await self._rm_everywhere(self._strip_protocol(path), "rm_file", **kwargs)

    async def _rmdir(self, path: str, **kwargs: Any) -> None:
        await self._first(self._strip_protocol(path), "rmdir", **kwargs)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        for each in texts(path):
            each = self._strip_protocol(each)
            if recursive:
                for name in await asyncio.to_thread(self.mounted, each):
                    with contextlib.suppress(FileNotFoundError):
                        await self._rm(f"{each}/{name}", recursive=True)
            await self._rm_everywhere(each, "rm", recursive=recursive, **kwargs)

    async def _rm_everywhere(self, path: str, operation: str, **kwargs: Any) -> None:
        """Delete a path at each of its places: it would still be there in the next one."""
        there = False
        missing: FileNotFoundError | None = None
        for place in await self._places(path, hopeful=True):
            try:
                await _on(place, operation, **kwargs)
                there = True
            except FileNotFoundError as error:
                there = there or not place.rest
                missing = missing or error
        if not there:
            raise missing or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _renamed(file: Any, place: Place) -> Any:
    """Name the logical path in the errors of an open file, too."""
    if isinstance(writer := getattr(file, "buffer", file), WholeWrite):
        own = writer._explaining

        @contextlib.contextmanager
        def explaining() -> Iterator[None]:
            with place.explaining(), own():
                yield

        writer._explaining = explaining
    cache = getattr(file, "cache", None)
    fetch = getattr(cache, "fetcher", None)
    if cache is not None and fetch is not None:

        def fetch_renamed(start: int, end: int) -> Any:
            with place.explaining():
                return fetch(start, end)

        cache.fetcher = fetch_renamed
    return file


async def _on(place: Place, operation: str, *args: Any, before: bool = False, **kwargs: Any) -> Any:
    """A store's own operation at a place; `before` puts the arguments before the path."""
    arguments = (*args, place.path) if before else (place.path, *args)
    with place.explaining():
        if isinstance(place.fs, AsyncFileSystem):
            return await getattr(place.fs, f"_{operation}")(*arguments, **kwargs)
        return await asyncio.to_thread(getattr(place.fs, operation), *arguments, **kwargs)
