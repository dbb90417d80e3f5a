"""A server of ours on any store, and requests to it as they stand."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlartifacts.proxy import wire
from tests.contract.conftest import (
    harbour,
    proxy_on_s3,
    pytest_configure,
    pytest_generate_tests,
    tracked_locally,
    tracked_on_s3,
)
from tests.contract.stores import Harbour
from tests.servers.artifact_server import ArtifactServer, serve_here

__all__ = [
    "harbour",
    "proxy_on_s3",
    "pytest_configure",
    "pytest_generate_tests",
    "tracked_locally",
    "tracked_on_s3",
]


@dataclasses.dataclass(frozen=True)
class Answered:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """The status and MLflow's code of an error."""
        assert set(self.json) == {"error_code", "message"}
        return self.status, self.json["error_code"]


class Client:
    """Sends requests to a server, whatever they are."""

    def __init__(self, server: ArtifactServer) -> None:
        self.server = server
        self.netloc = urllib.parse.urlsplit(server.url).netloc

    def send(
        self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        """One request, whose target is sent as it is."""
        connection = http.client.HTTPConnection(self.netloc, timeout=60)
        try:
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, told, response.read())
        finally:
            connection.close()

    def get(self, name: str, **headers: str) -> Answered:
        told = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.send("GET", wire.below(wire.ARTIFACTS, name), headers=told)

    def put(self, name: str, data: bytes) -> Answered:
        return self.send("PUT", wire.below(wire.ARTIFACTS, name), data)

    def delete(self, name: str) -> Answered:
        return self.send("DELETE", wire.below(wire.ARTIFACTS, name))

    def list(self, path: str = "") -> Answered:
        query = f"?path={urllib.parse.quote(path, safe='')}" if path else ""
        return self.send("GET", f"{wire.ARTIFACTS}{query}")

    def post(self, route: str, body: Any) -> Answered:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", route, data, {"Content-Type": "application/json"})


@pytest.fixture
def served(harbour: Harbour) -> Iterator[Client]:
    """A server on the store."""
    with serve_here(harbour.base, **harbour.options) as server:
        yield Client(server)


@pytest.fixture
def serving() -> Iterator[Callable[..., Client]]:
    """Start servers, which end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: Client(stack.enter_context(serve_here(*args, **options)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root to be served."""
    folder = tmp_path / "the root"
    folder.mkdir()
    return folder


@pytest.fixture
def local(serving: Callable[..., Client], folder: Path) -> Client:
    """A server on a local directory."""
    return serving(str(folder))
