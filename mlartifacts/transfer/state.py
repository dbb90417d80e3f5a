"""What is kept on this machine between calls: where, and what names the place that it is about."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig
from mlartifacts.filesystems.delegating import DelegatingFileSystem
from mlartifacts.filesystems.mlflow_artifacts import STORE as MLFLOW_ARTIFACTS
from mlartifacts.store import merge
from mlartifacts.tracking.login import WORKSPACE
from mlartifacts.transfer.trees import End
from mlartifacts.uri import redact

__all__ = ["DIRECTORY", "cache_directory", "hash_of", "key_of", "server_of"]

DIRECTORY = "MLARTIFACTS_CACHE_DIR"

# Options that say which server is meant. None of them is a secret, but for a URL's password.
_SERVER = ("endpoint_url", "account_host", "account_name", "host", "port", "user", "username")
_TRACKING = ("tracking_uri", "registry_uri", "workspace")
# The parts of Azure's connection strings that do.
_CONNECTION = re.compile(r"(?:^|;)\s*((?:AccountName|BlobEndpoint|EndpointSuffix)=[^;?]*)", re.I)


def cache_directory(environment: Environment) -> str:
    """The directory ``MLARTIFACTS_CACHE_DIR``, else the user's own for caches."""
    given = environment.text(DIRECTORY)
    if given is None:
        import platformdirs

        return platformdirs.user_cache_dir("mlartifacts", appauthor=False)
    if "://" in given:
        raise InvalidConfig(f"{DIRECTORY}={redact(given)!r}: it takes a path, and no URI.")
    path = os.path.abspath(os.path.expanduser(given))
    above = path
    while not os.path.lexists(above) and above != os.path.dirname(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        is_dangling = os.path.islink(above) and not os.path.exists(above)
        what = "is a link that leads nowhere" if is_dangling else "is no directory"
        raise InvalidConfig(f"{DIRECTORY}={given!r}: {above!r} {what}. Name another directory.")
    return path


def key_of(source: End) -> str:
    """What names an artifact, on which server, without a secret."""
    kind, *server = server_of(source.fs)
    return hash_of([kind, redact(str(source)), *server])


def server_of(fs: Any) -> list[Any]:
    """What tells a filesystem's server from others, but for its URIs' own words, and no secret."""
    settings = merge(fs.store.options(fs.root_uri, Environment()), fs.storage_options)
    if isinstance(fs, DelegatingFileSystem):
        settings["tracking_uri"] = fs.resolver.tracking
    if isinstance(fs, DelegatingFileSystem) or fs.store is MLFLOW_ARTIFACTS:
        settings["workspace"] = Environment().text(WORKSPACE)
    settings = {**(settings.get("client_kwargs") or {}), **settings}
    named = {each: redact(str(settings.get(each))) for each in (*_SERVER, *_TRACKING)}
    connection = _CONNECTION.findall(str(settings.get("connection_string", "")))
    return [type(fs).__name__, named, connection]


def hash_of(value: object) -> str:
    """A short name for what JSON can hold."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()
