"""Runs and models of a tracking server, by MLflow's REST API (``/api/2.0/mlflow``)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from mlartifacts.tracking.connection import Connection, NotMLflow, Refused
from mlartifacts.tracking.source import RunPlace

__all__ = ["RestSource"]

_MISSING = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})
_PAGE = 100


class RestSource:
    """A :class:`~mlartifacts.tracking.source.Source` that asks a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, run_id: str) -> RunPlace:  # noqa: D102
        answer = self._get("mlflow/runs/get", run_id=run_id)
        with self._reading():
            run = answer["run"]
            info = run["info"]
            models = run.get("outputs", {}).get("model_outputs", [])
            return RunPlace(_text(info["artifact_uri"]), _text(info["experiment_id"]), bool(models))

    def models_of(self, run_id: str, experiment_id: str) -> dict[str, str]:  # noqa: D102
        body: dict[str, Any] = {
            "experiment_ids": [experiment_id],
            "filter": f"source_run_id = '{run_id}'",
            "max_results": _PAGE,
        }
        found: dict[str, tuple[int, str]] = {}
        while True:
            try:
                answer = self._connection.post("mlflow/logged-models/search", body)
            except NotMLflow:
                return {}  # a server before MLflow 3, which knows no logged models
            with self._reading():
                for model in answer.get("models", []):
                    info, name = model["info"], _text(model["info"]["name"])
                    dated = int(info.get("creation_timestamp_ms", 0)), _text(info["artifact_uri"])
                    found[name] = max(dated, found.get(name, dated))
            if not answer.get("next_page_token"):
                return {name: uri for name, (_, uri) in found.items()}
            body["page_token"] = answer["next_page_token"]

    def logged_model(self, model_id: str) -> str:  # noqa: D102
        answer = self._get(f"mlflow/logged-models/{quote(model_id, safe='')}")
        with self._reading():
            return _text(answer["model"]["info"]["artifact_uri"])

    def by_alias(self, name: str, alias: str) -> str:  # noqa: D102
        answer = self._get("mlflow/registered-models/alias", name=name, alias=alias)
        with self._reading():
            return str(int(answer["model_version"]["version"]))

    def latest(self, name: str, stage: str | None) -> str:  # noqa: D102
        body: dict[str, Any] = {"name": name}
        if stage is not None:
            body["stages"] = [stage]
        with _missing():
            answer = self._connection.post("mlflow/registered-models/get-latest-versions", body)
        with self._reading():
            versions = [int(each["version"]) for each in answer.get("model_versions", [])]
        if not versions:
            raise LookupError(f"there is no version of it{f' in stage {stage!r}' if stage else ''}")
        return str(max(versions))

    def version(self, name: str, version: str) -> str:  # noqa: D102
        answer = self._get("mlflow/model-versions/get-download-uri", name=name, version=version)
        with self._reading():
            return _text(answer["artifact_uri"])

    def _get(self, endpoint: str, **parameters: str) -> dict[str, Any]:
        with _missing():
            return self._connection.get(endpoint, **parameters)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Tell an answer that is not MLflow's."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = type(error).__name__
            reason = f"what answers is no MLflow server: its JSON is another's ({said})"
            raise NotMLflow(errno.EPROTO, reason, self._connection.url) from error


@contextlib.contextmanager
def _missing() -> Iterator[None]:
    """Tell what is not there."""
    try:
        yield
    except Refused as error:
        if error.code in _MISSING or error.status == 404:
            raise LookupError(str(error)) from error
        raise


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value
