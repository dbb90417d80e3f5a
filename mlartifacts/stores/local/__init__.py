"""Local and network-mounted paths: ``file:`` URIs, bare, relative and ``~`` paths, drives."""

from __future__ import annotations

import os
from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidURI
from mlartifacts.store import Store
from mlartifacts.uri import ArtifactURI

__all__ = ["STORE"]


def path(uri: ArtifactURI) -> str:
    """The absolute path of a URI, its trailing slashes gone.

    Raises
    ------
    InvalidURI
        A ``file:`` URI has no path, or names another host than this one: mount its share, and
        name the path of the mount. Or ``..`` follows a link, so that the system means another
        place than the path without the two steps.
    """
    if uri.netloc not in {"", "."} and uri.host not in {"localhost", "127.0.0.1"}:
        raise InvalidURI(
            f"{uri} names the host {uri.netloc!r}, but file: URIs are of this machine:"
            " write file:///path (three slashes), or the path of a mount."
        )
    text = uri.path
    if not text:  # it would be the working directory
        raise InvalidURI(f"{uri} names no path: write file:///path, or '.' for this directory.")
    if uri.scheme and text[2:3] == ":" and text[1:2].isalpha():
        text = text[1:]  # file:///C:/data
    text = os.path.expanduser(text)
    if os.name == "nt":
        text = text.replace("\\", "/")
    path = os.path.abspath(text)
    if ".." in text.split("/") and not _is_one_place(text.rstrip("/"), path):
        raise InvalidURI(
            f"{text!r} has '..' behind a link: the system goes up from where the link leads, and"
            f" does not mean {path!r}. Write the path without '..'."
        )
    return path


def _is_one_place(text: str, path: str) -> bool:
    """Whether a path is what the system takes a text for, up to a link that it names itself."""
    above, step = os.path.split(text)
    if step in {".", ".."}:
        return os.path.realpath(text) == os.path.realpath(path)
    return os.path.realpath(above) == os.path.realpath(os.path.dirname(path))


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """Parents of a written file are made, as MLflow makes them."""
    return {"auto_mkdir": True}


def url(path: str) -> str:
    """A path as ``file:`` URLs have it, which are percent-decoded."""
    return path.replace("%", "%25")


STORE = Store(
    schemes=("file", "local", ""),
    filesystem="mlartifacts.stores.local.filesystem:LocalArtifactFileSystem",
    path=path,
    options=options,
    url=url,
)
