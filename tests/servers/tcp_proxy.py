"""A TCP proxy that counts what passes, and cuts, delays or swallows it.

For HTTP it knows each request (:attr:`Proxy.requests`); for every protocol it knows connections
and bytes. FTP's transfers open connections of their own and do not pass.

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
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator

from tests.servers.process import LOOPBACK

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
    delay
        Seconds to wait before each piece goes to the client.
    swallow
        Keep back everything that the server answers, as a network that lost the way back.
    cut_after
        Cut every connection, once, when this many more bytes went to clients; the last piece
        passes only in part. None: never.
    """

    def __init__(self, host: str, port: int, scheme: str = "http", userinfo: str = "") -> None:
        self._target = (host, port)
        self._scheme = scheme
        self._userinfo = userinfo
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._closing = False
        self.requests: list[Request] = []
        self.connections = 0
        self.bytes_to_client = 0
        self.bytes_to_server = 0
        self.delay = 0.0
        self.swallow = False
        self.cut_after: int | None = None
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self.host = LOOPBACK
        self.port: int = self._listener.getsockname()[1]
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
            self.delay, self.swallow, self.cut_after = 0.0, False, None

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
                client = self._listener.accept()[0]
                try:
                    server = socket.create_connection(self._target, timeout=10)
                except OSError:
                    _reset(client)
                    continue
                server.settimeout(None)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._live |= {client, server}
                    self.connections += 1
                    found = _Requests(self.requests, self.connections)
                threading.Thread(
                    target=self._relay, args=(client, server, found), daemon=True
                ).start()

    def _relay(self, client: socket.socket, server: socket.socket, found: _Requests) -> None:
        """Pass bytes both ways until both sides have ended, or one breaks."""
        back = threading.Thread(target=self._to_client, args=(server, client, found), daemon=True)
        back.start()
        self._to_server(client, server, found)
        back.join()
        self._drop(client, server)

    def _to_server(self, client: socket.socket, server: socket.socket, found: _Requests) -> None:
        try:
            while data := client.recv(1 << 16):
                with self._lock:
                    self.bytes_to_server += len(data)
                    found.feed(data)
                server.sendall(data)
            self._end(server)
        except OSError:
            self._drop(client, server)

    def _to_client(self, server: socket.socket, client: socket.socket, found: _Requests) -> None:
        try:
            while data := server.recv(1 << 16):
                if self.delay:
                    time.sleep(self.delay)
                if self.swallow:
                    continue
                cut = False
                with self._lock:
                    if self.cut_after is not None:
                        data = data[: self.cut_after]
                        self.cut_after -= len(data)
                        if self.cut_after == 0:
                            cut, self.cut_after = True, None
                    # Counted before it is sent: who has received it finds it counted.
                    self.bytes_to_client += len(data)
                    if found.current is not None:
                        found.current._count(data)
                client.sendall(data)
                if cut:
                    self.cut()
                    return
            # A network that lost the way back loses the end too: the client hears nothing.
            if not self.swallow:
                self._end(client)
        except OSError:
            self._drop(client, server)

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


def _reset(connection: socket.socket) -> None:
    """Close with RST, as a network that breaks does, and wake who waits on the socket."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        # Wakes a thread that is in recv(), which close() alone does not.
        connection.shutdown(socket.SHUT_RD)
    connection.close()


@contextlib.contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """Stand in front of a server: its URL with host and port, whatever the scheme."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"no host and port in {url!r}")
    userinfo, at, _ = parts.netloc.rpartition("@")
    proxy = Proxy(parts.hostname, parts.port, parts.scheme, userinfo + at)
    try:
        yield proxy
    finally:
        proxy.close()
