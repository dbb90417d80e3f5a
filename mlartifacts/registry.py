"""Which store serves which scheme, and what fsspec is told of it."""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from mlartifacts.errors import ArtifactError, UnknownScheme
from mlartifacts.proxy.wire import ARTIFACTS

if TYPE_CHECKING:
    from mlartifacts.store import Store
    from mlartifacts.uri import ArtifactURI

__all__ = ["register", "schemes", "store_for", "store_of", "unregister"]

# The one table of schemes. A store's room is imported when one of its URIs comes by.
_ROOMS = {
    "": "stores.local",
    "abfs": "stores.azure",
    "abfss": "stores.azure",
    "az": "stores.azure",
    "b2": "stores.s3",
    "file": "stores.local",
    "ftp": "stores.ftp",
    "ftps": "stores.ftp",
    "gcs": "stores.gcs",
    "gs": "stores.gcs",
    "hdfs": "stores.hdfs",
    "http": "stores.http",
    "https": "stores.http",
    "local": "stores.local",
    "mlflow-artifacts": "filesystems.mlflow_artifacts",
    "mlflowartifacts": "filesystems.mlflow_artifacts",
    "models": "filesystems.models",
    "r2": "stores.s3",
    "runs": "filesystems.runs",
    "s3": "stores.s3",
    "s3a": "stores.s3",
    "s3n": "stores.s3",
    "sftp": "stores.sftp",
    "ssh": "stores.sftp",
    "viewfs": "stores.hdfs",
    "wasb": "stores.azure",
    "wasbs": "stores.azure",
}

#: Entry point group of third-party stores: scheme = module:STORE.
ENTRY_POINTS = "mlartifacts.stores"

_stores: dict[str, Store] = {}
#: What fsspec knew of a scheme before, and what it was told.
_before: dict[str, tuple[type | None, dict[str, str] | None, dict[str, str]]] = {}


def schemes() -> tuple[str, ...]:
    """Every URI scheme that a store serves, sorted, those of third-party stores among them."""
    named = {point.name for point in entry_points(group=ENTRY_POINTS)}
    return tuple(sorted(({*_ROOMS} | named) - {""}))


def store_of(scheme: str) -> Store:
    """The store that serves a scheme; ``""`` is a bare local path's.

    Raises
    ------
    UnknownScheme
        None does.
    """
    found = _stores.get(scheme)
    if found is None:
        found = _stores[scheme] = _load(scheme)
    return found


def store_for(uri: ArtifactURI) -> Store:
    """The store that serves a URI: its scheme's, but for MLflow's proxy, which is a web server.

    Raises
    ------
    UnknownScheme
        None does.
    """
    if uri.scheme in {"http", "https"} and f"{ARTIFACTS}/" in f"{uri.path}/":
        return store_of("mlflow-artifacts")
    return store_of(uri.scheme)


def _load(scheme: str) -> Store:
    from mlartifacts.store import Store

    if scheme in _ROOMS:
        store = importlib.import_module(f"mlartifacts.{_ROOMS[scheme]}").STORE
    else:
        points = entry_points(group=ENTRY_POINTS, name=scheme)
        if not points:
            raise UnknownScheme(scheme, schemes())
        store = next(iter(points)).load()
    if not isinstance(store, Store):
        raise ArtifactError(f"The entry point {scheme!r} of {ENTRY_POINTS} names no Store.")
    return store


def register() -> None:
    """Route every scheme of :func:`schemes` through this package, for the whole process.

    Afterwards ``fsspec.open("s3://...")``, pandas, dask and pyarrow (``fsspec+s3://``) open
    these URIs as :func:`mlartifacts.open` does. Drivers are imported when they are first
    used. A second call changes nothing. A third-party store that cannot be loaded is left out
    with a :class:`RuntimeWarning`. A scheme has one class: ``https://`` URLs of MLflow's proxy are
    read as those of any web server, and :func:`mlartifacts.to_url` spells them otherwise.

    See Also
    --------
    unregister : gives the schemes back their meaning of before.
    """
    from fsspec.registry import _registry, known_implementations, register_implementation

    for scheme in schemes():
        if scheme in _before:
            continue
        try:
            store = store_of(scheme)
        except Exception as error:
            if scheme in _ROOMS:
                raise
            warnings.warn(
                f"The store of {scheme}:// cannot be loaded, and is left out: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        needs = f"{scheme}:// needs {store.package}: pip install 'mlartifacts[{store.extra}]'"
        loaded, known = _registry.pop(scheme, None), known_implementations.get(scheme)
        register_implementation(
            scheme,
            store.filesystem.replace(":", "."),
            clobber=True,
            errtxt=needs if store.extra else None,
        )
        _before[scheme] = loaded, known, known_implementations[scheme]


def unregister() -> None:
    """Undo :func:`register`, except where a scheme was given another meaning since."""
    from fsspec.registry import _registry, known_implementations

    for scheme, (loaded, known, ours) in _before.items():
        current = _registry.get(scheme)
        if known_implementations.get(scheme) is not ours or (
            current is not None and f"{current.__module__}.{current.__name__}" != ours["class"]
        ):
            continue  # somebody has given it another meaning since
        _registry.pop(scheme, None)
        known_implementations.pop(scheme)
        if loaded is not None:
            _registry[scheme] = loaded
        if known is not None:
            known_implementations[scheme] = known
    _before.clear()
