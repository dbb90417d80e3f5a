"""Files that are stored packed (``Content-Encoding: gzip``): what is stored is what is read."""

from __future__ import annotations

import gzip
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from azure.storage.blob import ContentSettings

import mlartifacts
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.transfer import conftest
from tests.transfer.trees import found, plant

TEXT = b"".join(b"%d,a line of a table\n" % number for number in range(40_000))
PACKED = gzip.compress(TEXT, mtime=0)


def put(store: Any) -> None:
    """Have a store say of a file how it is packed."""
    if store.name == "s3":
        bucket = urllib.parse.urlsplit(store.base).netloc
        s3 = boto3.client("s3", endpoint_url=store.server.url)
        s3.put_object(Bucket=bucket, Key="tree/x.csv", Body=PACKED, ContentEncoding="gzip")
        s3.close()
    elif store.name == "az":
        with store._container as container:
            settings = ContentSettings(content_encoding="gzip")
            container.upload_blob("tree/x.csv", PACKED, content_settings=settings)
    else:
        store.seed({"tree/x.csv": PACKED})


def google(request: Request) -> Answer | None:
    """What Google does with such an object, and its emulators do not.

    https://cloud.google.com/storage/docs/transcoding
    """
    if request.method != "GET" or "alt=media" not in request.path:
        return None
    asked = {name.lower(): value for name, value in request.headers.items()}
    if "gzip" not in asked.get("accept-encoding", ""):
        return Answer(200, TEXT)  # the range is not heeded
    return packed(asked.get("range", ""))


def web(request: Request) -> Answer | None:
    """What a web server does with files that it takes for packed."""
    if request.method != "GET" or not request.path.endswith("/x.csv"):
        return None
    asked = {name.lower(): value for name, value in request.headers.items()}
    return packed(asked.get("range", ""))


def packed(span: str) -> Answer:
    told = {"Content-Encoding": "gzip"}
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", span)
    if match is None:
        return Answer(200, PACKED, told)
    first, last = int(match[1]), min(int(match[2] or len(PACKED)), len(PACKED) - 1)
    told["Content-Range"] = f"bytes {first}-{last}/{len(PACKED)}"
    return Answer(206, PACKED[first : last + 1], told)


@pytest.fixture
def behind(
    opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Harbour, str]]]:
    """Give a store by its name, with its file behind what else lies before it, and its URI."""
    fronts: list[Any] = []

    def open_(name: str) -> tuple[Harbour, str]:
        store = opened(name)
        put(store)
        if name not in {"gcs", "http"}:
            return store, store.uri("tree")
        serving = reverse_proxy.serve(store.server.url)
        fronts.append(serving)
        front: Reverse = serving.__enter__()
        front.answer = google if name == "gcs" else web
        if name == "http":
            return store, store.uri("tree").replace(store.server.url, front.url)
        conftest.behind(store, front.host, front.port, monkeypatch)
        return store, store.uri("tree")

    yield open_
    for serving in fronts:
        serving.__exit__(None, None, None)


STORES = ["s3", "az", "gcs", "http", "mlflow-artifacts-s3"]


@pytest.mark.parametrize("name", STORES)
def test_what_is_stored_is_what_is_read(
    name: str, behind: Callable[[str], tuple[Harbour, str]], tmp_path: Path
) -> None:
    _, uri = behind(name)
    fs, path = mlartifacts.url_to_fs(f"{uri}/x.csv")
    assert fs.info(path)["size"] == len(PACKED)
    assert fs.cat_file(path) == PACKED
    assert fs.cat_file(path, 10, 3000) == PACKED[10:3000]
    assert fs.cat_file(path, -50) == PACKED[-50:]
    with fs.open(path) as file:
        assert file.read() == PACKED
    with mlartifacts.open(f"{uri}/x.csv", "rt", compression="gzip") as text:
        assert text.read().encode() == TEXT
    fs.get_file(path, str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == PACKED


@pytest.mark.parametrize("name", STORES)
def test_what_is_stored_is_what_is_moved(
    name: str, behind: Callable[[str], tuple[Harbour, str]], tmp_path: Path
) -> None:
    _, uri = behind(name)
    there = mlartifacts.download(f"{uri}/", tmp_path / "there")
    assert found(there) == {"x.csv": PACKED}
    assert mlartifacts.cached(f"{uri}/x.csv").read_bytes() == PACKED
    mlartifacts.copy(f"{uri}/", plant(tmp_path / "copied", {"x.csv": b"old"}))
    assert found(tmp_path / "copied") == {"x.csv": PACKED}
