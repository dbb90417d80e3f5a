"""Requests to an artifact proxy, and to the store that it points to: who asks, how often, how long.

The login goes to the server that was named and to no other: redirects elsewhere and presigned
URLs, which need none, are asked without.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from json import dumps
from typing import Any, Generic, TypeVar

import aiohttp
import yarl

from mlartifacts import network
from mlartifacts.environment import Environment
from mlartifacts.errors import MOST_SAID, one_line
from mlartifacts.proxy import wire
from mlartifacts.reading import UNPACKED
from mlartifacts.tracking.connection import (
    TRANSIENT,
    Patience,
    Refused,
    address,
    parsed,
    refusal,
)
from mlartifacts.tracking.login import AUTHORITY, Login
from mlartifacts.tracking.plugins import CONTENT, UNSIGNED
from mlartifacts.uri import ArtifactURI

__all__ = ["STORE", "Client", "OfLoop", "Options"]

#: The code of an error that is the store's, not the proxy's.
STORE = "STORE"

_IGNORE_TLS = "MLFLOW_S3_IGNORE_TLS"
_CA_BUNDLE = "AWS_CA_BUNDLE"

_CONNECT_SECONDS = 30
_HOPS = 10
_NO_URL = "the server gives something for a URL that is none"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# These ask for the same with the same method and body.
_REPEATING = frozenset({307, 308})
# Who says so takes it later.
_BUSY = frozenset({429, 503})
# Of an error's body: enough for a store's word for it.
_BEGINNING = 4096
_CODE = re.compile(rb"<Code>(\w{1,60})</Code>", re.ASCII)
_ALWAYS = {**UNPACKED, "User-Agent": "mlartifacts"}

Options = Mapping[str, Any]
T = TypeVar("T")


class OfLoop(Generic[T]):
    """Something that works in the event loop alone that it was made in: one for each.

    An asynchronous program that calls ``asyncio.run`` twice has two loops, and one filesystem.

    Parameters
    ----------
    make : callable
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, T] = {}

    def known(self) -> T | None:
        """The running loop's, if it is there."""
        return self._made.get(asyncio.get_running_loop())

    def get(self) -> T:
        """The running loop's."""
        known = self.known()
        return self.again() if known is None else known

    def again(self) -> T:
        """A new one for the running loop; those of loops that have ended are forgotten."""
        for loop in [loop for loop in self._made if loop.is_closed()]:
            self._made.pop(loop, None)
        made = self._made[asyncio.get_running_loop()] = self._make()
        return made


