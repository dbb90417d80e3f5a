"""What aiohttp lacks: the network's own proxy, patience, and an end to uploads that nobody takes.

aiohttp's ``trust_env`` is not the proxy (``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``): that reads
logins from ``~/.netrc``, too, beside ours or where none is to be told.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import yarl

from mlartifacts.errors import InvalidConfig
from mlartifacts.retrying import FAILING, asked_for, pause

if TYPE_CHECKING:
    import aiohttp

__all__ = ["patient", "sockets", "way", "with_proxy"]

# How often a server is asked that is busy or fails, and the most seconds before the second time,
# twice as many before each further one.
_TRIES = 6
_WAIT = 0.5

# Bytes of an upload that the system takes before it sends them.
_UNSENT = 2**18


def way(url: yarl.URL) -> tuple[yarl.URL | None, dict[str, str]]:
    """The proxy through which a server is reached, as the environment names it now.

    Returns
    -------
    proxy : yarl.URL or None
        Without its login.
    headers : dict
        The login, for the proxy's own eyes.

    Raises
    ------
    InvalidConfig
        What it names is no URL.
    """
    named = urllib.request.getproxies().get(url.scheme)
    host = url.host_port_subcomponent
    if not named or host is None or urllib.request.proxy_bypass(host):
        return None, {}
    try:
        proxy = yarl.URL(named if "://" in named else f"http://{named}")
        user, password = proxy.user, proxy.password
        proxy = proxy.with_user(None)
    except ValueError:
        # Its own words show what may be a password's.
        raise InvalidConfig(f"{url.scheme.upper()}_PROXY is no URL of a proxy.") from None
    if user is None:
        return proxy, {}
    login = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
    return proxy, {"Proxy-Authorization": f"Basic {login}"}


async def _by_proxy(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A middleware that sends each request, redirected ones too, its :func:`way`."""
    if request.proxy is None:  # else the caller named one
        proxy, login = way(request.url)
        if proxy is not None and not request.is_ssl():
            # The proxy itself is asked for the URL, by the same headers.
            request.headers.update(login)
            login = {}
        request.update_proxy(proxy, None, login)
    return await handler(request)


def with_proxy(session: dict[str, Any]) -> dict[str, Any]:
    """Options of a session that goes by the network's own proxy."""
    return {**session, "middlewares": (*session.get("middlewares", ()), _by_proxy)}


def patient(allowed: float | None) -> aiohttp.ClientMiddlewareType:
    """A middleware that asks a server again which is busy or fails for the moment.

    It is for requests without a body.

    Parameters
    ----------
    allowed : float or None
        Seconds to wait between all tries together, at most; ``None``: any.
    """

    async def ask(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        tries, waited = 0, 0.0
        while True:
            tries += 1
            answer = await handler(request)
            if answer.status not in FAILING or tries == _TRIES:
                return answer
            asked = asked_for(answer.headers.get("Retry-After"))
            wait = pause(_WAIT, tries) if asked is None else asked
            waited += wait
            if allowed is not None and waited > allowed:
                return answer
            answer.close()
            await asyncio.sleep(wait)

    return ask


class _Heard(socket.socket):
    """A socket that says when something came."""

    hear: Callable[[], None]

    def recv(self, *args: Any) -> bytes:
        data = super().recv(*args)
        if data:
            self.hear()
        return data

    def recv_into(self, *args: Any) -> int:
        size = super().recv_into(*args)
        if size:
            self.hear()
        return size


def sockets(
    timeout: float, hear: Callable[[], None] | None = None
) -> Callable[[Any], socket.socket]:
    """Make sockets that end an upload which the server does not take.

    aiohttp has timeouts for connecting and reading alone. Its wait for an answer begins once the
    system has taken the body, so that the system must not take much more than it has sent: a slow
    line is not silent. Other systems than Linux wait.

    Parameters
    ----------
    timeout : float
        Seconds.
    hear : callable, optional
        Called whenever something comes, where the event loop reads by the sockets' own methods, as
        asyncio's does on all systems but Windows.
    """

    def make(address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        if hear is None:
            made = socket.socket(family, kind, protocol)
        else:
            made = _Heard(family, kind, protocol)
            made.hear = hear
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        return made

    return make
