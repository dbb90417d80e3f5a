"""A TCP proxy that counts what passes, and cuts, delays or swallows it.

For HTTP it knows each request (:attr:`Proxy.requests`); for every protocol it knows connections
and bytes. FTP's transfers open connections of their own, which pass if they are asked to
(``passive=True``): then the answers that say where are changed.

>>> with proxied(moto_server.url) as proxy:
...     read(endpoint=proxy.url)
>>> [str(request) for request in proxy.requests]
['HEAD /bucket/name', 'GET /bucket/name']
>>> sum(request.body for request in proxy.requests)
1024
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator

from tests.servers.process import LOOPBACK

_PASSIVE = re.compile(rb"(227 [^(\r\n]*\((?:\d+,){4})(\d+),(\d+)\)")
_REQUEST_LINE = re.compile(rb"^([A-Z]+) (\S+) HTTP/1\.[01]$")


@dataclasses.dataclass
class Request:
    """An HTTP request that passed, and what came back."""

    method: str
    target: str
    #: By lower-case names.
    headers: dict[str, str]
    #: The number of the connection that it came on, from 1.
    connection: int
    #: The status of the answer; 0 until it came.
    status: int = 0
    #: The bytes of the answer without its head.
    body: int = 0
    #: The bytes of the answer with its head.
    received: int = 0
    _head: bytearray | None = dataclasses.field(default_factory=bytearray, repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.target}"

    def _count(self, data: bytes) -> None:
        self.received += len(data)
        if self._head is None:
            self.body += len(data)
            return
        self._head += data
        while self._head is not None and b"\r\n\r\n" in self._head:
            head, _, rest = bytes(self._head).partition(b"\r\n\r\n")
            self.status = int(head.split(b" ", 2)[1])
            if self.status == 100:
                # "Continue" comes before the answer, with a head of its own.
                self._head = bytearray(rest)
            else:
                self.body += len(rest)
                self._head = None


class _Requests:
    """Finds the requests in one connection's bytes, without pipelining."""

    def __init__(self, found: list[Request], connection: int) -> None:
        self._found = found
        self._connection = connection
        self._buffer = b""
        self._skip = 0  # bytes of a body still to come
        self._chunked = False
        self._deaf = False  # the connection does not speak HTTP
        self.current: Request | None = None

    def feed(self, data: bytes) -> None:
        if self._deaf:
            return
        self._buffer += data
        while self._buffer and self._step():
            pass

    def _step(self) -> bool:
        """Take one head, one body or one chunk from the buffer; False where it is not whole."""
        if self._skip:
            taken = min(self._skip, len(self._buffer))
            self._buffer, self._skip = self._buffer[taken:], self._skip - taken
            return True
        if self._chunked:
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                return False
            size = int(line.split(b";")[0], 16)
            if size == 0:
                # The last chunk, and trailers up to an empty line.
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0:
                    return False
                self._buffer, self._chunked = self._buffer[end + 4 :], False
            else:
                self._buffer, self._skip = rest, size + 2
            return True
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        match = _REQUEST_LINE.match(lines[0])
        if match is None and (found or len(self._buffer) > 8192 or b"\r\n" in self._buffer):
            self._deaf, self._buffer = True, b""
            return False
        if not found or match is None:
            return False
        headers = {
            name.decode("latin-1").strip().lower(): value.decode("latin-1").strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        method, target = match.group(1).decode(), match.group(2).decode("latin-1")
        self.current = Request(method, target, headers, self._connection)
        self._found.append(self.current)
        self._buffer = rest
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._skip = 0 if self._chunked else int(headers.get("content-length", 0))
        return True


@dataclasses.dataclass
class _Relay:
    """A connection, both its sides."""

    client: socket.socket
    server: socket.socket
    found: _Requests
    #: Whether it is FTP's for commands.
    commands: bool
    passed: int = 0

    def take(self, data: bytes, most: int | None) -> tuple[bytes, bool]:
        """What of a piece may still pass, and whether that was all."""
        if most is not None:
            data = data[: max(most - self.passed, 0)]
        self.passed += len(data)
        return data, most is not None and self.passed >= most


class Proxy:
    """A running proxy.

    Attributes
    ----------
    requests
        The HTTP requests that passed, in the order of their heads.
    connections
        How many connections were accepted.
    bytes_to_client, bytes_to_server
        What passed, heads included.
    delay, drag
        Seconds to wait before each piece goes to the client, and to the server.
    rate
        Bytes a second that pass on each connection, either way. None: all.
    swallow
        Keep back everything that the server answers, as a network that lost the way back.
    swallow_after
        Begin to, once, when this many more bytes went to clients. None: never.
    cut_after
        Cut every connection, once, when this many more bytes went to clients; the last piece
        passes only in part. None: never.
    cut_after_sent
        The same, when this many more bytes went to the server.
    most
        Cut each connection, again and again, when so many bytes passed on it. None: never.
    last
        The next of these cuts is the end: nothing is accepted any more.
    cuts
        How often connections were cut because of these.
    """

    def __init__(
        self,
        host: str,
        port: int,
        scheme: str = "http",
        userinfo: str = "",
        *,
        passive: bool = False,
        listen: tuple[str, int] = (LOOPBACK, 0),
        buffer: int | None = None,
    ) -> None:
        self._target = (host, port)
        self._scheme = scheme
        self._userinfo = userinfo
        self._passive = passive
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._closing = False
        self.requests: list[Request] = []
        self.connections = 0
        self.bytes_to_client = 0
        self.bytes_to_server = 0
        self.delay = self.drag = 0.0
        self.rate: float | None = None
        self.swallow = False
        self.swallow_after: int | None = None
        self.cut_after: int | None = None
        self.cut_after_sent: int | None = None
        self.most: int | None = None
        self.last = False
        self.cuts = 0
        self._listener = socket.create_server(listen, backlog=128)
        if buffer is not None:  # of the system, for what clients send
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.host: str
        self.port: int
        self.host, self.port = self._listener.getsockname()[:2]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """The server's URL, through the proxy."""
        return f"{self._scheme}://{self._userinfo}{self.host}:{self.port}"

    def reset(self) -> None:
        """Forget what was counted, and let everything pass again."""
        with self._lock:
            self.requests.clear()  # the list that open connections add to
            self.connections = self.bytes_to_client = self.bytes_to_server = 0
            self.delay, self.drag, self.swallow, self.cuts = 0.0, 0.0, False, 0
            self.rate = None
            self.swallow_after = self.cut_after = self.cut_after_sent = self.most = None

    def methods(self) -> list[str]:
        """Return the method of each request."""
        return [request.method for request in self.requests]

    def cut(self) -> int:
        """Reset every open connection; return how many there were."""
        with self._lock:
            live, self._live = self._live, set()
        for connection in live:
            _reset(connection)
        return len(live) // 2

    def close(self) -> None:
        """Accept nothing any more and cut what is open: the server is down."""
        self._closing = True
        with contextlib.suppress(OSError):
            # Closing alone does not wake a thread that is in accept().
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(10)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._connect(self._listener.accept()[0], self._target)

    def _connect(self, client: socket.socket, target: tuple[str, int]) -> None:
        try:
            server = socket.create_connection(target, timeout=10)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            closed = self._closing
            if not closed:
                self._live |= {client, server}
                self.connections += 1
                found = _Requests(self.requests, self.connections)
        if closed:
            _reset(client)
            _reset(server)
            return
        commands = self._passive and target == self._target
        relay = _Relay(client, server, found, commands)
        threading.Thread(target=self._relay, args=(relay,), daemon=True).start()

    def _accept_one(self, listener: socket.socket, port: int) -> None:
        """Take the one connection of a transfer."""
        with listener, contextlib.suppress(OSError):
            listener.settimeout(30)
            client = listener.accept()[0]
            client.settimeout(None)
            self._connect(client, (self._target[0], port))

    def _here(self, said: re.Match[bytes]) -> bytes:
        """Where a transfer is to be connected to: here, and from here to where the server says."""
        listener = socket.create_server((LOOPBACK, 0))
        mine = listener.getsockname()[1]
        port = int(said[2]) * 256 + int(said[3])
        threading.Thread(target=self._accept_one, args=(listener, port), daemon=True).start()
        return b"%b%d,%d)" % (said[1], *divmod(mine, 256))

    def _relay(self, relay: _Relay) -> None:
        """Pass bytes both ways until both sides have ended, or one breaks."""
        back = threading.Thread(target=self._to_client, args=(relay,), daemon=True)
        back.start()
        self._to_server(relay)
        back.join()
        self._drop(relay.client, relay.server)

    def _to_server(self, relay: _Relay) -> None:
        client, server = relay.client, relay.server
        try:
            while data := client.recv(1 << 16):
                if self.drag or self.rate:
                    time.sleep(self.drag + len(data) / (self.rate or math.inf))
                with self._lock:
                    data, self.cut_after_sent, all_ = _before(data, self.cut_after_sent)
                    data, one = relay.take(data, self.most)
                    self.bytes_to_server += len(data)
                    relay.found.feed(data)
                server.sendall(data)
                if all_ or one:
                    self._cut(None if all_ else relay)
                    return
            self._end(server)
        except OSError:
            self._drop(client, server)

    def _to_client(self, relay: _Relay) -> None:
        client, server, found = relay.client, relay.server, relay.found
        try:
            while data := server.recv(1 << 16):
                if self.delay or self.rate:
                    time.sleep(self.delay + len(data) / (self.rate or math.inf))
                if self.swallow:
                    continue
                if relay.commands:
                    data = _PASSIVE.sub(self._here, data)
                with self._lock:
                    data, self.swallow_after, is_last = _before(data, self.swallow_after)
                    self.swallow = self.swallow or is_last
                    data, self.cut_after, all_ = _before(data, self.cut_after)
                    data, one = relay.take(data, self.most)
                    # Counted before it is sent: who has received it finds it counted.
                    self.bytes_to_client += len(data)
                    if found.current is not None:
                        found.current._count(data)
                client.sendall(data)
                if all_ or one:
                    self._cut(None if all_ else relay)
                    return
            # A network that lost the way back loses the end too: the client hears nothing.
            if not self.swallow:
                self._end(client)
        except OSError:
            self._drop(client, server)

    def _cut(self, relay: _Relay | None) -> None:
        """Cut one connection, or all."""
        with self._lock:
            self.cuts += 1
        if self.last:
            self.close()
        elif relay is None:
            self.cut()
        else:
            self._drop(relay.client, relay.server)

    def _end(self, to: socket.socket) -> None:
        """Pass on that one side has nothing more to say, unless the connection was cut."""
        with self._lock:
            if to in self._live:
                to.shutdown(socket.SHUT_WR)

    def _drop(self, *ends: socket.socket) -> None:
        with self._lock:
            mine = self._live & set(ends)
            self._live -= mine
        for end in mine:
            _reset(end)


def _before(data: bytes, left: int | None) -> tuple[bytes, int | None, bool]:
    """What of a piece passes before a cut, how much then may still, and whether it is now."""
    if left is None:
        return data, None, False
    data = data[:left]
    left -= len(data)
    return (data, left, False) if left else (data, None, True)


def _reset(connection: socket.socket) -> None:
    """Close with RST, as a network that breaks does, and wake who waits on the socket."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        # Wakes a thread that is in recv(), which close() alone does not.
        connection.shutdown(socket.SHUT_RD)
    connection.close()


@contextlib.contextmanager
def proxied(url: str, *, passive: bool = False, buffer: int | None = None) -> Iterator[Proxy]:
    """Stand in front of a server: its URL with host and port, whatever the scheme.

    With `passive`, FTP's transfers pass, too. With `buffer`, no more of an upload is taken ahead.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"no host and port in {url!r}")
    userinfo, at, _ = parts.netloc.rpartition("@")
    login = userinfo + at
    proxy = Proxy(parts.hostname, parts.port, parts.scheme, login, passive=passive, buffer=buffer)
    try:
        yield proxy
    finally:
        proxy.close()
