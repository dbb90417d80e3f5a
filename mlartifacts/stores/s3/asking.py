"""How often S3 is asked, how long it is waited for, and whether it took what it was sent.

This is the one place that decides it: botocore tries once, unless the user says how often.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
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
from mlartifacts.errors import final
from mlartifacts.retrying import FAILING, asked_for, pause
from mlartifacts.stores.s3.answers import has_md5

__all__ = ["Hung", "Silence", "ask"]

T = TypeVar("T")

# Answers that another try may mend soon.
_PASSING = frozenset(
    "BadDigest RequestTimeout XAmzContentChecksumMismatch XAmzContentSHA256Mismatch".split()
)
# Seconds before a second try, longer each time; of a server that is busy or fails.
_SOON, _LATER = 0.1, 0.5
# What is hashed while it is sent, by another thread; less is hashed sooner than handed over.
_LONG = 2**16
# How much of the time that is allowed a request has waited that ends with others.
_HALF = 0.5
# What says whose a request is, where an object is removed as where it was written.
_WHOSE = ("Bucket", "Key", "ExpectedBucketOwner", "RequestPayer")


class Hung(Exception):
    """A timeout, in a type that nobody tries again: one wait is what was asked for."""


class Silence:
    """Ends the requests of a filesystem whose server has said nothing for the time allowed.

    Those that wait for a connection would wait as long again when they have one.
    """

    def __init__(self) -> None:
        self._heard = -math.inf
        # When they began, and which of them are ended.
        self._going: dict[asyncio.Task[Any], float] = {}
        self._ended: set[asyncio.Task[Any]] = set()

    def hear(self) -> None:
        """Say that something came from the server."""
        self._heard = asyncio.get_running_loop().time()

    async def ending(self, asking: Awaitable[T], allowed: float | None) -> T:
        """Wait for a request as long as something comes, of its answer or of others.

        Parameters
        ----------
        asking : awaitable
        allowed : float or None
            Seconds of silence; ``None``: any.
        """
        if allowed is None:
            return await asking
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._going[task] = loop.time()
        timer = loop.call_later(allowed, lambda: look())

        def look() -> None:
            nonlocal timer
            now, end = loop.time(), max(self._going[task], self._heard) + allowed
            if now < end:
                timer = loop.call_at(end, look)
                return
            for each, begun in self._going.items():
                has_waited = now - begun >= _HALF * allowed
                if has_waited and each not in self._ended and each.cancel():
                    self._ended.add(each)

        try:
            answer = await asking
        except asyncio.CancelledError:
            if task not in self._ended or task.uncancel():
                raise
            raise Hung("no answer in time") from None
        except ClientError:
            self.hear()
            raise
        finally:
            timer.cancel()
            del self._going[task]
            self._ended.discard(task)
        self.hear()
        return answer


async def ask(
    call: Callable[..., Any],
    arguments: Mapping[str, Any],
    tries: int,
    allowed: float | None,
    silence: Silence,
) -> Any:
    """Ask the server, and again where that may help.

    Parameters
    ----------
    call : callable
        A method of botocore's client.
    arguments : mapping
    tries : int
    allowed : float or None
        Seconds that a silent server is waited for, and a busy one in all; ``None``: any.
    silence : Silence
        Of all requests to that server.
    """
    tried, waited = 0, 0.0
    # A slow line may take what is left of a large body for as long as it likes.
    body = arguments.get("Body", b"")
    is_short = isinstance(body, bytes | bytearray | memoryview) and len(body) < _LONG
    while True:
        tried += 1
        try:
            sending = _send(call, arguments)
            return await silence.ending(sending, allowed if is_short else None)
        except Exception as error:
            pause = _pause(error, tried)
            if pause is None:
                raise
            waited += pause
            if tried >= tries or (allowed is not None and waited > allowed):
                if _status(error) in FAILING:
                    final(error)
                raise
        await sleep(pause)


def _status(error: Exception) -> int | None:
    if not isinstance(error, ClientError):
        return None
    status: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


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
    code = response["Error"].get("Code")
    if _status(error) in FAILING or code in {"InternalError", "SlowDown"}:
        asked = asked_for(said.get("HTTPHeaders", {}).get("retry-after"))
        return pause(_LATER, tried) if asked is None else asked
    is_passing = code in _PASSING or core.CUSTOM_ERROR_HANDLER(error)
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