class Client:
    """One proxy.

    Parameters
    ----------
    server : ArtifactURI
        Its URL; a path in it is a prefix of every request's.
    environment : Environment
        Logins, TLS, and how patient to be.
    anon : bool, default False
        Send no login, whatever the environment says.

    Raises
    ------
    InvalidConfig
        A setting of the login, of TLS or of a timeout cannot be used.
    InvalidURI
        The server's URL cannot be one.
    """

    def __init__(self, server: ArtifactURI, environment: Environment, anon: bool = False) -> None:
        self.url = address(server)
        self._origin = yarl.URL(self.url).origin()
        self._login = Login.of(server, environment)
        self.anon = anon
        # Made if it comes to TLS: to read every authority that is trusted takes 20 ms.
        self._tls = functools.lru_cache(1)(self._login.context)
        if server.scheme == "https":
            self._tls()  # a setting that cannot be used is told here
        self._store_tls = _store_tls(environment)
        self._patience = Patience(environment)
        seconds = environment.transfer_timeout() or self._patience.timeout
        wait = None if seconds == -1 else seconds
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=wait and min(wait, _CONNECT_SECONDS), sock_read=wait
        )
        self._sessions = OfLoop(self._session)
        # Where the last body that could not be sent again would have been taken.
        self._moved = self.url

    @property
    def known(self) -> bool:
        """Whether the server is told who asks."""
        return self._login.is_known and not self.anon

    @property
    def signs(self) -> bool:
        """Whether the server is told the SHA-256 of what it is sent."""
        return self._login.is_signed and not self.anon

    @property
    def session(self) -> aiohttp.ClientSession | None:
        """The connections of the running loop, where they are open."""
        session = self._sessions.known()
        return None if session is None or session.closed else session

    def connect(self) -> aiohttp.ClientSession:
        """The connections, made in the running loop at the first request, or again."""
        session = self._sessions.get()
        return self._sessions.again() if session.closed else session

    def _session(self) -> aiohttp.ClientSession:
        wait = self._timeout.sock_read
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=network.sockets(wait)) if wait else None,
            # Not trust_env: see mlartifacts.network.
            timeout=self._timeout,
            # MLflow stores "x.csv.gz" as a packed "x.csv", whose bytes are wanted as they are.
            auto_decompress=False,
        )

    @contextlib.asynccontextmanager
    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Options | None = None,
        body: Callable[[], AsyncIterator[bytes]] | None = None,
        again: Callable[[], bool] | None = None,
        params: Mapping[str, str] | None = None,
        json: object = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request, and follow redirects.

        Parameters
        ----------
        method : str
        url : str
            An absolute URL, percent-encoded; or a route of the server, with its slash.
        headers : mapping, optional
        body : callable, optional
            Gives the bytes to send, from their start each time.
        again : callable, optional
            Whether it still can. Given, they go at once to where the last ones were redirected.
        params : mapping of str to str, optional
            Of the URL, but for where that redirects.
        json : object, optional
            The body.

        Raises
        ------
        Refused
            The answer is an error; one about ranges (416) is none. Of a store, :data:`STORE` is
            its code. It is a redirect, and the bytes cannot be sent again: other ones can.
        aiohttp.ClientError, TimeoutError, OSError
            There is no answer. None shows a URL, which may be a presigned one.
        """
        own = url.startswith("/")
        first = self.url if again is None else self._moved
        target = _url(first + url if own else url).extend_query(params or {})
        content = None if json is None else dumps(json).encode()
        for _ in range(_HOPS):
            told = {**_ALWAYS, **(headers or {})}
            if content is not None:
                told["Content-Type"] = "application/json"
            if own:
                told |= self._login.spread()
            if own and not self.anon and target.origin() == self._origin:
                if self.signs and body is not None:
                    told.setdefault(CONTENT, UNSIGNED)
                told |= await self._who_asks(method, str(target), told, content)
            proxy, login = network.way(target)
            if target.scheme == "http":  # which the proxy itself is asked for, by the same headers
                told |= login
                login = {}
            tls = self._tls() if own and target.scheme == "https" else self._store_tls
            unread = _Watched(body)
            try:
                async with self.connect().request(
                    method,
                    target,
                    headers=told,
                    allow_redirects=False,
                    # A signature holds for the headers that were signed, and no type was.
                    skip_auto_headers=() if own else ("Content-Type",),
                    ssl=tls,
                    proxy=proxy,
                    proxy_headers=login,
                    data=unread.pieces() if body else content,
                ) as response:
                    if response.status not in _REDIRECTS or "Location" not in response.headers:
                        if response.status >= 400 and response.status != 416:
                            if response.status not in _BUSY:
                                self._forget(first)
                            raise await self._refused(response, target, own)
                        yield response
                        return
                    target = self._redirected(method, target, response)
                    if again is not None:
                        whole = str(target)
                        first = whole.removesuffix(url) if whole.endswith(url) else self.url
                        self._moved = first
                        if not again():
                            reason = f"it is at {target.origin()} now, and all is to be sent again"
                            raise Refused(response.status, "", reason)
            except aiohttp.ClientConnectorCertificateError as error:
                self._forget(first)
                who = AUTHORITY if own else _CA_BUNDLE
                reason = (
                    f"{error.host}:{error.port} shows a certificate that is not trusted"
                    f" ({error.certificate_error}): {who} can name another authority"
                )
                raise ConnectionAbortedError(errno.ECONNABORTED, reason) from None
            except aiohttp.ClientConnectorError:
                self._forget(first)
                raise
            except aiohttp.ServerTimeoutError:
                self._forget(first)
                raise aiohttp.ServerTimeoutError("no answer in time") from None
            except aiohttp.InvalidURL:
                raise wire.BadAnswer(_NO_URL) from None
            except aiohttp.ClientHttpProxyError as error:
                reason = f"the network's proxy says {error.status} {one_line(error.message)}"
                raise OSError(errno.EPROTO, reason) from None
            except aiohttp.ClientResponseError as error:
                said = one_line(error.message.partition("\n")[0])
                raise wire.BadAnswer(f"what answers speaks no HTTP: {said}") from None
            except aiohttp.ClientOSError as error:
                self._forget(first)
                if unread.failure is not None:
                    raise unread.failure from None
                number = error.errno or errno.ECONNABORTED
                if number == errno.ETIMEDOUT:  # it takes nothing any more
                    raise aiohttp.ServerTimeoutError("no answer in time") from None
                raise aiohttp.ClientOSError(number, os.strerror(number)) from None
        raise OSError(errno.ELOOP, f"{self.url} redirects without end")

    async def _who_asks(self, *request: Any) -> dict[str, str]:
        if self._login.may_wait:
            return await asyncio.to_thread(self._login.headers, *request)
        return self._login.headers(*request)

    async def _refused(
        self, response: aiohttp.ClientResponse, target: yarl.URL, own: bool
    ) -> Refused:
        """What an answer says that is an error, and who says it.

        What a store says of a signed URL can show the signature: nothing but its code is told.
        """
        status, after = response.status, response.headers.get("Retry-After")
        data = await _beginning(response, MOST_SAID if own else _BEGINNING)
        said = refusal(status, data, after)
        if own and target.origin() == self._origin:
            return said
        host = target.origin()
        who = f"{host}, to which {self.url} redirects," if own else f"the store at {host}"
        if own and said.code and status not in {401, 403}:  # MLflow's words
            said.who = who
            return said
        code = _CODE.search(data)
        reason = f"{who} says {status}{f' {code[1].decode()}' if code else ''}"
        if own:
            return Refused(status, STORE if code or status != 404 else "", reason, after)
        return Refused(status, STORE, f"{reason} to a presigned URL of {self.url}", after)

    def _forget(self, moved: str) -> None:
        """Begin where the server was named, which may say another place by now."""
        if self._moved == moved:
            self._moved = self.url

    def _redirected(
        self, method: str, asked: yarl.URL, response: aiohttp.ClientResponse
    ) -> yarl.URL:
        target = asked.join(_url(response.headers["Location"]))
        if target.scheme not in {"https", asked.scheme}:
            raise OSError(errno.EPROTO, f"{self.url} redirects to plain text")
        if method != "GET" and response.status not in _REPEATING:
            # The request would become another, and nothing be done.
            there = target.origin()
            reason = f"{self.url} is elsewhere now: name {there} in the URI or the tracking URI"
            raise OSError(errno.EPROTO, reason)
        return target

    async def json(
        self, method: str, route: str, again: bool = True, **options: Any
    ) -> dict[str, Any]:
        """Ask for a JSON object, as :meth:`ask`.

        Parameters
        ----------
        method, route : str
        again : bool, default True
            Whether to :meth:`persist`.
        **options
            Those of :meth:`ask`.

        Raises
        ------
        NotMLflow
            The answer is none.
        """

        async def once() -> bytes:
            async with self.ask(method, route, **options) as response:
                return await response.read()

        return parsed(await (self.persist(once) if again else once()))

    async def persist(
        self, act: Callable[[], Awaitable[T]], again: Callable[[], bool] = lambda: True
    ) -> T:
        """Do something, and again, as MLflow does, where it failed and another try may go well.

        Parameters
        ----------
        act : callable
            Begins from its start each time.
        again : callable, optional
            Whether it still can.
        """
        tries = 0

        def is_last() -> bool:
            return tries > self._patience.retries or not again()

        while True:
            tries += 1
            try:
                return await act()
            except Refused as error:
                if error.status not in TRANSIENT | _REPEATING or is_last():
                    raise
                after = error.retry_after
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
                # Who cannot be reached at all, or shows a wrong certificate, will not soon.
                if isinstance(error, aiohttp.ClientConnectorError) or is_last():
                    raise
                after = None
            except aiohttp.ClientPayloadError:
                if is_last():
                    raise
                after = None
            await self.pause(tries, after)

    async def pause(self, tries: int, after: str | None) -> None:
        """Wait before the next try, as long as MLflow does.

        Parameters
        ----------
        tries : int
            How often it failed.
        after : str or None
            When to ask again, in the server's words.
        """
        await asyncio.sleep(self._patience.wait(tries, after))


class _Watched:
    """A body that remembers why it could not be read, which aiohttp makes another error of."""

    def __init__(self, body: Callable[[], AsyncIterator[bytes]] | None) -> None:
        self._body = body
        self.failure: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        assert self._body is not None
        try:
            async for piece in self._body():
                yield piece
        except Exception as error:
            self.failure = error
            raise


async def _beginning(response: aiohttp.ClientResponse, most: int) -> bytes:
    data = b""
    while len(data) < most and (piece := await response.content.read(most - len(data))):
        data += piece
    return data


def _url(url: str) -> yarl.URL:
    """What a server gives as a URL, percent-encoded."""
    try:
        parsed = yarl.URL(url, encoded=True)
        # What is parsed late, and what a resolver would refuse.
        _ = parsed.port, (parsed.raw_host or "").encode("idna")
        return parsed
    except ValueError:
        raise wire.BadAnswer(_NO_URL) from None


def _store_tls(environment: Environment) -> ssl.SSLContext | bool:
    """How a store's certificates are checked: as those of S3, for MLflow does the same."""
    if environment.boolean(_IGNORE_TLS):
        return False
    return environment.authorities(_CA_BUNDLE) or True
