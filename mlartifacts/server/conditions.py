"""What a request asks of a file: which bytes, and whether it has changed (RFC 9110)."""

from __future__ import annotations

import contextlib
import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from mlartifacts.transfer.trees import File

__all__ = ["NotThere", "Wanted", "described", "tag_of", "wanted"]

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'"[\x21\x23-\x7e]*"')


class NotThere(Exception):
    """A range that the file has no byte of."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bytes that are to be sent.

    Attributes
    ----------
    start, end : int
    status : int
        200, 206; or where none are, 304, as the client has them, or 412, as it wants another
        version.
    headers : mapping
        What is said of them.
    """

    start: int
    end: int
    status: int
    headers: Mapping[str, str]


def described(file: File) -> dict[str, str]:
    """The headers that tell one version of a file from another."""
    told = {}
    if (tag := tag_of(file)) is not None:
        told["ETag"] = tag
    if file.modified is not None:
        with contextlib.suppress(ValueError, OverflowError):  # a time that no calendar has
            told["Last-Modified"] = email.utils.formatdate(file.modified, usegmt=True)
    return told


def tag_of(file: File) -> str | None:
    """The ``ETag`` of a file: its store's, or one of its time and size; ``None`` without either.

    A time in whole seconds may be the same of two versions.
    """
    if file.version is not None:
        return file.version if _TAG.fullmatch(file.version) else f'"{quote(file.version)}"'
    if file.modified is None or file.modified % 1 == 0:
        return None
    return f'"{file.modified!r}-{file.size}"'


def wanted(asked: Mapping[str, str], file: File) -> Wanted:
    """Which bytes of a file a request asks for.

    Parameters
    ----------
    asked : mapping
        The request's headers, by their names in lower case.
    file : File

    Raises
    ------
    NotThere
        Its range begins behind the end of the file.
    """
    told = described(file)
    tag = told.get("ETag", "")
    condition = asked.get("if-match", "*").strip()
    if condition != "*" and not _names(condition, tag):
        return Wanted(0, 0, 412, told)
    if _names(asked.get("if-none-match", ""), tag):
        return Wanted(0, 0, 304, told)
    told["Accept-Ranges"] = "bytes"
    found = _RANGE.fullmatch(asked.get("range", "").replace(" ", ""))
    # More than one range, and what is none, is answered by the whole file; so is a part of what
    # is another file by now.
    if not found or not any(found.groups()) or not _is_unchanged(asked.get("if-range"), tag):
        return Wanted(0, file.size, 200, told)
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return Wanted(0, file.size, 200, told)
    start = int(first) if first else max(file.size - int(last), 0)
    end = min(int(last) + 1, file.size) if first and last else file.size
    if start >= end:
        raise NotThere
    return Wanted(
        start, end, 206, {**told, "Content-Range": f"bytes {start}-{end - 1}/{file.size}"}
    )


def _is_unchanged(condition: str | None, tag: str) -> bool:
    """Whether a condition names this version for sure; a date tells too little."""
    return condition is None or (condition == tag and tag != "")


def _names(tags: str, tag: str) -> bool:
    """Whether a list of tags has this one, weak or not."""
    return bool(tag) and (tags.strip() == "*" or tag in _TAG.findall(tags))
