"""The proxy counts what passes and breaks what it is told to break."""

from __future__ import annotations

import ftplib
import http.client
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.servers import tcp_proxy
from tests.servers.moto import Moto
from tests.servers.process import wait_until
from tests.servers.pyftpd import Ftp
from tests.servers.sshd import Sshd
from tests.servers.static_http import StaticHttp
from tests.servers.tcp_proxy import Proxy, Request, _Requests, proxied


@pytest.fixture
def web(static_http: StaticHttp) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of a file of 1000 bytes, and the file's path."""
    folder = static_http.new_folder()
    (folder / "data").write_bytes(bytes(1000))
    with proxied(static_http.url) as proxy:
        yield proxy, f"/{folder.name}/data"


def test_counts_requests_of_one_connection(web: tuple[Proxy, str]) -> None:
    proxy, path = web
    client = http.client.HTTPConnection(proxy.host, proxy.port, timeout=10)
    for method, headers in (("HEAD", {}), ("GET", {"Range": "bytes=0-9"}), ("GET", {})):
        client.request(method, path, headers=headers)
        client.getresponse().read()
    client.close()
    assert proxy.connections == 1
    assert proxy.methods() == ["HEAD", "GET", "GET"]
    assert [request.body for request in proxy.requests] == [0, 10, 1000]
    assert [request.status for request in proxy.requests] == [200, 206, 200]
    assert proxy.requests[1].headers["range"] == "bytes=0-9"
    assert proxy.requests[1].target == path
    assert proxy.bytes_to_client == sum(request.received for request in proxy.requests)
    proxy.reset()
    assert (proxy.requests, proxy.bytes_to_client) == ([], 0)


def test_counts_what_s3fs_asks(moto_server: Moto) -> None:
    import s3fs

    bucket = moto_server.new_bucket()
    with proxied(moto_server.url) as proxy:
        fs = s3fs.S3FileSystem(
            key=moto_server.key, secret=moto_server.secret, endpoint_url=proxy.url
        )
        fs.pipe_file(f"{bucket}/data", bytes(5000))
        proxy.reset()
        fs.cat_file(f"{bucket}/data", start=100, end=300)
        assert [str(request) for request in proxy.requests] == [f"GET /{bucket}/data"]
        assert proxy.requests[0].body == 200
        fs.pipe_file(f"{bucket}/data", bytes(7000))
        assert proxy.methods()[1:] == ["PUT"]


def test_passes_what_is_not_http(sshd: Sshd) -> None:
    import sshfs

    with proxied(sshd.url) as proxy:
        assert proxy.url.startswith(f"sftp://{sshd.user}@127.0.0.1:")
        fs = sshfs.SSHFileSystem(
            proxy.host,
            port=proxy.port,
            username=sshd.user,
            client_keys=[str(sshd.identity)],
            known_hosts=None,
        )
        folder = Path(sshd.new_root().removeprefix(sshd.url))
        fs.pipe_file(f"{folder}/data", bytes(100_000))
        assert (folder / "data").read_bytes() == bytes(100_000)
        assert proxy.bytes_to_server > 100_000
        assert proxy.requests == []
        assert proxy.cut() == 1


def test_cuts_after_so_many_bytes(web: tuple[Proxy, str]) -> None:
    proxy, path = web
    proxy.cut_after = 600
    with (
        pytest.raises((ConnectionResetError, http.client.IncompleteRead)),
        urllib.request.urlopen(proxy.url + path, timeout=10) as response,
    ):
        response.read()
    assert proxy.bytes_to_client == 600


def test_cuts_after_so_many_bytes_to_the_server(sshd: Sshd) -> None:
    with proxied(sshd.url) as proxy:
        proxy.cut_after_sent = 10
        with socket.create_connection((proxy.host, proxy.port), timeout=10) as client:
            client.sendall(b"SSH-2.0-x" * 3)
            with pytest.raises(ConnectionResetError):
                while client.recv(1000):
                    pass
        assert (proxy.bytes_to_server, proxy.cuts) == (10, 1)


