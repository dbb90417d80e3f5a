"""What ``runs:`` and ``models:`` URIs name, as MLflow reads them; pure text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlartifacts.errors import InvalidURI

__all__ = ["LoggedModel", "Run", "Version", "split_model", "split_run"]

_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
# What MLflow takes for a run's id.
_RUN_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}")


@dataclass(frozen=True, slots=True)
class Run:
    """A run."""

    run_id: str

    def __str__(self) -> str:
        return self.run_id


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A logged model, ``m-...``."""

    model_id: str

    def __str__(self) -> str:
        return self.model_id


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model: by its number, its alias or its stage, or the latest.

    Attributes
    ----------
    selector : str
        As it stands behind the name: a number, a stage, or ``latest``; or the alias.
    by_alias : bool
        Whether it is an alias.
    """

    name: str
    selector: str
    by_alias: bool = False

    @property
    def number(self) -> str | None:
        """The number, where the URI says it; then it always means the same."""
        return self.selector if self.selector.isdigit() and not self.by_alias else None

    @property
    def stage(self) -> str | None:
        """The stage, where the URI says one."""
        if self.by_alias or self.number or self.selector.lower() == "latest":
            return None
        return self.selector

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.by_alias else '/'}{self.selector}"


def split_run(path: str) -> tuple[Run, str]:
    """The run and the path behind it, of ``<run id>[/path]``.

    Raises
    ------
    InvalidURI
        It names no run.
    """
    run_id, _, rest = path.strip("/").partition("/")
    if not run_id:
        raise InvalidURI("The URI names no run: write runs:/<run_id>/<path>.")
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidURI(f"{run_id!r} is no run's id: write runs:/<run_id>/<path>.")
    return Run(run_id), _within(rest)


def split_model(path: str) -> tuple[LoggedModel | Version, str]:
    """The model and the path behind it, of ``<name>/<version>[/path]`` and the other forms.

    Raises
    ------
    InvalidURI
        It names no model, or no version of it.
    """
    first, _, rest = path.strip("/").partition("/")
    if not first.strip():
        raise InvalidURI(f"The URI names no model: {_FORMS}")
    if ":" in first:
        raise InvalidURI(f"{first!r} is no model's name, which has no ':'.")
    if _MODEL_ID.fullmatch(first):
        return LoggedModel(first), _within(rest)
    name, at, alias = first.rpartition("@")
    if at:
        if not name or not alias.strip():
            raise InvalidURI(f"models:/{path} names no model or no alias: {_FORMS}")
        return Version(name, alias, by_alias=True), _within(rest)
    selector, _, rest = rest.partition("/")
    if not selector.strip():
        return LoggedModel(first), ""  # as MLflow takes a lone word
    return Version(first, selector), _within(rest)


def _within(rest: str) -> str:
    """A path that stays below what it is a path of."""
    if ".." in rest.split("/"):
        raise InvalidURI(f"The path {rest!r} has a step '..', and artifacts have no such names.")
    return rest


_FORMS = (
    "write models:/<name>/<version>, models:/<name>/<stage>, models:/<name>/latest,"
    " models:/<name>@<alias> or models:/<model_id>, and a path behind it."
)
