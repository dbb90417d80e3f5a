"""Google Cloud Storage: ``gs`` and ``gcs``.

Credentials are the application default ones (``GOOGLE_APPLICATION_CREDENTIALS``, gcloud's, the
machine's); where there are none, access is anonymous, as in MLflow.
"""

from __future__ import annotations

import warnings
from typing import Any

from mlartifacts.environment import Environment, server
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.store import Store
from mlartifacts.uri import ArtifactURI

__all__ = ["STORE"]

_TIMEOUT = "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT"
_OLD_TIMEOUT = "MLFLOW_GCS_DEFAULT_TIMEOUT"
_UPLOAD = "MLFLOW_GCS_UPLOAD_CHUNK_SIZE"
_DOWNLOAD = "MLFLOW_GCS_DOWNLOAD_CHUNK_SIZE"
_EMULATOR = "STORAGE_EMULATOR_HOST"

_SECONDS = 60  # MLflow's default
_UNIT = 2**18  # chunks are multiples of it: Google's rule for resumable uploads
_CHUNK = 100 * 2**20  # MLflow's default


def path(uri: ArtifactURI) -> str:
    """``bucket/key``.

    Raises
    ------
    InvalidURI
        There is no bucket, or more than a bucket where it belongs.
    """
    if uri.username is not None or ":" in uri.netloc:
        raise InvalidURI(
            f"{uri} has more than a bucket before its path: write {uri.scheme}://<bucket>/<key>."
            f" An endpoint belongs in {_EMULATOR}, and credentials in"
            " GOOGLE_APPLICATION_CREDENTIALS."
        )
    if not uri.netloc:
        raise InvalidURI(f"{uri} names no bucket: write {uri.scheme}://<bucket>/<key>.")
    return uri.netloc + uri.path.rstrip("/")


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """The endpoint, the project, the timeout and the sizes of chunks.

    Raises
    ------
    InvalidConfig
        A variable has a value that cannot be used.
    """
    derived: dict[str, Any] = {
        "use_listings_cache": False,
        "requests_timeout": _timeout(environment),
        "upload_chunk_size": _chunk(environment, _UPLOAD),
        "download_chunk_size": _chunk(environment, _DOWNLOAD),
    }
    emulator = environment.text(_EMULATOR)
    if emulator and emulator != "default":  # gcsfs' word for none
        url = emulator if "://" in emulator else f"http://{emulator}"
        server(_EMULATOR, url)
        derived.update(endpoint_url=url.rstrip("/"), token="anon")  # noqa: S106
    if project := environment.text("GOOGLE_CLOUD_PROJECT"):
        derived["project"] = project
    return derived


def _timeout(environment: Environment) -> int | None:
    seconds = environment.transfer_timeout()
    if seconds is None and (seconds := environment.timeout(_OLD_TIMEOUT)) is not None:
        warnings.warn(f"{_OLD_TIMEOUT} is deprecated: set {_TIMEOUT}.", FutureWarning, stacklevel=2)
    return None if seconds == -1 else seconds or _SECONDS


def _chunk(environment: Environment, name: str) -> int:
    size = environment.integer(name)
    if size is None:
        return _CHUNK
    if size <= 0 or size % _UNIT:
        raise InvalidConfig(f"{name}={size}: it takes bytes, a multiple of {_UNIT} (256 KiB).")
    return size


STORE = Store(
    schemes=("gs", "gcs"),
    filesystem="mlartifacts.stores.gcs.filesystem:GCSArtifactFileSystem",
    path=path,
    options=options,
    variables=(
        *(_TIMEOUT, _OLD_TIMEOUT, _UPLOAD, _DOWNLOAD, _EMULATOR),
        # What google-auth and gcsfs read.
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"),
        *("CLOUDSDK_CONFIG", "NO_GCE_CHECK", "HOME", "@GOOGLE_APPLICATION_CREDENTIALS"),
        "~/.config/gcloud/application_default_credentials.json",
    ),
    extra="gcs",
    package="gcsfs",
)
