"""The functions that users call, on local paths; the contract runs them on every store."""

from __future__ import annotations

import io
import os
import zipfile

import fsspec
import pytest

import mlartifacts


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("s3://bucket/a#b?c", "mlartifacts+s3://bucket/a#b?c"),
        ("hdfs:/data/x", "mlartifacts+hdfs:///data/x"),
        ("hdfs:///data/x", "mlartifacts+hdfs:///data/x"),
        ("sftp://user:p%40ss@host/x", "mlartifacts+sftp://user:p%40ss@host/x"),
        ("file:/mnt/my%20nfs", "mlartifacts+file:///mnt/my nfs"),
        ("/mnt/a%41", "mlartifacts+file:///mnt/a%2541"),
        ("wasbs://c@acct.blob.core.windows.net/x", "wasbs://c@acct.blob.core.windows.net/x"),
        ("https://host/x?y", "https://host/x?y"),
    ],
)
def test_to_url(uri, url):
    assert mlartifacts.to_url(uri) == url
    assert mlartifacts.to_url(url) == url
    assert mlartifacts.locate(url).path == mlartifacts.locate(uri).path


def test_to_url_refuses_what_cannot_be_opened():
    with pytest.raises(mlartifacts.UnknownScheme):
        mlartifacts.to_url("s4://x")
    with pytest.raises(mlartifacts.InvalidURI):
        mlartifacts.to_url("s3:///key")


def test_urls_open_where_nothing_was_imported(tmp_path):
    (tmp_path / "a b%41").write_bytes(b"x")
    url = mlartifacts.to_url(tmp_path / "a b%41")
    with fsspec.open(url) as file:
        assert file.read() == b"x"


def test_open_text_and_compression(tmp_path):
    path = f"{tmp_path}/deep/er/x.csv.gz"
    with mlartifacts.open(path, "wt", compression="infer", newline="") as file:
        file.write("é\r\n")
    with mlartifacts.open(path, "rt", compression="gzip", newline="") as file:
        assert file.read() == "é\r\n"


def test_path_like(tmp_path):
    with mlartifacts.open(tmp_path / "x", "wb") as file:
        file.write(b"x")
    assert mlartifacts.locate(tmp_path / "x").path == str(tmp_path / "x")


def test_open_takes_names_literally(tmp_path):
    for name in ("a[1].txt", "a1.txt", "b*.txt", "bcd.txt"):
        with mlartifacts.open(f"{tmp_path}/{name}", "w") as file:
            file.write(name)
    for name in ("a[1].txt", "b*.txt"):
        with mlartifacts.open(f"{tmp_path}/{name}", "r") as file:
            assert file.read() == name


def test_open_files_expands_one_pattern_and_takes_a_list_as_it_is(tmp_path):
    for name in ("b1", "b2", "a", "b*"):
        (tmp_path / name).write_text(name)
    (tmp_path / "b3").mkdir()
    with mlartifacts.open_files(f"{tmp_path}/b?", mode="r") as files:
        assert [file.read() for file in files] == ["b*", "b1", "b2"]
    with mlartifacts.open_files([f"{tmp_path}/b*", f"{tmp_path}/a"]) as files:
        assert [file.read() for file in files] == [b"b*", b"a"]
    assert mlartifacts.open_files([]) == []


def test_filesystem_by_scheme_and_by_uri(tmp_path):
    assert mlartifacts.filesystem("file") is mlartifacts.filesystem(f"file:{tmp_path}")
    with pytest.raises(mlartifacts.UnknownScheme):
        mlartifacts.filesystem("s4")


def test_chains(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inner.txt", "packed")
    with mlartifacts.open(f"zip://inner.txt::{archive}") as file:
        assert file.read() == b"packed"
    cache = tmp_path / "cache"
    uri = f"simplecache::file://{archive}"
    with mlartifacts.open(uri, simplecache={"cache_storage": str(cache)}) as file:
        assert zipfile.is_zipfile(io.BytesIO(file.read()))
    assert len(os.listdir(cache)) == 1
    with mlartifacts.open(
        f"zip://inner.txt::{uri}", simplecache={"cache_storage": str(cache)}
    ) as file:
        assert file.read() == b"packed"
    with pytest.raises(mlartifacts.InvalidURI, match="empty link"):
        mlartifacts.open("simplecache::")


def test_locate_shows_no_secret(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "aHVudGVyMg==")
    location = mlartifacts.locate("wasbs://c@acct.blob.core.windows.net/x")
    assert "aHVudGVyMg==" not in repr(location)
    location = mlartifacts.locate("sftp://user:hunter2@host/x")
    assert "hunter2" not in repr(location)


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("hdfs:/data/a://b", "mlartifacts+hdfs:///data/a:/b"),
        ("runs:/abc/x://y", "runs://abc/x://y"),
        ("s3://bucket/x://y", "mlartifacts+s3://bucket/x://y"),
    ],
)
def test_slashes_in_a_path_are_no_host(uri, url):
    assert mlartifacts.to_url(uri) == url


def test_a_user_is_encoded_again():
    for user in ("a%3Ab", "DOM%2Fuser%40x", "a%2541"):
        uri = f"ftp://{user}@host/x"
        fs, path = mlartifacts.url_to_fs(uri)
        assert fs.unstrip_protocol(path) == uri


def test_open_files_of_a_name_is_that_file(tmp_path):
    files = mlartifacts.open_files(f"file:{tmp_path}/missing.txt")
    assert len(files) == 1
    with pytest.raises(FileNotFoundError):
        files[0].open()


def test_locations_are_keys():
    uri = "s3://bucket/key"
    given = {"client_kwargs": {"region_name": "r"}}
    known = {mlartifacts.locate(uri, **given): 1}
    assert known[mlartifacts.locate(uri, **given)] == 1
    assert mlartifacts.locate(uri) not in known
