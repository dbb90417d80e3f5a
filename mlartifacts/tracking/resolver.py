"""Who is asked about runs and models, and what is remembered of the answers.

A run's location never changes, nor a logged model's, nor that of a numbered version: each is
asked for once a process. An alias, a stage and ``latest`` may mean another version tomorrow, and
a run may get a model while it goes on: these are asked for again after :data:`FRESH_SECONDS`.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from urllib.parse import quote

from mlartifacts.environment import Environment, values
from mlartifacts.errors import InvalidConfig, InvalidURI, Unresolved
from mlartifacts.tracking import connection, login
from mlartifacts.tracking.connection import Connection, refuse_without_scheme
from mlartifacts.tracking.files import FileSource
from mlartifacts.tracking.logical import LoggedModel, Run, Version, split_model, split_run
from mlartifacts.tracking.package import PackageSource
from mlartifacts.tracking.rest import RestSource
from mlartifacts.tracking.source import RunPlace, Source
from mlartifacts.uri import ArtifactURI, parse

__all__ = [
    "FRESH_SECONDS",
    "VARIABLES",
    "Resolver",
    "below",
    "databricks",
    "resolver_for",
    "set_tracking_uri",
    "tracking_uri_of",
]

#: How long an answer that may change is believed.
FRESH_SECONDS = 5.0

_TRACKING = "MLFLOW_TRACKING_URI"
_REGISTRY = "MLFLOW_REGISTRY_URI"

#: What decides who is asked, and how.
VARIABLES = (_TRACKING, _REGISTRY, *login.VARIABLES, *connection.VARIABLES)

# A version's source may be a logged model, whose own location is the place.
_STEPS = 4

T = TypeVar("T")


class Resolver:
    """What one tracking store and its registry know.

    Parameters
    ----------
    tracking, registry : str
        Their URIs.
    environment : Environment
        Logins, and how patient to be.
    """

    def __init__(self, tracking: str, registry: str, environment: Environment) -> None:
        self.tracking = tracking
        self._registry = registry
        self._environment = environment
        self._answers: dict[Hashable, tuple[float, Any]] = {}
        self._lock = threading.Lock()
        self._asking: dict[Hashable, threading.Lock] = {}

    @functools.cached_property
    def _runs(self) -> Source:
        return _source(self.tracking, self._environment)

    @functools.cached_property
    def _models(self) -> Source:
        if self._registry == self.tracking:
            return self._runs
        return _source(self._registry, self._environment)

    def run(self, run: Run) -> RunPlace:
        """Where a run's artifacts lie.

        Raises
        ------
        Unresolved
            There is no such run.
        """
        return self._remembered(run, lambda: self._asked(run, lambda: self._runs.run(run.run_id)))

    def models_of(self, run: Run, hopeful: bool = False) -> dict[str, str]:
        """The logged models of a run, by name.

        Parameters
        ----------
        run : Run
        hopeful : bool
            Ask also where the run was just looked up, and had none.
        """
        place = self.run(run)
        looked_up = self._answers[run][0]
        fresh = time.monotonic() - looked_up < FRESH_SECONDS
        if not place.has_models and fresh and not hopeful:
            return {}
        return self._remembered(
            ("models", run),
            lambda: self._runs.models_of(run.run_id, place.experiment_id),
            FRESH_SECONDS,
        )

    def model(self, model: LoggedModel | Version) -> str:
        """The physical URI of a model.

        Raises
        ------
        Unresolved
            There is no such model, or no such version of it.
        """
        for _ in range(_STEPS):
            uri = self._one_step(model)
            parsed = parse(uri)
            if parsed.scheme == "runs":
                return self.place(*split_run(parsed.netloc + parsed.path))
            if parsed.scheme != "models":
                return uri
            model, _rest = split_model(parsed.netloc + parsed.path)
        raise Unresolved(
            errno.ELOOP, "its source is a model, whose source is a model, ...", str(model)
        )

    def forget(self, model: LoggedModel | Version) -> None:
        """Ask anew, when it is needed next, what an alias, a stage or ``latest`` means."""
        if isinstance(model, Version):
            self._answers.pop(model, None)

    def place(self, run: Run, rest: str) -> str:
        """The physical URI of a path in a run; a logged model's, if it is in one."""
        name, _, inside = rest.partition("/")
        models = self.models_of(run, hopeful=True) if name else {}
        if name in models:
            return below(models[name], inside)
        return below(self.run(run).artifact_uri, rest)

    def _one_step(self, model: LoggedModel | Version) -> str:
        if isinstance(model, LoggedModel):
            return self._remembered(
                model,
                lambda: self._asked(model, lambda: self._runs.logged_model(model.model_id)),
            )
        number = model.number or self._remembered(
            model, lambda: self._asked(model, lambda: self._current(model)), FRESH_SECONDS
        )
        numbered = Version(model.name, number)
        return self._remembered(
            numbered,
            lambda: self._asked(model, lambda: self._models.version(model.name, number)),
        )

    def _current(self, model: Version) -> str:
        if model.by_alias:
            return self._models.by_alias(model.name, model.selector)
        return self._models.latest(model.name, model.stage)

    def _asked(self, what: Run | LoggedModel | Version, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except LookupError as error:
            kind = "runs" if isinstance(what, Run) else "models"
            who = str(parse(self.tracking if isinstance(what, Run) else self._registry))
            reason = f"{who} knows no {kind}:/{what} ({error.args[0] if error.args else error})"
            raise Unresolved(errno.ENOENT, reason, f"{kind}:/{what}") from error

    def _remembered(self, key: Hashable, ask: Callable[[], T], seconds: float | None = None) -> T:
        """The answer of before, if it still holds; else one thread asks, and others wait."""
        with self._lock:
            lock = self._asking.setdefault(key, threading.Lock())
        with lock:
            known = self._answers.get(key)
            if known is not None and (seconds is None or time.monotonic() - known[0] < seconds):
                return known[1]  # type: ignore[no-any-return]
            answer = ask()
            self._answers[key] = time.monotonic(), answer
            return answer


def set_tracking_uri(environment: Environment) -> str | None:
    """``MLFLOW_TRACKING_URI``, else a loaded mlflow's, if either is set.

    ``mlflow.set_tracking_uri`` sets the variable too.
    """
    uri = environment.text(_TRACKING)
    if uri is None and (mlflow := sys.modules.get("mlflow")) is not None:
        is_set = getattr(mlflow, "is_tracking_uri_set", None)
        if is_set is not None and is_set():
            uri = str(mlflow.get_tracking_uri())
    return uri


def tracking_uri_of(given: str | None, environment: Environment) -> str:
    """The tracking URI: the one given, else the one that is set.

    Raises
    ------
    InvalidConfig
        There is none.
    """
    uri = given or set_tracking_uri(environment)
    if uri is None:
        raise InvalidConfig(
            f"No tracking URI says where runs and models are known: set {_TRACKING}"
            " (http://localhost:5000, say), or give the option tracking_uri."
        )
    return uri


def resolver_for(tracking: str | None, registry: str | None) -> Resolver:
    """The process's resolver for these URIs, and the environment of this moment."""
    environment = Environment()
    uri = tracking_uri_of(tracking, environment)
    return _shared(uri, registry or environment.text(_REGISTRY) or uri, values(VARIABLES))


@functools.lru_cache(maxsize=64)
def _shared(tracking: str, registry: str, _settings: tuple[object, ...]) -> Resolver:
    return Resolver(tracking, registry, Environment())


def below(uri: str, path: str) -> str:
    """The URI of a path below another."""
    if not path:
        return uri
    # Those alone are percent-decoded.
    tail = quote(path) if parse(uri).scheme == "file" else path
    return f"{uri.rstrip('/')}/{tail}"


def _source(uri: str, environment: Environment) -> Source:
    refuse_without_scheme(uri)
    server = parse(uri)
    if server.scheme in {"http", "https"}:
        return RestSource(Connection(server, environment))
    if server.scheme in {"", "file"}:
        if server.netloc not in {"", "localhost"}:
            raise InvalidURI(f"The tracking URI {server} names another host's folder.")
        if server.path != "databricks":
            return FileSource(os.path.expanduser(server.path))
    return PackageSource(uri, server)


def databricks(uri: ArtifactURI) -> str | None:
    """The tracking URI that ``runs://profile@databricks/...`` names, if it does."""
    if uri.netloc != "databricks":
        return None
    return f"databricks://{uri.username}" if uri.username else "databricks"


if hasattr(os, "register_at_fork"):
    # A lock may be held by a thread that the child does not have.
    os.register_at_fork(after_in_child=_shared.cache_clear)
