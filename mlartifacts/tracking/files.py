"""Runs and models of an ``mlruns`` folder, by its meta files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mlartifacts.errors import MissingDriver
from mlartifacts.tracking.source import RunPlace

__all__ = ["FileSource"]

_META = "meta.yaml"
_TRASH = ".trash"
_MODELS = "models"


class FileSource:
    """A :class:`~mlartifacts.tracking.source.Source` that reads a folder.

    Parameters
    ----------
    root : str
        The ``mlruns`` folder.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def run(self, run_id: str) -> RunPlace:  # noqa: D102
        for experiment in self._experiments():
            meta = _read(experiment, run_id)
            # A folder of that name among the artifacts could have a meta file of anyone's.
            if meta is not None and meta.get("run_id", meta.get("run_uuid")) == run_id:
                outputs = os.path.join(experiment, run_id, "outputs")
                uri, number = str(meta["artifact_uri"]), str(meta["experiment_id"])
                return RunPlace(uri, number, os.path.isdir(outputs))
        raise LookupError(f"there is no such run in {self._root}")

    def models_of(self, run_id: str, experiment_id: str) -> dict[str, str]:  # noqa: D102
        found: dict[str, tuple[int, str]] = {}
        for experiment in self._experiments():
            for name in _folders(os.path.join(experiment, _MODELS)):
                meta = _read(experiment, _MODELS, name)
                if meta is not None and meta.get("source_run_id") == run_id:
                    dated = int(meta.get("creation_timestamp", 0)), str(meta["artifact_location"])
                    named = str(meta["name"])
                    found[named] = max(dated, found.get(named, dated))
        return {name: uri for name, (_, uri) in found.items()}

    def logged_model(self, model_id: str) -> str:  # noqa: D102
        for experiment in self._experiments():
            meta = _read(experiment, _MODELS, model_id)
            if meta is not None:
                return str(meta["artifact_location"])
        raise LookupError(f"there is no such model in {self._root}")

    def by_alias(self, name: str, alias: str) -> str:  # noqa: D102
        self._registered(name)
        try:
            with open(
                _below(self._root, _MODELS, name, "aliases", alias), encoding="utf-8"
            ) as file:
                return file.read().strip()
        except FileNotFoundError as error:
            raise LookupError(f"it has no alias {alias!r}") from error

    def latest(self, name: str, stage: str | None) -> str:  # noqa: D102
        numbers = []
        for folder in _folders(self._registered(name)):
            number = folder.removeprefix("version-")
            if number == folder or not number.isdigit():
                continue
            meta = _read(self._root, _MODELS, name, folder) or {}
            if stage is None or str(meta.get("current_stage", "")).lower() == stage.lower():
                numbers.append(int(number))
        if not numbers:
            raise LookupError(f"there is no version of it{f' in stage {stage!r}' if stage else ''}")
        return str(max(numbers))

    def version(self, name: str, version: str) -> str:  # noqa: D102
        self._registered(name)
        meta = _read(self._root, _MODELS, name, f"version-{version}")
        if meta is None:
            raise LookupError(f"it has no version {version}")
        return str(meta.get("storage_location") or meta["source"])

    def _registered(self, name: str) -> str:
        folder = _below(self._root, _MODELS, name)
        if not os.path.isfile(os.path.join(folder, _META)):
            raise LookupError("there is no registered model of this name")
        return folder

    def _experiments(self) -> Iterator[str]:
        for parent in (self._root, os.path.join(self._root, _TRASH)):
            for name in _folders(parent):
                if name not in {_TRASH, _MODELS}:
                    yield os.path.join(parent, name)


def _below(root: str, *steps: str) -> str:
    """A path below a folder, made of names alone."""
    for step in steps:
        if step in {"", ".", ".."} or "/" in step or os.sep in step:
            raise LookupError(f"{step!r} is no name")
    return os.path.join(root, *steps)


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(root: str, *steps: str) -> dict[str, Any] | None:
    """A folder's meta file; ``None`` where there is none."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingDriver("mlruns", "yaml") from error
    try:
        with open(os.path.join(_below(root, *steps), _META), encoding="utf-8") as file:
            meta = yaml.safe_load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return meta if isinstance(meta, dict) else None
