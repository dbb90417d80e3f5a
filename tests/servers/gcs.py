"""Google Cloud Storage: gcp-storage-emulator, in memory.

It lacks XML multipart uploads, suffix ranges, preconditions and ETag headers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import (
    LOOPBACK,
    Process,
    any_port,
    base_env,
    http_answers,
    on_free_ports,
    running,
)

_numbers = itertools.count(1)

#: The emulator lets five connections wait and takes each request on a new one: the kernel drops
#: the others, and they are tried again after a second, or three. At each change it writes all that
#: it knows of all objects as JSON, into its own memory.
_PROGRAM = (
    "import socketserver; socketserver.TCPServer.request_queue_size = 128;"
    "from gcp_storage_emulator.storage import Storage;"
    "Storage._write_config_to_file = lambda self: None;"
    "from gcp_storage_emulator.__main__ import main; main()"
)


@dataclasses.dataclass(frozen=True)
class GcsEmulator:
    """A running GCS server; it asks for no credentials."""

    url: str
    process: Process
    project: str = "test"

    @property
    def env(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.url, "GOOGLE_CLOUD_PROJECT": self.project}

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"bucket-{next(_numbers)}"
        self._tell("POST", f"b?project={self.project}", {"name": name})
        # The emulator keeps in memory, for a week, whatever is deleted.
        kept = {"retentionDurationSeconds": "0"}
        self._tell("PATCH", f"b/{name}", {"softDeletePolicy": kept})
        return name

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Make an object."""
        # In parts, as the emulator breaks off at a bare body of no bytes.
        head = f"--=x=\r\n\r\n{json.dumps({'name': name})}\r\n--=x=\r\n\r\n"
        body = head.encode() + data + b"\r\n--=x=--"
        kind = "multipart/related; boundary==x="
        self._ask("POST", f"upload/storage/v1/b/{bucket}/o?uploadType=multipart", body, kind)

    def names(self, bucket: str) -> list[str]:
        """The names of all objects."""
        said = json.loads(self._ask("GET", f"storage/v1/b/{bucket}/o"))
        return [item["name"] for item in said.get("items", [])]

    def _tell(self, method: str, path: str, body: dict[str, object]) -> None:
        self._ask(method, f"storage/v1/{path}", json.dumps(body).encode(), "application/json")

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        request = urllib.request.Request(
            f"{self.url}/{path}", body, {"Content-Type": kind} if kind else {}, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            said: bytes = response.read()
            return said

    def new_root(self) -> str:
        """Return the URI of a fresh bucket."""
        return f"gs://{self.new_bucket()}"


@on_free_ports
@contextlib.contextmanager
def serve(directory: Path) -> Iterator[GcsEmulator]:
    """Run the emulator."""
    port = any_port()
    command = [sys.executable, "-c", _PROGRAM, "start", "--in-memory"]
    command += [f"--host={LOOPBACK}", f"--port={port}", "--quiet"]
    with running(command, directory / "gcs.log", env=base_env()) as process:
        process.wait_for_port(port, lambda: http_answers(port, "/storage/v1/b?project=test"))
        yield GcsEmulator(f"http://{LOOPBACK}:{port}", process)
