"""Uploads with their CRC32C, so that Google refuses what was damaged and keeps what was there."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from google_crc32c import extend

__all__ = ["Part", "Uploads", "whole"]

# What gcsfs ends an upload in one request with.
_LAST = b"\n--==0==--"

_SPAN = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_PIECE = 2**20


def whole(body: bytes) -> bytes:
    """The body of an upload in one request, with the checksum, and ended as MIME has it.

    gcsfs ends parts by a bare LF. After a file that ends with CR, a server takes both for the end
    of the line, and stores the file without its last byte.
    """
    # A boundary, a header, nothing and the metadata, a boundary, a header, nothing: and the file.
    *head, rest = body.split(b"\n", 7)
    if len(head) < 7 or not rest.endswith(_LAST):
        return body  # a gcsfs that does otherwise
    file = rest[: -len(_LAST)]
    head[3] = json.dumps({**json.loads(head[3]), "crc32c": _text(extend(0, file))}).encode()
    return b"\r\n".join([*head, file, _LAST.strip()])


class Uploads:
    """The checksums of uploads in parts, as far as they came."""

    def __init__(self) -> None:
        # By their URLs: the bytes that Google has, and their CRC32C.
        self.known: dict[str, tuple[int, int]] = {}

    def part(self, url: str, data: Any, options: dict[str, Any]) -> Part | None:
        """A part that is to be sent; the last one is given the checksum of them all.

        ``None`` where it is none, or where not all before it passed here.
        """
        span = _SPAN.fullmatch((options.get("headers") or {}).get("Content-Range", ""))
        if span is None:
            self.known.pop(url, None)  # it is cancelled
            return None
        start = int(span[1] or span[2])
        size, before = self.known.get(url, (0, 0))
        if size != start:
            return None
        part = Part(self, url, data or b"", start, before)
        if span[2] == str(start + len(part.data)):
            options["headers"] = {**options["headers"], "X-Goog-Hash": f"crc32c={_text(part.sum)}"}
        return part


class Part:
    """A part of an upload.

    Attributes
    ----------
    data : bytes-like
    sum : int
        The CRC32C of all up to its end.
    """

    def __init__(self, uploads: Uploads, url: str, data: Any, start: int, before: int) -> None:
        self._uploads, self._url, self._start, self._before = uploads, url, start, before
        self.data = data
        self.sum = _extended(before, data)

    def taken(self, status: int, headers: Mapping[str, str]) -> None:
        """Take down what Google has, by its answer: perhaps not all of the part."""
        if status != 308:
            self._uploads.known.pop(self._url, None)
            return
        said = headers.get("Range")  # none: it has nothing
        size = max(int(said.rpartition("-")[2]) + 1 - self._start, 0) if said else 0
        is_all = size == len(self.data)
        total = self.sum if is_all else _extended(self._before, self.data[:size])
        self._uploads.known[self._url] = (self._start + size, total)


def _extended(value: int, data: Any) -> int:
    view = memoryview(data)
    for start in range(0, len(view), _PIECE):
        value = extend(value, bytes(view[start : start + _PIECE]))
    return value


def _text(value: int) -> str:
    return base64.b64encode(value.to_bytes(4, "big")).decode()
