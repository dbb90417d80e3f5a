"""Models' artifacts, to be read."""

from __future__ import annotations

import errno
from typing import Any, NoReturn

from mlartifacts.carrying import Carrier
from mlartifacts.filesystems.carrying import DelegatingCarrier
from mlartifacts.filesystems.delegating import DelegatingFileSystem
from mlartifacts.filesystems.models import STORE
from mlartifacts.promises import texts
from mlartifacts.tracking.logical import split_model

__all__ = ["ModelsFileSystem"]


class ModelsFileSystem(DelegatingFileSystem):
    """The artifacts of models: read-only, as a registered version is what it is."""

    store = STORE

    def uris(self, path: str, hopeful: bool = False) -> list[tuple[str, str, str]]:
        model, rest = split_model(path)
        return [(self.resolver.model(model), str(model), rest)]

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        path = self._strip_protocol(name)
        return super().unstrip_protocol(path if self.root_uri.netloc else self.store.url(path))

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            _refuse(self._strip_protocol(path))
        return super().open(path, mode, *args, **kwargs)

    def where(self, path: str, writing: bool = False) -> tuple[Any, str] | None:
        return None if writing else super().where(path)

    def carrier(self, path: str) -> Carrier | None:
        offered = super().carrier(path)
        return None if offered is None else _Reading(self)

    async def _pipe_file(self, path: str, value: Any, *args: Any, **kwargs: Any) -> None:
        _refuse(path)

    async def _put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        _refuse(rpath)

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        _refuse(path)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        _refuse(path)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        _refuse(path2)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        _refuse(path)

    async def _rmdir(self, path: str, **kwargs: Any) -> None:
        _refuse(path)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        _refuse(texts(path)[0])

    def rm_listed(self, paths: list[str]) -> list[str]:
        _refuse(paths[0])


class _Reading(DelegatingCarrier):
    def write(self, path: str, data: Any) -> NoReturn:
        _refuse(path)

    def write_pieces(self, path: str, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse(path)


def _refuse(path: str) -> NoReturn:
    reason = "models:/ can only be read: log a model to a run, and register it, for a new version"
    raise OSError(errno.EROFS, reason, path)
