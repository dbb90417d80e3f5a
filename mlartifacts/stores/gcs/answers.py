"""Which answers are Google's, and which come from something between Google and this machine."""

from __future__ import annotations

import email.message
import errno
import re
from collections.abc import Iterator
from contextvars import ContextVar

import aiohttp
from gcsfs.retry import validate_response

from mlartifacts.errors import said_by
from mlartifacts.retrying import asked_for

__all__ = ["asked_to_wait", "deletions", "refuse_page"]

#: Seconds that the last answer asked for, if it did, which gcsfs's errors do not tell.
asked_to_wait: ContextVar[float | None] = ContextVar("asked_to_wait", default=None)

_BATCH = "/batch/storage/v1"
_STATUS = re.compile(r"HTTP/[\d.]+ (\d+)")


async def refuse_page(answer: aiohttp.ClientResponse) -> None:
    """Refuse what Google would not answer: the page of a portal, or of a proxy that wants a login.

    Raises
    ------
    OSError
        ``EPROTO``.
    """
    if answer.status >= 400 and answer.status != 404:
        asked_to_wait.set(asked_for(answer.headers.get("Retry-After")))
        return  # an error, whoever answers
    if answer.status != 404 and answer.url.query.get("alt") == "media":
        # Emulators leave some headers of Google's out; no page comes as a part of an object.
        stored = answer.headers.get("x-goog-stored-content-length")
        if answer.status == 200 and stored not in {None, answer.headers.get("Content-Length")}:
            reason = f"short read: {answer.content_length} of {stored} bytes"
            raise OSError(errno.EIO, reason)
        is_page = answer.status != 206 and answer.content_type == "text/html"
        if not (is_page and not any(each.lower().startswith("x-goog-") for each in answer.headers)):
            return
    elif _is_googles(answer, (await answer.read()).strip()):
        return
    raise _other(answer.status, await answer.read())


def _is_googles(answer: aiohttp.ClientResponse, said: bytes) -> bool:
    if answer.status == 404:
        return not said.startswith(b"<")
    asked = answer.url.query
    if answer.url.path.endswith(_BATCH):
        return answer.content_type == "multipart/mixed"
    if "upload_id" in asked and answer.status == 308:
        return True
    if asked.get("uploadType") == "resumable" and "upload_id" not in asked:
        return "Location" in answer.headers
    if answer.method == "DELETE" and said in {b"", b"null"}:
        return True  # 204; of an emulator, 200
    return said.startswith(b"{") and b'"storage#' in said


def deletions(kind: str, said: bytes, paths: list[str]) -> Iterator[Exception | None]:
    """Why each object of a batch was not deleted; ``None`` where it was.

    Parameters
    ----------
    kind : str
        The answer's ``Content-Type``.
    said : bytes
        The answer.
    paths : list of str
        The objects, in the order of the request.

    Raises
    ------
    OSError
        ``EPROTO``: it does not say something of each.
    """
    header = email.message.Message()
    header["Content-Type"] = kind
    parts = said.decode(errors="replace").split(f"--{header.get_boundary()}")[1:-1]
    if len(parts) != len(paths):
        raise _other(200, said)
    for path, part in zip(paths, parts, strict=True):
        status = _STATUS.search(part)
        body = part[status.end() if status else 0 :].replace("\r\n", "\n").partition("\n\n")[2]
        yield _deletion(int(status[1]) if status else 0, body.strip(), path)


def _deletion(status: int, body: str, path: str) -> Exception | None:
    if status == 204:
        return None
    if status >= 400 and not (status == 404 and body.startswith("<")):
        try:
            validate_response(status, body, path)
        except Exception as error:
            return error
    return _other(status, body.encode())


def _other(status: int, said: bytes) -> OSError:
    reason = f"what answers is not Google Cloud Storage ({status}): {said_by(said)!r}"
    return OSError(errno.EPROTO, reason)
