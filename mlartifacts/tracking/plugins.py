"""What others add to the requests of MLflow's client: its plugins, and AWS's signature.

The plugins are those of MLflow's own entry points, which are asked without mlflow, unless a plugin
imports it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import warnings
from collections.abc import Mapping
from typing import Any

from mlartifacts.environment import values
from mlartifacts.errors import InvalidConfig

__all__ = ["CONTENT", "SIGNED", "UNSIGNED", "logged_in", "provided", "signature"]

#: The variable that has requests signed.
SIGNED = "MLFLOW_TRACKING_AWS_SIGV4"
#: The header that names a body's SHA-256, or says that it is not signed.
CONTENT = "X-Amz-Content-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"

_HEADERS = "mlflow.request_header_provider"
_LOGINS = "mlflow.request_auth_provider"
# AWS's name of what stands before servers that want its signature.
_SERVICE = "execute-api"
# What decides about a signature.
_OF_AWS = (
    *(f"AWS_{name}" for name in "ACCESS_KEY_ID SECRET_ACCESS_KEY SESSION_TOKEN PROFILE".split()),
    *(f"AWS_{name}" for name in "DEFAULT_REGION CONFIG_FILE SHARED_CREDENTIALS_FILE".split()),
    "HOME",
    "~/.aws/credentials",
    "~/.aws/config",
)

_log = logging.getLogger(__name__)


def provided(said: Mapping[str, str]) -> dict[str, str]:
    """The headers that plugins give just now; values of one header are joined, as by MLflow.

    A plugin that fails gives none, and the log says so.

    Parameters
    ----------
    said : mapping
        The headers so far.
    """
    headers: dict[str, str] = {}
    for plugin in _plugins(_HEADERS):
        try:
            given = plugin.request_headers() if plugin.in_context() else {}
        except Exception as error:
            _log.warning("A plugin gives no headers: %s", type(error).__name__)
            continue
        for name, value in given.items():
            before = headers.get(name, said.get(name))
            headers[name] = str(value) if before is None else f"{before} {value}"
    return headers


def logged_in(
    plugin: str, method: str, url: str, said: Mapping[str, str], body: bytes | None
) -> dict[str, str]:
    """The headers by which a plugin logs a request in.

    Parameters
    ----------
    plugin : str
        Its name, which ``MLFLOW_TRACKING_AUTH`` has. ``kubernetes`` and
        ``kubernetes-namespaced`` are mlflow's own, and need it. Of one that is not known a warning
        tells, and it adds nothing, as in MLflow.
    method, url : str
    said : mapping
        The other headers.
    body : bytes or None
    """
    if (auth := _auth(plugin)) is None:
        return {}
    import requests

    request = requests.Request(method, url, dict(said), data=body, auth=auth).prepare()
    return {
        name: str(value)
        for name, value in request.headers.items()
        if said.get(name) != value and name != "Content-Length"
    }


def _auth(name: str) -> Any:
    for plugin in _plugins(_LOGINS):
        if plugin.get_name() == name:
            return plugin.get_auth()
    try:
        from mlflow.tracking.request_auth.registry import fetch_auth
    except ImportError:
        reason = f"MLFLOW_TRACKING_AUTH={name!r}: no such plugin is installed; nothing is added"
        warnings.warn(reason, stacklevel=2)
        return None
    return fetch_auth(name)  # type: ignore[no-untyped-call]


def signature(method: str, url: str, said: Mapping[str, str], body: bytes | None) -> dict[str, str]:
    """The headers that sign a request as AWS wants it (SigV4, of ``execute-api``).

    Raises
    ------
    InvalidConfig
        botocore is not installed, or knows no region or no credentials.
    """
    try:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError:
        raise InvalidConfig(f"{SIGNED} needs botocore: pip install botocore") from None
    credentials, region = _aws(values(_OF_AWS))
    if region is None:
        raise InvalidConfig(f"{SIGNED}: no region is known: set AWS_DEFAULT_REGION.")
    if credentials is None:
        raise InvalidConfig(f"{SIGNED}: no AWS credentials are found: set AWS_ACCESS_KEY_ID, ...")
    # No other header is signed: what stands between may change it.
    kept = {CONTENT: said[CONTENT]} if CONTENT in said else {}
    request = AWSRequest(method, url, kept, body)
    SigV4Auth(credentials.get_frozen_credentials(), _SERVICE, region).add_auth(request)
    return dict(request.headers.items())


@functools.lru_cache(maxsize=4)
def _aws(_settings: tuple[object, ...]) -> tuple[Any, str | None]:
    import botocore.session

    session = botocore.session.get_session()
    return session.get_credentials(), session.get_config_variable("region")


@functools.cache
def _plugins(group: str) -> tuple[Any, ...]:
    made = []
    for entry in importlib.metadata.entry_points(group=group):
        try:
            made.append(entry.load()())
        except (AttributeError, ImportError) as error:
            reason = f"the plugin {entry.name} ({group}) cannot be loaded: {error}"
            warnings.warn(reason, stacklevel=2)
    return tuple(made)
