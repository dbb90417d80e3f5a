"""A relay that adds a round trip's time to a server, as a network in between does.

It runs in a process of its own, so that it takes no time from the client that is measured. What
is on its way to the client waits for as long as the round trip takes, however much that is: the
bandwidth stays what it was. A new connection costs one round trip more, as TCP's does. FTP opens
a connection for each transfer, to the address of the first and a port that the server names: its
ports are relayed by the same numbers, at an address of loopback that only Linux has.

>>> with latency.serve(directory, "http://127.0.0.1:9000", 0.011) as url:
...     read(endpoint=url)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.servers.process import LOOPBACK, any_port, on_free_ports, running

_ROOT = Path(__file__).parents[2]
_OTHER_LOOPBACK = "127.0.0.2"
# One read of a socket; and what may be on its way, which a network bounds as well.
_PIECE = 1 << 18
_UNDERWAY = 64


@on_free_ports
@contextlib.contextmanager
def serve(directory: Path, url: str, seconds: float, passive: Sequence[int] = ()) -> Iterator[str]:
    """Relay to the server at a URL; gives the URL to ask instead.

    Parameters
    ----------
    directory
        Where the log goes.
    url
        Of the server.
    seconds
        What each round trip takes longer.
    passive
        The ports of FTP's transfers.
    """
    parts = urllib.parse.urlsplit(url)
    host, port = _OTHER_LOOPBACK if passive else LOOPBACK, any_port()
    command = [sys.executable, "-m", "tests.servers.latency", host, str(port)]
    command += [str(parts.hostname), str(parts.port), str(seconds), *map(str, passive)]
    with running(command, directory / "latency.log", cwd=_ROOT) as process:
        process.wait_for_port(port)
        yield parts._replace(netloc=f"{host}:{port}").geturl()


async def _relay(client: socket.socket, server: tuple[str, int], seconds: float) -> None:
    loop = asyncio.get_running_loop()
    with client, socket.socket() as other:
        other.setblocking(False)
        for end in (client, other):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(other, server)
        await asyncio.sleep(seconds)
        with contextlib.suppress(ExceptionGroup):  # one side broke off: so do both
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass(client, other, 0))
                both.create_task(_pass(other, client, seconds))


async def _pass(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Pass what comes, each piece so long after it came."""
    loop = asyncio.get_running_loop()
    if not seconds:
        while data := await loop.sock_recv(source, _PIECE):
            await loop.sock_sendall(target, data)
        target.shutdown(socket.SHUT_WR)
        return
    underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDERWAY)

    async def take() -> None:
        data = b"."
        while data:
            data = await loop.sock_recv(source, _PIECE)
            await underway.put((loop.time() + seconds, data))

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        while True:
            when, data = await underway.get()
            if (wait := when - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                break
            await loop.sock_sendall(target, data)
    target.shutdown(socket.SHUT_WR)


async def _listen(at: tuple[str, int], server: tuple[str, int], seconds: float) -> None:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(at, backlog=512)
    listener.setblocking(False)
    relays: set[asyncio.Task[None]] = set()
    while True:
        client, _ = await loop.sock_accept(listener)
        client.setblocking(False)
        relay = asyncio.create_task(_relay(client, server, seconds))
        relays.add(relay)
        relay.add_done_callback(relays.discard)


async def _main(
    at: str, port: int, host: str, server_port: int, seconds: float, *passive: int
) -> None:
    async with asyncio.TaskGroup() as group:
        # The last one is asked whether all of them listen.
        for each in passive:
            group.create_task(_listen((at, each), (host, each), seconds))
        group.create_task(_listen((at, port), (host, server_port), seconds))


if __name__ == "__main__":
    _, at, port, host, server_port, seconds, *passive = sys.argv
    asyncio.run(_main(at, int(port), host, int(server_port), float(seconds), *map(int, passive)))
