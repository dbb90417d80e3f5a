"""The artifacts of runs: ``runs:/<run_id>/path``, and ``runs://<run_id>/path`` in URLs.

``runs://<profile>@databricks/<run_id>/path`` asks Databricks under a profile. Paths are
``<run_id>/path``.
"""

from __future__ import annotations

from typing import Any

from mlartifacts.environment import Environment
from mlartifacts.store import Store
from mlartifacts.tracking.logical import split_run
from mlartifacts.tracking.resolver import VARIABLES, databricks
from mlartifacts.uri import ArtifactURI

__all__ = ["STORE"]


def path(uri: ArtifactURI) -> str:
    """``<run_id>/path``.

    Raises
    ------
    InvalidURI
        It names no run, or climbs out of it.
    """
    named = uri.path if databricks(uri) else uri.netloc + uri.path
    run, rest = split_run(named)
    return f"{run}/{rest}".rstrip("/")


def root(uri: ArtifactURI) -> ArtifactURI | None:
    """The Databricks profile, where the URI names one."""
    return uri.root if databricks(uri) else None


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """The tracking URI, where the URI itself names one; the environment's is read when asked."""
    profile = databricks(uri)
    return {} if profile is None else {"tracking_uri": profile}


STORE = Store(
    schemes=("runs",),
    filesystem="mlartifacts.filesystems.runs.filesystem:RunsFileSystem",
    path=path,
    options=options,
    root=root,
    variables=VARIABLES,
)
