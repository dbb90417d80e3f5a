"""Servers that are no use: one accepts and never answers, one refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator

from tests.servers.process import LOOPBACK


@dataclasses.dataclass(frozen=True)
class Hanging:
    """A port that accepts every connection, reads nothing and says nothing."""

    host: str
    port: int
    #: The connections so far.
    accepted: list[socket.socket] = dataclasses.field(default_factory=list)

    @property
    def url(self) -> str:
        """The address as an HTTP endpoint; other protocols use `host` and `port`."""
        return f"http://{self.host}:{self.port}"


@contextlib.contextmanager
def hanging() -> Iterator[Hanging]:
    """Accept and never answer."""
    with socket.create_server((LOOPBACK, 0), backlog=128) as listener:
        server = Hanging(LOOPBACK, listener.getsockname()[1])

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accepted.append(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            # Closing alone does not wake a thread that is in accept().
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in server.accepted:
                connection.close()


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """Hold a port where nobody listens: connections are refused, and nobody else takes it."""
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        yield holder.getsockname()[1]
