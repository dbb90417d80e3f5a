"""Presigned URLs, on the stores that have them."""

from __future__ import annotations

import random
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.proxy import wire
from tests.contract.stores import Harbour
from tests.interop.conftest import stores
from tests.server.conftest import Client
from tests.servers import reverse_proxy
from tests.servers.moto import Moto

DATA = random.Random(5).randbytes(3_000_000)

signing = stores("s3", "wasbs", "az")


def sent(url: str, method: str = "GET", data: bytes | None = None) -> tuple[bytes, str]:
    """Do what a URL says, without a login; the answer, and its ETag."""
    told = {"Content-Type": "application/octet-stream"}  # else urllib says that it is a form
    request = urllib.request.Request(url, data, told, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read(), response.headers.get("ETag", "")


def begun(client: Client, folder: str, asked: dict[str, Any]) -> wire.Upload:
    return wire.Upload.of(client.post(wire.below(wire.CREATE, folder), asked).json)


@signing
def test_a_url_to_read(harbour: Harbour, served: Client) -> None:
    assert served.send("GET", wire.SERVER_INFO).json == {
        "multipart_uploads_enabled": True,
        "multipart_downloads_enabled": True,
    }
    name = "a b/ünï #1%41.txt"
    served.put(name, DATA)
    given = wire.Presigned.of(served.send("GET", wire.below(wire.PRESIGNED, name)).json)
    assert (given.size, given.headers) == (len(DATA), {})
    assert sent(given.url)[0] == DATA
    if harbour.name == "s3":  # by the newer way, which all regions know
        said = urllib.parse.parse_qs(urllib.parse.urlsplit(given.url).query)
        assert (said["X-Amz-Algorithm"], said["X-Amz-Expires"]) == (["AWS4-HMAC-SHA256"], ["300"])
    for secret in (*harbour.secrets, *served.server.env.values()):
        assert secret not in given.url
    with pytest.raises(urllib.error.HTTPError) as caught:
        sent(given.url.replace("a%20b", "other"))
    caught.value.close()
    for name, error in (
        ("nothing", (404, "RESOURCE_DOES_NOT_EXIST")),
        ("a b", (400, "INVALID_PARAMETER_VALUE")),
        ("../file", (400, "INVALID_PARAMETER_VALUE")),
    ):
        assert served.send("GET", wire.below(wire.PRESIGNED, name)).error == error


@signing
def test_an_upload_in_parts(harbour: Harbour, served: Client) -> None:
    parts = [DATA * 2, DATA, DATA[:100]]
    if harbour.name == "s3":
        parts = [DATA * 2, DATA * 2, DATA[:100]]  # 5 MiB at least, but for the last
    for name, path in (
        ("large file.bin", "/home/me/the models/large file.bin"),
        ("ünï #1%41", "ünï #1%41"),
    ):
        upload = begun(served, "folder", {"path": path, "num_parts": 3})
        assert [part.number for part in upload.parts] == [1, 2, 3]
        assert name not in harbour.stored()
        done = [
            part.done(sent(part.url, "PUT", data)[1])
            for part, data in zip(upload.parts, parts, strict=True)
        ]
        told = {"path": name, "upload_id": upload.upload_id, "parts": done[::-1]}
        assert served.post(wire.below(wire.COMPLETE, "folder"), told).json == {}
        assert harbour.stored()[f"folder/{name}"] == b"".join(parts)


@signing
def test_an_upload_in_parts_that_is_dropped(harbour: Harbour, served: Client) -> None:
    harbour.seed({"file.bin": b"old"})
    upload = begun(served, "", {"path": r"C:\Users\me\file.bin"})
    sent(upload.parts[0].url, "PUT", DATA)
    told = {"path": "file.bin", "upload_id": upload.upload_id}
    assert served.post(wire.ABORT, told).json == {}
    assert harbour.stored() == {"file.bin": b"old"}
    if harbour.name == "s3":  # Azure keeps what nobody commits for a week
        assert served.post(wire.ABORT, told).error == (404, "RESOURCE_DOES_NOT_EXIST")


@signing
def test_two_uploads_of_one_file(harbour: Harbour, served: Client) -> None:
    """What the one sent is no part of the other's."""
    one, other = (begun(served, "folder", {"path": "file"}) for _ in range(2))
    for upload, data in ((one, b"one"), (other, b"other")):
        done = [upload.parts[0].done(sent(upload.parts[0].url, "PUT", data)[1])]
        told = {"path": "file", "upload_id": upload.upload_id, "parts": done}
        if upload is one:
            first = told
    assert served.post(wire.below(wire.COMPLETE, "folder"), first).json == {}
    assert harbour.stored() == {"folder/file": b"one"}


@signing
@pytest.mark.filterwarnings("default")  # what MLflow warns of is not ours to mend
def test_large_files_pass_the_server_by(
    harbour: Harbour, served: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of MLflow's client and of ours, there and back."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for name, value in {
        "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "10000000",
        "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": "5300000",
        "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": "5300000",
    }.items():
        monkeypatch.setenv(name, value)
    large = DATA * 4
    source = tmp_path / "large"
    source.write_bytes(large)
    (tmp_path / "got").mkdir()
    with reverse_proxy.serve(served.server.url) as front:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        theirs = get_artifact_repository("mlflow-artifacts:/theirs")
        theirs.log_artifact(str(source), "folder")
        got = theirs.download_artifacts("folder/large", str(tmp_path / "got"))
        assert Path(got).read_bytes() == large
        mlartifacts.upload(source, "mlflow-artifacts:/ours/folder/")
        back = mlartifacts.download("mlflow-artifacts:/ours/folder/large", tmp_path / "back")
        assert back.read_bytes() == large
        with mlartifacts.open("mlflow-artifacts:/ours/folder/large") as file:
            file.seek(7_000_000)
            assert file.read(10) == large[7_000_000:7_000_010]
        assert len(front.asked("POST", "mpu/complete")) == 2
        assert front.asked("PUT") == []
        assert front.asked("GET", "artifacts/ours") == front.asked("GET", "artifacts/theirs") == []
    assert harbour.stored() == dict.fromkeys(("theirs/folder/large", "ours/folder/large"), large)


#: Bodies of requests for parts that ask for none.
NO_REQUESTS = [
    b"", b"no JSON", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff", b"{}", b'{"path": ""}',
    b'{"path": "a", "num_parts": 0}', b'{"path": "a", "num_parts": 10001}',
    b'{"path": "a", "num_parts": "x"}', b'{"path": "a", "num_parts": 1e999}',
    b'{"path": "a", "num_parts": true}', b'{"path": "a", "num_parts": 1.5}', b'{"path": null}',
    b'{"path": 5}', b'{"path": ["a"]}', b'{"path": "a", "parts": [' + b"{}," * 80_000 + b"{}]}",
    b'{"path": ".."}', b'{"path": "x/.."}',
    b'{"path": "a\\u0000"}', b'{"path": "a\\ud800"}', b'{"path": "/"}',
]  # fmt: skip


@signing
def test_a_request_for_parts_that_is_none(served: Client) -> None:
    for body in NO_REQUESTS:
        answered = served.post(wire.CREATE, body)
        assert answered.error == (400, "INVALID_PARAMETER_VALUE"), body[:80]


@signing
def test_parts_of_an_upload_that_is_not_named(served: Client) -> None:
    for route in (wire.COMPLETE, wire.ABORT):
        part = {"part_number": 1, "etag": "x"}
        for told in (
            {},
            {"upload_id": ""},
            {"upload_id": None},
            {"upload_id": 5},
            {"upload_id": "\ud800"},
            {"upload_id": "x", "parts": [{**part, "etag": None}]},
            {"upload_id": "x", "parts": [{**part, "part_number": 0}]},
            {"upload_id": "x", "parts": [{**part, "part_number": 1e999}]},
            {"upload_id": "x", "parts": {"a": 1}},
        ):
            refused = served.post(route, {"path": "file", "parts": [part], **told})
            assert refused.error == (400, "INVALID_PARAMETER_VALUE")


def test_a_store_that_signs_nothing(local: Client) -> None:
    assert not any(local.send("GET", wire.SERVER_INFO).json.values())
    refused = local.post(wire.below(wire.CREATE, "folder"), {"path": "file"})
    assert wire.is_unsupported(refused.status, refused.json["message"])
    assert local.send("GET", wire.below(wire.PRESIGNED, "file")).error == (501, "NOT_IMPLEMENTED")


def test_nothing_is_signed_where_that_is_turned_off(
    moto_server: Moto, serving: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    off = serving(moto_server.new_root())
    assert not any(off.send("GET", wire.SERVER_INFO).json.values())
    assert off.post(wire.CREATE, {"path": "file"}).status == 501
    assert off.send("GET", wire.below(wire.PRESIGNED, "file")).status == 501


@pytest.mark.parametrize(
    "arguments",
    [{"SSECustomerKey": "k" * 32, "SSECustomerAlgorithm": "AES256"}, {"ChecksumAlgorithm": "SHA1"}],
)
def test_nothing_is_signed_that_a_url_is_not_enough_for(
    moto_server: Moto,
    serving: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
) -> None:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    keyed = serving(moto_server.new_root(), s3_additional_kwargs=arguments)
    assert not any(keyed.send("GET", wire.SERVER_INFO).json.values())


@stores("wasbs")
def test_nothing_is_signed_without_the_accounts_key(
    harbour: Harbour, serving: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.identity.aio import ClientSecretCredential

    for variable in harbour.env:
        monkeypatch.delenv(variable)
    credential = ClientSecretCredential("tenant", "client", "secret")
    keyless = serving("wasbs://container@account.blob.core.windows.net/root", credential=credential)
    assert not any(keyless.send("GET", wire.SERVER_INFO).json.values())
