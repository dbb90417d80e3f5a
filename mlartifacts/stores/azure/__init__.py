"""Azure Blob Storage and Data Lake Gen2: ``wasbs``, ``wasb``, ``abfss``, ``abfs`` and ``az``.

A URI names its account in its host (``wasbs://container@account.blob.core.windows.net/path``),
or leaves it to the settings, as adlfs allows (``az://container/path``). Of the credentials in
the environment the first in MLflow's order is taken: ``AZURE_STORAGE_CONNECTION_STRING``, then
``AZURE_STORAGE_ACCESS_KEY``, then those that adlfs knows besides, and at last whatever
``DefaultAzureCredential`` finds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.location import Location
from mlartifacts.store import Store
from mlartifacts.uri import ArtifactURI, server_name_of

__all__ = ["CREDENTIALS", "STORE", "account", "agree", "alone"]

_HOST = re.compile(
    r"(?P<account>[a-z0-9-]+)(?P<zone>\.privatelink|\.z[0-9]+)?\.(blob|dfs)"
    r"(?P<cloud>\.core\.windows\.net|\.core\.chinacloudapi\.cn|\.core\.usgovcloudapi\.net"
    r"|\.storage\.azure\.net|\.fabric\.microsoft\.com)"
)
_FORMS = (
    "{0}://<container>@<account>.blob.core.windows.net/<path>"
    " (or .blob.core.chinacloudapi.cn, .blob.core.usgovcloudapi.net;"
    " abfss: .dfs. for .blob.), or az://<container>/<path>"
)

#: The options that say who is asking. They replace each other, so that one given explicitly
#: sets aside all that the environment has.
CREDENTIALS = (
    "connection_string",
    "credential",
    "account_key",
    "sas_token",
    "client_id",
    "client_secret",
    "tenant_id",
    "anon",
)

_TIMEOUT = 600  # seconds, MLflow's


def path(uri: ArtifactURI) -> str:
    """``container/blob``.

    Raises
    ------
    InvalidURI
        There is no container, or the host is no account's.
    """
    form = _FORMS.format(uri.scheme)
    if uri.password is not None:
        raise InvalidURI(
            f"{uri} has a password: credentials come from AZURE_STORAGE_CONNECTION_STRING or"
            f" AZURE_STORAGE_ACCESS_KEY. Write {form}."
        )
    if uri.username is None:
        if "." in uri.netloc or ":" in uri.netloc or not uri.netloc:
            raise InvalidURI(f"{uri} names no container. Write {form}.")
        if uri.scheme in {"wasbs", "wasb"}:
            raise InvalidURI(f"{uri} names no account's host. Write {form}.")
        container = uri.netloc
    else:
        if not uri.username:
            raise InvalidURI(f"{uri} names no container. Write {form}.")
        if not _HOST.fullmatch(uri.netloc.lower()):
            raise InvalidURI(
                f"The host {uri.netloc!r} in {uri} is no storage account's. Write {form}."
            )
        container = uri.username
    return container + uri.path.rstrip("/")


def root(uri: ArtifactURI) -> ArtifactURI:
    """The account; where the URI leaves it to the settings, the scheme alone."""
    netloc = uri.netloc if uri.username is not None or "." in uri.netloc else ""
    return replace(uri, netloc=netloc, path="", username=None, password=None)


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """The account, who is asking, and the timeout."""
    host = _HOST.fullmatch(uri.netloc.lower())
    derived: dict[str, Any] = {}
    if host:
        derived["account_name"] = host["account"]
        # The two kinds of endpoint hold the same data; the driver speaks to this one.
        derived["account_host"] = f"{host['account']}{host['zone'] or ''}.blob{host['cloud']}"
    elif name := environment.text("AZURE_STORAGE_ACCOUNT_NAME"):
        derived["account_name"] = name
    derived.update(_credentials(environment))
    timeout = environment.transfer_timeout()
    derived["timeout"] = None if timeout == -1 else timeout or _TIMEOUT
    return derived


def _credentials(environment: Environment) -> dict[str, Any]:
    for option, *names in (
        ("connection_string", "AZURE_STORAGE_CONNECTION_STRING"),
        ("account_key", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        ("sas_token", "AZURE_STORAGE_SAS_TOKEN"),
    ):
        for name in names:
            if value := environment.text(name):
                return {option: value}
    if client := environment.text("AZURE_STORAGE_CLIENT_ID"):
        return {
            "client_id": client,
            "client_secret": environment.text("AZURE_STORAGE_CLIENT_SECRET"),
            "tenant_id": environment.text("AZURE_STORAGE_TENANT_ID"),
        }
    # As adlfs reads it: anything but these is true.
    anonymous = environment.text("AZURE_STORAGE_ANON") or "false"
    return {} if anonymous.lower() in {"false", "0", "f"} else {"anon": True}


def alone(explicit: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's options, with ``None`` for each credential that theirs sets aside."""
    if all(explicit.get(name) is None for name in CREDENTIALS):
        return dict(explicit)
    return {**dict.fromkeys(CREDENTIALS), **explicit}


