"""What a server of artifacts does, on every store."""

from __future__ import annotations

import http.client
import random
import time
import urllib.parse

import pytest

from mlartifacts.proxy import wire
from tests.contract.stores import Harbour
from tests.server.conftest import Client
from tests.servers.process import wait_until

DATA = random.Random(3).randbytes(3_000_000)
NAMES = ("plain.txt", "a b/c d", "ünï/日本", "p%20q", "a+b&c=d", "[1]*.txt")


def entries(client: Client, path: str = "") -> list[tuple[str, bool, int]]:
    files = client.list(path).json["files"]
    return [(each["path"], each["is_dir"], int(each.get("file_size", 0))) for each in files]


@pytest.mark.writes
def test_a_file_there_and_back(harbour: Harbour, served: Client) -> None:
    for name in ("deep/in/file", "empty"):
        data = DATA if name != "empty" else b""
        assert served.put(name, data).status == 200
        got = served.get(name)
        assert (got.status, got.body) == (200, data)
        assert got.headers["content-length"] == str(len(data))
    assert harbour.stored() == {"deep/in/file": DATA, "empty": b""}
    assert served.put("deep/in/file", b"another").status == 200
    assert served.get("deep/in/file").body == b"another"


@pytest.mark.writes
def test_names_are_literal(harbour: Harbour, served: Client) -> None:
    refused = {name for name in NAMES if served.put(name, name.encode()).status == 400}
    # MLflow's server decodes, where one is behind ours.
    assert refused <= ({"p%20q"} if harbour.scheme == "mlflow-artifacts" else set())
    for name in set(NAMES) - refused:
        assert served.get(name).body == name.encode()
    assert set(harbour.stored()) == set(NAMES) - refused
    assert ("c d", False, 7) in entries(served, "a b")
    assert ("日本", False, len("ünï/日本".encode())) in entries(served, "ünï")


def test_names_to_read_are_literal(harbour: Harbour, served: Client) -> None:
    """Whatever of them a layer may decode, or take for a part of a URL."""
    names = ("file", "a b", "q?x=y", "sub/q", "%2e%2e", "sub/x%41")
    if harbour.scheme == "mlflow-artifacts":
        names = ("file", "a b", "q?x=y", "sub/q")
    harbour.seed({name: name.encode() for name in names})
    for name in names:
        assert served.get(name).body == name.encode()
    for name in ("%2e%2e/file", "sub/%2e%2e/file", "..%2ffile", "sub%2fq", "file?x", "a%20b"):
        answered = served.get(name)
        assert answered.error[0] in {400, 404}, name
    listed = {(name, size) for name, is_dir, size in entries(served) if not is_dir}
    assert listed == {(name, len(name)) for name in names if "/" not in name}


def test_a_listing(harbour: Harbour, served: Client) -> None:
    harbour.seed({"tree/a": b"1", "tree/folder/b": b"22", "tree.txt": b"333"})
    assert entries(served, "tree") == [("a", False, 1), ("folder", True, 0)]
    assert entries(served, "tree/") == entries(served, "tree")
    assert entries(served) == [("tree", True, 0), ("tree.txt", False, 3)]
    # As MLflow's: nothing is in a file, and nothing where there is nothing.
    for path in ("tree/a", "tre", "tree/a/b", "nothing/at/all"):
        answered = served.list(path)
        assert (answered.status, answered.json) == (200, {"files": []})


def test_ranges(harbour: Harbour, served: Client) -> None:
    harbour.seed({"file": DATA})
    for said, start, end in (
        ("0-0", 0, 1),
        ("1000000-2999998", 1_000_000, 2_999_999),
        ("2999999-", 2_999_999, 3_000_000),
        ("-7", 2_999_993, 3_000_000),
        ("5-99999999", 5, 3_000_000),
        ("-99999999", 0, 3_000_000),
    ):
        got = served.get("file", Range=f"bytes={said}")
        assert (got.status, got.body) == (206, DATA[start:end])
        assert got.headers["content-range"] == f"bytes {start}-{end - 1}/3000000"
    got = served.get("file", Range="bytes=3000000-")
    assert (got.status, got.headers["content-range"]) == (416, "bytes */3000000")


