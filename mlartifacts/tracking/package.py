"""Runs and models of a database or of Databricks, by the mlflow package."""

from __future__ import annotations

import contextlib
import errno
import importlib
from collections.abc import Iterator
from typing import Any

from mlartifacts.errors import InvalidConfig
from mlartifacts.tracking.source import RunPlace
from mlartifacts.uri import ArtifactURI, redact

__all__ = ["PackageSource"]


class PackageSource:
    """A :class:`~mlartifacts.tracking.source.Source` that asks MLflow's own client.

    Parameters
    ----------
    uri : str
        The tracking URI.
    shown : ArtifactURI
        The same, for messages.

    Raises
    ------
    InvalidConfig
        mlflow is not installed, or knows no such URI.
    """

    def __init__(self, uri: str, shown: ArtifactURI) -> None:
        try:
            mlflow: Any = importlib.import_module("mlflow")
        except ModuleNotFoundError as error:
            raise InvalidConfig(
                f"The tracking URI {shown} is no server's and no folder: such a one is read by the"
                " mlflow package, which is not installed. Install mlflow, or set"
                " MLFLOW_TRACKING_URI to the URL of a server."
            ) from error
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        except mlflow.exceptions.MlflowException:
            # Its own words may show a password.
            raise InvalidConfig(
                f"The tracking URI {shown} is none that the mlflow package can use: set"
                " MLFLOW_TRACKING_URI to the URL of a server, a folder or a database."
            ) from None

    def run(self, run_id: str) -> RunPlace:  # noqa: D102
        with _missing():
            run = self._client.get_run(run_id)
        models = run.outputs.model_outputs if run.outputs is not None else []
        return RunPlace(run.info.artifact_uri, run.info.experiment_id, bool(models))

    def models_of(self, run_id: str, experiment_id: str) -> dict[str, str]:  # noqa: D102
        found: dict[str, tuple[int, str]] = {}
        token = None
        while True:
            with _missing():
                page = self._client.search_logged_models([experiment_id], page_token=token)
            for model in page:
                if model.source_run_id == run_id:  # Databricks has no filter by it
                    dated = model.creation_timestamp, model.artifact_location
                    found[model.name] = max(dated, found.get(model.name, dated))
            token = page.token
            if not token:
                return {name: uri for name, (_, uri) in found.items()}

    def logged_model(self, model_id: str) -> str:  # noqa: D102
        with _missing():
            return str(self._client.get_logged_model(model_id).artifact_location)

    def by_alias(self, name: str, alias: str) -> str:  # noqa: D102
        with _missing():
            return str(self._client.get_model_version_by_alias(name, alias).version)

    def latest(self, name: str, stage: str | None) -> str:  # noqa: D102
        with _missing():
            # The client's own method warns that stages are deprecated.
            registry = self._client._get_registry_client()
            found = registry.get_latest_versions(name, [stage] if stage else None)
        if not found:
            raise LookupError(f"there is no version of it{f' in stage {stage!r}' if stage else ''}")
        return str(max(int(each.version) for each in found))

    def version(self, name: str, version: str) -> str:  # noqa: D102
        with _missing():
            return str(self._client.get_model_version_download_uri(name, version))


@contextlib.contextmanager
def _missing() -> Iterator[None]:
    """Tell what is not there, in words of Python's own."""
    try:
        yield
    except Exception as error:
        code = getattr(error, "error_code", None)
        if code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"}:
            raise LookupError(str(error)) from error
        if code is None:  # not mlflow's
            raise
        raise OSError(errno.EIO, f"the mlflow package says: {redact(str(error))}") from error
