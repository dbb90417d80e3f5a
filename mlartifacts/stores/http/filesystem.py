"""fsspec's HTTP filesystem, read-only, under this package's promises."""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

import aiohttp
from fsspec.implementations.http import HTTPFileSystem, _file_info

from mlartifacts.promises import AsyncArtifactFileSystem
from mlartifacts.stores.http import STORE, s3_uri

__all__ = ["HTTPArtifactFileSystem"]

_CONNECT_SECONDS = 30


class HTTPArtifactFileSystem(AsyncArtifactFileSystem, HTTPFileSystem):  # type: ignore[misc]
    """Files on a web server; paths are whole URLs."""

    store = STORE

    @classmethod
    def _clean(cls, path: str) -> str:
        return path

    def _driver_options(self, options: dict[str, Any]) -> dict[str, Any]:
        client = dict(options.pop("client_kwargs", {}))
        seconds = options.pop("timeout", None)
        wait = aiohttp.ClientTimeout(
            total=None, sock_connect=seconds or _CONNECT_SECONDS, sock_read=seconds
        )
        client.setdefault("timeout", wait)
        if (user := options.pop("username", None)) is not None:
            client.setdefault("auth", aiohttp.BasicAuth(user, options.pop("password", "")))
        return {**options, "client_kwargs": client}

    def _translate(self, error: Exception, path: str) -> Exception | None:
        hint = f" (Amazon S3's: write {uri})" if (uri := s3_uri(path)) else ""
        if isinstance(error, aiohttp.ClientResponseError):
            if error.status in {401, 403}:
                return PermissionError(errno.EACCES, f"{error.status} {error.message}{hint}", path)
            return OSError(errno.EIO, f"The server says {error.status} {error.message}", path)
        if isinstance(error, aiohttp.ServerTimeoutError):
            return TimeoutError(errno.ETIMEDOUT, f"no answer in time: {error}", path)
        if isinstance(error, aiohttp.ClientError):
            return ConnectionError(errno.ECONNREFUSED, str(error), path)
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT) + hint, path)
        return None

    async def _info(self, url: str, **kwargs: Any) -> dict[str, Any]:
        # The driver says "not found" whatever went wrong.
        session = await self.set_session()
        found: dict[str, Any] = {}
        for policy in ("head", "get"):
            try:
                answer = await _file_info(
                    self.encode_url(url), size_policy=policy, session=session, **self.kwargs
                )
            except aiohttp.ClientResponseError as error:
                # Some servers know no HEAD, so only the answer to GET is one.
                if policy == "head" and error.status != 404:
                    continue
                if error.status == 404:
                    raise FileNotFoundError(url) from error
                raise
            found.update(answer)
            if found.get("size") is not None:
                break
        return {"name": url, "size": None, **found, "type": "file"}

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        entries = await super()._ls(path, detail=True, **kwargs)
        return entries if detail else sorted(entry["name"] for entry in entries)

    async def _isdir(self, path: str) -> bool:
        return bool(path.endswith("/") and await self._exists(path))

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        within = await self._within(url, start, end)
        if within is None:
            return b""
        first, last = within
        if first is None and last is None:
            return await self._fetch(url, {}, **kwargs)
        header = f"bytes={first or 0}-{'' if last is None else last - 1}"
        return await self._fetch(url, {"Range": header}, first or 0, last, **kwargs)

    async def _fetch(
        self,
        url: str,
        headers: dict[str, str],
        first: int = 0,
        last: int | None = None,
        **kwargs: Any,
    ) -> bytes:
        session = await self.set_session()
        given = {**self.kwargs, **kwargs}
        headers = {**given.pop("headers", {}), **headers}
        async with session.get(self.encode_url(url), headers=headers, **given) as response:
            if response.status == 416:
                return b""  # behind the end, as a slice is
            self._raise_not_found_for_status(response, url)
            data: bytes = await response.read()
            # A server that knows no ranges sends everything.
            return data[first:last] if headers.get("Range") and response.status == 200 else data

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode != "rb":
            _refuse(path)
        return super()._open(path, mode=mode, **kwargs)

    async def _pipe_file(self, path: str, *args: Any, **kwargs: Any) -> None:
        _refuse(path)

    async def _put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        _refuse(rpath)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        _refuse(path2)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        _refuse(path)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        _refuse(path if isinstance(path, str) else path[0])

    async def _mkdir(self, path: str, **kwargs: Any) -> None:
        _refuse(path)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        _refuse(path)


def _refuse(path: str) -> NoReturn:
    hint = f" (Amazon S3's: write {uri})" if (uri := s3_uri(path)) else ""
    raise OSError(errno.EROFS, f"http: and https: artifacts can only be read{hint}", path)
