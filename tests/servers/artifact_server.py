"""Our own artifact server: as a process, or in a thread of this one, on any destination."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from mlartifacts.server.app import create_app
from tests.servers.process import LOOPBACK, Process, base_env, free_port, running, wait_until

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class ArtifactServer:
    """A running artifact server."""

    url: str
    #: What it serves.
    artifacts: str
    #: None where it runs in a thread of the tests.
    process: Process | None = None

    @property
    def env(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.url}

    def new_root(self) -> str:
        """Return the artifact URI of a fresh place in it."""
        return f"mlflow-artifacts:/run-{next(_numbers)}/artifacts"

    def healthy(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
            return bool(response.status == 200)


@contextlib.contextmanager
def serve(
    directory: Path, destination: str, env: Mapping[str, str] | None = None
) -> Iterator[ArtifactServer]:
    """Run ``mlartifacts serve`` with the store's credentials in its environment."""
    port = free_port()
    command = [sys.executable, "-m", "mlartifacts", "serve", destination, "--port", str(port)]
    with running(
        command,
        directory / "artifact_server.log",
        env=base_env(HOME=str(directory), **(env or {})),
        cwd=directory,
    ) as process:
        server = ArtifactServer(f"http://{LOOPBACK}:{port}", destination, process)
        process.wait_until(server.healthy)
        yield server


@contextlib.contextmanager
def serve_here(destination: str, **options: Any) -> Iterator[ArtifactServer]:
    """Run it in a thread, in the environment of the test."""
    port = free_port()
    app = create_app(destination, **options)
    config = uvicorn.Config(app, host=LOOPBACK, port=port, log_config=None, lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    server = ArtifactServer(f"http://{LOOPBACK}:{port}", destination)
    try:
        wait_until(server.healthy, "artifact server")
        yield server
    finally:
        running.should_exit = True
        thread.join(10)
