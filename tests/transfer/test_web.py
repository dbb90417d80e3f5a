"""Downloads from web servers that say less of their files than stores do."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec.callbacks
import pytest

import mlartifacts
from mlartifacts import network
from mlartifacts.errors import TransferError
from mlartifacts.stores.http.pages import is_index
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.reverse_proxy import Answer, Request
from tests.servers.static_http import StaticHttp
from tests.servers.tcp_proxy import proxied
from tests.transfer.trees import found, odd_tree, plant

LARGE = odd_tree(large=60_000_000)["large.bin"]
TREE = {"a.txt": b"a", "b/c.csv": b"cc", "large": LARGE[:9_000_000]}


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Python's own web server, which knows no ranges, and its folder."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


def test_a_directory_whose_files_have_no_sizes(static_http: StaticHttp, tmp_path: Path) -> None:
    folder = plant(static_http.new_folder(), TREE)
    callback = fsspec.callbacks.Callback()
    uri = f"{static_http.url}/{folder.name}"
    there = mlartifacts.download(uri, tmp_path / "there", callback=callback)
    assert found(there) == TREE
    assert callback.size == callback.value == sum(map(len, TREE.values()))
    report = mlartifacts.copy(uri, tmp_path / "again", dry_run=True)
    assert report.size == callback.size


def test_a_server_that_says_no_sizes(static_http: StaticHttp, tmp_path: Path) -> None:
    folder = plant(static_http.new_folder(), {"page": b"x" * 1000})

    def answer(request: Request) -> Answer | None:
        if not request.path.endswith("/page"):
            return None
        return Answer(200, b"" if request.method == "HEAD" else b"x" * 1000, {}, chunked=True)

    with reverse_proxy.serve(static_http.url) as front:
        front.answer = answer
        uri = f"{front.url}/{folder.name}"
        assert mlartifacts.download(f"{uri}/page", tmp_path / "page").read_bytes() == b"x" * 1000
        assert found(mlartifacts.download(uri, tmp_path / "there")) == {"page": b"x" * 1000}


LOGIN = b"<title>Sign in</title><form><input type=password></form><a href=help.html>Help</a>"


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("where", ["", "b/"])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, LOGIN, {"Content-Type": "text/html"}),
        Answer(200, b"", {"Content-Type": "text/html"}),
        Answer(200, b"{}", {"Content-Type": "application/json"}),
        Answer(200, b"<title>Index</title><h1>Welcome</h1>", {"Content-Type": "text/html"}),
        Answer(403, b"no"),
        Answer(404, b"no"),
        Answer(503, b"later"),
    ],
    ids=["login", "empty", "json", "front page", "403", "404", "503"],
)
def test_a_page_that_is_no_listing_has_nothing_deleted(
    answer: Answer,
    where: str,
    dry_run: bool,
    static_http: StaticHttp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "_WAIT", 0.001)
    folder = plant(static_http.new_folder(), TREE)
    mine = {"a.txt": b"a", "b/c.csv": b"mine", "old": b"mine"}
    there = plant(tmp_path / "there", mine)
    with reverse_proxy.serve(static_http.url) as front:
        front.answer = lambda request: answer if request.path.endswith(f"/{where}") else None
        with pytest.raises(OSError, match="index|40[34]|503|No such"):
            mlartifacts.sync(f"{front.url}/{folder.name}/", there, delete=True, dry_run=dry_run)
        assert found(there) == mine
        front.answer = lambda request: None
        mlartifacts.sync(f"{front.url}/{folder.name}", there, delete=True)
        assert found(there) == TREE


def test_what_a_listing_hides_is_not_deleted(static_http: StaticHttp, tmp_path: Path) -> None:
    """As servers do with names that begin with a dot, and Apache with README files."""
    folder = plant(static_http.new_folder(), {"a": b"1", "README.md": b"2"})
    there = plant(tmp_path / "there", {"a": b"1", "README.md": b"2", "old": b"3"})
    page = f'<title>Index of /{folder.name}/</title><a href="a">a</a></html>'.encode()

    def answer(request: Request) -> Answer | None:
        return Answer(200, page) if request.path == f"/{folder.name}/" else None

    with reverse_proxy.serve(static_http.url) as front:
        front.answer = answer
        report = mlartifacts.sync(f"{front.url}/{folder.name}/", there, delete=True)
    assert report.deleted == ("old",)
    assert set(found(there)) == {"a", "README.md"}


@pytest.mark.parametrize("location", ["/", "/other/"])
def test_an_index_of_another_directory(
    location: str, static_http: StaticHttp, tmp_path: Path
) -> None:
    there = plant(tmp_path / "there", {"a": b"1"})
    with reverse_proxy.serve(static_http.url) as front:

        def answer(request: Request) -> Answer:
            if request.path == "/data/":
                return Answer(302, b"", {"Location": f"{front.url}{location}"})
            page = f"<title>Index of {location}</title></html>".encode()
            return Answer(200, page, {"Content-Type": "text/html"})

        front.answer = answer
        with pytest.raises(OSError, match="index"):
            mlartifacts.sync(f"{front.url}/data/", there, delete=True)
    assert found(there) == {"a": b"1"}


def test_a_page_that_is_cut_off(tmp_path: Path) -> None:
    """Without a length, its end is that of the connection."""
    there = plant(tmp_path / "there", {"a": b"1", "b": b"2"})

    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html><title>Index of /data/</title><a href='a'>a</a>")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/data/"
        try:
            with pytest.raises(OSError, match="index"):
                mlartifacts.sync(url, there, delete=True)
        finally:
            server.shutdown()
            thread.join()
    assert found(there) == {"a": b"1", "b": b"2"}


def test_what_was_a_file_when_it_was_listed(static_http: StaticHttp, tmp_path: Path) -> None:
    """It has nothing that a target could be compared with, whatever it is by now."""
    folder = plant(static_http.new_folder(), {"dir/a": b"1"})
    there = plant(tmp_path / "there", {"a": b"mine", "b": b"mine"})
    asked = []

    def answer(request: Request) -> Answer | None:
        asked.append(request)
        is_early = len(asked) < 5 and request.path.endswith("/dir")
        return Answer(200, b"Please log in", {"Content-Type": "text/html"}) if is_early else None

    with reverse_proxy.serve(static_http.url) as front:
        front.answer = answer
        with contextlib.suppress(TransferError):  # it changed meanwhile
            mlartifacts.sync(f"{front.url}/{folder.name}/dir", there, delete=True)
    assert found(there).items() >= {"a": b"mine", "b": b"mine"}.items()


def test_a_page_that_is_packed_unasked(static_http: StaticHttp, tmp_path: Path) -> None:
    folder = plant(static_http.new_folder(), {"a": b"1"})
    packed = gzip.compress(b"<title>x</title><a href='a'>a</a>")

    def answer(request: Request) -> Answer | None:
        told = {"Content-Type": "text/html", "Content-Encoding": "gzip"}
        return Answer(200, packed, told) if request.path.endswith("/") else None

    with reverse_proxy.serve(static_http.url) as front:
        front.answer = answer
        there = mlartifacts.download(f"{front.url}/{folder.name}/", tmp_path / "there")
    assert found(there) == {"a": b"1"}


def test_an_etag_that_looks_like_a_checksum(static_http: StaticHttp, tmp_path: Path) -> None:
    folder = plant(static_http.new_folder(), {"a": b"1"})

    def answer(request: Request) -> Answer | None:
        if not request.path.endswith("/a"):
            return None
        told = {"ETag": f'"{"0a" * 16}"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        return Answer(200, b"1", told)

    with reverse_proxy.serve(static_http.url) as front:
        front.answer = answer
        uri = f"{front.url}/{folder.name}/"
        there = mlartifacts.download(uri, tmp_path / "there")
        assert mlartifacts.sync(uri, there).moved == ()


@pytest.mark.parametrize(
    ("heading", "is_one"),
    [
        ("<title>Index of /dir</title>", True),  # Apache
        ("<head><TITLE>Index of /dir/</TITLE>", True),  # nginx
        ("<title>Directory listing for /dir/</title>", True),  # Python
        ("<title>Directory Listing For [/dir/]</title>", True),  # Tomcat
        ("<h1 class='title'>Directory: /dir/</h1>", True),  # Jetty
        ("<title>listing directory /dir/</title>", True),  # serve-index
        ("<title>/d&#105;r/</title>", True),  # Caddy
        ("<title>localhost - /dir/</title>", True),  # IIS
        ("<title>Sign in - /dir/</title>", False),
        ("<title>Indexes of /dir/</title>", False),
        ("<title>Index of /</title>", False),
        ("<title>Index of /other/dir/</title>", False),
        ("<p>Index of /dir/</p>", False),
        ("", False),
    ],
)
def test_pages_of_web_servers(heading: str, is_one: bool) -> None:
    assert is_index(f"<html>{heading}<a href='x'>x</a>", "localhost", "/dir/") == is_one


def test_a_server_that_redirects_to_no_slash(static_http: StaticHttp, tmp_path: Path) -> None:
    folder = plant(static_http.new_folder(), TREE)
    missing = {f"/{folder.name}", f"/{folder.name}/b"}
    with reverse_proxy.serve(static_http.url) as front:
        front.answer = lambda request: Answer(404) if request.path in missing else None
        there = mlartifacts.download(f"{front.url}/{folder.name}/", tmp_path / "there")
    assert found(there) == TREE


def test_a_signature_is_no_part_of_a_name(static_http: StaticHttp, tmp_path: Path) -> None:
    folder = plant(static_http.new_folder(), {"a.txt": b"a"})
    uri = f"{static_http.url}/{folder.name}/a.txt?X-Amz-Signature=signed-by-me"
    assert mlartifacts.download(uri, f"{tmp_path}/there/") == tmp_path / "there/a.txt"
    assert mlartifacts.download(uri).name == "a.txt"


def test_a_server_without_ranges_sends_a_large_file_once(
    plain: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = plain
    (folder / "large").write_bytes(LARGE)
    with proxied(url) as wire:
        got = mlartifacts.download(f"{wire.url}/large", tmp_path / "large")
        assert got.read_bytes() == LARGE
        assert len(LARGE) < wire.bytes_to_client < 1.5 * len(LARGE)


def test_mlflows_server_sends_a_large_file_once(
    opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = opened("mlflow-artifacts")
    store.seed({"large": LARGE})
    with proxied(store.env["MLFLOW_TRACKING_URI"]) as wire:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", wire.url)
        got = mlartifacts.download("mlflow-artifacts:/" + store.base.partition(":/")[2] + "/large")
        assert got.read_bytes() == LARGE
        assert len(LARGE) < wire.bytes_to_client < 1.5 * len(LARGE)
