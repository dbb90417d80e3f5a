"""Who may ask: requests that a web page of somebody else's has made are refused.

A page can have its visitor's browser ask a server that only the visitor reaches: by a name of the
page's own that leads there (DNS rebinding), or by a form. So the names of this server are known,
and what changes something must not come from a page of another.
"""

from __future__ import annotations

import ipaddress
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mlartifacts.environment import Environment
from mlartifacts.server.answers import Refusal
from mlartifacts.uri import CONTROL

__all__ = ["Guard", "allowed_hosts"]

_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
_CHANGING = frozenset({"POST", "PUT", "DELETE"})


def allowed_hosts() -> set[str]:
    """Names of this server: ``MLFLOW_SERVER_ALLOWED_HOSTS``, separated by commas."""
    told = Environment().text(_HOSTS) or ""
    return {each.strip().lower() for each in told.split(",")} - {""}


class Guard:
    """Hands on requests that name this server, and that no other server's page has made.

    Loopback and private addresses, and ``localhost``, are its names always.

    Parameters
    ----------
    app : ASGI application
    hosts : set of str
        More names of it; ``*`` in them stands for anything.
    """

    def __init__(self, app: ASGIApp, hosts: set[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer it with 403, or 400."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif reason := self._refused(Request(scope)):
            await Refusal(403, "PERMISSION_DENIED", reason)(scope, receive, send)
        elif CONTROL.search(scope["path"]):  # which the routes' patterns drop at the end
            message = "The path has a character that is no text."
            await Refusal(400, "INVALID_PARAMETER_VALUE", message)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refused(self, request: Request) -> str | None:
        host = request.headers.get("host", "").lower()
        if not self._is_ours(host):
            return f"This server is not known by that name: {_HOSTS} says its names."
        origins = {each.lower() for each in request.headers.getlist("origin")}
        foreign = bool(origins - {f"http://{host}", f"https://{host}"})
        site = request.headers.get("sec-fetch-site", "").lower()
        if request.method in _CHANGING and (foreign or site in {"cross-site", "same-site"}):
            return "Pages of other servers may change nothing here."
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost":
            return True
        if any(fnmatchcase(each, known) for each in (host, name) for known in self._hosts):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_private or address.is_loopback
