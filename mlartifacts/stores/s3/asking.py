"""How often S3 is asked, how long it is waited for, and whether it took what it was sent.

This is the one place that decides it: botocore tries once, unless the user says how often.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import time
from asyncio import gather, sleep, to_thread
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    ReadTimeoutError,
)
from s3fs import core

from mlartifacts.checksums import MD5, Checksum, listed
from mlartifacts.stores.s3.answers import has_md5

__all__ = ["Hung", "Silence", "ask"]

T = TypeVar("T")

# Answers that another try may mend, besides those with the statuses of a server's own failure.
_PASSING = frozenset(
    "BadDigest InternalError RequestTimeout SlowDown XAmzContentChecksumMismatch"
    " XAmzContentSHA256Mismatch".split()
)
_STATUSES = frozenset({429, 500, 502, 503, 504})
_BUSY = frozenset({429, 503})
# Seconds before a second try, longer each time; of a server that is busy and does not say.
_SOON, _LATER = 0.1, 0.4
# What is hashed while it is sent, by another thread; less is hashed sooner than handed over.
_LONG = 2**16
# How much of the time that is allowed a server must have said nothing: others were asked meanwhile.
_NEARLY = 0.9
# What says whose a request is, where an object is removed as where it was written.
_WHOSE = ("Bucket", "Key", "ExpectedBucketOwner", "RequestPayer")


class Hung(Exception):
    """A timeout, in a type that nobody tries again: one wait is what was asked for."""


class Silence:
    """Ends all requests of a filesystem when its server has said nothing for the time allowed.

    Those that still wait for a connection would wait as long again. What a slow line still takes
    of a body is waited for by itself.
    """

    def __init__(self) -> None:
        self._answered = -math.inf
        # Whether they are ended, by their tasks.
        self._going: dict[asyncio.Task[Any], bool] = {}

    async def ending(self, asking: Awaitable[T], body: Any, allowed: float | None) -> T:
        """Wait for a request, or until the server has fallen silent."""
        task = asyncio.current_task()
        assert task is not None
        begun = time.monotonic()
        if not isinstance(body, bytes | bytearray | memoryview) or len(body) < _LONG:
            self._going[task] = False
        try:
            answer = await asking
        except Hung:
            # It may have waited for a connection itself, while others were answered.
            since = time.monotonic() - _NEARLY * (allowed or math.inf)
            if self._answered < max(begun, since):
                for each in self._going.keys() - {task}:
                    if not self._going[each]:
                        self._going[each] = each.cancel()
            raise
        except asyncio.CancelledError:
            if not self._going.get(task) or task.uncancel():
                raise
            raise Hung("others had no answer in time") from None
        except ClientError:
            self._answered = time.monotonic()
            raise
        finally:
            self._going.pop(task, None)
        self._answered = time.monotonic()
        return answer


async def ask(
    call: Callable[..., Any], arguments: Mapping[str, Any], tries: int, longest: float | None
) -> Any:
    """Ask the server, and again where that may help.

    Parameters
    ----------
    call : callable
        A method of botocore's client.
    arguments : mapping
    tries : int
    longest : float or None
        Seconds that a busy server is waited for in all; ``None``: any.
    """
    tried, waited = 0, 0.0
    while True:
        tried += 1
        try:
            return await _send(call, arguments)
        except Exception as error:
            pause = _pause(error, tried)
            if pause is None or tried >= tries:
                raise
            waited += pause
            if longest is not None and waited > longest:
                raise
        await sleep(pause)


def _pause(error: Exception, tried: int) -> float | None:
    """Seconds to wait before another try; ``None`` where that is of no use."""
    if isinstance(error, TimeoutError | ConnectTimeoutError | ReadTimeoutError):
        return None  # as long as was asked for was waited
    soon: float = _SOON * 1.7 ** (tried - 1)
    if not isinstance(error, ClientError):
        broken = (*core.S3_RETRYABLE_ERRORS, EndpointConnectionError, ProxyConnectionError)
        return soon if isinstance(error, broken) or core.CUSTOM_ERROR_HANDLER(error) else None
    response: Mapping[str, Any] = error.response
    said = response.get("ResponseMetadata", {})
    status, code = said.get("HTTPStatusCode"), response["Error"].get("Code")
    if status in _BUSY or code == "SlowDown":
        after = said.get("HTTPHeaders", {}).get("retry-after", "")
        if after.isdecimal():
            return float(after)
        return _LATER * 2.0 ** (tried - 1) * random.uniform(0.5, 1)  # noqa: S311  (no secret)
    is_passing = status in _STATUSES or code in _PASSING or core.CUSTOM_ERROR_HANDLER(error)
    return soon if is_passing else None


async def _send(call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Ask once; refuse an answer that has the MD5 of other bytes than were sent.

    Not every server heeds the checksums that a request has. A part is refused before the object is
    made of it; an object that was written at once is removed.
    """
    body = arguments.get("Body")
    is_sent = call.__name__ in {"put_object", "upload_part"}
    if not is_sent or not isinstance(body, bytes | bytearray | memoryview):
        return await call(**arguments)
    if len(body) < _LONG:
        answer, made = await call(**arguments), _md5(body)
    else:
        answer, made = await gather(call(**arguments), to_thread(_md5, body))
    is_other = listed(answer) not in {None, Checksum(MD5, made)}
    if not is_other or not has_md5(arguments["Bucket"], {**arguments, **answer}):
        return answer
    if call.__name__ == "put_object":
        written = {name: arguments[name] for name in _WHOSE if name in arguments}
        if "VersionId" in answer:
            written["VersionId"] = answer["VersionId"]
        with contextlib.suppress(Exception):  # the damage is what counts
            await call.__self__.delete_object(**written)  # type: ignore[attr-defined]
    damage = {"Code": "BadDigest", "Message": "the answer has the MD5 of others"}
    raise ClientError({"Error": damage}, call.__name__)


def _md5(data: Any) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
