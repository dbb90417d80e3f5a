"""How S3's answers are read, for a fraction of what botocore's parsers take.

Times are read by the standard library: with dateutil's parser they took a tenth of the time of a
request, and half of that of a listing. The entries of a listing are taken out of it before
botocore parses the rest, twice (once to see whether it is an error), and read when they are used.

A page of somebody else's, in which botocore would find nothing, is refused before.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, overload
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from aiobotocore.parsers import AioRestXMLParser
from botocore.utils import parse_timestamp

from mlartifacts.errors import said_by

__all__ = ["DIRECTORY_BUCKET", "files_listed", "has_md5", "no_answer", "read_quickly"]

#: How the names of buckets end that list nothing but what is below a directory.
DIRECTORY_BUCKET = "--x-s3"


def _when(value: Any) -> datetime:
    """Read a time in one of the two forms that S3 has, or as botocore does."""
    if isinstance(value, str):
        try:
            if value[-1:] == "Z" and "T" in value:  # in a listing
                return datetime.fromisoformat(value)
            if value.endswith(" GMT"):  # in a header
                return parsedate_to_datetime(value)
        except ValueError:
            pass
    read: datetime = parse_timestamp(value)
    return read


class _Parsers:
    """The parsers of one client; the session, and its own, may be the caller's."""

    def __init__(self, others: Any) -> None:
        self._others = others

    def create_parser(self, protocol: str) -> Any:
        if protocol != "rest-xml":
            return self._others.create_parser(protocol)
        return AioRestXMLParser(timestamp_parser=_when)


def read_quickly(client: Any) -> None:
    """Have a client read its answers by this module."""
    # These come before ``before-parse.s3.*``, where all of it is parsed in search of an error.
    for event, handler in (
        ("before-parse.*.ListObjectsV2", _take_entries),
        ("before-parse.*.*", _refuse_page),
    ):
        client.meta.events.register(event, handler, unique_id=f"mlartifacts-{handler.__name__}")
    # Private, as botocore has no other way to say it of a client, and not of all of a session.
    endpoint = client._endpoint
    if not isinstance(endpoint._response_parser_factory, _Parsers):
        endpoint._response_parser_factory = _Parsers(endpoint._response_parser_factory)


# ---- Pages -------------------------------------------------------------------------------------

# How S3's XML begins; a page may be XML, too.
_XML = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<(?!(?:\w+:)?html\b)\w", re.IGNORECASE)
_WITH_ETAG = frozenset({"GetObject", "HeadObject", "PutObject", "UploadPart"})


def no_answer(said: str) -> OSError:
    """The error where a portal of the network answered, or a proxy that wants a login."""
    reason = f"no S3 store answered, but a page ({said})"
    hint = "log in to the network, or see MLFLOW_S3_ENDPOINT_URL"
    return OSError(errno.EPROTO, f"{reason}: {hint}")


def _refuse_page(operation_model: Any, response_dict: dict[str, Any], **kwargs: Any) -> None:
    """Refuse what would pass for done, or for nothing being there, before it is parsed."""
    status, headers = response_dict["status_code"], response_dict["headers"]
    body = response_dict["body"]
    is_done = 200 <= status < 300
    if not (is_done or status == 404):
        return
    is_page = is_done and (
        (operation_model.name in _WITH_ETAG and "ETag" not in headers)
        or (operation_model.name == "HeadBucket" and "html" in headers.get("Content-Type", ""))
    )
    if isinstance(body, bytes):
        is_page |= not _XML.match(body) if body else is_done and _has_body(operation_model)
    if is_page:
        said = [said_by(body)] if isinstance(body, bytes) and body else []
        said += [headers[name] for name in ("Content-Type", "Server") if name in headers]
        raise no_answer(", ".join(["status " + str(status), *said]))


def _has_body(operation_model: Any) -> bool:
    """Whether S3 says something to a request besides what is in the headers."""
    shape = operation_model.output_shape
    members = shape.members.values() if shape is not None else ()
    return any("location" not in member.serialization for member in members)


# ---- Listings ----------------------------------------------------------------------------------

