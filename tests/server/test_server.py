"""What is particular to the server: who may ask, what is told, presigned URLs, many at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import logging
import os
import random
import signal
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.proxy import wire
from mlartifacts.server.app import create_app
from tests.server.conftest import Client
from tests.servers import artifact_server
from tests.servers.moto import Moto
from tests.servers.process import LOOPBACK, wait_until

DATA = random.Random(5).randbytes(3_000_000)


@pytest.fixture
def on_s3(
    moto_server: Moto, serving: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> Client:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    return serving(f"{moto_server.new_root()}/the root")


# ---- Answers -----------------------------------------------------------------------------


def test_how_a_file_is_presented(local: Client) -> None:
    for name, kind in (
        ("a/page.html", "text/html"),
        ("data.csv.gz", "application/octet-stream"),
        ("MLmodel", "application/octet-stream"),
        ('quo"te;.json', "application/json"),
        ("日本.txt", "text/plain"),
        ("data:text/html,日.txt", "text/plain"),  # which is a URL to some
    ):
        local.put(name, b"x")
        headers = local.get(name).headers
        assert headers["content-type"].partition(";")[0] == kind
        last = urllib.parse.quote(name.rpartition("/")[2])
        assert headers["content-disposition"] == f"attachment; filename*=UTF-8''{last}"
        assert headers["x-content-type-options"] == "nosniff"


def test_a_head_has_no_body(local: Client) -> None:
    local.put("file", DATA)
    target = wire.below(wire.ARTIFACTS, "file")
    whole = local.send("HEAD", target)
    assert (whole.status, whole.headers["content-length"], whole.body) == (200, "3000000", b"")
    part = local.send("HEAD", target, headers={"Range": "bytes=5-9"})
    assert (part.status, part.headers["content-length"]) == (200, "3000000"), "as RFC 9110 has it"
    assert local.send("HEAD", wire.below(wire.ARTIFACTS, "nothing")).status == 404


def test_a_client_that_has_the_file(local: Client) -> None:
    local.put("file", DATA)
    tag = local.get("file").headers["etag"]
    same = local.get("file", If_None_Match=tag)
    assert (same.status, same.body) == (304, b"")
    local.put("file", DATA[::-1])
    assert local.get("file", If_None_Match=tag).body == DATA[::-1]
    went_on = local.get("file", Range="bytes=1000000-", If_Range=tag)
    assert (went_on.status, went_on.body) == (200, DATA[::-1])


def test_unknown_routes_have_no_code(local: Client) -> None:
    """By which clients know that it is the server that lacks something, and not an artifact."""
    for method, route in (("GET", "/"), ("GET", "/api/2.0/mlflow/runs/get"), ("GET", "/x/../y")):
        answered = local.send(method, route)
        assert (answered.status, answered.body) == (404, b"Not Found")
    assert local.send("PATCH", wire.below(wire.ARTIFACTS, "file")).status == 405
    assert local.send("GET", "/health").body == b"OK"


def test_conditions_on_changes(local: Client, folder: Path) -> None:
    """A new file can be asked for. Others would be looked at too early, and are refused."""
    target = wire.below(wire.ARTIFACTS, "file")
    anew = {"If-None-Match": "*"}
    assert local.send("PUT", target, b"old", anew).status == 200
    assert local.send("PUT", target, b"new", anew).error == (400, "INVALID_PARAMETER_VALUE")
    for name in ("If-Match", "If-None-Match", "If-Unmodified-Since"):
        for method in ("PUT", "DELETE"):
            refused = local.send(method, target, b"new", {name: '"x"'})
            assert refused.error == (501, "NOT_IMPLEMENTED")
    part = {"Content-Range": "bytes 0-2/3"}
    assert local.send("PUT", target, b"new", part).error == (400, "INVALID_PARAMETER_VALUE")
    assert (folder / "file").read_bytes() == b"old"
    tag = local.get("file").headers["etag"]
    assert local.get("file", If_Match=f'"x", {tag}').body == b"old"
    assert local.get("file", If_Match='"x"').status == 412


def test_lengths_that_are_not_said(local: Client, folder: Path) -> None:
    (folder / "file").write_bytes(b"old")
    target = wire.below(wire.ARTIFACTS, "file")
    host, port = local.netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"PUT {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert (folder / "file").read_bytes() == b"old"
    both = {"Content-Length": "3", "Transfer-Encoding": "chunked"}
    assert local.send("PUT", target, b"5\r\nhello\r\n0\r\n\r\n", both).status == 200
    assert (folder / "file").read_bytes() == b"hello"
    assert local.send("PUT", target, iter([b"in ", b"pieces"])).status == 200
    assert (folder / "file").read_bytes() == b"in pieces"


def test_control_characters_are_no_part_of_a_path(local: Client, folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "folder" / "file").write_bytes(b"x")
    for name in ("folder/file%0A", "folder%0A", "folder/file%0D", "%0Afolder", "folder/file%0Ag"):
        for method in ("GET", "PUT", "DELETE"):
            refused = local.send(method, f"{wire.ARTIFACTS}/{name}", b"y")
            assert refused.error == (400, "INVALID_PARAMETER_VALUE")
    assert (folder / "folder" / "file").read_bytes() == b"x"


def test_files_are_closed(apart: artifact_server.ArtifactServer, folder: Path) -> None:
    """Also where the client has gone, or asks for what is not there."""
    (folder / "file").write_bytes(DATA * 10)
    client = Client(apart)
    host, port = client.netloc.split(":")

    def opened() -> int:
        assert apart.process is not None
        return len(os.listdir(f"/proc/{apart.process.pid}/fd"))

    before = opened()
    target = wire.below(wire.ARTIFACTS, "file")
    for _ in range(20):
        client.get("file", Range="bytes=99999999999-")
        client.get("file", If_None_Match="*")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    wait_until(lambda: opened() <= before, "no file is open")


# ---- Who may ask -------------------------------------------------------------------------


def test_names_of_this_server(
    serving: Callable[..., Client], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_bytes(b"x")
    target = wire.below(wire.ARTIFACTS, "file")

    def status(client: Client, host: str) -> int:
        return client.send("GET", target, headers={"Host": host}).status

    usual = serving(str(folder))
    for host in (
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:5500",
        "[::1]:1",
        "10.1.2.3",
        "192.168.1.1",
    ):
        assert status(usual, host) == 200, host
    for host in ("evil.example", "localhost.evil.example", "8.8.8.8", "x@localhost.e", "[", ""):
        assert status(usual, host) == 403, host
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "Mine.example, other.example:81")
    named = serving(str(folder))
    for host in ("mine.example", "mine.example:8", "other.example:81", "localhost"):
        assert status(named, host) == 200, host
    for host in ("evil.example", "other.example:82", "x.mine.example"):
        assert status(named, host) == 403, host
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")
    assert status(serving(str(folder)), "evil.example") == 200
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*.good.example")
    patterned = serving(str(folder))
    monkeypatch.delenv("MLFLOW_SERVER_ALLOWED_HOSTS")  # it is read when the server is made
    assert status(patterned, "very.good.example") == 200
    assert status(patterned, "good.example.evil") == 403


def test_pages_of_others_change_nothing(local: Client, folder: Path) -> None:
    (folder / "file").write_bytes(b"x")
    target = wire.below(wire.ARTIFACTS, "file")
    others = ("http://evil.example", "null", f"http://{local.netloc}.evil.example", "x", "http://[")
    for origin in others:
        for method in ("PUT", "DELETE"):
            refused = local.send(method, target, headers={"Origin": origin})
            assert refused.error == (403, "PERMISSION_DENIED")
        form = {"Origin": origin, "Content-Type": "text/plain"}
        assert local.send("POST", wire.ABORT, b"{}", form).status == 403
    assert (folder / "file").read_bytes() == b"x"
    for site in ("cross-site", "same-site"):
        assert local.send("PUT", target, b"y", {"Sec-Fetch-Site": site}).status == 403
    own = {"Origin": f"http://{local.netloc}", "Sec-Fetch-Site": "same-origin"}
    assert local.send("PUT", target, b"y", own).status == 200
    # No page of another can read what comes: browsers ask for a header that is not there.
    read = local.send("GET", target, headers={"Origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in read.headers)


# ---- A root on this disk -----------------------------------------------------------------


def test_links(local: Client, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    (folder / "inside").write_bytes(b"inside")
    (folder / "link to a file").symlink_to(secret / "file")
    (folder / "link to a folder").symlink_to(secret)
    (folder / "beside").symlink_to(f"{folder} too")
    Path(f"{folder} too").mkdir()
    (folder / "to inside").symlink_to(folder / "inside")
    (folder / "circle").symlink_to(folder / "circle")
    for name in ("link to a file", "link to a folder/file", "link to a folder/new", "beside/new"):
        for answered in (local.get(name), local.put(name, b"x"), local.delete(name)):
            assert answered.error == (400, "INVALID_PARAMETER_VALUE"), name
    assert local.list("link to a folder").status == 400
    (folder / "folder").mkdir()
    (folder / "to the folder").symlink_to(folder / "folder")
    (folder / "to nothing").symlink_to(folder / "nothing")
    shown = [(each["path"], each["is_dir"]) for each in local.list().json["files"]]
    assert shown == [
        ("folder", True),
        ("inside", False),
        ("to inside", False),
        ("to the folder", True),
    ]
    assert local.delete("to the folder").status == 200
    assert (folder / "folder").is_dir()
    assert local.get("circle").status in {400, 404}
    assert [path.name for path in secret.iterdir()] == ["file"]
    assert (secret / "file").read_bytes() == b"secret"
    assert not list(Path(f"{folder} too").iterdir())
    assert local.get("to inside").body == b"inside"


def test_what_is_no_file(local: Client, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "s"))
        assert local.list().json == {"files": []}
        for name in ("pipe", "s"):
            assert local.get(name).error == (404, "RESOURCE_DOES_NOT_EXIST")


def test_files_that_are_being_written_are_not_shown(local: Client, folder: Path) -> None:
    connection = http.client.HTTPConnection(local.netloc, timeout=60)
    connection.putrequest("PUT", wire.below(wire.ARTIFACTS, "file"))
    connection.putheader("Content-Length", str(len(DATA) + 1))
    connection.endheaders()
    connection.send(DATA)
    wait_until(lambda: len(list(folder.iterdir())) == 1, "the temporary file")
    (temporary,) = folder.iterdir()
    assert local.list().json == {"files": []}
    assert local.get(temporary.name).status == 400
    assert local.delete(temporary.name).status == 400
    connection.send(b"!")
    assert connection.getresponse().status == 200
    connection.close()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_file_in_the_way(local: Client, folder: Path) -> None:
    local.put("file", b"x")
    local.put("folder/file", b"x")
    for name in ("file/below", "folder"):
        assert local.put(name, b"y").error == (400, "INVALID_PARAMETER_VALUE")
    assert "refers to a directory" in local.get("folder").json["message"]
    too_long = local.put("n" * 300, b"x")
    assert too_long.error == (400, "INVALID_PARAMETER_VALUE")
    assert sorted(path.name for path in folder.iterdir()) == ["file", "folder"]


# ---- Trouble with the store --------------------------------------------------------------


def test_a_store_that_is_down(
    serving: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refused_port: int,
) -> None:
    port = refused_port
    for name, value in {
        "AWS_ACCESS_KEY_ID": "an-id-of-a-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_MAX_ATTEMPTS": "1",
        "MLFLOW_S3_ENDPOINT_URL": f"http://{LOOPBACK}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    client = serving("s3://a-bucket/a-folder", config_kwargs={"retries": {"max_attempts": 0}})
    with caplog.at_level(logging.DEBUG, "mlartifacts"):
        for answered in (
            client.get("file"),
            client.put("file", b"x"),
            client.list(),
            client.delete("file"),
            client.send("GET", wire.below(wire.PRESIGNED, "file")),
        ):
            assert answered.error == (503, "TEMPORARILY_UNAVAILABLE")
            for told in ("a-bucket", "a-folder", str(port), "an-id-of-a-key"):
                assert told.encode() not in answered.body
    assert str(port) in caplog.text, "the log has it"
    assert "a-secret-key" not in caplog.text


def test_a_file_that_is_replaced_while_it_is_sent(on_s3: Client) -> None:
    """What comes is of one version, or the client is cut off."""
    large = random.Random(6).randbytes(64_000_000)
    on_s3.put("file", large)
    with contextlib.closing(http.client.HTTPConnection(on_s3.netloc, timeout=60)) as connection:
        connection.request("GET", wire.below(wire.ARTIFACTS, "file"))
        response = connection.getresponse()
        came = response.read(1000)
        on_s3.put("file", large[::-1])
        is_whole = True
        try:
            came += response.read()
        except http.client.IncompleteRead as cut:
            came, is_whole = came + cut.partial, False
    assert came == large if is_whole else large.startswith(came)
    assert on_s3.get("file", Range="bytes=0-99").body == large[::-1][:100]


def test_a_file_that_is_cut_while_it_is_sent(local: Client, folder: Path) -> None:
    """The client is cut off, too, as what came would pass for the file."""
    local.put("file", DATA * 20)
    with contextlib.closing(http.client.HTTPConnection(local.netloc, timeout=60)) as connection:
        connection.request("GET", wire.below(wire.ARTIFACTS, "file"))
        response = connection.getresponse()
        assert response.read(1000) == DATA[:1000]
        os.truncate(folder / "file", 2000)
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()


# ---- Many at once, and large -------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path, folder: Path) -> Iterator[artifact_server.ArtifactServer]:
    """A server with a process of its own."""
    with artifact_server.serve(tmp_path, str(folder)) as server:
        yield server


def test_large_files_pass_in_little_memory(
    apart: artifact_server.ArtifactServer, folder: Path
) -> None:
    """Four at once, of 256 MB each, each way."""
    client = Client(apart)
    assert apart.process is not None

    def peak() -> int:
        status = Path(f"/proc/{apart.process.pid}/status").read_text()  # type: ignore[union-attr]
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024

    size = 256 * 2**20
    before = peak()

    def body() -> Iterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    piece = random.Random(7).randbytes(2**20)

    def there_and_back(name: str) -> int:
        told = {"Content-Length": str(size)}
        assert client.send("PUT", wire.below(wire.ARTIFACTS, name), body(), told).status == 200
        came = 0
        with urllib.request.urlopen(f"{apart.url}{wire.below(wire.ARTIFACTS, name)}") as response:
            while data := response.read(2**20):
                assert data == piece
                came += len(data)
        return came

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(there_and_back, "abcd")) == [size] * 4
    assert peak() - before < 128


def test_many_at_once(local: Client) -> None:
    def there_and_back(number: int) -> bool:
        data = f"{number}".encode() * 1000
        local.put(f"{number % 7}/{number}", data)
        return local.get(f"{number % 7}/{number}").body == data

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert all(pool.map(there_and_back, range(300)))
    assert len(local.list("3").json["files"]) == 43


def test_slow_clients_keep_nobody_waiting(local: Client) -> None:
    """More of them than there are threads."""
    local.put("large", DATA * 10)
    with contextlib.ExitStack() as stack:
        for number in range(60):
            reader = stack.enter_context(
                contextlib.closing(http.client.HTTPConnection(local.netloc))
            )
            reader.request("GET", wire.below(wire.ARTIFACTS, "large"))
            assert reader.getresponse().read(10) == DATA[:10]
            writer = stack.enter_context(
                contextlib.closing(http.client.HTTPConnection(local.netloc))
            )
            writer.putrequest("PUT", wire.below(wire.ARTIFACTS, f"slow {number}"))
            writer.putheader("Content-Length", "10")
            writer.endheaders()
            writer.send(b"x")
        assert local.put("file", b"x").status == 200
        assert local.get("file").body == b"x"
    wait_until(lambda: len(local.list().json["files"]) == 2, "the broken uploads are dropped")


# ---- How it is run -----------------------------------------------------------------------


def test_a_destination_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for bad, error in (
        ("nothing://x", mlartifacts.UnknownScheme),
        ("s3://", mlartifacts.InvalidURI),
        ("mlflow-artifacts:/x", mlartifacts.InvalidConfig),
    ):
        with pytest.raises(error):
            create_app(bad)
    for variable, value in (
        ("MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS", "0"),
        ("MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS", "604801"),
        ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "maybe"),
    ):
        with monkeypatch.context() as patch, pytest.raises(mlartifacts.InvalidConfig) as caught:
            patch.setenv(variable, value)
            create_app(str(folder))
        assert variable in str(caught.value)


def test_what_is_on_its_way_when_it_ends(
    apart: artifact_server.ArtifactServer, folder: Path
) -> None:
    """It is waited for a while, and leaves nothing; somebody who is silent keeps nobody."""
    assert apart.process is not None
    client = Client(apart)
    with contextlib.ExitStack() as stack:
        sending, silent = (
            stack.enter_context(contextlib.closing(http.client.HTTPConnection(client.netloc)))
            for _ in range(2)
        )
        for name, connection in (("sent", sending), ("silent", silent)):
            connection.putrequest("PUT", wire.below(wire.ARTIFACTS, name))
            connection.putheader("Content-Length", str(len(DATA)))
            connection.endheaders()
            connection.send(DATA[:-1])
        wait_until(lambda: len(list(folder.iterdir())) == 2, "the temporary files")
        os.kill(apart.process.pid, signal.SIGTERM)
        wait_until(lambda: "Shutting down" in apart.process.tail(), "the signal")  # type: ignore[union-attr]
        sending.send(DATA[-1:])
        assert sending.getresponse().status == 200
        assert apart.process.popen.wait(30) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"sent": DATA}
