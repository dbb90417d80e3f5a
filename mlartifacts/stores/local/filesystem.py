"""fsspec's local filesystem, with writes that land by rename."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import sys
from typing import IO, Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from fsspec.utils import isfilelike, stringify_path

from mlartifacts.promises import SyncArtifactFileSystem, texts
from mlartifacts.stores.local import STORE
from mlartifacts.uri import ALIAS, parse
from mlartifacts.writing import (
    WholeWrite,
    create_like,
    give_name,
    landing,
    naming,
    temporary_beside,
)

__all__ = ["LocalArtifactFileSystem"]

_LONGEST_STEP = 255
_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)', re.I)


class LocalArtifactFileSystem(SyncArtifactFileSystem, LocalFileSystem):  # type: ignore[misc]
    """Local files; a reader sees the old content or the new, never half of one."""

    store = STORE

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = stringify_path(path)
        # With one slash or three: fsspec hands every text without "://" to this class.
        if path.startswith(("file:", "local:", f"{ALIAS}file:", f"{ALIAS}local:")):
            path = STORE.path(parse(path))
        return cls._clean(path)

    @classmethod
    def _clean(cls, path: str) -> str:
        return str(make_path_posix(path)).rstrip("/") or cls.root_marker

    def unstrip_protocol(self, name: str) -> str:
        """The ``file://`` URL of a path; a ``%`` in it is encoded, as URLs of files are decoded."""
        return f"file://{self._strip_protocol(name).replace('%', '%25')}"

    def has_directories(self, path: str) -> bool:
        return True

    def unfit(self, path: str) -> str | None:
        """A name or a path that is too long, a NUL, or what Windows knows no file by."""
        return unfit(path, windows=os.name == "nt")

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        with open(self._strip_protocol(path), "rb") as file:
            if start is None and end is None:
                return file.read()  # also where there is no size, as in /proc
            first, last, _ = slice(start, end).indices(os.fstat(file.fileno()).st_size)
            file.seek(first)
            return file.read(max(last - first, 0))

    def _open_whole(self, path: str, mode: str, **kwargs: Any) -> WholeWrite:
        target = os.path.realpath(path)  # a link stays a link
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if os.path.exists(target) and not os.path.isfile(target):  # a device, a pipe
            file = open(target, mode)  # noqa: SIM115  (WholeWrite closes it)
            explaining = functools.partial(self._explaining, path)
            return WholeWrite(file, file.close, file.close, explaining)
        if "x" in mode and os.path.exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._make_room(target)
        with naming(temporary_beside(target), path) as temporary:
            create_like(target, temporary)
            try:
                if "a" in mode and os.path.exists(target):
                    shutil.copyfile(target, temporary)
                file = open(temporary, mode.replace("x", "w"))  # noqa: SIM115  (it is closed)
            except BaseException:
                os.unlink(temporary)
                raise
        return _LocalWrite(
            file,
            functools.partial(_land, file, temporary, target, path, exclusive="x" in mode),
            functools.partial(_drop, file, temporary),
            functools.partial(self._explaining, path),
            autocommit=kwargs.get("autocommit", True),
        )

    def _make_room(self, path: str) -> None:
        if self.auto_mkdir:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            except FileExistsError as error:  # a step of the path is a file
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error

    def copies_within(self, path: str) -> bool:
        return False

    def keeps_times(self, path: str) -> bool:
        return True

    def set_modified(self, path: str, seconds: int) -> None:
        path = self._strip_protocol(path)
        os.utime(path, (os.stat(path).st_atime, seconds))

    def cp_file(self, path1: str, path2: str, mode: str = "overwrite", **kwargs: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
            return
        if mode == "create" and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self._make_room(target)
        with landing(target, exclusive=mode == "create") as temporary:
            shutil.copyfile(source, temporary)

    def put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        self.cp_file(lpath, rpath, mode=mode)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        with self.open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        if isfilelike(lpath):
            with open(self._strip_protocol(rpath), "rb") as file:
                shutil.copyfileobj(file, lpath)
        else:
            self.cp_file(rpath, lpath)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        for each in [] if recursive else texts(path):
            clean = self._strip_protocol(each)
            if os.path.isdir(clean) and not os.path.islink(clean):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), clean)
        super().rm(path, recursive=recursive, maxdepth=maxdepth)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        self._make_room(path)
        super().touch(path, truncate=truncate, **kwargs)


def unfit(path: str, windows: bool) -> str | None:
    """Why a disk, or one of Windows, cannot hold a path."""
    if len(path) <= _LONGEST_STEP and path.isascii() and not windows and "\0" not in path:
        return None  # nearly every path: no step of it is looked at
    steps = os.path.splitdrive(path)[1].split("/")
    # NTFS and APFS count in units of UTF-16, others in bytes.
    unit = "characters" if windows or sys.platform == "darwin" else "bytes"
    try:
        long = next((step for step in steps if _length(step, unit) > _LONGEST_STEP), None)
        size = 0 if windows else len(os.fsencode(path))
    except UnicodeEncodeError:
        return "it has half of a character (a lone surrogate)"
    if long:
        return f"{long[:20]!r}... has more than {_LONGEST_STEP} {unit}"
    longest = os.pathconf("/", "PC_PATH_MAX") if os.name == "posix" and not windows else None
    if longest is not None and size >= longest:
        return "the path is too long"
    if "\0" in path:
        return "it has a NUL"
    if windows and (bad := next((step for step in steps if _WINDOWS.search(step)), None)):
        return f"Windows knows no {bad!r}"
    return None


def _length(step: str, unit: str) -> int:
    if unit == "bytes":
        return len(os.fsencode(step))
    return len(step.encode("utf-16-le", "surrogatepass")) // 2


class _LocalWrite(WholeWrite):
    """In a transaction, the rename waits for its end."""

    def __init__(self, *args: Any, autocommit: bool) -> None:
        super().__init__(*args)
        self._land = self._commit
        if not autocommit:
            self._commit = self._file.close

    def _publish(self) -> None:
        self._land()


def _land(file: IO[bytes], temporary: str, target: str, path: str, exclusive: bool) -> None:
    file.close()
    with naming(temporary, path):
        give_name(temporary, target, exclusive)


def _drop(file: IO[bytes], temporary: str) -> None:
    try:
        file.close()  # may fail to flush to a full disk; the file goes all the same
    finally:
        os.unlink(temporary)
