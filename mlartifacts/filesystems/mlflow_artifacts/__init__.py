"""Artifacts behind MLflow's proxy: ``mlflow-artifacts:/path``.

========================================================  ======================================
URI                                                       server
========================================================  ======================================
``mlflow-artifacts:/path``                                the tracking server
``mlflow-artifacts://host:port/path``                     that one, asked as the tracking server
                                                          is (``https``, a prefix of its paths)
``https://host/api/2.0/mlflow-artifacts/artifacts/path``  that one
========================================================  ======================================

``mlflowartifacts:`` is the same for libraries that take no hyphen in a scheme. In URLs of the web
alone the path is percent-decoded, as there every program encodes it. The path is below
the server's artifact root; the run's part of it (``1/<run_id>/artifacts``) is nothing special.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.proxy.wire import ARTIFACTS
from mlartifacts.store import Store
from mlartifacts.tracking.connection import refuse_without_scheme
from mlartifacts.tracking.resolver import VARIABLES, set_tracking_uri
from mlartifacts.uri import ArtifactURI, absolute, parse

__all__ = ["MULTIPART_VARIABLES", "STORE", "server_of"]

_OVER_HTTP = frozenset({"http", "https"})

_UPLOAD = "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"
_DOWNLOAD = "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"
_UPLOAD_FROM = "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE"
_UPLOAD_PART = "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE"
_DOWNLOAD_PART = "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE"

#: What decides about presigned URLs.
MULTIPART_VARIABLES = (_UPLOAD, _DOWNLOAD, _UPLOAD_FROM, _UPLOAD_PART, _DOWNLOAD_PART)

# The sizes of MLflow's documentation.
_SIZES = {_UPLOAD_FROM: 500 * 2**20, _UPLOAD_PART: 100 * 2**20, _DOWNLOAD_PART: 100 * 2**20}


def path(uri: ArtifactURI) -> str:
    """The path below the server's artifact root.

    Raises
    ------
    InvalidURI
        It climbs above the root, or there is a port and no host, or no valid one.
    """
    if uri.scheme in _OVER_HTTP:
        return absolute(unquote(uri.path.partition(ARTIFACTS)[2])).strip("/")
    if uri.netloc.isdigit():
        raise InvalidURI(f"{uri} names a port and no host: write {uri.scheme}://host:port/path.")
    _ = uri.host, uri.port
    return absolute(uri.path).strip("/")


def url(path: str) -> str:
    """A path of the tracking server: what stood before its slash would be another server."""
    return f"/{path}"


def root(uri: ArtifactURI) -> ArtifactURI | None:
    """The server, where the URI names one."""
    if uri.scheme in _OVER_HTTP:
        return replace(uri, path=uri.path.partition(ARTIFACTS)[0] + ARTIFACTS)
    return uri.root if uri.netloc else None


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """Who is asked, and what goes by presigned URLs.

    Raises
    ------
    InvalidConfig
        A variable has a value that cannot be used.
    """
    derived: dict[str, Any] = {}
    if (tracking := set_tracking_uri(environment)) is not None:
        derived["tracking_uri"] = tracking
    for option, name in (("multipart_upload", _UPLOAD), ("multipart_download", _DOWNLOAD)):
        if (enabled := environment.boolean(name)) is not None:
            derived[option] = enabled
    for name, default in _SIZES.items():
        size = environment.integer(name)
        if size is not None and size <= 0:
            raise InvalidConfig(f"{name}={size}: it takes a number of bytes above 0.")
        derived[name.removeprefix("MLFLOW_").lower()] = default if size is None else size
    return derived


def server_of(uri: ArtifactURI, tracking_uri: str | None) -> ArtifactURI:
    """The URL of the server that a root URI means, a prefix of its paths included.

    Raises
    ------
    InvalidConfig
        The URI leaves the server to the tracking URI, and that is none of a server.
    """
    if uri.scheme in _OVER_HTTP:
        return replace(uri, path=uri.path.partition(ARTIFACTS)[0])
    if tracking_uri is not None:
        refuse_without_scheme(tracking_uri)
    tracking = None if tracking_uri is None else parse(tracking_uri)
    if tracking is None or tracking.scheme not in _OVER_HTTP:
        if uri.netloc:  # and nothing says how it is to be asked
            return replace(uri, scheme="http", path="")
        shown = "none is set" if tracking is None else f"it is {tracking}"
        raise InvalidConfig(
            f"mlflow-artifacts:/ is of the tracking server, and {shown}: set MLFLOW_TRACKING_URI"
            " to the server's URL (http://localhost:5000, say), give the option tracking_uri, or"
            " name the server (mlflow-artifacts://host:port/path)."
        )
    if not uri.netloc:
        return tracking
    return replace(uri, scheme=tracking.scheme, path=tracking.path)


STORE = Store(
    schemes=("mlflow-artifacts", "mlflowartifacts"),
    filesystem="mlartifacts.filesystems.mlflow_artifacts.filesystem:MlflowArtifactsFileSystem",
    path=path,
    options=options,
    url=url,
    root=root,
    variables=(
        *VARIABLES,
        *MULTIPART_VARIABLES,
        # Those of mlartifacts.proxy.client, which imports aiohttp.
        *("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "MLFLOW_S3_IGNORE_TLS", "AWS_CA_BUNDLE"),
    ),
    extra="http",
    package="aiohttp",
)
