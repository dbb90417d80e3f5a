"""SFTP with passwords: asyncssh's own server in this process, chrooted in a directory.

It offers the ``sftp`` subsystem only: no shell and no commands, as many hosted SFTP services.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.process import LOOPBACK

if TYPE_CHECKING:
    import asyncssh

_numbers = itertools.count(1)


@dataclasses.dataclass
class AsyncsshServer:
    """A running SFTP server that takes a password."""

    host: str
    port: int
    #: The directory that clients see as ``/``.
    root: Path
    known_hosts: Path
    user: str = "someone"
    #: It needs percent-encoding in a URI.
    password: str = "p@ss:w/rd%41"
    _connections: set[asyncssh.SSHServerConnection] = dataclasses.field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """The server's root, with user and password."""
        quoted = urllib.parse.quote(self.password, safe="")
        return f"sftp://{self.user}:{quoted}@{self.host}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """Nothing: SFTP is configured by files, see `set_up_home`."""
        return {}

    def set_up_home(self, home: Path) -> Path:
        """Write a ``~/.ssh`` that knows the server's host key, and return it."""
        folder = home / ".ssh"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "known_hosts").write_bytes(self.known_hosts.read_bytes())
        return folder

    def new_root(self) -> str:
        """Return the URI of a fresh directory."""
        folder = self.root / f"root-{next(_numbers)}"
        folder.mkdir()
        return f"{self.url}/{folder.name}"

    def drop_connections(self) -> int:
        """Hang up on every client, as a server does with idle ones; return on how many."""

        async def drop() -> int:
            dropped = list(self._connections)
            for connection in dropped:
                connection.abort()
            return len(dropped)

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(drop(), self._loop).result(10)


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[AsyncsshServer]:
    """Run the server on an event loop in a thread of its own."""
    import asyncssh

    root = directory / "asyncssh"
    root.mkdir(parents=True)
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    server = AsyncsshServer(LOOPBACK, 0, root, directory / "asyncssh_known_hosts")

    class Login(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self._connection = conn
            server._connections.add(conn)

        def connection_lost(self, exc: Exception | None) -> None:
            server._connections.discard(self._connection)

        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (server.user, server.password)

    def chrooted(channel: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
        return asyncssh.SFTPServer(channel, chroot=str(root).encode())

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            Login, LOOPBACK, 0, server_host_keys=[host_key], sftp_factory=chrooted
        )

    async def close(acceptor: asyncssh.SSHAcceptor) -> None:
        acceptor.close()
        for connection in list(server._connections):
            connection.abort()
        await acceptor.wait_closed()
        # What the aborted connections still had to say must end before the loop does.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    loop = asyncio.new_event_loop()
    server._loop = loop
    thread = threading.Thread(target=loop.run_forever, name="asyncssh-server", daemon=True)
    thread.start()
    try:
        # Port 0 asks the system for a free one; when this returns, the server listens.
        acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result(20)
        server.port = acceptor.get_port()
        public = host_key.export_public_key().decode().strip()
        server.known_hosts.write_text(f"[{LOOPBACK}]:{server.port} {public}\n")
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(close(acceptor), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
