"""Our own artifact server: as a process, or in a thread of this one, on any destination."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from mlartifacts.server.app import create_app
from tests.servers.process import LOOPBACK, Process, base_env, running, wait_until

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
    command = [sys.executable, "-m", "mlartifacts", "serve", destination, "--port", "0"]
    with running(
        command,
        directory / "artifact_server.log",
        env=base_env(HOME=str(directory), **(env or {})),
        cwd=directory,
    ) as process:
        process.wait_until(lambda: url_of(process))
        server = ArtifactServer(url_of(process), destination, process)
        process.wait_until(server.healthy)
        yield server


def url_of(process: Process) -> str:
    """Return the URL that a server of ours says it serves at, or nothing before it says so."""
    said = re.search("Serving artifacts at (.*)", process.tail())
    return said[1] if said else ""


@contextlib.contextmanager
def serve_here(destination: str, **options: Any) -> Iterator[ArtifactServer]:
    """Run it in a thread, in the environment of the test."""
    app = create_app(destination, **options)
    running = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    listening = socket.create_server((LOOPBACK, 0), backlog=512)
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    server = ArtifactServer(f"http://{LOOPBACK}:{port}", destination)
    try:
        wait_until(server.healthy, "artifact server")
        yield server
    finally:
        running.should_exit = True
        thread.join(10)
        listening.close()
