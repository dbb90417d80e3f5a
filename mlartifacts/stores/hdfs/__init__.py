"""HDFS: ``hdfs:`` and ``viewfs:``, through pyarrow's libhdfs (a JVM) or hdfs-native (none).

As in MLflow, a URI without a host means the cluster of ``fs.defaultFS`` in Hadoop's
``core-site.xml``, one without a port means Hadoop's own, and a host is lower case.
"""

from __future__ import annotations

from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.store import Store
from mlartifacts.uri import ArtifactURI, absolute

__all__ = ["STORE", "clean"]

_TICKET = "MLFLOW_KERBEROS_TICKET_CACHE"
_USER = "MLFLOW_KERBEROS_USER"
_CONF = "MLFLOW_PYARROW_EXTRA_CONF"


def path(uri: ArtifactURI) -> str:
    """The absolute path on the cluster.

    Raises
    ------
    InvalidURI
        The path is relative, or climbs above the root.
    """
    if not uri.netloc and uri.path and not uri.path.startswith("/"):
        raise InvalidURI(
            f"{uri.scheme}:{uri.path} has a relative path: write {uri.scheme}:/path,"
            f" or {uri.scheme}://host:port/path."
        )
    return clean(uri.path)


def clean(path: str) -> str:
    """Write a path in its one form: absolute, and without empty, ``.`` and ``..`` steps.

    HDFS has no names ``.`` and ``..``, and the two drivers disagree on what they mean.

    Raises
    ------
    InvalidURI
        It climbs above the root, or holds a NUL (where libhdfs would end it, and so act on
        another file).
    """
    if "\0" in path:
        raise InvalidURI(f"The path {path!r} holds a NUL.")
    return absolute(path)


def root(uri: ArtifactURI) -> ArtifactURI | None:
    """The cluster and the user; ``None`` for Hadoop's default ones."""
    default = not uri.netloc and uri.username is None and uri.scheme != "viewfs"
    return None if default else uri.root


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """The cluster, the user, the Kerberos ticket and Hadoop's settings.

    Raises
    ------
    InvalidURI
        The port is no number, or there is a password, which HDFS does not have.
    InvalidConfig
        ``MLFLOW_PYARROW_EXTRA_CONF`` is no list of ``key=value``, or the timeout no number.
    """
    if uri.password is not None:
        raise InvalidURI(f"{uri} has a password, but HDFS knows users and Kerberos tickets only.")
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    derived: dict[str, Any] = {
        "host": f"{uri.scheme}://{host}" if host else "default",
        "port": uri.port or 0,
        "user": uri.username or environment.text(_USER),
        "kerb_ticket": environment.text(_TICKET),
        "extra_conf": _pairs(environment.text(_CONF)),
    }
    timeout = environment.transfer_timeout()
    if timeout is not None:
        derived["timeout"] = None if timeout == -1 else timeout
    return {
        name: value for name, value in derived.items() if value is not None or name == "timeout"
    }


def _pairs(text: str | None) -> dict[str, str] | None:
    """``key=value,key=value``, nothing stripped, as MLflow splits it."""
    if text is None:
        return None
    pairs: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidConfig(
                f"{_CONF} has a part without '=' (the {len(pairs) + 1}. of them): it takes"
                " key=value pairs with commas between them, and no commas in a value."
            )
        pairs[key] = value
    return pairs


STORE = Store(
    schemes=("hdfs", "viewfs"),
    filesystem="mlartifacts.stores.hdfs.filesystem:HDFSArtifactFileSystem",
    path=path,
    options=options,
    root=root,
    variables=(
        _TICKET,
        _USER,
        _CONF,
        "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT",
        # What the drivers read themselves.
        "ARROW_LIBHDFS_DIR",
        "CLASSPATH",
        "HADOOP_CONF_DIR",
        "HADOOP_HOME",
        "HADOOP_PROXY_USER",
        "HADOOP_TOKEN_FILE_LOCATION",
        "HADOOP_USER_NAME",
        "JAVA_HOME",
        "KRB5CCNAME",
        "KRB5_CONFIG",
    ),
    extra="hdfs",
    package="pyarrow",
)
