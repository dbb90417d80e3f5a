"""What the filesystem needs of a driver, and where and as whom a driver connects."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from mlartifacts.errors import of_store

__all__ = ["Cluster", "Driver", "Reader", "Status", "Writer", "failure", "ticketless"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster, and who we are there.

    Attributes
    ----------
    host : str
        ``scheme://host``, or ``default`` for ``fs.defaultFS`` of Hadoop's site files.
    port : int
        0 for Hadoop's own.
    timeout : float or None
        Seconds after which a server that does not answer counts as hanging.
    """

    host: str
    port: int
    user: str | None
    kerb_ticket: str | None
    extra_conf: Mapping[str, str] = field(repr=False)
    replication: int | None
    timeout: float | None

    @property
    def authority(self) -> str:
        """``scheme://host[:port]``."""
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class Status:
    """What HDFS says of one path."""

    path: str
    size: int
    is_dir: bool
    mtime: datetime
    more: Mapping[str, Any] = field(default_factory=dict)

    def as_info(self) -> dict[str, Any]:
        """In fsspec's form."""
        return {
            "name": self.path,
            "size": 0 if self.is_dir else self.size,
            "type": "directory" if self.is_dir else "file",
            "mtime": self.mtime,
            **self.more,
        }


class Reader(Protocol):
    """An open file."""

    @property
    def size(self) -> int:
        """Bytes in the file."""

    def read_at(self, start: int, length: int) -> bytes:
        """Bytes from `start`; fewer only at the end of the file."""

    def close(self) -> None:
        """Let go of the file."""


class Writer(Protocol):
    """A file being written."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`."""

    def close(self) -> None:
        """Finish the file."""


class Driver(Protocol):
    """The operations on which the filesystem rests; each is one request, or nearly.

    They raise what their library raises. :meth:`explain` says what that means.
    """

    def peek(self, path: str) -> Status | None:
        """The status, or ``None`` where there is none to be had, for whatever reason."""

    def find(self, path: str) -> Status | None:
        """The status, or ``None`` where the cluster says that nothing is there."""

    def list(self, path: str) -> list[Status] | None:
        """What a directory holds; ``None`` where `path` is a file."""

    def open(self, path: str) -> Reader:
        """Open a file for reading."""

    def create(self, path: str) -> Writer:
        """Start a new file, its parents made as needed."""

    def append_nothing(self, path: str) -> None:
        """Open a file as its next writer, which fails where it has one, and close it again."""

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; one that is there is none the worse."""

    def rename(self, source: str, target: str) -> None:
        """Rename; a file at `target` is replaced."""

    def rename_new(self, source: str, target: str) -> None:
        """Rename where nothing may be at `target`."""

    def remove(self, path: str) -> None:
        """Delete a file."""

    def rmdir(self, path: str) -> None:
        """Delete an empty directory."""

    def rmtree(self, path: str) -> None:
        """Delete a directory and all that it holds."""

    def explain(self, error: Exception, path: str) -> Exception | None:
        """The builtin for an error of the library, if it is one."""


def failure(number: int, path: str, reason: str | None = None) -> OSError:
    """The builtin error for a number, with its file."""
    return OSError(number, reason or os.strerror(number), path)


def ticketless(cluster: Cluster, path: str, detail: str = "") -> PermissionError:
    """The answer to a cluster with Kerberos that does not accept who we are."""
    if cluster.kerb_ticket is None:
        cause = (
            "this HDFS asks for a Kerberos ticket, and none was accepted: run kinit, or set"
            " MLFLOW_KERBEROS_TICKET_CACHE to a ticket cache"
        )
    else:
        state = "has no ticket that is accepted"
        if not os.path.exists(cluster.kerb_ticket.removeprefix("FILE:")):
            state = "does not exist"
        cause = (
            f"the Kerberos ticket cache {cluster.kerb_ticket} (MLFLOW_KERBEROS_TICKET_CACHE,"
            f" or kerb_ticket=) {state}"
        )
    if cluster.user is not None:
        cause += f"; its principal must be that of the user {cluster.user!r} (MLFLOW_KERBEROS_USER)"
    return of_store(PermissionError(errno.EACCES, f"{cause}{detail and f' ({detail})'}", path))
