"""What is asked of whoever knows runs and models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["RunPlace", "Source"]


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run's artifacts lie.

    Attributes
    ----------
    artifact_uri : str
        It never changes.
    experiment_id : str
    has_models : bool
        Whether models were logged in the run, as far as is known; more may come.
    """

    artifact_uri: str
    experiment_id: str
    has_models: bool


class Source(Protocol):
    """A server, a folder or a package. What is not there is ``LookupError``."""

    def run(self, run_id: str) -> RunPlace:
        """A run, a deleted one too: its artifacts are kept."""

    def models_of(self, run_id: str, experiment_id: str) -> dict[str, str]:
        """The models logged in a run: name -> artifact URI; of several with a name, the latest."""

    def logged_model(self, model_id: str) -> str:
        """The artifact URI of a logged model."""

    def by_alias(self, name: str, alias: str) -> str:
        """The version of a registered model that an alias names."""

    def latest(self, name: str, stage: str | None) -> str:
        """The latest version of a registered model, in one stage or in all."""

    def version(self, name: str, version: str) -> str:
        """The artifact URI of a version of a registered model; ``models:/m-...`` may be one."""
