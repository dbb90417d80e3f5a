"""JSON from a tracking server: tried again where that helps, and nothing told to other hosts."""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import MOST_SAID, InvalidConfig, InvalidURI, said_by
from mlartifacts.retrying import asked_for, pause
from mlartifacts.tracking.login import WORKSPACE, Login
from mlartifacts.uri import ArtifactURI

__all__ = [
    "TRANSIENT",
    "VARIABLES",
    "Connection",
    "NotMLflow",
    "Patience",
    "Refused",
    "address",
    "parsed",
    "refusal",
    "refuse_without_scheme",
    "refused_login",
]

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_BACKOFF = "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"

# A host and a port, and no "//".
_NO_SCHEME = re.compile(r"(?!file:)(\[[\w.:]+\]|[\w.-]{2,}):\d{1,5}(/.*)?")

#: What decides how long a server is asked.
VARIABLES = (_RETRIES, _BACKOFF, _TIMEOUT)

#: What a server says when another try may go well.
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

# More tries, or seconds between them, nobody means.
_MOST = 1_000_000

# The longest that is waited between two tries, and believed of a server's Retry-After.
_LONGEST_WAIT = 120.0


class Refused(Exception):
    """An answer of a tracking server that is an error.

    Attributes
    ----------
    status : int
        Of HTTP.
    code : str
        MLflow's word, ``RESOURCE_DOES_NOT_EXIST`` say, or ``""``.
    retry_after : str or None
        When to ask again, in the server's words.
    who : str or None
        Who says it, where it is not the server that was named.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.who: str | None = None


def refusal(status: int, data: bytes, retry_after: str | None = None) -> Refused:
    """What a server says with an answer that is an error."""
    try:
        answer = json.loads(data)
        code, message = answer.get("error_code", ""), answer.get("message", answer.get("detail"))
    except (ValueError, AttributeError):
        code, message = "", None
    said = _said(data) if message is None else said_by(str(message))
    return Refused(status, str(code), said, retry_after)


def parsed(data: bytes, elsewhere: str = "", url: str | None = None) -> dict[str, Any]:
    """The JSON object that an answer of MLflow's servers is.

    Parameters
    ----------
    data : bytes
    elsewhere : str, default ""
        Who answered, where it is another than was asked.
    url : str, optional
        What the error is about.

    Raises
    ------
    NotMLflow
        It is none.
    """
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        reason = f"what answers{elsewhere} is no MLflow server: {_said(data)}"
        raise NotMLflow(errno.EPROTO, reason, url)
    return answer


def refused_login(status: int, known: bool) -> str:
    """Why a server refuses a request, and what to do; `known` if it was told who asks."""
    return (
        f"the tracking server refuses this {'as who we are' if known else 'without a login'}"
        f" ({status}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"
        " MLFLOW_TRACKING_TOKEN"
    )


class NotMLflow(OSError):
    """An answer that MLflow would not give, not at this endpoint at least."""


def refuse_without_scheme(uri: str) -> None:
    """Refuse ``localhost:5000``, which reads as a path or as a scheme.

    Raises
    ------
    InvalidConfig
        The tracking URI is such a one.
    """
    if _NO_SCHEME.fullmatch(uri):
        raise InvalidConfig(f"The tracking URI {uri} has no scheme: write http://{uri}.")


def address(server: ArtifactURI) -> str:
    """The URL of a server, to which routes are appended.

    Raises
    ------
    InvalidURI
        It has no host, or something that no server's URL has; a fragment, copied from a browser,
        would be cut off by every request, and its answer be that of another route.
    """
    if not server.host:
        raise InvalidURI(f"The server's URL {server} names no host.")
    _ = server.port
    url = f"{server.scheme}://{server.netloc}{server.path.rstrip('/')}"
    for mark in "?#":
        if mark in url:
            clean = url.partition(mark)[0].rstrip("/")
            raise InvalidURI(f"The server's URL {server} has a {mark!r}: write {clean}.")
    if not url.isprintable() or " " in url:
        raise InvalidURI(f"The server's URL {str(server)!r} has a space.")
    try:
        server.host.encode("idna")
    except UnicodeError:
        raise InvalidURI(f"The server's URL {str(server)!a} names no valid host.") from None
    if not server.path.isascii():
        raise InvalidURI(f"The path of the server's URL {str(server)!a} is to be encoded.")
    return url


class Patience:
    """How often, and how long, a server is asked.

    MLflow's ``MLFLOW_HTTP_REQUEST_MAX_RETRIES`` (7), ``MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR`` (2
    seconds, doubled with each try) and ``MLFLOW_HTTP_REQUEST_TIMEOUT`` (120 seconds).

    Raises
    ------
    InvalidConfig
        One of them is no number, below 0, or beyond all measure.

    Attributes
    ----------
    retries, backoff : int
    timeout : int
        Seconds; -1 for no limit.
    """

    def __init__(self, environment: Environment) -> None:
        def number(name: str, default: int) -> int:
            value = environment.integer(name)
            if value is not None and not 0 <= value <= _MOST:
                raise InvalidConfig(f"{name}={value}: it takes a number from 0 to {_MOST}.")
            return default if value is None else value

        self.retries = number(_RETRIES, 7)
        self.backoff = number(_BACKOFF, 2)
        self.timeout = environment.timeout(_TIMEOUT) or 120

    def wait(self, tries: int, retry_after: str | None) -> float:
        """Seconds to wait after `tries` tries; the server's own word goes first."""
        asked = asked_for(retry_after)
        if asked is not None:
            return min(asked, _LONGEST_WAIT)
        return pause(self.backoff, tries, _LONGEST_WAIT)


