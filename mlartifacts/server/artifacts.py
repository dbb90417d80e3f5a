"""The artifacts that are served: names from outside, and what is done with them in the store."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

from mlartifacts.access import url_to_fs
from mlartifacts.environment import Environment
from mlartifacts.proxy import wire
from mlartifacts.server.conditions import tag_of
from mlartifacts.server.errors import BadRequest
from mlartifacts.signing import Signer
from mlartifacts.transfer.trees import End, File
from mlartifacts.writing import WholeWrite, is_probe, is_temporary

__all__ = ["Artifacts"]

# What no name has that is told in headers, and that any store can hold; and by what a decoder
# replaces bytes that are no UTF-8.
_NO_TEXT = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffd]")

# Bytes that are read ahead of a client, at most.
_AHEAD = 4 * 2**20
# Bytes of a part of a file that is written; S3 takes 10,000 of them.
_PART, _LONGEST_PART = 8 * 2**20, 64 * 2**20
_SAFE_PARTS = 9_000

_UPLOADS = "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"
_DOWNLOADS = "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"


class Artifacts:
    """What lies below a root, by names relative to it.

    Parameters
    ----------
    destination : str
        The artifact URI of the root.
    **options
        The driver's options.

    Raises
    ------
    InvalidURI, UnknownScheme, InvalidConfig, MissingDriver
        As :func:`mlartifacts.url_to_fs`.
    """

    def __init__(self, destination: str, **options: Any) -> None:
        self._end = End(*url_to_fs(destination, **options))
        environment = Environment()
        signer = self._end.fs.signer() if hasattr(self._end.fs, "signer") else None
        #: What signs presigned URLs for who reads, and who writes; ``None`` where nobody may.
        self.reading: Signer | None = None
        self.writing: Signer | None = None
        if environment.boolean(_DOWNLOADS) is not False:
            self.reading = signer
        if environment.boolean(_UPLOADS) is not False:
            self.writing = signer

    @staticmethod
    def check(name: str) -> None:
        """Refuse what no file can be called, without asking anybody.

        Raises
        ------
        BadRequest
            It would lead elsewhere, is no name, or one of the server's own.
        """
        if not name:
            raise BadRequest("the artifact path is empty")
        if _NO_TEXT.search(name):
            raise BadRequest("the artifact path has a character that is no text")
        if any(step in {"", ".", ".."} for step in name.split("/")):
            raise BadRequest("the artifact path has an empty step, '.' or '..'")
        if any(is_temporary(step) and not is_probe(step) for step in name.split("/")):
            raise BadRequest("the artifact path is one of files that are being written")

    def path(self, name: str) -> str:
        """The path in the store of a name from outside, every character of which is literal.

        Raises
        ------
        BadRequest
            As of :meth:`check`; or a link on the way leads out of the root.
        """
        self.check(name)
        if os.name == "nt" and self._end.is_local and re.search(r"[\\:]", name):
            raise BadRequest("the artifact path has a character that means another place")
        if self._end.is_local and not self._is_inside(name):
            raise BadRequest("the artifact path leads out of the artifact root by a link")
        return self._end.path(self._spelt(name))

    def _spelt(self, name: str) -> str:
        """A name as paths of the store spell it."""
        return quote(name) if self._end.is_url else name

    def writable(self, name: str) -> str:
        """The path of a file that is to be written.

        Raises
        ------
        BadRequest
            As of :meth:`path`; or its store cannot hold the name.
        """
        path = self.path(name)
        if reason := self._end.unfit(name):
            raise BadRequest(f"the artifact path cannot be stored: {reason}")
        return path

    def _is_inside(self, name: str) -> bool:
        root = self._end.real()
        return os.path.join(self._end.real(name), "").startswith(os.path.join(root, ""))

    # ---- Looking -------------------------------------------------------------------------

    def entries(self, name: str) -> list[wire.Entry]:
        """What is in a directory; nothing in a file, or where there is nothing, as MLflow says."""
        path = self.path(name) if name else self._end.root
        above = f"{name}/" if name else ""
        try:
            entries = list((self._local if self._end.is_local else self._listed)(path, above))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entries, key=lambda entry: (entry.name, entry.is_dir))

    def _local(self, path: str, above: str) -> Iterator[wire.Entry]:
        """What is on this disk: links as what they lead to, and nothing that would be refused."""
        with os.scandir(path) as found:
            for each in found:
                name = f"{above}{each.name}"
                if not _is_name(each.name) or (each.is_symlink() and not self._is_inside(name)):
                    continue
                if os.path.isdir(each):  # which a link in a circle is not
                    yield wire.Entry(each.name, True, 0)
                elif os.path.isfile(each):
                    yield _entry(each.name, self._end.file(name))

    def _listed(self, path: str, above: str) -> Iterator[wire.Entry]:
        """What a store lists; it is asked for sizes that its listing does not say."""
        named = list(self._named(path))
        unsized = [n for n, info in named if info["type"] != "directory" and info["size"] is None]
        asked = self._end.asked([self._spelt(f"{above}{name}") for name in unsized])
        for name, info in named:
            if info["type"] == "directory":
                yield wire.Entry(name, True, 0)
            else:
                told = asked.get(self._spelt(f"{above}{name}"), File.listed(name, info))
                yield _entry(name, told)

    def _named(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The entries of a directory's listing that have a name here, by it."""
        for each in self._end.fs.ls(path, detail=True):
            own = each["name"].rstrip("/") if each["type"] == "directory" else each["name"]
            name = own.rpartition("/")[2]
            name = unquote(name) if self._end.is_url else name
            # The listing of a file has the file; and keys such as a//b and a/.. are no names.
            if own != path and _is_name(name):
                yield name, each

    def file(self, name: str) -> File:
        """What its store says of a file.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            There is no such file.
        """
        return File.listed(name, self._info(self.path(name)))

    def _info(self, path: str) -> dict[str, Any]:
        """The entry of a file; raises where there is none, or a directory."""
        info: dict[str, Any] = self._end.fs.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if self._end.is_local and not os.path.isfile(path):  # a device, a pipe
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return info

    # ---- Bytes ---------------------------------------------------------------------------

    def open(self, name: str) -> tuple[Any, File]:
        """A file, opened for reading, and what its store says of what was opened."""
        path = self.path(name)
        if self._end.is_local:
            self._info(path)  # a pipe would wait for who writes to it
        opened = self._end.fs.open(path, "rb", block_size=_AHEAD)
        try:
            if self._end.is_local:
                status = os.fstat(opened.fileno())
                file = File(name, status.st_size, status.st_mtime)
            else:
                file = File.listed(name, getattr(opened, "details", None) or self._info(path))
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            return opened, dataclasses.replace(file, size=size)
        except BaseException:
            opened.close()
            raise

    def presigned(self, signer: Signer, name: str, seconds: int) -> wire.Presigned:
        """Where a file can be got from its store, for so long.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            There is no such file.
        """
        path = self.path(name)
        size = self._info(path)["size"]
        return wire.Presigned(signer.reading(path, seconds), {}, size)

    def create(self, name: str, size: int | None, exclusive: bool = False) -> WholeWrite:
        """A file to be written, of which nothing is there before it is closed.

        Parameters
        ----------
        name : str
        size : int or None
            In bytes, where it is known.
        exclusive : bool, default False
            Replace nothing.

        Raises
        ------
        FileExistsError
            `exclusive`, and it is there.
        """
        path = self.writable(name)
        told: dict[str, Any] = {} if size is None else {"size": size}
        if not hasattr(self._end.fs, "chunks") or self._end.fs.chunks(path)[1] is None:
            # What a client says of the size takes no more memory than this.
            told["block_size"] = min(max(_PART, -(-(size or 0) // _SAFE_PARTS)), _LONGEST_PART)
        writer: WholeWrite = self._end.fs.open(path, "xb" if exclusive else "wb", **told)
        return writer

    def delete(self, name: str) -> None:
        """Remove a file, or a directory and all in it.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        """
        self._end.fs.rm(self.path(name), recursive=True)


def _entry(name: str, file: File) -> wire.Entry:
    """What is told of a file, of what its store lists."""
    checksums = {}
    if file.checksum is not None and file.checksum.certain and not file.checksum.kind.part:
        digest = base64.b64encode(file.checksum.digest).decode()
        checksums[file.checksum.kind.algorithm] = digest
    return wire.Entry(name, False, file.size, file.modified, tag_of(file), checksums)


def _is_name(name: str) -> bool:
    """Whether an entry of a directory can be asked for by its name."""
    with contextlib.suppress(BadRequest):
        Artifacts.check(name)
        return "/" not in name
    return False
