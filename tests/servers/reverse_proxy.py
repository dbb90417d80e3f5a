"""A web server in front of another: with TLS, under a prefix, and with answers of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import http.server
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.servers import certificates
from tests.servers.process import LOOPBACK

_OF_CONNECTIONS = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked; the path without the prefix, and the body's beginning.

    Attributes
    ----------
    sha256
        Of what arrived of the body.
    """

    method: str
    path: str
    headers: dict[str, str]
    begin: bytes = b""
    sha256: bytes = b""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is answered instead of the server; without a length, in one chunk."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    chunked: bool = False


class Reverse:
    """A running proxy.

    Attributes
    ----------
    host, port
        Where it listens.
    url
        Its own URL, the prefix included.
    requests
        What was asked so far.
    answer
        Gives the answer to a request where it is not the server's.
    damage
        Gives what arrives of a body, of a request or of its answer (``bytes``).
    whole_urls
        Whether it is asked as a network's proxy is; the host is not heeded.
    hasty
        Whether it says that a write went well before any of it came.
    """

    def __init__(self, target: str, prefix: str, tls: Any = None) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Answer | None] = lambda request: None
        self.damage: Callable[[bytes], bytes] = lambda body: body
        self.whole_urls = False
        self.hasty = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                if outer.hasty and self.command == "PUT":
                    self._reply(Answer())
                    self.close_connection = True
                    while self.rfile.read1():
                        pass
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if outer.whole_urls:
                    self.path = "/" + self.path.split("/", 3)[3]
                if not self.path.startswith(f"{prefix}/"):
                    self._reply(Answer(404, b"nothing here"))
                    return
                path = self.path.removeprefix(prefix)
                arrived = outer.damage(body)
                digest = hashlib.sha256(arrived).digest()
                request = Request(self.command, path, dict(self.headers), body[:1000], digest)
                outer.requests.append(request)
                answer = outer.answer(request) or self._ask(request, arrived)
                with contextlib.suppress(ConnectionError):  # the client has heard enough
                    self._reply(answer)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815

            def do_CONNECT(self) -> None:
                """A tunnel, as a network's proxy makes one."""
                outer.requests.append(Request("CONNECT", self.path, dict(self.headers)))
                host, _, port = self.path.rpartition(":")
                self.close_connection = True
                with socket.create_connection((host, int(port)), timeout=10) as server:
                    self.send_response(200)
                    self.end_headers()
                    for end in (server, self.connection):
                        end.settimeout(60)
                    back = threading.Thread(target=_pass_on, args=(server, self.connection))
                    back.start()
                    _pass_on(self.connection, server)
                    back.join()

            def _ask(self, request: Request, body: bytes) -> Answer:
                parts = urllib.parse.urlsplit(target)
                connection = http.client.HTTPConnection(parts.netloc, timeout=60)
                headers = {n: v for n, v in request.headers.items() if n.lower() != "host"}
                with contextlib.closing(connection):
                    connection.request(request.method, request.path, body or None, headers)
                    response = connection.getresponse()
                    kept = {
                        name: value
                        for name, value in response.getheaders()
                        if name.lower() not in _OF_CONNECTIONS
                    }
                    if kept.get("Location", "").startswith(target):
                        kept["Location"] = outer.url + kept["Location"].removeprefix(target)
                    length = response.getheader("Content-Length")
                    if request.method == "HEAD" and length is not None:
                        kept["Content-Length"] = length
                    came = outer.damage(response.read())
                    return Answer(response.status, came, kept, length is None)

            def _reply(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if self.command == "HEAD" or answer.status in {204, 304}:
                    # No body may follow: its bytes would be the next answer's beginning.
                    self.end_headers()
                elif answer.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    size = len(answer.body)
                    first = b"%x\r\n%b\r\n" % (size, answer.body) if size else b""
                    self.wfile.write(first + b"0\r\n\r\n")
                else:
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    self.wfile.write(answer.body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        scheme = "http"
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.host, self.port = LOOPBACK, self.server.server_address[1]
        self.url = f"{scheme}://{self.host}:{self.port}{prefix}"

    def asked(self, method: str, part: str = "") -> list[Request]:
        """The requests of a method whose path has a part."""
        return [each for each in self.requests if each.method == method and part in each.path]


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(2**16):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def serve(target: str, prefix: str = "", certificates_in: Path | None = None) -> Iterator[Reverse]:
    """Stand before the server at the URL `target`; with TLS, by a certificate of a private
    authority that is issued in `certificates_in`."""
    context = None
    if certificates_in is not None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.issue(certificates_in).pem)
    proxy = Reverse(target, prefix, context)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        thread.join(10)
        proxy.server.server_close()