class Connection:
    """A tracking server.

    Parameters
    ----------
    server : ArtifactURI
        Its URL; a path in it is a prefix of every request's.
    environment : Environment
    """

    def __init__(self, server: ArtifactURI, environment: Environment) -> None:
        self.url = address(server)
        self._login = Login.of(server, environment)
        self._patience = Patience(environment)
        self._timeout = None if self._patience.timeout == -1 else self._patience.timeout
        context = functools.lru_cache(1)(self._login.context)
        if server.scheme == "https":
            context()  # a setting that cannot be used is told here
        self._opener = urllib.request.build_opener(_OverTLS(context), _Redirects(self._tell))
        self._knows_workspaces = self._login.workspace is None

    def get(self, endpoint: str, **parameters: str) -> dict[str, Any]:
        """Ask for `endpoint`, such as ``mlflow/runs/get``.

        Raises
        ------
        Refused
            The server says that it cannot.
        PermissionError
            It does not know us, or does not let us.
        ConnectionError, TimeoutError, OSError
            It cannot be reached, or gives no answer that could be MLflow's.
        """
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        self._refuse_workspace()
        return self._ask("GET", f"2.0/{endpoint}{query}")

    def post(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for `endpoint` with a JSON object; the errors are those of :meth:`get`."""
        self._refuse_workspace()
        return self._ask("POST", f"2.0/{endpoint}", json.dumps(body).encode())

    def _refuse_workspace(self) -> None:
        """Refuse a workspace where the server has none, and would give what is of no workspace."""
        if self._knows_workspaces:
            return
        said: Mapping[str, Any] = {}
        for endpoint in ("server-info", "server-features"):
            with contextlib.suppress(NotMLflow, Refused):
                said = self._ask("GET", f"3.0/mlflow/{endpoint}")
                break
        if not said.get("workspaces_enabled"):
            raise InvalidConfig(
                f"{WORKSPACE}={self._login.workspace!r}: {self.url} has no workspaces; unset it, or"
                " start the server with --enable-workspaces."
            )
        self._knows_workspaces = True

    def _tell(self, request: urllib.request.Request) -> None:
        """Say who asks, to the server that was named alone."""
        data = request.data if isinstance(request.data, bytes) else None
        said = {**request.headers, "User-Agent": "mlartifacts"}
        told = self._login.headers(request.get_method(), request.full_url, said, data)
        for name, value in told.items():
            request.add_unredirected_header(name, value)

    def _ask(self, method: str, endpoint: str, body: bytes | None = None) -> dict[str, Any]:
        url = f"{self.url}/api/{endpoint}"
        headers = {
            "Accept": "application/json",
            "User-Agent": "mlartifacts",
            **self._login.spread(),
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        tries = 0
        while True:
            tries += 1
            request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310
            self._tell(request)
            retry_after = None
            try:
                with self._opener.open(request, timeout=self._timeout) as answer:
                    return parsed(answer.read(), self._elsewhere(answer.geturl()), self.url)
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(MOST_SAID)
                if error.code not in TRANSIENT or tries > self._patience.retries:
                    raise self._refusal(error.code, said, error.geturl()) from error
                retry_after = error.headers.get("Retry-After")
            except NotMLflow:
                raise
            except (http.client.InvalidURL, UnicodeError) as error:
                reason = "the server redirects to something that is no URL"
                raise NotMLflow(errno.EPROTO, reason, self.url) from error
            except (OSError, http.client.HTTPException) as error:
                broken = _reason(error)
                again = isinstance(
                    broken, ConnectionResetError | BrokenPipeError | http.client.HTTPException
                )
                if not again or tries > self._patience.retries:
                    raise self._unreachable(broken) from error
            time.sleep(self._patience.wait(tries, retry_after))

    def _elsewhere(self, url: str) -> str:
        """Who answered, where it is another than was asked; a query may be signed."""
        there = urllib.parse.urlsplit(url)
        if (there.scheme, there.netloc) == tuple(urllib.parse.urlsplit(self.url)[:2]):
            return ""
        return f" ({there.scheme}://{there.netloc.rpartition('@')[2]}, to which it redirects)"

    def _refusal(self, status: int, data: bytes, url: str) -> Exception:
        refused = refusal(status, data)
        elsewhere = self._elsewhere(url)
        if elsewhere and status in {401, 403}:
            reason = f"the tracking server{elsewhere} says {status}"
            return PermissionError(errno.EACCES, reason, self.url)
        if status in {401, 403}:
            reason = refused_login(status, self._login.is_known)
            return PermissionError(errno.EACCES, reason, self.url)
        if status in TRANSIENT:
            return OSError(
                errno.EBUSY, f"the tracking server{elsewhere} says {status}: {refused}", self.url
            )
        if refused.code in {"", "ENDPOINT_NOT_FOUND"}:
            reason = f"what answers{elsewhere} is no MLflow server: {status} {refused}"
            return NotMLflow(errno.EPROTO, reason, self.url)
        return refused

    def _unreachable(self, error: Exception) -> OSError:
        if isinstance(error, TimeoutError):
            reason = f"the tracking server gives no answer in time ({_TIMEOUT} sets how long)"
            return TimeoutError(errno.ETIMEDOUT, reason, self.url)
        number = getattr(error, "errno", None)
        known = number if number in {errno.ECONNREFUSED, errno.ECONNRESET} else errno.ECONNABORTED
        return OSError(known, f"the tracking server cannot be reached: {error}", self.url)


class _OverTLS(urllib.request.HTTPSHandler):
    """TLS, if it comes to that: to read every authority that is trusted takes 20 ms."""

    def __init__(self, context: Callable[[], ssl.SSLContext]) -> None:
        urllib.request.AbstractHTTPHandler.__init__(self)
        self._made = context

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(http.client.HTTPSConnection, req, context=self._made())


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to another server get no login, and none from TLS to plain text is followed.

    Parameters
    ----------
    tell : callable
        Says who asks.
    """

    def __init__(self, tell: Callable[[urllib.request.Request], None]) -> None:
        self._tell = tell

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise urllib.error.HTTPError(newurl, code, "redirected to plain text", headers, fp)
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and (new.type, new.host) == (req.type, req.host):
            self._tell(new)
        return new


def _reason(error: Exception) -> Exception:
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, Exception) else error


def _said(data: bytes) -> str:
    text = said_by(data)
    return repr(text) if text else os.strerror(errno.ENODATA)
