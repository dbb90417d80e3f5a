"""Web servers that lack something: ranges, sizes, HEAD, manners."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import mlartifacts
from mlartifacts import network
from tests.servers.process import LOOPBACK

DATA = bytes(range(256)) * 8192

#: Apache's directory index, cut short, with what links can be.
PAGE = """<html><table>
<th><a href="?C=N;O=D">Name</a></th><A class='up' HREF="/">Parent Directory</A><a href="../">..</a>
<a href="a%20b.txt">a b.txt</a><a href='folder/'>folder/</a><a href="it's&amp;its">it's</a>
<a href="/index/absolute#part">absolute</a><a href="/index-not/x">x</a><a name="x">no link</a>
<a href="http://[">no URL</a><a href="mailto:a@b">mail</a><a href="http://other/index/x">x</a>
<a href="export?format=csv">export</a><a href="folder/">again</a><a href="./c:d">colon</a>
</table></html>"""


class Odd(http.server.BaseHTTPRequestHandler):
    """Serves `DATA` under every path, which says what the server lacks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: list[tuple[str, str, str | None]]

    def do_HEAD(self) -> None:
        if self.path == "/no-head":
            self._say(405)
        else:
            self._serve(b"")

    def do_GET(self) -> None:
        self._serve(DATA)

    def _serve(self, body: bytes) -> None:
        self.seen.append((self.command, self.path, self.headers.get("Range")))
        name = self.path.partition("?")[0].strip("/")
        if name.isdigit():
            self._say(int(name))
        elif name == "no-size":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if body:
                self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        elif name == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif name == "index":
            self._say(200, PAGE.encode(), "", body)
        elif name == "packs" and "gzip" in self.headers.get("Accept-Encoding", ""):
            self._say(200, gzip.compress(DATA), "gzip", body)
        else:
            self._say(200, DATA, "", body)

    def _say(self, status: int, data: bytes = b"", encoding: str = "", body: bytes = b"x") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        if self.path == "/says-no-ranges":
            self.send_header("Accept-Ranges", "none")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def odd() -> Iterator[tuple[str, list[tuple[str, str, str | None]]]]:
    seen: list[tuple[str, str, str | None]] = []
    handler = type("Handler", (Odd,), {"seen": seen})
    with _Server((LOOPBACK, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join(10)


LACKS = ["no-ranges", "says-no-ranges", "no-size", "no-head", "packs"]


@pytest.mark.parametrize("lack", LACKS)
def test_bytes_are_right(odd: Any, lack: str, tmp_path: Any) -> None:
    url, _ = odd
    fs, path = mlartifacts.url_to_fs(f"{url}/{lack}")
    for start, end in [(None, None), (0, 0), (5, 9), (-4, None), (-9, -2), (2**21, None)]:
        assert fs.cat_file(path, start, end) == DATA[start:end], (start, end)
    with mlartifacts.open(f"{url}/{lack}") as file:
        file.seek(100_000)
        assert file.read(10) == DATA[100_000:100_010]
        file.seek(-3, 2)
        assert file.read() == DATA[-3:]
        file.seek(1)
        assert file.read(2) == DATA[1:3]
    with mlartifacts.open(f"{url}/{lack}") as file:
        assert file.read() == DATA
    fs.get_file(path, str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == DATA


def test_server_without_ranges_is_asked_once(odd: Any) -> None:
    url, seen = odd
    with mlartifacts.open(f"{url}/no-ranges") as file:
        for place in range(0, 2**21, 2**17):
            file.seek(place)
            file.read(10)
    assert [method for method, _, _ in seen] == ["HEAD", "GET"]


def test_answer_that_is_cut(odd: Any, tmp_path: Any) -> None:
    url, _ = odd
    fs, path = mlartifacts.url_to_fs(f"{url}/cut")
    with mlartifacts.open(f"{url}/cut") as file:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            file.read()
        assert caught.value.filename == path
    with pytest.raises(OSError):  # noqa: PT011
        fs.cat_file(path)
    with pytest.raises(OSError):  # noqa: PT011
        fs.get_file(path, str(tmp_path / "got"))
    assert list(tmp_path.glob("got*")) == []


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, PermissionError), (403, PermissionError), (500, OSError), (503, OSError)],
)
def test_refusals(
    odd: Any, status: int, error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never taken for an artifact that is not there."""
    monkeypatch.setattr(network, "_WAIT", 0.001)
    url, _ = odd
    fs, path = mlartifacts.url_to_fs(f"{url}/{status}")
    for act in (fs.exists, fs.isfile, fs.info, fs.cat_file, fs.open):
        with pytest.raises(error, match=str(status)) as caught:
            act(path)
        assert caught.value.filename == path


def test_query_and_encoding_stay(odd: Any) -> None:
    url, seen = odd
    with contextlib.closing(mlartifacts.open(f"{url}/a%20b%2Fc?x=%26&y=1").open()) as file:
        file.read(1)
    assert {path for _, path, _ in seen} == {"/a%20b%2Fc?x=%26&y=1"}


def test_s3_url_says_what_to_write() -> None:
    url = "https://bucket.s3.eu-west-1.amazonaws.com/path/key"
    fs, path = mlartifacts.url_to_fs(url)
    with pytest.raises(OSError, match="s3://bucket/path/key") as caught:
        fs.pipe_file(path, b"")
    assert "unset MLFLOW_S3_ENDPOINT_URL" in str(caught.value)


def test_links_of_a_page(odd: Any) -> None:
    """Those to what is below it, as files and directories of their own names."""
    url, _ = odd
    fs, path = mlartifacts.url_to_fs(f"{url}/index/")
    names = ["a%20b.txt", "absolute", "c:d", "export?format=csv", "folder", "it's&its"]
    listed = {entry["name"]: entry["type"] for entry in fs.ls(path, detail=True)}
    assert listed == {
        f"{path}{name}": "directory" if name == "folder" else "file" for name in names
    }
    assert fs.ls(f"{path}?C=N;O=D", detail=False) == sorted(listed)


def test_a_page_without_a_slash_is_a_file(odd: Any) -> None:
    url, _ = odd
    fs, path = mlartifacts.url_to_fs(f"{url}/index")
    assert fs.isfile(path)
    assert fs.ls(path, detail=False) == [path]
