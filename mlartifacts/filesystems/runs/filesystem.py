"""Runs' artifacts, and the models that were logged in them."""

from __future__ import annotations

from mlartifacts.filesystems.delegating import DelegatingFileSystem
from mlartifacts.filesystems.runs import STORE
from mlartifacts.tracking.logical import split_run

__all__ = ["RunsFileSystem"]


class RunsFileSystem(DelegatingFileSystem):
    """The artifacts of runs, under ``<run_id>/path``.

    A model that was logged in a run lies under its own location (since MLflow 3), and is found
    and listed under its name in the run, as MLflow's own client does.
    """

    store = STORE

    def uris(self, path: str, hopeful: bool = False) -> list[tuple[str, str, str]]:
        run, rest = split_run(path)
        resolver = self.resolver
        own = resolver.run(run).artifact_uri, str(run), rest
        name, _, inside = rest.partition("/")
        uri = resolver.models_of(run, hopeful).get(name) if name else None
        return [own] if uri is None else [(uri, f"{run}/{name}", inside), own]

    def mounted(self, path: str) -> list[str]:
        run, rest = split_run(path)
        return [] if rest else sorted(self.resolver.models_of(run, hopeful=True))