def agree(uri: ArtifactURI, options: Mapping[str, Any]) -> None:
    """Check that the options are for the account that the URI names.

    Raises
    ------
    InvalidConfig
        They name another, or the connection string cannot be read.
    """
    string = options.get("connection_string")
    name = options.get("account_name") if string is None else _account_of(string)
    host = _HOST.fullmatch(uri.netloc.lower())
    if host and name and name != host["account"]:
        what = "account_name" if string is None else "AZURE_STORAGE_CONNECTION_STRING"
        raise InvalidConfig(
            f"The URI is of the storage account {host['account']!r}, but {what} is of"
            f" {name!r}: set the one of the account to be opened."
        )


def account(endpoint: str) -> str:
    """The account of an endpoint, whichever of its endpoints that is; of an emulator, the URL."""
    host = _HOST.fullmatch(urlsplit(endpoint).hostname or "")
    return f"{host['account']}{host['cloud']}" if host else server_name_of(endpoint)


def _account_of(connection_string: str) -> str | None:
    parts = [part.partition("=") for part in connection_string.strip("; ").split(";")]
    settings = {key.strip().upper(): value for key, _, value in parts}
    if not all(sign for _, sign, _ in parts) or not (
        {"ACCOUNTNAME", "BLOBENDPOINT", "USEDEVELOPMENTSTORAGE"} & settings.keys()
    ):
        raise InvalidConfig(
            "AZURE_STORAGE_CONNECTION_STRING (or connection_string) is no connection string: it"
            " takes DefaultEndpointsProtocol=https;AccountName=...;AccountKey=...;"
            "EndpointSuffix=core.windows.net, as the Azure portal shows it."
        )
    if name := settings.get("ACCOUNTNAME"):
        return name
    endpoint = _HOST.match(settings.get("BLOBENDPOINT", "").lower().partition("//")[2])
    return endpoint["account"] if endpoint else None


class _AzureStore(Store):
    def locate(
        self, uri: ArtifactURI, environment: Environment, explicit: Mapping[str, Any]
    ) -> Location:
        location = super().locate(uri, environment, alone(explicit))
        agree(self.root(uri) or uri, location.options)
        chosen = {
            name: value
            for name, value in location.options.items()
            if value is not None or name not in CREDENTIALS
        }
        return replace(location, options=chosen)


STORE = _AzureStore(
    schemes=("wasbs", "wasb", "abfss", "abfs", "az"),
    filesystem="mlartifacts.stores.azure.filesystem:AzureArtifactFileSystem",
    path=path,
    options=options,
    root=root,
    variables=(
        "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CLIENT_ID",
        "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_STORAGE_TENANT_ID",
        "AZURE_STORAGE_ANON",
        # What DefaultAzureCredential reads.
        "AZURE_AUTHORITY_HOST",
        "AZURE_CLIENT_ID",
        "AZURE_CLIENT_SECRET",
        "AZURE_CLIENT_CERTIFICATE_PATH",
        "AZURE_CLIENT_CERTIFICATE_PASSWORD",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_PASSWORD",
        "AZURE_TENANT_ID",
        "AZURE_TOKEN_CREDENTIALS",
        "AZURE_USERNAME",
        "IDENTITY_ENDPOINT",
        "IDENTITY_HEADER",
        "MSI_ENDPOINT",
        "MSI_SECRET",
    ),
    extra="azure",
    package="adlfs",
)