def test_what_is_not_there(harbour: Harbour, served: Client) -> None:
    harbour.seed({"folder/file": b"x"})
    for name in ("nothing", "folder/nothing", "fold", "folder/file/below"):
        assert served.get(name).error[0] in {400, 404}, name
    assert served.get("nothing").error == (404, "RESOURCE_DOES_NOT_EXIST")
    folder = served.get("folder")
    assert folder.status in {400, 404}
    assert str(harbour.base) not in folder.body.decode()


@pytest.mark.writes
def test_a_delete(harbour: Harbour, served: Client) -> None:
    harbour.seed({"foo/a": b"", "foo/deep/b": b"", "foobar/a": b"", "foo.txt": b""})
    assert served.delete("foo").json == {}
    assert set(harbour.stored()) == {"foobar/a", "foo.txt"}
    assert served.delete("foo.txt").status == 200
    assert served.delete("foo.txt").error == (404, "RESOURCE_DOES_NOT_EXIST")
    assert set(harbour.stored()) == {"foobar/a"}
    for root in ("", "/"):
        assert served.send("DELETE", f"{wire.ARTIFACTS}{root}").status in {400, 404, 405}
    assert set(harbour.stored()) == {"foobar/a"}


@pytest.mark.writes
def test_an_upload_that_breaks_off(harbour: Harbour, served: Client) -> None:
    harbour.seed({"old": b"old content"})
    for name in ("old", "new"):
        connection = http.client.HTTPConnection(served.netloc, timeout=60)
        connection.putrequest("PUT", wire.below(wire.ARTIFACTS, name))
        connection.putheader("Content-Length", str(len(DATA)))
        connection.endheaders()
        connection.send(DATA[:2_000_000])
        connection.close()
    wait_until(lambda: harbour.stored() == {"old": b"old content"}, "what was there before")


def test_paths_stay_below_the_root(harbour: Harbour, served: Client) -> None:
    harbour.seed({"file": b"x"})
    root = urllib.parse.unquote(urllib.parse.urlsplit(harbour.base).path).strip("/")
    last = urllib.parse.quote(root.rpartition("/")[2]) or "x"
    for path in (
        "..",
        "../file",
        "a/../file",
        f"a/../../{last}/file",
        "./file",
        "/file",
        "file/",
        "a//file",
        "%2e%2e/file",
        "..%2ffile",
        f"a%2f..%2f..%2f{last}%2ffile",
        "%2ffile",
        "%2fetc%2fpasswd",
        "file%00",
        "%00",
        "a%0d%0ab",
        "%ff",
        "",
    ):
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            if path == "file/" and method == "DELETE":
                continue  # a directory may be said so
            answered = served.send(method, f"{wire.ARTIFACTS}/{path}", b"y" * (method == "PUT"))
            assert 400 <= answered.status < 500, (method, path)
        listing = served.send("GET", f"{wire.ARTIFACTS}?path={path}")
        if listing.status != 400:
            names = [each["path"] for each in listing.json["files"]]
            assert names == (["file"] if path == "" else [])
    assert harbour.stored() == {"file": b"x"}


#: Their listings and answers say nothing but names and sizes.
UNDATED = {"http", "mlflow-artifacts", "mlflow-artifacts-s3"}
#: Their times are of seconds, or of minutes, which tell no versions apart.
SECONDS = {"sftp", "sftp-password", "ftp", "vsftpd", "ftps", "hdfs"}


@pytest.mark.writes
def test_versions_are_told_apart(harbour: Harbour, served: Client) -> None:
    tags = []
    for data in (b"one", b"two, which is longer"):
        served.put("folder/file", data)
        (listed,) = served.list("folder").json["files"]
        headers = [
            served.send(method, wire.below(wire.ARTIFACTS, "folder/file")).headers
            for method in ("GET", "HEAD")
        ]
        if harbour.name in UNDATED:
            assert listed == {"path": "file", "is_dir": False, "file_size": len(data)}
            continue
        assert {each.get("etag") for each in headers} == {listed.get("etag")}
        assert all("last-modified" in each for each in headers)
        assert abs(listed["modified"] - time.time()) < 100
        tags += [listed["etag"]] if "etag" in listed else []
    assert len(set(tags)) == len(tags)
    if harbour.name != "hdfs-native":  # it counts milliseconds: one in a thousand is a second's
        assert len(tags) == (0 if harbour.name in UNDATED | SECONDS else 2)
