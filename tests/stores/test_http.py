"""Web servers: read by ranges, never written."""

from __future__ import annotations

import base64
import collections
import contextlib
import errno
import http.server
import pickle
import socket
import threading
import traceback
from collections.abc import Iterator

import pytest

import mlartifacts
from mlartifacts import network
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI, TransferError, chain
from mlartifacts.stores.http import STORE, s3_uri
from mlartifacts.uri import parse
from tests.servers import reverse_proxy, tcp_proxy
from tests.servers.process import LOOPBACK

DATA = bytes(range(256)) * 4096


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("https://host/a/b?x=1&y=%20#z", "https://host/a/b?x=1&y=%20#z"),
        ("http://host:8080/a/", "http://host:8080/a/"),
        ("http://user:pass@host/a", "http://host/a"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
    ],
)
def test_places(uri, path):
    assert STORE.locate(parse(uri), Environment({}), {}).path == path


@pytest.mark.parametrize("uri", ["http:///a", "https:/a", "http://host:many/a"])
def test_bad_uris(uri):
    with pytest.raises(InvalidURI):
        mlartifacts.url_to_fs(uri)


@pytest.mark.parametrize("host", ["a..b", "a" * 300, "[::1", "host:many"])
def test_bad_urls(host):
    fs = mlartifacts.filesystem("http")
    for act in (fs.cat_file, fs.info, fs.ls, fs.open):
        with pytest.raises(InvalidURI):
            act(f"http://{host}/x")


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("https://bucket.s3.amazonaws.com/a/b", "s3://bucket/a/b"),
        ("https://bucket.s3.eu-west-1.amazonaws.com/a", "s3://bucket/a"),
        ("https://s3.eu-west-1.amazonaws.com/bucket/a", "s3://bucket/a"),
        ("https://example.com/a", None),
    ],
)
def test_amazons_urls_are_known(url, uri):
    assert s3_uri(url) == uri


@pytest.fixture
def url(static_http):
    folder = static_http.new_root()
    path = static_http.root / folder.rpartition("/")[2] / "data.bin"
    path.write_bytes(DATA)
    return f"{folder}/data.bin"


def test_ranges_equal_slices(url):
    fs, path = mlartifacts.url_to_fs(url)
    for start, end in [
        (None, None),
        (0, 10),
        (5, 5),
        (-7, None),
        (10, -10),
        (9, 3),
        (2**21, 2**22),
    ]:
        assert fs.cat_file(path, start=start, end=end) == DATA[start:end]
    with mlartifacts.open(url) as file:
        file.seek(1000)
        assert file.read(10) == DATA[1000:1010]
        assert file.read() == DATA[1010:]
    assert fs.info(path)["size"] == len(DATA)
    assert fs.exists(path)


def test_missing(url):
    fs, path = mlartifacts.url_to_fs(f"{url}-not")
    assert not fs.exists(path)
    for act in (fs.info, fs.cat_file, fs.open):
        with pytest.raises(FileNotFoundError) as caught:
            act(path)
        assert caught.value.filename == path


def test_never_written(url, tmp_path):
    fs, path = mlartifacts.url_to_fs(url)
    (tmp_path / "x").write_bytes(b"x")
    for act in (
        lambda: fs.open(path, "wb"),
        lambda: fs.pipe_file(path, b"x"),
        lambda: fs.put_file(str(tmp_path / "x"), path),
        lambda: fs.cp_file(path, f"{path}2"),
        lambda: fs.rm(path),
        lambda: fs.mkdir(f"{path}2"),
    ):
        with pytest.raises(OSError, match="only be read") as caught:
            act()
        assert caught.value.errno == errno.EROFS
    assert fs.cat_file(path) == DATA


