"""Azure Blob Storage: azurite (npm), with its well-known account."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from tests.servers.cache import CACHE
from tests.servers.process import (
    LOOPBACK,
    Process,
    any_port,
    base_env,
    find_program,
    http_answers,
    on_free_ports,
    running,
)

#: Azurite's documented account; the key is public and opens nothing else.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Azurite:
    """A running Azure Blob server."""

    #: ``http://127.0.0.1:<port>``; the account's blob endpoint is `endpoint`.
    url: str
    process: Process
    account: str = ACCOUNT
    key: str = KEY

    @property
    def endpoint(self) -> str:
        """The blob endpoint of the account, as in a connection string."""
        return f"{self.url}/{self.account}"

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};"
            f"BlobEndpoint={self.endpoint};"
        )

    @property
    def env(self) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string}

    def new_container(self) -> str:
        """Make a container and return its name."""
        from azure.storage.blob import BlobServiceClient

        name = f"container-{next(_numbers)}"
        with BlobServiceClient.from_connection_string(self.connection_string) as client:
            client.create_container(name)
        return name

    def new_root(self) -> str:
        """Return the URI of a fresh container."""
        return f"wasbs://{self.new_container()}@{self.account}.blob.core.windows.net"


@on_free_ports
@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Azurite]:
    """Run azurite's blob service."""
    program = find_program("azurite-blob", CACHE / "azurite" / "node_modules" / ".bin")
    port = any_port()
    command = [program, "--blobHost", LOOPBACK, "--blobPort", str(port), "--location"]
    command += [directory / "azurite", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, directory / "azurite.log", env=base_env()) as process:
        process.wait_for_port(port, lambda: http_answers(port))
        yield Azurite(f"http://{LOOPBACK}:{port}", process)
