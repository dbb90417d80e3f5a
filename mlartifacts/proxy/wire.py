"""The REST API of MLflow's artifact proxy: its routes and the shapes of its JSON.

Both sides of the wire take them from here: what one of them ``told()``, the other reads with
``of()``. MLflow documents the API in the sources of its server (``mlflow/server/handlers.py`` and
``artifact_router.py``, 3.17).
"""

from __future__ import annotations

import contextlib
import errno
import ntpath
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlparse, urlsplit, urlunparse

__all__ = [
    "ABORT",
    "ARTIFACTS",
    "COMPLETE",
    "CREATE",
    "IS_DIRECTORY",
    "MOST_PARTS",
    "OUTSIDE",
    "PRESIGNED",
    "SERVER_INFO",
    "UNSUPPORTED",
    "Asked",
    "BadAnswer",
    "Capabilities",
    "Entry",
    "Part",
    "Presigned",
    "Upload",
    "below",
    "is_carried",
    "is_unsupported",
]

_API = "/api/2.0/mlflow-artifacts"

#: ``GET ?path=`` lists, ``GET``, ``PUT`` and ``DELETE`` of a path below do what they say.
ARTIFACTS = f"{_API}/artifacts"
#: ``GET`` of a path below gives a URL in the store.
PRESIGNED = f"{_API}/presigned"
#: ``POST`` to the directory of a file begins, ends and drops an upload in parts.
CREATE, COMPLETE, ABORT = (f"{_API}/mpu/{step}" for step in ("create", "complete", "abort"))
#: What a server can do; newer ones say so.
SERVER_INFO = "/api/3.0/mlflow/server-info"

#: S3's and GCS' limit.
MOST_PARTS = 10_000

#: How the messages begin of a server whose store takes no upload in parts,
UNSUPPORTED = "Multipart upload is not supported"
#: and what is in those about a file that is a directory.
IS_DIRECTORY = "refers to a directory"
#: and in those about a link that leads out of the artifact root.
OUTSIDE = "outside the artifact directory"

_END_OF_TIME = 1e11
_ON_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class BadAnswer(OSError):
    """An answer of the right form that cannot be meant."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPROTO, reason)


@contextlib.contextmanager
def _formed() -> Iterator[None]:
    """Reading an answer whose form may be another's."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # What it says of a signed URL is not shown.
        reason = f"what answers is no MLflow server: its JSON is another's ({type(error).__name__})"
        raise BadAnswer(reason) from error


def below(route: str, path: str) -> str:
    """The URL path of an artifact below a route; every character of its name is literal."""
    return f"{route}/{quote(path, safe='/')}" if path else route


def is_carried(path: str) -> bool:
    """Whether MLflow's server takes a path for itself.

    It decodes percent signs again and again, reads a path as a URL, and refuses ``#``
    (``validate_path_is_safe``): some names would become others, with other files' content.
    """
    parsed = urlparse(path)
    same = urlunparse(parsed) == path and unquote(path) == path
    return same and "#" not in path and parsed.scheme != "file"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a listing.

    Attributes
    ----------
    name : str
        The last step of its path.
    is_dir : bool
    size : int
        In bytes; 0 for a directory.
    modified : float or None
        When it was last changed, in seconds since the epoch.
    etag : str or None
        What the header ``ETag`` says of the file.
    checksums : mapping
        Those of the file, in base 64, by the names of their algorithms.

    The last three are told by this package's server alone; other clients do not mind them.
    """

    name: str
    is_dir: bool
    size: int
    modified: float | None = None
    etag: str | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    @_formed()
    def all_of(cls, answer: Mapping[str, Any]) -> list[Entry]:
        """The entries of a listing.

        Raises
        ------
        BadAnswer
            A name in it would lead out of the directory that was listed, or is none; or this is
            no listing.
        """
        found = []
        for each in answer.get("files", []):
            name = each.get("path") if isinstance(each, dict) else None
            if not isinstance(name, str) or "/" in name or name in {"", ".", ".."}:
                raise BadAnswer(f"the server lists {name!r}, which is no name of a file")
            # The server leaves zeros out, and writes sizes as text.
            is_dir = bool(each.get("is_dir"))
            if is_dir:
                found.append(cls(name, True, 0))
                continue
            modified, etag = each.get("modified"), each.get("etag")
            found.append(
                cls(
                    name,
                    False,
                    int(each.get("file_size") or 0),
                    None if modified is None else _seconds(modified),
                    None if etag is None else str(etag),
                    {str(kind): str(value) for kind, value in each.get("checksums", {}).items()},
                )
            )
        return found

    @staticmethod
    def listing(entries: Iterable[Entry]) -> dict[str, Any]:
        """The answer to who asks for a listing."""
        files = []
        for each in entries:
            said = {
                "path": each.name,
                "is_dir": each.is_dir,
                "file_size": None if each.is_dir else each.size,
                "modified": each.modified,
                "etag": each.etag,
                "checksums": dict(each.checksums) or None,
            }
            files.append({key: value for key, value in said.items() if value is not None})
        return {"files": files}


@dataclass(frozen=True, slots=True)
class Presigned:
    """Where a file can be got from the store itself, for a while.

    Attributes
    ----------
    url : str
        Whoever has it can read the file.
    headers : mapping
        To be sent with each request to it.
    size : int or None
        In bytes, where the server says.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    size: int | None

    @classmethod
    @_formed()
    def of(cls, answer: Mapping[str, Any]) -> Presigned:
        """What a server answers."""
        size = answer.get("file_size")
        return cls(_url(answer), _headers(answer), None if size is None else int(size))

    def told(self) -> dict[str, Any]:
        """The answer to who asks for it."""
        return {"url": self.url, "headers": dict(self.headers), "file_size": self.size}


