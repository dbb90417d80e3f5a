"""The artifacts of models: ``models:/<name>/<version>/path`` and its other forms.

As URLs ``models://<name>@<alias>/path`` and so on; in them, as in every URL's user, a name
before ``@`` is percent-decoded. ``models://<profile>@databricks/<name>/<version>`` asks
Databricks under a profile. Paths are ``<name>/<version>/path``, ``<name>@<alias>/path`` and
``<model_id>/path``.
"""

from __future__ import annotations

from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.store import Store
from mlartifacts.tracking.logical import split_model
from mlartifacts.tracking.resolver import VARIABLES, databricks
from mlartifacts.uri import ArtifactURI

__all__ = ["STORE"]


def path(uri: ArtifactURI) -> str:
    """The model, as it is written, and the path behind it.

    Raises
    ------
    InvalidURI
        It names no model or no version of it, or climbs out of it.
    """
    if databricks(uri):
        named = uri.path
    else:
        name = f"{uri.username}@" if uri.username is not None else ""
        named = name + uri.netloc + uri.path
    model, rest = split_model(named)
    return f"{model}/{rest}".rstrip("/")


def url(path: str) -> str:
    """A path behind ``//``, where a name before ``@`` is percent-decoded, unless it must not be."""
    model = path.partition("/")[0]
    literal = "%" in model or model.rpartition("@")[2] == "databricks"
    return f"/{path}" if literal else path


def root(uri: ArtifactURI) -> ArtifactURI | None:
    """The Databricks profile, where the URI names one."""
    return uri.root if databricks(uri) else None


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """The registry, where the URI itself names one; the environment's is read when asked."""
    profile = databricks(uri)
    return {} if profile is None else {"tracking_uri": profile, "registry_uri": profile}


STORE = Store(
    schemes=("models",),
    filesystem="mlartifacts.filesystems.models.filesystem:ModelsFileSystem",
    path=path,
    options=options,
    url=url,
    root=root,
    variables=VARIABLES,
)
