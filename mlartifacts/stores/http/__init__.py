"""Web servers, for reading: ``http`` and ``https``.

The one store whose paths are not literal: a URL is what the server takes for one, so its query
and its percent-encoding stay as they are written.
"""

from __future__ import annotations

import re
from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidURI
from mlartifacts.store import Store
from mlartifacts.uri import ArtifactURI

__all__ = ["STORE", "s3_uri"]

_S3 = re.compile(
    r"(?:(?P<bucket>[a-z0-9][a-z0-9.-]+)\.)?s3[.-](?:[a-z0-9.-]+\.)?amazonaws\.com(?:\.cn)?"
)


_TIMEOUT = 60  # seconds; without one a silent server is waited for without end


def path(uri: ArtifactURI) -> str:
    """The URL itself, without user and password.

    Raises
    ------
    InvalidURI
        There is no host, or the port is no number.
    """
    if not uri.host:
        raise InvalidURI(f"{uri} names no host: write {uri.scheme}://<host>/<path>.")
    _ = uri.port
    return f"{uri.scheme}://{uri.netloc}{uri.path}"


def root(uri: ArtifactURI) -> ArtifactURI | None:
    """Who is asking, where the URL says so."""
    return uri.root if uri.username is not None else None


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """User, password and timeout."""
    derived: dict[str, Any] = {"cache_type": "proportional"}
    if uri.username is not None:
        derived["username"] = uri.username
        derived["password"] = uri.secret() or ""
    timeout = environment.transfer_timeout()
    if timeout != -1:
        derived["timeout"] = timeout or _TIMEOUT
    return derived


def s3_uri(url: str) -> str | None:
    """The ``s3://`` URI of an Amazon S3 URL; ``None`` for any other."""
    host, _, key = url.partition("?")[0].partition("://")[2].partition("/")
    match = _S3.fullmatch(host.lower())
    if match is None:
        return None
    return f"s3://{match['bucket']}/{key}" if match["bucket"] else f"s3://{key}"


STORE = Store(
    schemes=("http", "https"),
    filesystem="mlartifacts.stores.http.filesystem:HTTPArtifactFileSystem",
    path=path,
    options=options,
    root=root,
    variables=("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT",),
    extra="http",
    package="aiohttp",
)
