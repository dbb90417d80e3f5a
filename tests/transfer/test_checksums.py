"""Checksums: a network that changes a byte on its way is found out."""

from __future__ import annotations

import random
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig

import mlartifacts
from mlartifacts.checksums import MD5, Checksum, Hasher, Kind
from mlartifacts.errors import TransferError
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.reverse_proxy import Reverse
from tests.transfer.trees import found, plant

SMALL = b"a mark in a small file"
LARGE = random.Random(5).randbytes(20_000_000) + b"a mark in the last part"
MARKED = {"small": SMALL, "large": LARGE}
# moto verifies no part, and says of none of its checksums what it is of: what boto3 uploads is read
# further down.
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
        parts = urllib.parse.urlsplit(front.url)
        assert parts.hostname is not None
        assert parts.port is not None
        for variable, value in harbour.elsewhere(parts.hostname, parts.port).env.items():
            monkeypatch.setenv(variable, value)
        return harbour, front

    yield open_
    for network in networks:
        network.__exit__(None, None, None)


@pytest.mark.parametrize(("store", "name"), CASES)
def test_what_is_uploaded(
    behind: Callable[[str], tuple[Harbour, Reverse]], store: str, name: str, tmp_path: Path
) -> None:
    harbour, network = behind(store)
    here = plant(tmp_path / "here", {name: MARKED[name], "other": b"of no mark"})
    network.damage = changed
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here, harbour.uri("tree"))
    assert list(caught.value.failures) == [name]
    network.damage = bytes
    fs, root = mlartifacts.url_to_fs(harbour.uri("tree"))
    assert fs.find(root) == [f"{root}/other"]
    mlartifacts.upload(here, harbour.uri("tree"))
    assert harbour.stored()[f"tree/{name}"] == MARKED[name]


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
    change = once(changed)
    network.damage = lambda body: change(also(body))
    with pytest.raises(TransferError) as caught:
        mlartifacts.download(harbour.uri("tree"), tmp_path / "there")
    assert list(caught.value.failures) == [name]
    assert "checksum" in str(caught.value)
    assert set(found(tmp_path / "there")) <= {"other"}
    network.damage = also
    mlartifacts.download(harbour.uri("tree"), tmp_path / "there")
    assert found(tmp_path / "there")[name] == MARKED[name]


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


def test_an_object_that_google_composed(
    behind: Callable[[str], tuple[Harbour, Reverse]], tmp_path: Path
) -> None:
    """It has a CRC32C alone."""
    harbour, network = behind("gcs")
    harbour.seed({"tree/large": LARGE})
    refuses(network, harbour, "large", tmp_path, lambda body: body.replace(b"md5Hash", b"md5"))


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
    import hashlib

    digests = b"".join(hashlib.new(algorithm, part).digest() for part in parts)
    kind = Kind(algorithm, len(parts[0]))
    return Checksum(kind, hashlib.new(algorithm, digests).digest())
