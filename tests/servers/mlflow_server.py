"""MLflow's own tracking server, with whatever artifact store a test gives it, and a login."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.servers.process import LOOPBACK, Process, any_port, base_env, on_free_ports, running

_numbers = itertools.count(1)

#: Who may do everything on a server with a login, by name and password or by the token.
USERNAME, PASSWORD, TOKEN = "admin of tests", "pässword: 100%", "a.token-of_tests"

_AUTH = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{database}
admin_username = {username}
authorization_function = token_or_password:authenticate
# Else each request takes as long as a check of a password is meant to.
auth_cache_ttl_seconds = 600
"""

# MLflow has a hook for other logins than its own: tokens are such a one.
_TOKEN_OR_PASSWORD = f"""\
from flask import request
from mlflow.server.auth import authenticate_request_basic_auth, make_basic_auth_response
from werkzeug.datastructures import Authorization

def authenticate():
    login = request.headers.get("Authorization", "")
    if login == "Bearer {TOKEN}":
        return Authorization("basic", {{"username": {USERNAME!r}}})
    if login.startswith("Bearer "):  # which MLflow's own cannot take
        return make_basic_auth_response()
    return authenticate_request_basic_auth()
"""


@dataclasses.dataclass(frozen=True)
class MlflowServer:
    """A running tracking server."""

    url: str
    #: Where it keeps the artifacts that go through it; with ``--no-serve-artifacts``, the root
    #: that clients write to themselves.
    artifacts: str
    process: Process
    #: What its clients need besides its URL: the store's credentials where they write to it
    #: themselves, a login where it asks for one.
    client_env: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.url, **self.client_env}

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Call the REST API: ``api("POST", "experiments/create", name="a")``.

        A path with a slash at its start is below ``/api``.
        """
        below = path if path.startswith("/") else f"/2.0/mlflow/{path}"
        request = urllib.request.Request(
            f"{self.url}/api{below}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Content-Type": "application/json"} | self._who_asks,
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    @property
    def _who_asks(self) -> dict[str, str]:
        told = {}
        if "MLFLOW_TRACKING_USERNAME" in self.client_env:
            login = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
            told["Authorization"] = f"Basic {login}"
        if "MLFLOW_WORKSPACE" in self.client_env:
            told["X-MLFLOW-WORKSPACE"] = self.client_env["MLFLOW_WORKSPACE"]
        return told

    def within(self, workspace: str) -> MlflowServer:
        """The same server, asked for what is in a new workspace."""
        self.api("POST", "/3.0/mlflow/workspaces", name=workspace)
        env = {**self.client_env, "MLFLOW_WORKSPACE": workspace}
        return dataclasses.replace(self, client_env=env)

    def new_experiment(self, artifact_location: str | None = None) -> str:
        """Make an experiment and return its id."""
        body = {"name": f"experiment-{next(_numbers)}"}
        if artifact_location is not None:
            body["artifact_location"] = artifact_location
        experiment: str = self.api("POST", "experiments/create", **body)["experiment_id"]
        return experiment

    def new_run(self, experiment: str | None = None) -> dict[str, Any]:
        """Make a run, in a fresh experiment unless told, and return its ``info``."""
        experiment = experiment or self.new_experiment()
        created = self.api("POST", "runs/create", experiment_id=experiment)
        info: dict[str, Any] = created["run"]["info"]
        return info

    def new_root(self) -> str:
        """Return the artifact URI of a fresh run."""
        uri: str = self.new_run()["artifact_uri"]
        return uri


@on_free_ports
@contextlib.contextmanager
def serve(
    directory: Path,
    *,
    artifacts: str | None = None,
    proxied: bool = True,
    auth: bool = False,
    env: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
) -> Iterator[MlflowServer]:
    """Run ``mlflow server`` with a database and one worker.

    Parameters
    ----------
    directory
        Where its database lies, and its artifacts unless `artifacts` says otherwise.
    artifacts
        The URI of an artifact store.
    proxied
        Whether artifacts go through the server (``--artifacts-destination``) or clients write
        to the store themselves (``--no-serve-artifacts --default-artifact-root``).
    auth
        Whether it asks who is there: :data:`USERNAME` with :data:`PASSWORD`, or :data:`TOKEN`.
    env
        The store's credentials: the server's, or its clients' where they write themselves.
    options
        Further options of the command.
    """
    directory.mkdir(parents=True, exist_ok=True)
    artifacts = artifacts or str(directory / "artifacts")
    port = any_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"]
    command += ["--artifacts-destination", artifacts] if proxied else []
    command += [] if proxied else ["--no-serve-artifacts", "--default-artifact-root", artifacts]
    server_env = base_env(
        HOME=str(directory),
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
        # The optional job runner starts four more processes, which no test needs.
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )
    client_env = {} if proxied else dict(env or {})
    server_env.update(env or {} if proxied else {})
    if auth:
        command += ["--app-name", "basic-auth"]
        settings = directory / "auth.ini"
        settings.write_text(_AUTH.format(database=directory / "auth.db", username=USERNAME))
        (directory / "token_or_password.py").write_text(_TOKEN_OR_PASSWORD)
        server_env["MLFLOW_AUTH_CONFIG_PATH"] = str(settings)
        # Not in the file, where '%' would stand for something.
        server_env["MLFLOW_AUTH_ADMIN_PASSWORD"] = PASSWORD
        server_env["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "of-tests"
        server_env["PYTHONPATH"] = str(directory)
        client_env["MLFLOW_TRACKING_USERNAME"] = USERNAME
        client_env["MLFLOW_TRACKING_PASSWORD"] = PASSWORD
    with running(
        [*command, *options], directory / "mlflow.log", env=server_env, cwd=directory
    ) as process:
        server = MlflowServer(f"http://{LOOPBACK}:{port}", artifacts, process, client_env)

        def healthy() -> bool:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5) as response:
                return bool(response.status == 200)

        process.wait_for_port(port, healthy, timeout=90)
        yield server
