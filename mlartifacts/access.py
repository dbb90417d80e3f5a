"""From a URI to a filesystem, a path and an open file: the functions that users call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidURI
from mlartifacts.registry import schemes, store_for, store_of
from mlartifacts.uri import ALIAS, parse

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from fsspec.core import OpenFile, OpenFiles

    from mlartifacts.location import Location

__all__ = ["filesystem", "locate", "open", "open_files", "resolve", "to_url", "url_to_fs"]


def locate(uri: str | os.PathLike[str], **options: Any) -> Location:
    """Say where an artifact lies, without touching a network or importing a driver.

    Parameters
    ----------
    uri : str or path-like
        An artifact URI or a local path.
    **options
        The driver's options; they win over the URI, and the URI over the environment.

    Returns
    -------
    Location

    Raises
    ------
    InvalidURI
        The URI cannot be read, or lacks a part that its store needs.
    UnknownScheme
        No store serves its scheme.
    InvalidConfig
        A variable that its store reads has a value that cannot be used.
    """
    parsed = parse(os.fspath(uri))
    return store_for(parsed).locate(parsed, Environment(), options)


def url_to_fs(uri: str | os.PathLike[str], **options: Any) -> tuple[AbstractFileSystem, str]:
    """Give the filesystem of an artifact URI, and the artifact's path in it.

    Parameters
    ----------
    uri : str or path-like
        An artifact URI, or a chain of fsspec's (``simplecache::s3://bucket/key``).
    **options
        The driver's options; in a chain, those of an outer link under its name
        (``simplecache={"cache_storage": "/tmp/c"}``).

    Returns
    -------
    fs : fsspec.AbstractFileSystem
    path : str

    Raises
    ------
    InvalidURI, UnknownScheme, InvalidConfig
        As :func:`locate`.
    MissingDriver
        The store's driver is not installed.
    """
    text = os.fspath(uri)
    if isinstance(text, str) and "::" in text and _is_link(text.partition("::")[0]):
        return _chain(text, options)
    parsed = parse(text)
    store = store_for(parsed)
    path = store.path(parsed)
    root = store.root(parsed)
    if root is not None:
        # First, as fsspec puts it: its cache of instances minds the order.
        options = {"uri": root.with_handle(), **options}
    cls = store.filesystem_class()
    return cls(**options), cls._clean(path)


def filesystem(uri_or_scheme: str, **options: Any) -> AbstractFileSystem:
    """Give the filesystem of a URI, or of a scheme under the environment's settings.

    Parameters
    ----------
    uri_or_scheme : str
        ``"s3"``, or any artifact URI.
    **options
        The driver's options.

    Raises
    ------
    InvalidURI, UnknownScheme, InvalidConfig, MissingDriver
        As :func:`url_to_fs`.
    """
    if ":" in uri_or_scheme or "/" in uri_or_scheme:
        return url_to_fs(uri_or_scheme, **options)[0]
    return store_of(uri_or_scheme.lower()).filesystem_class()(**options)


def open(
    uri: str | os.PathLike[str],
    mode: str = "rb",
    compression: str | None = None,
    encoding: str = "utf8",
    errors: str | None = None,
    newline: str | None = None,
    **options: Any,
) -> OpenFile:
    """Open an artifact, as :func:`fsspec.open` does.

    The path is literal: characters that mean a pattern elsewhere are part of the name.

    Parameters
    ----------
    uri : str or path-like
        An artifact URI.
    mode : str, default "rb"
        ``"rb"``, ``"wb"``, ``"xb"`` and ``"ab"``, or text without the ``b``. What stores
        cannot do raises ``ValueError`` or ``NotImplementedError``.
    compression : str, optional
        A name that fsspec knows, or ``"infer"``.
    encoding, errors, newline : str, optional
        For text, as the builtin ``open``.
    **options
        The driver's options.

    Returns
    -------
    fsspec.core.OpenFile
        To be used in a ``with`` block, or opened by its ``open()``. A write is published when
        the block ends; an exception in it leaves the old content, or nothing.

    Raises
    ------
    InvalidURI, UnknownScheme, InvalidConfig, MissingDriver
        As :func:`url_to_fs`.
    """
    from fsspec.core import get_compression

    from mlartifacts.opening import ArtifactFile

    fs, path = url_to_fs(uri, **options)
    packing = get_compression(path, compression)
    return ArtifactFile(
        fs, path, mode, compression=packing, encoding=encoding, errors=errors, newline=newline
    )


def open_files(
    uris: str | os.PathLike[str] | list[str], mode: str = "rb", **options: Any
) -> OpenFiles:
    """Open several artifacts, as :func:`open` does each.

    Parameters
    ----------
    uris : str or list of str
        One URI whose path is a pattern (``s3://bucket/run/*.parquet``), expanded; or a list
        of URIs, each literal.
    mode : str, default "rb"
        As for :func:`open`.
    **options
        As for :func:`open`.

    Returns
    -------
    fsspec.core.OpenFiles
        A list of :class:`fsspec.core.OpenFile`, sorted by path where a pattern was
        expanded; empty where it matched nothing.
    """
    from glob import has_magic

    from fsspec.core import OpenFiles, get_compression

    from mlartifacts.opening import ArtifactFile

    if not isinstance(uris, str | os.PathLike):
        files = [open(uri, mode, **options) for uri in uris]
        # Each file opens through its own filesystem; fsspec only asks whether there is one.
        return OpenFiles(files, mode=mode, fs=files[0].fs if files else None)
    opening = {
        name: options.pop(name)
        for name in ("compression", "encoding", "errors", "newline")
        if name in options
    }
    compression = opening.pop("compression", None)
    fs, pattern = url_to_fs(uris, **options)
    if not has_magic(pattern) or "r" not in mode or fs.exists(pattern):
        paths = [pattern]
    else:
        found = fs.glob(pattern, detail=True)
        paths = sorted(path for path, info in found.items() if info["type"] == "file")
    return OpenFiles(
        [
            ArtifactFile(fs, path, mode, compression=get_compression(path, compression), **opening)
            for path in paths
        ],
        mode=mode,
        fs=fs,
    )


def resolve(
    uri: str | os.PathLike[str], tracking_uri: str | None = None, registry_uri: str | None = None
) -> str:
    """Say where a logical URI's artifact lies: the URI in its store.

    Parameters
    ----------
    uri : str or path-like
        ``runs:/...`` or ``models:/...``. Any other is given back as it is.
    tracking_uri : str, optional
        Who knows the runs; ``MLFLOW_TRACKING_URI`` unless given.
    registry_uri : str, optional
        Who knows the registered models; ``MLFLOW_REGISTRY_URI``, else the tracking store.

    Returns
    -------
    str
        Of a path in a logged model of the run, the model's own location. A run's location, a
        logged model's and that of a numbered version are asked for once a process; what an
        alias, a stage or ``latest`` means is asked again after 5 seconds.

    Raises
    ------
    InvalidURI, UnknownScheme
        As :func:`locate`.
    InvalidConfig
        There is no tracking URI, or a setting of the login cannot be used.
    Unresolved
        The tracking store knows no such run, model, version or alias.
    PermissionError, ConnectionError, TimeoutError, OSError
        The tracking server refuses the login, cannot be reached, or is none of MLflow's.
    """
    text = os.fspath(uri)
    parsed = parse(text)
    if parsed.scheme not in {"runs", "models"}:
        store_for(parsed)
        return text
    from mlartifacts.tracking.logical import Run, split_model, split_run
    from mlartifacts.tracking.resolver import below, resolver_for

    store = store_for(parsed)
    split = split_run if parsed.scheme == "runs" else split_model
    what, rest = split(store.path(parsed))
    named = {"tracking_uri": tracking_uri, "registry_uri": registry_uri}
    named |= store.options(store.root(parsed) or parsed.root, Environment())
    resolver = resolver_for(named["tracking_uri"], named["registry_uri"])
    if isinstance(what, Run):
        return resolver.place(what, rest)
    return below(resolver.model(what), rest)


def to_url(uri: str | os.PathLike[str]) -> str:
    """Spell an artifact URI so that pandas, dask and DuckDB hand it to fsspec, and so to us.

    pandas reads ``sftp:``, ``ftp:`` and ``file:`` through urllib, and Parquet on ``s3:``,
    ``gs:`` and ``hdfs:`` through pyarrow's own clients, which know nothing of MLflow's
    settings. ``mlartifacts+s3://`` is a scheme that they leave alone, and that fsspec knows
    wherever this package is installed, without :func:`register`.

    Parameters
    ----------
    uri : str or path-like
        ``s3://bucket/key``, ``hdfs:/data``, ``file:/mnt/nfs`` or a local path, say.

    Returns
    -------
    str
        A ``scheme://`` URL. A password in `uri` stays in it: it would not open without.

    Raises
    ------
    InvalidURI, UnknownScheme
        As :func:`locate`.
    """
    from fsspec.registry import known_implementations

    text = os.fspath(uri)
    parsed = parse(text)
    store = store_for(parsed)
    path = store.path(parsed)
    scheme = parsed.scheme or "file"
    given = text.partition(":")[2].startswith("//") and scheme not in {"file", "local"}
    rest = text.partition("://")[2] if given else store.url(path)
    alias = ALIAS + scheme
    # An alias may be of another store: mlartifacts+https is of MLflow's proxy alone.
    ours = known_implementations.get(alias, {}).get("class") == store.filesystem.replace(":", ".")
    return f"{alias if ours else scheme}://{rest}"


def _is_link(text: str) -> bool:
    """Whether a text before ``::`` is a link of a chain, and not the begin of a literal name."""
    from fsspec.registry import known_implementations

    scheme, colon, _ = text.partition("://")
    return (
        scheme in known_implementations
        and (bool(colon) or text == scheme)
        and (scheme not in schemes())
    )


def _chain(text: str, options: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
    """Open a chain from its innermost link, an artifact URI, outwards.

    fsspec would look the innermost scheme up in its own registry, where an unregistered
    ``s3`` is another class than ours.
    """
    from fsspec.core import OpenFile
    from fsspec.implementations.cached import CachingFileSystem
    from fsspec.registry import get_filesystem_class

    link, _, inner = text.partition("::")
    if not inner:
        raise InvalidURI(f"The chain {text!r} has an empty link.")
    name, _, rest = link.partition("://")
    own = options.pop(name, {})
    # fsspec names the innermost link's options by its scheme, or not at all.
    if not _is_link(inner.partition("::")[0]):
        options.update(options.pop(parse(inner).scheme, {}))
    fs, path = url_to_fs(inner, **options)
    cls = get_filesystem_class(name)
    if issubclass(cls, CachingFileSystem):
        return cls(fs=fs, **own), rest or path
    # An archive: its file system is inside the file.
    return cls(fo=OpenFile(fs, path), **own), rest
