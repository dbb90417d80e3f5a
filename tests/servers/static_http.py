"""HTTP: files of a directory in this process, with ranges, ETags and listings."""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import functools
import http.server
import itertools
import re
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from tests.servers.process import LOOPBACK, http_answers, wait_until

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request that the server has answered."""

    method: str
    target: str
    #: The ``Range`` header, or "".
    range: str
    status: int
    #: How many bytes of the file it sent.
    sent: int


@dataclasses.dataclass(frozen=True)
class StaticHttp:
    """A running web server."""

    url: str
    #: The directory that it serves.
    root: Path
    #: Every request since the start, or since the test cleared the list.
    requests: list[Asked] = dataclasses.field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """Nothing: the store reads no variable but the timeout."""
        return {}

    def new_folder(self) -> Path:
        """Make a fresh directory to put files in."""
        folder = self.root / f"root-{next(_numbers)}"
        folder.mkdir()
        return folder

    def new_root(self) -> str:
        """Return the URI of a fresh directory; its files lie in `root` under the same name."""
        return f"{self.url}/{self.new_folder().name}"


_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """Return what a ``Range`` header asks for, None for the whole, an empty span for nothing."""
    match = _RANGE.match(header or "")
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1 if last else size, size)


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small answers at once: with Nagle each would wait for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    # Someone who keeps a connection open and says nothing must not keep the tests from ending.
    timeout = 60

    def __init__(self, *args: object, server_object: StaticHttp, **kwargs: object) -> None:
        self._asked = server_object.requests
        super().__init__(*args, directory=str(server_object.root), **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        self._sending = 0
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            if body:
                super().do_GET()
            else:
                super().do_HEAD()
            return
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size = path.stat().st_size
        span = _span(self.headers.get("Range"), size)
        if span and span[0] >= span[1]:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end = span or (0, size)
        status = HTTPStatus.PARTIAL_CONTENT if span else HTTPStatus.OK
        self._sending = end - start if body else 0
        self.send_response(status)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", email.utils.formatdate(path.stat().st_mtime, usegmt=True))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        if span:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if body:
            with path.open("rb") as file:
                file.seek(start)
                remaining = end - start
                while remaining and (piece := file.read(min(remaining, 1 << 20))):
                    self.wfile.write(piece)
                    remaining -= len(piece)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        asked = self.headers.get("Range", "")
        self._asked.append(Asked(self.command, self.path, asked, int(code), self._sending))

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    # A client that hangs up in the middle is no error of the server.
    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[StaticHttp]:
    """Serve ``directory / "www"``."""
    root = directory / "www"
    root.mkdir(parents=True)
    server = _Server((LOOPBACK, 0), http.server.BaseHTTPRequestHandler)
    port = server.server_address[1]
    static = StaticHttp(f"http://{LOOPBACK}:{port}", root)
    server.RequestHandlerClass = functools.partial(_Handler, server_object=static)  # type: ignore[assignment]
    server.daemon_threads = True
    # server_close() would otherwise wait for clients that keep their connection.
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        wait_until(lambda: http_answers(port), "static http")
        static.requests.clear()
        yield static
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