def test_a_server_that_hangs(hanging_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    fs, path = mlartifacts.url_to_fs(f"http://{hanging_server.host}:{hanging_server.port}/x")
    for act in (fs.cat_file, fs.info, fs.exists):
        with pytest.raises(TimeoutError) as caught:
            act(path)
        assert caught.value.filename == path


def test_a_server_that_is_down(refused_port):
    fs, path = mlartifacts.url_to_fs(f"http://127.0.0.1:{refused_port}/x")
    for act in (fs.cat_file, fs.exists):
        with pytest.raises(ConnectionError) as caught:
            act(path)
        assert caught.value.filename == path


# ---- Directories -------------------------------------------------------------------------


@pytest.fixture
def tree(static_http):
    """A directory with a file in it, one in a directory below, and an empty directory."""
    root = static_http.new_root()
    folder = static_http.root / root.rpartition("/")[2]
    (folder / "a b" / "empty").mkdir(parents=True)
    (folder / "a b" / "file").write_bytes(b"below")
    (folder / "top").write_bytes(b"top")
    return root


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_tree_is_got(tree, tmp_path, slash):
    fs, path = mlartifacts.url_to_fs(f"{tree}{slash}")
    fs.get(path, f"{tmp_path}/got{slash}", recursive=True)
    got = {str(p.relative_to(tmp_path / "got")): p for p in (tmp_path / "got").rglob("*")}
    assert {name for name, at in got.items() if at.is_dir()} == {"a%20b", "a%20b/empty"}
    files = {name: at.read_bytes() for name, at in got.items() if at.is_file()}
    assert files == {"a%20b/file": b"below", "top": b"top"}


def test_a_file_is_not_got_onto_a_directory(tree, tmp_path):
    fs, path = mlartifacts.url_to_fs(tree)
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(IsADirectoryError):
        fs.get_file(f"{path}/top", str(there))
    assert list(there.iterdir()) == []


def test_a_directory_is_a_page_by_its_name_with_a_slash(tree, tmp_path):
    fs, path = mlartifacts.url_to_fs(tree)
    assert b"top" in fs.cat_file(f"{path}/")
    with mlartifacts.open(f"{tree}/") as file:
        assert b"top" in file.read()
    fs.get_file(f"{path}/", str(tmp_path / "page"))
    assert b"top" in (tmp_path / "page").read_bytes()
    for act in (fs.cat_file, lambda p: fs.open(p).read(), fs.modified):
        with pytest.raises(OSError, match=tree.rpartition("/")[2]) as caught:
            act(path)
        assert caught.value.filename == path


def test_one_request_lists_a_directory(static_http, tree):
    fs, path = mlartifacts.url_to_fs(tree)
    static_http.requests.clear()
    fs.ls(f"{path}/")
    assert [asked.method for asked in static_http.requests] == ["GET"]


# ---- Login -------------------------------------------------------------------------------

Seen = list[tuple[str, str, str | None]]


@contextlib.contextmanager
def guarded(elsewhere: str = "") -> Iterator[tuple[str, Seen]]:
    """A server that redirects ``/away`` to `elsewhere`: its host, and what it was asked with."""
    seen: Seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append((self.command, self.path, self.headers.get("Authorization")))
            away = self.path == "/away"
            self.send_response(302 if away else 200)
            if away:
                self.send_header("Location", elsewhere)
            self.send_header("Content-Length", "0" if away else "4")
            self.end_headers()
            if self.command == "GET" and not away:
                self.wfile.write(b"data")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"{LOOPBACK}:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join(10)


LOGIN = "Basic " + base64.b64encode(b"user:p@ss").decode()


def ask_all(fs, url, tmp_path):
    """Every way of reading."""
    assert fs.cat_file(url) == fs.cat_file(url, 0, 4) == b"data"
    assert fs.exists(url)
    assert fs.info(url)["size"] == 4
    assert fs.ls(url, detail=False) == [url]
    fs.ls(f"{url}/")
    fs.get_file(url, str(tmp_path / "got"))
    with fs.open(url) as file:
        assert file.read() == b"data"


@pytest.mark.parametrize(("status", "kind"), [(500, OSError), (403, PermissionError)])
def test_who_it_is_that_refuses_after_a_redirect(static_http, status, kind, monkeypatch):
    """Another host, whose URL may be signed."""
    monkeypatch.setattr(network, "_WAIT", 0.001)
    with (
        reverse_proxy.serve(static_http.url) as there,
        guarded(f"{there.url}/x?signature=secret") as (host, _),
    ):
        there.answer = lambda request: reverse_proxy.Answer(status, b"no")
        fs, path = mlartifacts.url_to_fs(f"http://{host}/away")
        said = f"{there.url}, to which the server redirects, says {status}"
        for read in (fs.cat_file, fs.info):
            with pytest.raises(kind, match=said) as caught:
                read(path)
            assert "secret" not in str(caught.value)


def test_what_speaks_no_http_is_said_in_one_line():
    with socket.create_server((LOOPBACK, 0)) as listener:

        def answer():
            with listener.accept()[0] as connection:
                connection.recv(2**16)
                connection.sendall(b"220 ready\r\nmore\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        fs, path = mlartifacts.url_to_fs(f"http://{LOOPBACK}:{listener.getsockname()[1]}/x")
        with pytest.raises(OSError, match="The server says 400 .*ready") as caught:
            fs.cat_file(path)
        thread.join()
    assert caught.value.strerror.isprintable()


def test_login_is_for_its_own_host_alone(tmp_path):
    with guarded() as (other, others), guarded(f"http://{other}/x") as (host, seen):
        fs, path = mlartifacts.url_to_fs(f"http://user:p%40ss@{host}/file")
        assert path == f"http://{host}/file"
        ask_all(fs, path, tmp_path)
        assert {login for _, _, login in seen} == {LOGIN}
        ask_all(fs, f"http://{other}/file", tmp_path)
        assert fs.cat_file(f"http://{host}/away") == b"data"
        assert seen[-1] == ("GET", "/away", LOGIN)
        assert others[-1] == ("GET", "/x", None)
        assert {login for _, _, login in others} == {None}
        ask_all(fs, path, tmp_path)
        assert {login for _, _, login in seen} == {LOGIN}


def test_login_by_options(tmp_path):
    with guarded() as (other, others), guarded(f"http://{other}/x") as (host, seen):
        fs, path = mlartifacts.url_to_fs(f"http://{host}/file", username="user", password="p@ss")
        ask_all(fs, path, tmp_path)
        assert fs.cat_file(f"http://{host}/away") == b"data"
        assert {login for _, _, login in seen} == {LOGIN}
        assert others == [("GET", "/x", None)]


# ---- The network's own proxy -------------------------------------------------------------


def test_the_networks_own_proxy(static_http, url, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine web.invalid login of password netrc")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    path = url.split("/", 3)[3]
    with reverse_proxy.serve(static_http.url) as network:
        network.whole_urls = True
        fs = mlartifacts.filesystem("http")
        authority = network.url.partition("://")[2]
        monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@{authority}")
        assert fs.cat_file(f"http://web.invalid/{path}", 1, 5) == DATA[1:5]
        with fs.open(f"http://web.invalid/{path}") as file:
            assert file.read() == DATA
        told = {request.headers.get("Proxy-Authorization") for request in network.requests}
        assert told == {LOGIN}
        assert not [each for each in network.requests if "Authorization" in each.headers]
        network.requests.clear()
        monkeypatch.setenv("NO_PROXY", LOOPBACK)
        assert fs.cat_file(url, 1, 5) == DATA[1:5]
        assert network.requests == []
    monkeypatch.setenv("http_proxy", "http://user:secret@host:port")
    with pytest.raises(InvalidConfig, match="HTTP_PROXY") as caught:
        fs.cat_file(f"http://web.invalid/{path}")
    assert "secret" not in str(caught.value)


def test_the_networks_own_proxy_is_asked_for_a_tunnel(static_http, monkeypatch):
    with tcp_proxy.proxied(static_http.url) as network:  # which makes none
        authority = network.url.partition("://")[2]
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@{authority}")
        with pytest.raises(OSError, match="501|disconnected"):
            mlartifacts.filesystem("https").cat_file("https://web.invalid/x")
    assert str(network.requests[0]) == "CONNECT web.invalid:443"
    assert network.requests[0].headers["proxy-authorization"] == LOGIN


@pytest.mark.parametrize(
    "act",
    [
        lambda fs, path, **given: fs.open(path, **given).read(),
        lambda fs, path, **given: fs.cat_file(path, **given),
        lambda fs, path, **given: fs.cat_file(path, 5, 9, **given),
        lambda fs, path, **given: fs.cat_file(path, -9, **given),
        lambda fs, path, **given: fs.info(path, **given),
        lambda fs, path, **given: fs.get_file(path, "/dev/null", **given),
    ],
)
def test_headers_of_a_call(url, act):
    """With each of its requests, beside those of the filesystem."""
    with reverse_proxy.serve(url.rpartition("/")[0].rpartition("/")[0]) as front:
        there = front.url + "/" + "/".join(url.split("/")[-2:])
        fs = mlartifacts.filesystem("http", headers={"X-All": "1", "X-Call": "no"})
        act(fs, there, headers={"X-Call": "2"})
        assert front.requests
        for request in front.requests:
            assert request.headers["X-Call"] == "2"
            assert request.headers["X-All"] == "1"


# ---- URLs that are signed ----------------------------------------------------------------

SIGNED = "X-Amz-Credential=of%2Fme&X-Amz-Signature=a-signature"
ASKING = {
    "download": lambda uri, local: mlartifacts.download(uri, local),
    "sync": lambda uri, local: mlartifacts.sync(uri, local),
    "copy": lambda uri, local: mlartifacts.copy(uri, local),
    "cached": lambda uri, local: mlartifacts.cached(uri),
    "upload": lambda uri, local: mlartifacts.upload(__file__, uri),
    "delete": lambda uri, local: mlartifacts.delete(uri),
    "mv": lambda uri, local: mlartifacts.filesystem(uri).mv(uri, f"{uri}/below"),
    "walk": lambda uri, local: list(mlartifacts.filesystem(uri).walk(uri, on_error="raise")),
    "cat": lambda uri, local: mlartifacts.filesystem(uri).cat([uri, f"{uri}2"]),
}


def refused(request):
    return reverse_proxy.Answer(403, b"a word")


def moved(request):
    return reverse_proxy.Answer(302, b"", {"Location": f"ftp://host/x?{SIGNED}"})


def lost(request):
    return reverse_proxy.Answer(302, b"", {"Location": f"http://[host/x?{SIGNED}"})


def turning(request):
    return reverse_proxy.Answer(302, b"", {"Location": f"{request.path}?{SIGNED}"})


def assert_no_signature(error):
    for each in chain(error):
        shown = f"{each} {each!r} {each.args} {vars(each)}"
        assert "a-signature" not in shown
        assert "<exception str() failed>" not in "".join(traceback.format_exception(each))
    assert b"a-signature" not in pickle.dumps(error)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_fails_for_a_moment(static_http, url, tmp_path, monkeypatch, status):
    monkeypatch.setattr(network, "_WAIT", 0.001)
    asked = collections.Counter()

    def answer(request):
        asked[request.method, request.path] += 1
        again = asked[request.method, request.path] % 6
        headers = {"Retry-After": "0"} if again == 2 else {}
        return reverse_proxy.Answer(status, b"", headers) if again else None

    with reverse_proxy.serve(static_http.url) as proxy:
        proxy.answer = answer
        uri = url.replace(static_http.url, proxy.url)
        fs = mlartifacts.filesystem(uri)
        data = mlartifacts.filesystem(url).cat_file(url)
        assert fs.cat_file(uri) == data
        assert fs.info(uri)["size"] == len(data)
        assert fs.open(uri).read() == data
        assert uri in fs.ls(uri.rpartition("/")[0], detail=False)
        assert mlartifacts.download(uri, tmp_path / "there").read_bytes() == data
        proxy.answer = lambda request: reverse_proxy.Answer(status, b"")
        before = len(proxy.requests)
        with pytest.raises(OSError, match=f"says {status}"):
            mlartifacts.download(uri, tmp_path / "never")
        assert len(proxy.requests) - before <= 2 * 6  # and not as often by each who asks again
        with pytest.raises(OSError, match=f"says {status}") as caught:
            fs.cat_file(uri)
        assert caught.value.errno == (errno.EBUSY if status in {429, 503} else errno.EIO)


def test_a_busy_server_is_not_waited_for_longer_than_is_allowed(static_http, url):
    with reverse_proxy.serve(static_http.url) as proxy:
        proxy.answer = lambda request: reverse_proxy.Answer(429, b"", {"Retry-After": "9"})
        uri = url.replace(static_http.url, proxy.url)
        with pytest.raises(OSError, match="says 429"):
            mlartifacts.filesystem(uri, timeout=5).cat_file(uri)
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("act", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("answer", [None, refused, moved, lost, turning])
def test_no_signature_of_a_url_is_in_an_error(
    static_http, url, refused_port, tmp_path, monkeypatch, act, answer, caplog
):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("mlartifacts.transfer.engine._WAIT", 0.01)
    with reverse_proxy.serve(static_http.url) as proxy:
        proxy.answer = answer
        place = url.replace(static_http.url, proxy.url)
        if answer is None:
            place = f"http://{LOOPBACK}:{refused_port}/x"
        with pytest.raises(Exception, match=".") as caught:
            act(f"{place}?{SIGNED}", str(tmp_path / "local"))
    assert_no_signature(caught.value)
    assert "a-signature" not in caplog.text


def test_no_signature_of_a_url_is_in_a_transfers_failures(static_http, url, tmp_path, monkeypatch):
    monkeypatch.setattr("mlartifacts.transfer.engine._WAIT", 0.01)
    with reverse_proxy.serve(static_http.url) as proxy:
        proxy.answer = lambda request: (
            reverse_proxy.Answer(200, b"x") if request.method == "GET" else None
        )
        signed = f"{url.replace(static_http.url, proxy.url)}?{SIGNED}"
        with pytest.raises(TransferError) as caught:
            mlartifacts.download(signed, tmp_path / "local")
    assert_no_signature(caught.value)


def test_what_names_a_signed_url_opens_it(url):
    signed = f"{url}?{SIGNED}"
    fs, path = mlartifacts.url_to_fs(signed)
    opened = pickle.loads(pickle.dumps(mlartifacts.open(signed)))
    for same in (path, mlartifacts.to_url(signed), fs.unstrip_protocol(path), opened.full_name):
        assert same == signed
    with opened as file:
        assert file.read() == DATA


@pytest.mark.parametrize(
    "uri", ["http:///?{}", "http://host:x/?{}", "http://h/\n?{}", "http://h/../?{}"]
)
def test_no_signature_is_in_what_is_said_of_a_bad_url(uri):
    with pytest.raises(InvalidURI) as caught:
        mlartifacts.open(uri.format(SIGNED))
    assert "a-signature" not in str(caught.value)


def test_no_signature_is_in_the_hint_to_s3():
    fs = mlartifacts.filesystem("http")
    with pytest.raises(OSError, match="write s3://bucket/a,") as caught:
        fs.rm(f"https://bucket.s3.amazonaws.com/a?{SIGNED}")
    assert "a-signature" not in str(caught.value)
