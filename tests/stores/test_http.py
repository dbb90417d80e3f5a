"""Web servers: read by ranges, never written."""

from __future__ import annotations

import errno

import pytest

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidURI
from mlartifacts.stores.http import STORE, s3_uri
from mlartifacts.uri import parse

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
