"""What a store is: the pure functions that turn its URIs into fsspec's terms."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlartifacts.errors import MissingDriver
from mlartifacts.location import Location

if TYPE_CHECKING:
    from mlartifacts.environment import Environment
    from mlartifacts.promises import ArtifactFileSystem
    from mlartifacts.uri import ArtifactURI

__all__ = ["Store", "merge", "no_root", "whole_root"]


def no_root(uri: ArtifactURI) -> ArtifactURI | None:
    """For stores whose authority is part of the path (a bucket): one filesystem serves all."""
    return None


def whole_root(uri: ArtifactURI) -> ArtifactURI | None:
    """For stores whose authority is a server: one filesystem for each."""
    return uri.root if uri.netloc or uri.username is not None else None


@dataclass(frozen=True, slots=True)
class Store:
    """One store: how its URIs map, and which filesystem class serves them.

    Attributes
    ----------
    schemes : tuple of str
        The URI schemes; the first is the one its filesystem shows.
    filesystem : str
        ``module:class`` of the filesystem, imported when it is first used.
    path : callable
        The filesystem's path for a URI. Raises :class:`InvalidURI` where a part is missing.
    options : callable
        The driver's options for a root URI and an environment; pure. The URI has no netloc
        where the caller named none.
    url : callable
        What stands behind ``scheme://`` for a path of a URI that has no ``//``.
    root : callable
        The URI that a filesystem must remember to find its server again, or ``None``.
    variables : tuple of str
        The environment variables that `options` or the driver read, files below the home
        (``~/...``), and those that a variable names (``@NAME``): a filesystem made under other
        values is another filesystem.
    extra, package : str
        The extra that installs the driver, and its import name; ``""`` for none.
    """

    schemes: tuple[str, ...]
    filesystem: str
    path: Callable[[ArtifactURI], str]
    options: Callable[[ArtifactURI, Environment], dict[str, Any]]
    url: Callable[[str], str] = str
    root: Callable[[ArtifactURI], ArtifactURI | None] = no_root
    variables: tuple[str, ...] = ()
    extra: str = ""
    package: str = ""

    def locate(
        self, uri: ArtifactURI, environment: Environment, explicit: Mapping[str, Any]
    ) -> Location:
        """Where `uri` lies; touches no network and imports no driver.

        Raises
        ------
        InvalidURI
            The URI lacks a part that this store needs.
        InvalidConfig
            A variable has a value that cannot be used.
        """
        root = self.root(uri) or type(uri)(uri.scheme)
        options = merge(self.options(root, environment), explicit)
        return Location(uri.scheme or self.schemes[0], self.path(uri), options)

    def filesystem_class(self) -> type[ArtifactFileSystem]:
        """Import the filesystem class.

        Raises
        ------
        MissingDriver
            The driver is not installed.
        """
        module, name = self.filesystem.split(":")
        with self.driver():
            return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def driver(self) -> Iterator[None]:
        """Name the extra where an import inside fails because the driver is not installed.

        Also in a filesystem's own module: fsspec imports that by itself, and shows the cause.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            # What was missed first may lie beneath the driver. Only the driver's own absence is
            # answered with its extra, though: a broken install has another cure.
            if self.package and not _is_installed(self.package):
                raise MissingDriver(self.extra, self.package) from error
            raise


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # kept out by a finder, or by sys.modules
        return False


def merge(derived: Mapping[str, Any], explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Join options, the caller's winning; mappings (``client_kwargs``, say) join key by key."""
    merged = {**derived, **explicit}
    for name, value in explicit.items():
        if isinstance(value, Mapping) and isinstance(derived.get(name), Mapping):
            merged[name] = {**derived[name], **value}
    return merged
