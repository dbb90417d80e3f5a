"""MLflow's own tracking server, with whatever artifact store a test gives it."""

from __future__ import annotations

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

from tests.servers.process import LOOPBACK, Process, base_env, free_port, running

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class MlflowServer:
    """A running tracking server."""

    url: str
    #: Where it keeps the artifacts that go through it; with ``--no-serve-artifacts``, the root
    #: that clients write to themselves.
    artifacts: str
    process: Process

    @property
    def env(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.url}

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Call the REST API: ``api("POST", "experiments/create", name="a")``."""
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{path}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

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


@contextlib.contextmanager
def serve(
    directory: Path,
    *,
    artifacts: str | None = None,
    proxied: bool = True,
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
    env
        The store's credentials.
    options
        Further options of the command.
    """
    directory.mkdir(parents=True, exist_ok=True)
    artifacts = artifacts or str(directory / "artifacts")
    port = free_port()
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
    server_env.update(env or {})
    with running(
        [*command, *options], directory / "mlflow.log", env=server_env, cwd=directory
    ) as process:
        server = MlflowServer(f"http://{LOOPBACK}:{port}", artifacts, process)

        def healthy() -> bool:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5) as response:
                return bool(response.status == 200)

        process.wait_until(healthy, timeout=90)
        yield server