_BEGIN, _END = b"<Contents>", b"</Contents>"
# What stands among entries, or makes one more than a few texts; botocore's parser knows it.
_MORE = (b"<CommonPrefixes>", b"<Owner>", b"<RestoreStatus>")
_FIELD = re.compile(r"<(\w+)>([^<]*)</\1>")
_ALWAYS = frozenset({"Key", "LastModified", "ETag", "Size"})
_AS_THEY_ARE = ("Key", "ETag", "StorageClass", "ChecksumType")


def _take_entries(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **kwargs: Any
) -> None:
    """Take the entries out of a listing that is to be parsed."""
    body = response_dict["body"]
    begin, end = body.find(_BEGIN), body.rfind(_END) + len(_END)
    if response_dict["status_code"] != 200 or not 0 <= begin < end:
        return
    entries = body[begin:end]
    if any(tag in entries for tag in _MORE):
        return
    with contextlib.suppress(UnicodeDecodeError):
        customized_response_dict["Contents"] = _Entries(entries.decode())
        response_dict["body"] = body[:begin] + body[end:]


class _Entries(Sequence[dict[str, Any]]):
    """The entries of a listing, read when the first is used."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._entries: list[dict[str, Any]] | None = None

    def _read(self) -> list[dict[str, Any]]:
        if self._entries is None:
            # No text is another one for it: an ampersand is escaped itself.
            text = self._text.replace("&quot;", '"')
            self._entries = [_entry(each) for each in text.split("</Contents>")[:-1]]
        return self._entries

    def __len__(self) -> int:
        return len(self._read())

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[dict[str, Any]]: ...

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._read())


def _entry(text: str) -> dict[str, Any]:
    """An object's entry, as botocore gives it, of its text without the closing tag."""
    fields = _FIELD.findall(text)
    named = dict(fields)
    is_plain = "&" not in text and text.count("<") == 2 * len(fields) + 1
    if not is_plain or not named.keys() >= _ALWAYS:
        try:
            element = ElementTree.fromstring(f"{text}</Contents>")  # noqa: S314  (as botocore does)
        except ElementTree.ParseError as error:
            raise OSError(errno.EIO, f"the listing is no XML: {error}") from error
        fields = [(child.tag, child.text or "") for child in element]
        named = dict(fields)
    entry: dict[str, Any] = {name: named[name] for name in _AS_THEY_ARE if name in named}
    if "LastModified" in named:
        entry["LastModified"] = _when(named["LastModified"])
    if named.get("Size", "").isdecimal():
        entry["Size"] = int(named["Size"])
    if "ChecksumAlgorithm" in named:
        entry["ChecksumAlgorithm"] = [v for name, v in fields if name == "ChecksumAlgorithm"]
    return entry


def files_listed(answer: dict[str, Any], bucket: str) -> Iterator[dict[str, Any]]:
    """The entries of a listing that was asked for with encoded names, as s3fs gives them."""
    is_encoded = answer.get("EncodingType") == "url"
    try:
        entries = list(answer.get("Contents", ()))
    except OSError as error:
        raise OSError(error.errno, error.strerror, bucket) from error
    for entry in entries:
        if "Key" not in entry or "Size" not in entry:
            raise OSError(errno.EIO, f"the listing has an entry that is none: {entry}", bucket)
        key = entry["Key"]
        if is_encoded:
            key = key.replace("%2F", "/")  # which most escapes are, where a server makes them
            if "%" in key or "+" in key:
                key = unquote_plus(key)
        entry["name"] = entry["Key"] = f"{bucket}/{key}"
        entry["size"] = entry["Size"]
        entry["type"] = "file"
        yield entry


def has_md5(bucket: str, head: Mapping[str, Any]) -> bool:
    """Whether an object's ETag is of its bytes, as it is not where a key of somebody's is used.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html

    Parameters
    ----------
    bucket : str
    head : mapping
        What HeadObject says, or who wrote it heard.
    """
    is_encrypted = head.get("ServerSideEncryption", "AES256") != "AES256"
    is_encrypted |= bool(head.get("SSECustomerAlgorithm"))
    return not (is_encrypted or bucket.endswith(DIRECTORY_BUCKET))
