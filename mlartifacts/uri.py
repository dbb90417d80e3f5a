r"""Artifact URIs: from text to a validated, immutable value.

Grammar, as MLflow reads it::

    uri       = scheme "://" authority path     s3://bucket/1/abc/artifacts
              | scheme ":" path                 runs:/abc/model, file:/mnt/nfs, hdfs:/data
              | path                            mlruns/0, /mnt/nfs, ~/x, C:\data, \\host\share
    authority = [user [":" password] "@"] host [":" port]
    path      = "" | "/" anything

A path is literal: ``#``, ``?``, ``%41``, ``[1]`` and ``*`` are characters of a name, because
object stores allow them in keys and MLflow writes them there. Only a ``file:`` URI is
percent-decoded, as MLflow percent-encodes it. User and password are percent-decoded.

``mlartifacts+s3://`` is ``s3://`` spelt so that other libraries do not take it for a URL that
they open themselves (see :func:`mlartifacts.to_url`).

Everything here is pure text: no environment, no filesystem, no network.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlsplit

from mlartifacts import secrets
from mlartifacts.errors import InvalidConfig, InvalidURI, hide_query

__all__ = [
    "ALIAS",
    "CONTROL",
    "PORTS",
    "ArtifactURI",
    "absolute",
    "parse",
    "redact",
    "server_name",
    "server_name_of",
    "shown",
]

ALIAS = "mlartifacts+"

# One letter and a colon is a Windows drive, so a scheme has at least two characters.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):(.*)", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# "user:pass" without a host behind it, where "/" ended the authority inside the password.
_UNENCODED = re.compile(r"(?!arn:)[^@:\[]*:(?!\d*$)[^@]*$")
_CREDENTIALS = re.compile(
    r"((?:^|::)[A-Za-z0-9+.\-]+:/*[^/:]*|(?<=://)[^/:]*):(.*)(?=@)", re.DOTALL
)
# A user and a password where "//" should be.
_NO_SLASHES = re.compile(r"[^/@:]+:[^@]*@")
#: What the web's schemes stand for where no port is given.
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, repr=False)
class ArtifactURI:
    """A parsed artifact URI.

    Attributes
    ----------
    scheme : str
        Lower case; ``""`` for a bare local path.
    netloc : str
        ``host[:port]`` or a bucket, exactly as written; ``""`` where there is none.
    path : str
        The literal path behind the authority, with its leading slash if it had one.
    username : str or None
        Percent-decoded.
    password : str or None
        A handle that stands for the password (see :mod:`mlartifacts.secrets`).
    """

    scheme: str
    netloc: str = ""
    path: str = ""
    username: str | None = None
    password: str | None = None

    @property
    def host(self) -> str:
        """The host of `netloc`: lower case, IPv6 without its brackets; ``""`` for none.

        Raises
        ------
        InvalidURI
            No resolver takes it: a label is empty, too long, or no text.
        """
        host = _split_port(self.netloc)[0].lower()
        labels = host.removesuffix(".").split(".")
        if host and not (host.isascii() and all(0 < len(label) < 64 for label in labels)):
            try:
                host.encode("idna")
            except UnicodeError:
                raise InvalidURI(f"{str(self)!a} names no valid host.") from None
        return host

    @property
    def port(self) -> int | None:
        """The port of `netloc`.

        Raises
        ------
        InvalidURI
            It is no number from 1 to 65535.
        """
        text = _split_port(self.netloc)[1]
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
            raise InvalidURI(f"The port {text!r} in {self} is no number from 1 to 65535.")
        return int(text)

    @property
    def root(self) -> ArtifactURI:
        """The same URI without its path: what a filesystem is opened with."""
        return replace(self, path="")

    def secret(self) -> str | None:
        """The password itself, for the driver alone.

        Raises
        ------
        InvalidConfig
            The URI was pickled in another process, and passwords do not travel.
        """
        if self.password is None:
            return None
        value = secrets.reveal(self.password)
        if value is None:
            raise InvalidConfig(
                f"The password of {self} stayed in the process that parsed it: passwords in"
                " URIs are not pickled. Open the URI in this process, use a key, or pass"
                " password= explicitly (an explicit option is pickled)."
            )
        return value

    def with_handle(self) -> str:
        """The URI as text that :func:`parse` gives back equal, the password as its handle."""
        return self._text(self.password)

    def __str__(self) -> str:
        return hide_query(self._text("***" if self.password is not None else None))

    def __repr__(self) -> str:
        return f"ArtifactURI({str(self)!r})"

    def _text(self, password: str | None) -> str:
        if not self.scheme:
            return self.path
        user = "" if self.username is None else quote(self.username, safe="")
        if password is not None:
            user += f":{password}"
        user += "@" if self.username is not None or password is not None else ""
        path = quote(self.path, safe="/~:!$&'()*+,;=@") if self.scheme == "file" else self.path
        return f"{self.scheme}://{user}{self.netloc}{path}"


def parse(uri: str) -> ArtifactURI:
    """Read an artifact URI.

    Parameters
    ----------
    uri : str
        Any of the forms in the module's grammar.

    Returns
    -------
    ArtifactURI

    Raises
    ------
    InvalidURI
        It is empty, has a control character (a NUL or a newline, say), or its path climbs
        above its root with ``..``. The message never shows a password.
    """
    if not isinstance(uri, str):
        raise InvalidURI(f"An artifact URI is a str, not {type(uri).__name__}.")
    if not uri:
        raise InvalidURI("The artifact URI is empty.")
    if found := CONTROL.search(uri):
        raise InvalidURI(f"{shown(uri)!r} has the control character {found.group()!r}.")
    match = _SCHEME.fullmatch(uri)
    if match is None and "://" in uri and _SCHEME.fullmatch(uri.lstrip()):
        raise InvalidURI(f"{shown(uri)!r} begins with a space.")
    if match is None:
        return ArtifactURI("", path=uri)
    scheme, rest = match.group(1).lower().removeprefix(ALIAS), match.group(2)
    if rest.startswith("//"):
        authority, slash, tail = rest[2:].partition("/")
        path = slash + tail
    else:
        authority, path = "", rest
    if scheme == "file":
        path = unquote(path)
        if found := CONTROL.search(path):
            raise InvalidURI(f"{shown(uri)!r} has the control character {found.group()!r}.")
    if not authority and _NO_SLASHES.match(path) and scheme not in {"", "file", "local"}:
        raise InvalidURI(f"{shown(uri)} has a login, but no '//' before it.")
    if _UNENCODED.match(authority.rpartition("@")[2]) and "@" in path:
        raise InvalidURI(f"{shown(uri)} has a '/' in its password: percent-encode it as %2F.")
    userinfo, at, netloc = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    parsed = ArtifactURI(
        scheme,
        netloc,
        path,
        username=unquote(user) if at else None,
        password=secrets.hide(unquote(password)) if colon else None,
    )
    _refuse_climbing(parsed)
    return parsed


def absolute(path: str) -> str:
    """Write a server's path in its one form: no empty, ``.`` and ``..`` steps, one first slash.

    Raises
    ------
    InvalidURI
        It climbs above the root.
    """
    steps: list[str] = []
    for step in path.split("/"):
        if step == "..":
            if not steps:
                raise InvalidURI(f"The path {path!r} climbs above its root with '..'.")
            steps.pop()
        elif step not in {"", "."}:
            steps.append(step)
    return "/" + "/".join(steps)


def server_name(host: str, port: int | None = None, usual: int | None = None) -> str:
    """A server in one spelling: lower case, ``localhost`` for this machine, no `usual` port.

    Of this machine's other addresses (``127.0.0.2``), each may have a server of its own.
    """
    host = host.lower().removesuffix(".") or "localhost"
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        host = "localhost" if str(address) in {"127.0.0.1", "::1"} else str(address)
    return f"{host}:{port}" if port and port != usual else host


def server_name_of(url: str) -> str:
    """The server of a URL of the web in one spelling, with what stands before all of its paths."""
    parts = urlsplit(url)
    name = server_name(parts.hostname or "", parts.port, PORTS.get(parts.scheme))
    return name + parts.path.rstrip("/")


def shown(uri: str) -> str:
    """A URI as messages have it: without a password, and without the query of a web URL."""
    return hide_query(redact(uri))


def redact(text: str) -> str:
    """Replace the password of every ``user:password@`` in a text by ``***``."""
    return _CREDENTIALS.sub(r"\1:***", text)


def _split_port(netloc: str) -> tuple[str, str]:
    if netloc.startswith("["):
        host, bracket, rest = netloc[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidURI(f"The host {netloc!r} opens a bracket and does not close it.")
        return host, rest[1:]
    host, _, port = netloc.partition(":")
    return host, port


def _refuse_climbing(uri: ArtifactURI) -> None:
    depth = 0
    for part in uri.path.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            raise InvalidURI(f"The path of {uri} climbs above its root with '..'.")
