"""Checksums: a network that changes a byte on its way is found out."""

from __future__ import annotations

import base64
import collections
import hashlib
import itertools
import json
import random
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import google_crc32c
import pytest
from azure.storage.blob import ContentSettings
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from fsspec.callbacks import Callback

import mlartifacts
from mlartifacts.checksums import MD5, Checksum, Hasher, Kind
from mlartifacts.errors import TransferError
from mlartifacts.transfer import engine
from tests.contract.stores import Azure, Harbour
from tests.servers import reverse_proxy
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.transfer import conftest
from tests.transfer.trees import found, plant

SMALL = b"a mark in a small file"
LARGE = random.Random(5).randbytes(20_000_000) + b"a mark in the last part"
MARKED = {"small": SMALL, "large": LARGE}
# moto verifies no part, and says of none of its checksums what it is of: see further down.
CASES = [("s3", "small"), *((store, name) for store in ("az", "gcs") for name in MARKED)]


def changed(body: bytes) -> bytes:
    """Another byte where the mark is."""
    return body.replace(b"a mark in", b"a mArk in")


def once(damage: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The first body that it changes, and none after it."""
    done = []

    def passing(body: bytes) -> bytes:
        damaged = body if done else damage(body)
        if damaged != body:
            done.append(body)
        return damaged

    return passing


@pytest.fixture
def behind(
    opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Harbour, Reverse]]]:
    """Give a store by its name, and the network before it."""
    networks = []

    def open_(name: str) -> tuple[Harbour, Reverse]:
        harbour = opened(name)
        network = reverse_proxy.serve(harbour.server.url)
        networks.append(network)
        front = network.__enter__()
        conftest.behind(harbour, front.host, front.port, monkeypatch)
        return harbour, front

    yield open_
    for network in networks:
        network.__exit__(None, None, None)


@pytest.mark.parametrize(("store", "name"), CASES)
def test_what_is_uploaded(
    behind: Callable[[str], tuple[Harbour, Reverse]],
    store: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "_WAIT", 0.02)
    harbour, network = behind(store)
    here = plant(tmp_path / "here", {name: MARKED[name], "other": b"of no mark"})
    network.damage = changed
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here, harbour.uri("tree"))
    assert list(caught.value.failures) == [name]
    fs, root = mlartifacts.url_to_fs(harbour.uri("tree"))
    assert fs.find(root) == [f"{root}/other"]
    network.damage = once(changed)
    mlartifacts.upload(here, harbour.uri("tree"))
    assert harbour.stored()[f"tree/{name}"] == MARKED[name]


class Google:
    """Compares the checksum that ends an upload in parts, as the emulator does not.

    That of one in a single request, it does.
    """

    def __init__(self, network: Reverse, damage: Callable[[bytes], bytes] = bytes) -> None:
        self._damage = damage
        self._bodies: dict[bytes, bytes] = {}
        self._uploads: dict[str, bytes] = collections.defaultdict(bytes)
        self.compared = 0
        network.damage, network.answer = self._arrives, self._compare

    def _arrives(self, body: bytes) -> bytes:
        arrived = self._damage(body)
        self._bodies[hashlib.sha256(arrived).digest()] = arrived
        return arrived

    def _compare(self, request: Request) -> Answer | None:
        upload = request.path.partition("upload_id=")[2]
        if not upload or request.method == "DELETE":
            return None
        self._uploads[upload] += self._bodies[request.sha256]
        said = {name.lower(): value for name, value in request.headers.items()}
        arrived = self._uploads[upload]
        if said["content-range"].partition("/")[2] != str(len(arrived)):
            return None
        crc = base64.b64encode(google_crc32c.Checksum(arrived).digest()).decode()
        sent = said["x-goog-hash"].removeprefix("crc32c=")
        self.compared += 1
        if sent == crc:
            return None
        message = f'Provided CRC32C "{sent}" doesn\'t match calculated CRC32C "{crc}".'
        error = {"code": 400, "message": message, "errors": [{"reason": "invalid"}]}
        return Answer(400, json.dumps({"error": error}).encode())


def _written(fs: Any, path: str, local: Path) -> None:
    with fs.open(path, "wb") as file:
        file.write(local.read_bytes())


def _flushed(fs: Any, path: str, local: Path) -> None:
    """All parts are gone when it ends."""
    with fs.open(path, "wb", block_size=2**18) as file:
        file.write(local.read_bytes())
        file.write(bytes(-local.stat().st_size % 2**18))


UPLOADS = {
    "upload": lambda fs, path, local: mlartifacts.upload(local, f"gs://{path}"),
    "pipe_file": lambda fs, path, local: fs.pipe_file(path, local.read_bytes()),
    "put_file": lambda fs, path, local: fs.put_file(local, path),
    "open": _written,
    "open, flushed": _flushed,
}


@pytest.mark.parametrize("act", UPLOADS)
@pytest.mark.parametrize("name", MARKED)
def test_google_keeps_an_object_of_which_another_arrives_damaged(
    behind: Callable[[str], tuple[Harbour, Reverse]],
    act: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harbour, network = behind("gcs")
    monkeypatch.setenv("MLFLOW_GCS_UPLOAD_CHUNK_SIZE", str(4 * 2**20))
    monkeypatch.setattr(engine, "_WAIT", 0.02)
    plant(tmp_path, {name: MARKED[name]})
    harbour.seed({f"tree/{name}": b"old"})
    fs, path = mlartifacts.url_to_fs(harbour.uri(f"tree/{name}"))
    google = Google(network, changed)
    with pytest.raises(OSError, match="other bytes arrived than were sent"):
        UPLOADS[act](fs, path, tmp_path / name)
    assert harbour.stored() == {f"tree/{name}": b"old"}
    google = Google(network)
    UPLOADS[act](fs, path, tmp_path / name)
    assert harbour.stored()[f"tree/{name}"].startswith(MARKED[name])
    assert google.compared == (name == "large" or act.startswith("open"))
    assert fs._uploads.known == {}


@pytest.mark.parametrize(("store", "name"), CASES)
def test_what_is_downloaded(
    behind: Callable[[str], tuple[Harbour, Reverse]], store: str, name: str, tmp_path: Path
) -> None:
    harbour, network = behind(store)
    here = plant(tmp_path / "here", {name: MARKED[name], "other": b"of no mark"})
    mlartifacts.upload(here, harbour.uri("tree"))
    refuses(network, harbour, name, tmp_path)


def refuses(
    network: Reverse,
    harbour: Harbour,
    name: str,
    tmp_path: Path,
    also: Callable[[bytes], bytes] = bytes,
) -> None:
    """A line that damages alike each time is not believed, and one that does once is no matter."""
    there = plant(tmp_path / "there", {name: b"old"})
    network.damage = lambda body: changed(also(body))
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(harbour.uri("tree"), there)
    assert list(caught.value.failures) == [name]
    assert "checksum" in str(caught.value)
    assert found(there).pop(name) == b"old"
    assert set(found(there)) <= {name, "other"}
    change = once(changed)
    network.damage = lambda body: change(also(body))
    mlartifacts.download(harbour.uri("tree"), there)
    assert found(there)[name] == MARKED[name]


@pytest.mark.parametrize("store", ["s3", "az", "gcs"])
def test_what_is_replaced_before_it_is_read(
    behind: Callable[[str], tuple[Harbour, Reverse]], store: str, tmp_path: Path
) -> None:
    """By as many bytes: nothing is broken, and the new ones come."""
    harbour, network = behind(store)
    harbour.seed({"tree/x": b"old", "tree/other": b"other"})
    asked = []

    def replacing(request: Request) -> None:
        if request.method == "GET" and re.search(r"tree(/|%2F)x(\?|$)", request.path):
            asked.append(request)
            if len(asked) == 1:
                harbour.seed({"tree/x": b"new"})

    network.answer = replacing
    mlartifacts.download(harbour.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there") == {"x": b"new", "other": b"other"}
    assert len(network.asked("GET", "other")) == 1  # where nothing differs, nobody looks again


def verified(request: Request) -> Answer | None:
    """Refuse what arrived otherwise than it was sent, as S3 does, and moto does not."""
    said = {name.lower(): value for name, value in request.headers.items()}
    if said.get("x-amz-checksum-sha256") in {None, base64.b64encode(request.sha256).decode()}:
        return None
    return Answer(
        400, b"<Error><Code>BadDigest</Code><Message>Not what was sent.</Message></Error>"
    )


def test_each_part_goes_to_s3_with_its_checksum(
    behind: Callable[[str], tuple[Harbour, Reverse]], tmp_path: Path
) -> None:
    harbour, network = behind("s3")
    here = plant(tmp_path / "here", MARKED | {"small": b"of no mark"})
    network.answer, network.damage = verified, changed
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here, harbour.uri("tree"))
    assert list(caught.value.failures) == ["large"]
    assert "BadDigest" in str(caught.value)
    assert set(harbour.stored()) == {"tree/small"}
    assert harbour.uploads() == []
    network.damage = bytes
    mlartifacts.upload(here, harbour.uri("tree"))
    sent = network.asked("PUT", "partNumber")
    parts = [part for part in sent if part.path.endswith(sent[-1].path.partition("&")[2])]
    assert len(parts) == 3
    assert all("x-amz-checksum-sha256" in map(str.lower, part.headers) for part in parts)
    assert harbour.stored()["tree/large"] == LARGE


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
@pytest.mark.parametrize("kind", ["COMPOSITE", "FULL_OBJECT"])
def test_parts_that_boto3_uploaded(
    behind: Callable[[str], tuple[Harbour, Reverse]],
    algorithm: str,
    kind: str,
    tmp_path: Path,
) -> None:
    harbour, network = behind("s3")
    bucket = urllib.parse.urlsplit(harbour.base).netloc
    s3 = boto3.client("s3", endpoint_url=harbour.server.url)
    upload = s3.create_multipart_upload(
        Bucket=bucket, Key="tree/large", ChecksumAlgorithm=algorithm, ChecksumType=kind
    )
    where = {"Bucket": bucket, "Key": "tree/large", "UploadId": upload["UploadId"]}
    parts: list[dict[str, Any]] = []
    for start in range(0, len(LARGE), 6_000_000):
        number = len(parts) + 1
        body = LARGE[start : start + 6_000_000]
        part = s3.upload_part(**where, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
        parts[-1][f"Checksum{algorithm}"] = part[f"Checksum{algorithm}"]
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    s3.close()
    refuses(network, harbour, "large", tmp_path)


def test_parts_as_boto3_uploads_them(
    behind: Callable[[str], tuple[Harbour, Reverse]], tmp_path: Path
) -> None:
    harbour, _ = behind("s3")
    here = plant(tmp_path / "here", {"large": LARGE})
    s3 = boto3.client("s3", endpoint_url=harbour.server.url)
    bucket = urllib.parse.urlsplit(harbour.base).netloc
    s3.upload_file(str(here / "large"), bucket, "tree/large", Config=TransferConfig(2**23))
    s3.close()
    mlartifacts.download(harbour.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there") == {"large": LARGE}


@pytest.mark.parametrize("encryption", [None, "AES256", "aws:kms"])
def test_parts_of_which_only_the_etag_is_kept(
    behind: Callable[[str], tuple[Harbour, Reverse]], encryption: str | None, tmp_path: Path
) -> None:
    """It is their MD5s', but for an object that is encrypted with a key of somebody's."""
    harbour, network = behind("s3")
    here = plant(tmp_path / "here", {"large": LARGE})
    bucket = urllib.parse.urlsplit(harbour.base).netloc
    config = Config(request_checksum_calculation="when_required")
    s3 = boto3.client("s3", endpoint_url=harbour.server.url, config=config)
    arguments = {} if encryption is None else {"ServerSideEncryption": encryption}
    settings = TransferConfig(2**23, multipart_chunksize=2**23)
    s3.upload_file(str(here / "large"), bucket, "tree/large", arguments, Config=settings)
    s3.close()
    fs, root = mlartifacts.url_to_fs(harbour.uri("tree"))
    checksum = fs.carrier(root).checksum(f"{root}/large", None)
    if encryption == "aws:kms":
        assert checksum is None
        return
    hasher = Hasher([Kind("md5", 2**23)])
    hasher.update(LARGE)
    assert [checksum] == [*hasher.checksums().values()]
    refuses(network, harbour, "large", tmp_path)


def test_parts_of_several_lengths(
    behind: Callable[[str], tuple[Harbour, Reverse]], tmp_path: Path
) -> None:
    """What was made of them as if they were alike is no checksum of theirs."""
    harbour, _ = behind("s3")
    bucket = urllib.parse.urlsplit(harbour.base).netloc
    config = Config(request_checksum_calculation="when_required")
    s3 = boto3.client("s3", endpoint_url=harbour.server.url, config=config)
    where = {"Bucket": bucket, "Key": "tree/large"}
    where["UploadId"] = s3.create_multipart_upload(**where)["UploadId"]
    ends = [0, 6_000_000, 11_500_000, 18_000_000, len(LARGE)]
    parts = []
    for number, (start, end) in enumerate(itertools.pairwise(ends), 1):
        part = s3.upload_part(**where, PartNumber=number, Body=LARGE[start:end])
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    s3.close()
    mlartifacts.download(harbour.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there") == {"large": LARGE}


def test_an_etag_that_is_no_checksum(
    behind: Callable[[str], tuple[Harbour, Reverse]], tmp_path: Path
) -> None:
    """An object with a key of somebody's is read twice, and then believed."""
    harbour, network = behind("s3")
    bucket = urllib.parse.urlsplit(harbour.base).netloc
    config = Config(request_checksum_calculation="when_required")
    s3 = boto3.client("s3", endpoint_url=harbour.server.url, config=config)
    told = {"ServerSideEncryption": "aws:kms"}
    s3.put_object(Bucket=bucket, Key="tree/small", Body=SMALL[::-1], **told)
    s3.close()
    network.damage = lambda body: SMALL if body == SMALL[::-1] else body
    mlartifacts.download(harbour.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there") == {"small": SMALL}
    assert len(network.asked("GET", "small")) == 2


def test_an_object_that_google_composed(
    behind: Callable[[str], tuple[Harbour, Reverse]], tmp_path: Path
) -> None:
    """It has a CRC32C alone."""
    harbour, network = behind("gcs")
    harbour.seed({"tree/large": LARGE})
    refuses(network, harbour, "large", tmp_path, lambda body: body.replace(b"md5Hash", b"md5"))


def test_what_a_store_copies_itself(
    behind: Callable[[str], tuple[Harbour, Reverse]], tmp_path: Path
) -> None:
    """No byte of it passes here; both of its listings have a checksum."""
    harbour, network = behind("gcs")
    harbour.seed({"tree/x": SMALL, "tree/y": b"y", "tree/z": b"z", "tree/0": b"0"})
    digest = base64.b64encode(hashlib.md5(SMALL, usedforsecurity=False).digest())

    def damage(body: bytes) -> bytes:
        of_copies = b'"copied/x"' in body and b'"tree/x"' not in body
        return body.replace(digest, base64.b64encode(b"of other bytes, ")) if of_copies else body

    network.damage = damage
    with pytest.raises(TransferError, match="copied other bytes") as caught:
        mlartifacts.copy(harbour.uri("tree"), harbour.uri("copied"))
    assert list(caught.value.failures) == ["x"]
    assert "copied/x" not in harbour.stored()
    network.damage = bytes
    mlartifacts.copy(harbour.uri("tree"), harbour.uri("copied"))
    assert harbour.stored()["copied/x"] == SMALL


@pytest.mark.parametrize("name", ["s3", "gcs", "az"])
def test_what_is_replaced_before_its_store_copies_it(
    opened: Callable[[str], Harbour], name: str
) -> None:
    harbour = opened(name)
    harbour.seed({"tree/x": SMALL, "tree/y": SMALL})
    fs, root = mlartifacts.url_to_fs(harbour.uri("tree"))

    class Meanwhile(Callback):
        def set_size(self, size: int) -> None:
            fs.pipe_file(f"{root}/x", SMALL[::-1])
            fs.pipe_file(f"{root}/y", SMALL + b"longer")
            super().set_size(size)

    mlartifacts.copy(harbour.uri("tree"), harbour.uri("copied"), callback=Meanwhile())
    assert harbour.stored()["copied/x"] == SMALL[::-1]
    assert harbour.stored()["copied/y"] == SMALL + b"longer"


def test_what_s3_copies_otherwise(
    behind: Callable[[str], tuple[Harbour, Reverse]], tmp_path: Path
) -> None:
    """Its ETags are MD5s, as it says of both."""
    harbour, network = behind("s3")
    harbour.seed({"tree/x": SMALL, "tree/y": b"y"})
    copied: list[str] = []

    def copying(request: Request) -> Answer | None:
        is_copy = "x-amz-copy-source" in map(str.lower, request.headers)
        if not is_copy or not request.path.endswith("/x"):
            return None
        copied.append(request.path)
        harbour.seed({"copied/x": SMALL[::-1]})
        result = b"<CopyObjectResult><ETag>1</ETag></CopyObjectResult>"
        return Answer(200, result, {"Content-Type": "application/xml"})

    network.answer = copying
    with pytest.raises(TransferError, match="copied other bytes") as caught:
        mlartifacts.copy(harbour.uri("tree"), harbour.uri("copied"))
    assert list(caught.value.failures) == ["x"]
    assert len(copied) == 2
    assert harbour.stored().keys() == {"tree/x", "tree/y", "copied/y"}


@pytest.mark.parametrize("name", ["s3", "az", "gcs"])
def test_a_copy_within_a_store_asks_for_what_was_listed(
    name: str, behind: Callable[[str], tuple[Harbour, Reverse]]
) -> None:
    """And for nothing else: no file is looked at by itself."""
    harbour, network = behind(name)
    tree = {f"{number}": b"%d" % number for number in range(20)}
    harbour.seed({f"tree/{each}": data for each, data in tree.items()})
    network.requests.clear()
    mlartifacts.copy(harbour.uri("tree"), harbour.uri("copied"))
    copies = [each for each in network.requests if each.method in {"PUT", "POST"}]
    assert len(copies) == 20
    for each in copies:
        headers = {header.lower() for header in each.headers}
        conditions = {"x-amz-copy-source-if-match", "x-ms-source-if-match"} & headers
        assert conditions or "ifSourceGenerationMatch" in each.path
    assert not network.asked("HEAD", "tree/")
    assert len(network.requests) < 30
    assert harbour.stored().items() >= {f"copied/{n}": data for n, data in tree.items()}.items()


def test_a_hasher_of_parts() -> None:
    whole, parts, exact = Kind("crc32"), Kind("sha256", 4), Kind("crc32c", 3)
    hasher = Hasher([whole, parts, exact, MD5])
    for piece in (b"12", b"", b"345678", b"9"):
        hasher.update(piece)
    made = hasher.checksums()
    assert made[whole].digest.hex() == "cbf43926"  # that of these digits
    assert made[parts] == in_parts("sha256", b"1234", b"5678", b"9")
    assert made[MD5].digest.hex() == "25f9e794323b453885f5181f1b624d0b"
    again = Hasher([exact])
    again.update(b"123456789")
    assert again.checksums() == {exact: made[exact]}
    assert made[exact] != Hasher([exact]).checksums()[exact]


def in_parts(algorithm: str, *parts: bytes) -> Checksum:
    digests = b"".join(hashlib.new(algorithm, part).digest() for part in parts)
    kind = Kind(algorithm, len(parts[0]))
    return Checksum(kind, hashlib.new(algorithm, digests).digest())


@pytest.mark.parametrize("name", MARKED)
def test_an_azure_blob_whose_md5_is_a_wrong_one(
    opened: Callable[[str], Harbour], name: str, tmp_path: Path
) -> None:
    """Azure lists whatever the blob's writer said."""
    store, other = opened("az"), opened("s3")
    assert isinstance(store, Azure)
    store.seed({f"tree/{name}": MARKED[name]})
    wrong = ContentSettings(content_md5=bytearray(hashlib.md5(b"another").digest()))
    with store._container as container:
        container.get_blob_client(f"tree/{name}").set_http_headers(wrong)
    here = plant(tmp_path / "here", {name: b"old"})
    other.seed({f"tree/{name}": b"old"})
    refused = pytest.raises(TransferError, match="verify=False keeps them")
    with refused:
        mlartifacts.cached(store.uri("tree"))
    assert found(mlartifacts.cached(store.uri("tree"), verify=False)) == {name: MARKED[name]}
    with refused:
        mlartifacts.download(store.uri("tree"), here)
    assert found(here) == {name: b"old"}
    mlartifacts.download(store.uri("tree"), here, verify=False)
    assert found(here) == {name: MARKED[name]}
    for act in (mlartifacts.sync, mlartifacts.copy):
        with refused:
            act(store.uri("tree"), other.uri("tree"))
        assert other.stored() == {f"tree/{name}": b"old"}
        act(store.uri("tree"), other.uri("tree"), verify=False)
        assert other.stored() == {f"tree/{name}": MARKED[name]}
        other.seed({f"tree/{name}": b"old"})
