"""FTP servers: ``ftp:``, and ``ftps:`` for explicit TLS.

As in MLflow, a URI without a user is ``anonymous``'s, one without a password has an empty
one, one without a port means 21, and one without a host means ``localhost``.
"""

from __future__ import annotations

from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidURI
from mlartifacts.store import Store
from mlartifacts.uri import ArtifactURI, absolute

__all__ = ["STORE", "clean"]


def path(uri: ArtifactURI) -> str:
    """The absolute path on the server.

    Raises
    ------
    InvalidURI
        The URI has no ``//`` before its host, its port is no number, or its path climbs out.
    """
    if not uri.netloc and uri.path and not uri.path.startswith("/"):
        raise InvalidURI(f"{uri.scheme}:{uri.path} names no host: write {uri.scheme}://host/path.")
    uri.port  # noqa: B018  (raises where it is no number)
    return clean(uri.path)


def clean(path: str) -> str:
    """Write a path in its one form: absolute, and without empty, ``.`` and ``..`` steps.

    Raises
    ------
    InvalidURI
        It climbs above the root, or it holds a character (a line's end, a NUL) with which it
        would be more than one FTP command.
    """
    if any(mark in path for mark in "\r\n\0"):
        raise InvalidURI(f"The path {path!r} holds a line's end or a NUL; FTP cannot say it.")
    return absolute(path)


def root(uri: ArtifactURI) -> ArtifactURI:
    """The server, also where it is ``localhost``'s: ``ftps`` must stay ``ftps``."""
    return uri.root


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """The server, the user and the timeout.

    Raises
    ------
    InvalidURI
        The port is no number, or user or password hold a line's end.
    InvalidConfig
        The password stayed in another process, or the timeout is no number of seconds.
    """
    password = uri.secret()
    for name, value in (("user", uri.username), ("password", password)):
        if value is not None and any(mark in value for mark in "\r\n\0"):
            raise InvalidURI(f"The {name} in {uri} holds a line's end or a NUL.")
    derived: dict[str, Any] = {
        "host": uri.host or "localhost",
        "port": uri.port or 21,
        "username": uri.username,
        "password": password,
        "tls": uri.scheme == "ftps",
    }
    timeout = environment.transfer_timeout()
    if timeout is not None:
        derived["timeout"] = None if timeout == -1 else timeout
    return derived


STORE = Store(
    schemes=("ftp", "ftps"),
    filesystem="mlartifacts.stores.ftp.filesystem:FTPArtifactFileSystem",
    path=path,
    options=options,
    root=root,
    variables=("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