@dataclass(frozen=True, slots=True)
class Part:
    """Where one part of an upload goes, and what is said of it when it is there.

    Attributes
    ----------
    number : int
        From 1.
    url : str
        Whoever has it can write the part.
    headers : mapping
        To be sent with the part.
    """

    number: int
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    def done(self, etag: str) -> dict[str, object]:
        """What the server is told in the end."""
        return {"part_number": self.number, "etag": etag, "url": self.url}


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that has begun.

    Attributes
    ----------
    upload_id : str or None
        Azure needs none.
    parts : tuple of Part
    """

    upload_id: str | None
    parts: tuple[Part, ...]

    @classmethod
    @_formed()
    def of(cls, answer: Mapping[str, Any]) -> Upload:
        """What a server answers."""
        parts = (
            Part(int(each["part_number"]), _url(each), _headers(each))
            for each in answer.get("credentials", [])
        )
        return cls(answer.get("upload_id"), tuple(sorted(parts, key=lambda part: part.number)))

    def told(self) -> dict[str, Any]:
        """The answer to who begins it."""
        credentials = [
            {"part_number": each.number, "url": each.url, "headers": dict(each.headers)}
            for each in self.parts
        ]
        return {"upload_id": self.upload_id, "credentials": credentials}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of an upload in parts: to begin, complete or drop it.

    Attributes
    ----------
    name : str
        The file's, in the directory that the route names.
    num_parts : int
        How many are to come; 1 unless said.
    upload_id : str or None
        Which upload, once it has begun.
    parts : tuple of (int, str)
        The parts that are there, and the ETag of each.
    """

    name: str
    num_parts: int = 1
    upload_id: str | None = None
    parts: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of(cls, body: Any) -> Asked:
        """What a client asks.

        Raises
        ------
        ValueError
            It is of another form.
        """
        try:
            path, upload_id = body["path"], body.get("upload_id")
            # MLflow's client sends the whole path that the file has on its machine.
            name = (ntpath if _ON_WINDOWS.match(path) else posixpath).basename(path)
            parts = [(each["part_number"], each["etag"]) for each in body.get("parts", ())]
            found = cls(name, body.get("num_parts", 1), upload_id or None, tuple(sorted(parts)))
            numbers = [found.num_parts, *(number for number, _ in found.parts)]
            texts = [found.upload_id or "", *(etag for _, etag in found.parts)]
            if not all(type(each) is int and 1 <= each <= MOST_PARTS for each in numbers):
                raise ValueError
            if not all(each.isprintable() and each.isascii() for each in texts):
                raise ValueError
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError("this asks for no upload in parts") from error
        return found


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server says that it can do.

    Attributes
    ----------
    uploads, downloads : bool
        Whether its store can be written and read by presigned URLs.
    """

    uploads: bool = False
    downloads: bool = False

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Capabilities:
        """What a server answers."""
        return cls(
            answer.get("multipart_uploads_enabled") is True,
            answer.get("multipart_downloads_enabled") is True,
        )

    def told(self) -> dict[str, Any]:
        """What a server says of itself."""
        return {
            "multipart_uploads_enabled": self.uploads,
            "multipart_downloads_enabled": self.downloads,
        }


def is_unsupported(status: int, message: str) -> bool:
    """Whether a server's error says that its store takes no upload in parts."""
    return status == 501 or message.startswith(UNSUPPORTED)


def _seconds(value: Any) -> float:
    """A time that a calendar has."""
    if not abs(seconds := float(value)) < _END_OF_TIME:
        raise ValueError
    return seconds


def _url(answer: Mapping[str, Any]) -> str:
    url = answer.get("url")
    if isinstance(url, str):
        with contextlib.suppress(ValueError):  # whose words show the URL
            parts = urlsplit(url)
            if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
                return url
    raise BadAnswer("the server gives no URL where it should")


def _headers(answer: Mapping[str, Any]) -> dict[str, str]:
    headers = answer.get("headers") or {}
    told = {str(name): str(value) for name, value in headers.items()}
    if not all(text.isprintable() for each in told.items() for text in each):
        raise BadAnswer("the server gives headers that no request can have")
    return told