def test_cuts_each_connection(web: tuple[Proxy, str]) -> None:
    proxy, path = web
    proxy.most = 600
    for _ in range(2):
        with (
            pytest.raises((ConnectionResetError, http.client.IncompleteRead)),
            urllib.request.urlopen(proxy.url + path, timeout=10) as response,
        ):
            response.read()
    assert proxy.cuts == 2
    proxy.reset()
    with urllib.request.urlopen(proxy.url + path, timeout=10) as response:
        assert len(response.read()) == 1000


def test_a_last_cut(web: tuple[Proxy, str]) -> None:
    proxy, path = web
    proxy.cut_after, proxy.last = 600, True
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        with urllib.request.urlopen(proxy.url + path, timeout=10) as response:
            response.read()
    wait_until(lambda: is_refused(proxy), "the end")


def is_refused(proxy: Proxy) -> bool:
    try:
        socket.create_connection((proxy.host, proxy.port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


def test_transfers_of_ftp_pass(pyftpd: Ftp) -> None:
    (pyftpd.root / "data").write_bytes(bytes(100_000))
    with proxied(pyftpd.url, passive=True) as proxy, ftplib.FTP() as client:
        client.connect(proxy.host, proxy.port, timeout=10)
        client.login(pyftpd.user, pyftpd.password)
        came = bytearray()
        client.retrbinary("RETR data", came.extend)
        assert came == bytes(100_000)
        assert proxy.bytes_to_client > 100_000
        assert proxy.connections == 2
        client.quit()


def test_delays(web: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, path = web
    slept: list[float] = []
    passed: list[int] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        passed.append(proxy.bytes_to_server if seconds == proxy.drag else proxy.bytes_to_client)

    monkeypatch.setattr(tcp_proxy, "time", SimpleNamespace(sleep=sleep))
    proxy.drag, proxy.delay = 20, 30
    with urllib.request.urlopen(proxy.url + path, timeout=10) as response:
        assert len(response.read()) == 1000
    # Each before the first piece of its direction had passed, and again before each other.
    assert slept[:2] == [20, 30]
    assert passed[:2] == [0, 0]
    assert set(slept[1:]) == {30}


def test_swallows(web: tuple[Proxy, str]) -> None:
    proxy, path = web
    proxy.swallow = True
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(proxy.url + path, timeout=0.2)
    assert proxy.methods() == ["GET"]


def test_swallows_what_comes_later(web: tuple[Proxy, str]) -> None:
    proxy, path = web
    proxy.swallow_after = 600
    with pytest.raises(TimeoutError):
        with urllib.request.urlopen(proxy.url + path, timeout=0.2) as response:
            response.read()
    assert proxy.bytes_to_client == 600
    assert (proxy.swallow, proxy.cuts) == (True, 0)


def test_is_down_when_closed(web: tuple[Proxy, str]) -> None:
    proxy, path = web
    proxy.close()
    client = http.client.HTTPConnection(proxy.host, proxy.port, timeout=10)
    with pytest.raises(ConnectionRefusedError):
        client.request("GET", path)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_finds_requests_however_they_are_cut(piece: int) -> None:
    stream = (
        b"PUT /a HTTP/1.1\r\nContent-Length: 24\r\n\r\nGET /not-me HTTP/1.1\r\n\r\n"
        b"PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4;x=y\r\nGET \r\n0\r\nTrailer: 1\r\n\r\n"
        b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"DELETE /d HTTP/1.1\r\nX: 1\r\n\r\n"
    )
    found: list[Request] = []
    requests = _Requests(found, 1)
    for start in range(0, len(stream), piece):
        requests.feed(stream[start : start + piece])
    assert [str(request) for request in found] == ["PUT /a", "PUT /b", "POST /c", "DELETE /d"]
