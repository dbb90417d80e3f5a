"""SFTP servers: ``sftp://[user[:password]@]host[:port]/path``, and ``ssh://`` for the same.

The path is absolute, as in MLflow. What a URI leaves out comes from ``~/.ssh/config`` and the
SSH agent: the host may be an alias there, with its user, port, keys and jump hosts.
"""

from __future__ import annotations

from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidURI
from mlartifacts.store import Store, whole_root
from mlartifacts.uri import ArtifactURI

__all__ = ["STORE", "host_of"]


def path(uri: ArtifactURI) -> str:
    """The absolute path on the server.

    Raises
    ------
    InvalidURI
        It has no slashes before a host (``sftp:host/path``).
    """
    if uri.path and not uri.path.startswith("/"):
        raise InvalidURI(f"{uri.scheme}:{uri.path} names no host: write {uri.scheme}://host/path.")
    return uri.path.rstrip("/") or "/"


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """What asyncssh connects with; everything that is absent, ssh_config decides.

    Raises
    ------
    InvalidURI
        The port is no number, or the host none that a resolver takes.
    InvalidConfig
        The timeout is no number of seconds, or the password stayed in another process.
    """
    _ = uri.host  # raises where it is none
    found: dict[str, Any] = {
        "host": host_of(uri) or "localhost",  # MLflow's default
        # Verify host keys: the driver's own default verifies nothing.
        "known_hosts": (),
        # File names are bytes on most servers, and one that is not UTF-8 must not spoil a listing.
        "sftp_client_kwargs": {"path_errors": "surrogateescape"},
    }
    if uri.port is not None:
        found["port"] = uri.port
    if uri.username:
        found["username"] = uri.username
    if (password := uri.secret()) is not None:
        found["password"] = password
    timeout = environment.transfer_timeout()
    if timeout is not None and timeout != -1:
        found["timeout"] = timeout
    return found


def host_of(uri: ArtifactURI) -> str:
    """The host in the case of its letters: ssh_config tells aliases apart by it."""
    port = f":{uri.port}" if uri.port is not None else ":"
    return uri.netloc.removesuffix(port).removeprefix("[").removesuffix("]")


STORE = Store(
    schemes=("sftp", "ssh"),
    filesystem="mlartifacts.stores.sftp.filesystem:SFTPArtifactFileSystem",
    path=path,
    options=options,
    root=whole_root,
    # HOME is where ssh_config, keys and known_hosts are looked for.
    variables=("HOME", "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "SSH_AUTH_SOCK"),
    extra="sftp",
    package="sshfs",
)
