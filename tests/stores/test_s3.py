"""S3: which settings reach the driver, and what of the driver's is mended."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import datetime
import errno
import hashlib
import json
import logging
import math
import pickle
import random
import re
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError as BotoClientError
from fsspec.callbacks import Callback

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI, TransferError
from mlartifacts.stores.s3 import STORE, UPLOAD_ARGUMENTS
from mlartifacts.stores.s3.answers import read_quickly
from mlartifacts.stores.s3.logs import hide_secrets
from mlartifacts.uri import parse
from tests.conftest import interrupt
from tests.servers import moto, reverse_proxy, silent, tcp_proxy
from tests.servers.fixtures import started
from tests.servers.process import wait_until

BASE = {
    "default_cache_type": "proportional",
    "use_listings_cache": False,
    "fixed_upload_size": True,
    "config_kwargs": {"retries": {"total_max_attempts": 1, "mode": "standard"}},
}


def located(uri, **variables):
    return STORE.locate(parse(uri), Environment(variables), {})


def config(**settings):
    return {**BASE, "config_kwargs": {**BASE["config_kwargs"], **settings}}


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://bucket/1/abc/artifacts", "bucket/1/abc/artifacts"),
        ("s3a://bucket/key/", "bucket/key"),
        ("s3n://bucket", "bucket"),
        ("s3://bucket/", "bucket"),
        ("s3://My_Bucket.example/k", "My_Bucket.example/k"),
        ("s3://bucket/a#b?versionId=c%41+[1]*", "bucket/a#b?versionId=c%41+[1]*"),
        ("s3://bucket/ä b//c", "bucket/ä b//c"),
        (
            "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/ap/key",
            "arn:aws:s3:us-west-2:123456789012:accesspoint/ap/key",
        ),
        ("r2://bucket@account.r2.cloudflarestorage.com/key", "bucket/key"),
        ("b2://bucket@s3.us-west-004.backblazeb2.com/key", "bucket/key"),
    ],
)
def test_places(uri, path):
    assert located(uri).path == path


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, BASE),
        (
            {"MLFLOW_S3_ENDPOINT_URL": "http://1.2.3.4:9000/"},
            {**BASE, "endpoint_url": "http://1.2.3.4:9000"},
        ),
        ({"MLFLOW_S3_IGNORE_TLS": "true"}, {**BASE, "client_kwargs": {"verify": False}}),
        ({"MLFLOW_S3_IGNORE_TLS": "false", "AWS_CA_BUNDLE": "/ca.pem"}, BASE),
        (
            {"MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path"},
            config(s3={"addressing_style": "path"}),
        ),
        (
            {"MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "90"},
            config(read_timeout=90, connect_timeout=5),
        ),
        (
            {"MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "-1"},
            config(read_timeout=None, connect_timeout=5),
        ),
        ({"MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION": "unsigned"}, {**BASE, "anon": True}),
        ({"MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION": "s3"}, config(signature_version="s3")),
        ({"AWS_MAX_ATTEMPTS": "9"}, {n: v for n, v in BASE.items() if n != "config_kwargs"}),
        (
            {
                "MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"ServerSideEncryption": "aws:kms"}',
                "MLFLOW_S3_EXPECTED_BUCKET_OWNER": "123456789012",
            },
            {
                **BASE,
                "s3_additional_kwargs": {
                    "ServerSideEncryption": "aws:kms",
                    "ExpectedBucketOwner": "123456789012",
                },
            },
        ),
    ],
)
def test_settings(variables, options):
    assert dict(located("s3://bucket/key", **variables).options) == options


def test_named_endpoints():
    r2 = located("r2://bucket@account.r2.cloudflarestorage.com/key")
    assert r2.options["endpoint_url"] == "https://account.r2.cloudflarestorage.com"
    assert r2.options["config_kwargs"]["s3"] == {"addressing_style": "virtual"}
    assert r2.options["client_kwargs"] == {"region_name": "auto"}
    assert r2.options["fixed_upload_size"] is True
    b2 = located("b2://bucket@s3.us-west-004.backblazeb2.com/k", MLFLOW_S3_ENDPOINT_URL="http://x")
    assert b2.options["endpoint_url"] == "https://s3.us-west-004.backblazeb2.com"
    assert b2.options["config_kwargs"]["s3"] == {"addressing_style": "path"}
    assert b2.options["client_kwargs"] == {"region_name": "us-west-004"}
    virtual = {"MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "virtual"}
    b2 = located("b2://bucket@s3.us-west-004.backblazeb2.com/k", **virtual)
    assert b2.options["config_kwargs"]["s3"] == {"addressing_style": "path"}


def test_upload_arguments_are_those_of_boto3():
    from boto3.s3.transfer import S3Transfer

    assert set(S3Transfer.ALLOWED_UPLOAD_ARGS) | {"BucketKeyEnabled"} == UPLOAD_ARGUMENTS


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3:///key", "no bucket"),
        ("s3:/bucket/key", "no bucket"),
        ("s3://user:hunter2@bucket/key", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket:many/key", "endpoint"),
        ("s3://localhost:9000/bucket/key", "MLFLOW_S3_ENDPOINT_URL"),
        ("s3://127.0.0.1/bucket/key", "MLFLOW_S3_ENDPOINT_URL"),
        ("s3://ams3.digitaloceanspaces.com/bucket/key", "MLFLOW_S3_ENDPOINT_URL"),
        ("s3://bucket.s3.eu-west-1.amazonaws.com/key", "MLFLOW_S3_ENDPOINT_URL"),
        ("s3://s3.amazonaws.com/bucket/key", "MLFLOW_S3_ENDPOINT_URL"),
        ("r2://account.r2.cloudflarestorage.com/key", "r2://<bucket>@"),
        ("r2://bucket:hunter2@account.r2.cloudflarestorage.com/key", "a password.*AWS_ACCESS"),
        ("b2://bucket:@s3.us-west-004.backblazeb2.com/key", "a password.*AWS_ACCESS"),
        ("s3://bucket/../other", "climbs"),
    ],
)
def test_bad_uris(uri, named):
    with pytest.raises(InvalidURI, match=named) as caught:
        located(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"MLFLOW_S3_IGNORE_TLS": "yes"}, "MLFLOW_S3_IGNORE_TLS"),
        (
            {"MLFLOW_S3_IGNORE_TLS": "true", "AWS_CA_BUNDLE": "/ca.pem"},
            "MLFLOW_S3_IGNORE_TLS.*AWS_CA_BUNDLE.*one of the two",
        ),
        ({"MLFLOW_S3_UPLOAD_EXTRA_ARGS": "{"}, "MLFLOW_S3_UPLOAD_EXTRA_ARGS"),
        ({"MLFLOW_S3_UPLOAD_EXTRA_ARGS": "[]"}, "MLFLOW_S3_UPLOAD_EXTRA_ARGS"),
        (
            {"MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"Encryption": 1}'},
            "'Encryption'.*ServerSideEncryption",
        ),
        ({"MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"Metadata": {"a": 1}}'}, "'Metadata' of a type"),
        ({"MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"ACL": 5}'}, "'ACL' of a type"),
        ({"MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "dns"}, "auto, path or virtual"),
        ({"MLFLOW_S3_ENDPOINT_URL": "s3://bucket/key"}, "MLFLOW_S3_ENDPOINT_URL.*unset"),
        ({"MLFLOW_S3_ENDPOINT_URL": "https://b.s3.us-east-1.amazonaws.com/k"}, "second time"),
        (
            {"MLFLOW_S3_ENDPOINT_URL": "http://user:word@h:9000"},
            "MLFLOW_S3_ENDPOINT_URL has a user",
        ),
        *(
            ({"MLFLOW_S3_ENDPOINT_URL": f"http://{server}"}, "MLFLOW_S3_ENDPOINT_URL takes")
            for server in ("[::1", "ho st", "1.2.3.4:port", "h:99999", "a..b", "a" * 300, ":1")
        ),
        ({"MLFLOW_S3_UPLOAD_EXTRA_ARGS": "[" * 20_000}, "MLFLOW_S3_UPLOAD_EXTRA_ARGS"),
        ({"MLFLOW_S3_UPLOAD_EXTRA_ARGS": "1" * 5_000}, "MLFLOW_S3_UPLOAD_EXTRA_ARGS"),
        ({"AWS_MAX_ATTEMPTS": "x"}, "AWS_MAX_ATTEMPTS"),
        ({"AWS_MAX_ATTEMPTS": "0"}, "AWS_MAX_ATTEMPTS"),
        ({"MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "soon"}, "UPLOAD_DOWNLOAD_TIMEOUT"),
        ({"MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "9" * 12}, "UPLOAD_DOWNLOAD_TIMEOUT"),
    ],
)
def test_bad_settings(variables, named):
    with pytest.raises(InvalidConfig, match=named):
        located("s3://bucket/key", **variables)


# ---- On the server -------------------------------------------------------------------------


@pytest.fixture
def bucket(moto_server, monkeypatch):
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    return moto_server.new_bucket()


@pytest.fixture
def fs(bucket):
    return mlartifacts.filesystem("s3")


def test_upload_arguments_reach_puts_multipart_uploads_and_copies(bucket, monkeypatch, tmp_path):
    arguments = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "1234"}
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", json.dumps(arguments))
    fs = mlartifacts.filesystem("s3")
    (tmp_path / "local").write_bytes(b"x")
    fs.pipe_file(f"{bucket}/piped", b"x")
    fs.put_file(str(tmp_path / "local"), f"{bucket}/put")
    with fs.open(f"{bucket}/opened", "wb") as file:
        file.write(b"x")
    with fs.open(f"{bucket}/parts", "wb", block_size=5 * 2**20) as file:
        file.write(b"x" * 6 * 2**20)
    fs.cp_file(f"{bucket}/piped", f"{bucket}/copied")
    for key in ("piped", "put", "opened", "parts", "copied"):
        head = fs.call_s3("head_object", Bucket=bucket, Key=key)
        assert head["ServerSideEncryption"] == "aws:kms", key
        assert head["SSEKMSKeyId"].endswith("1234"), key


def test_a_key_of_the_callers_is_said_wherever_bytes_are(moto_server, bucket, monkeypatch):
    arguments = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", json.dumps(arguments))
    coded = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
    with tcp_proxy.proxied(moto_server.url) as proxy:
        fs = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        keep_house(fs, f"{bucket}/run")
        fs.pipe_file(f"{bucket}/x", b"x")
        fs.cp_file(f"{bucket}/x", f"{bucket}/y")
        assert {request.method for request in proxy.requests} == {"GET", "HEAD", "POST", "PUT"}
        for request in proxy.requests:
            said = {name for name, value in request.headers.items() if value == coded}
            expected = {"x-amz-server-side-encryption-customer-key"}
            if "x-amz-copy-source" in request.headers:
                expected.add("x-amz-copy-source-server-side-encryption-customer-key")
            elif "list-type" in request.target or request.target.endswith("?delete"):
                expected = set()
            assert said == expected, request
        assert [r for r in proxy.requests if "x-amz-copy-source" in r.headers]


def test_the_bucket_owner_is_said_in_every_request(moto_server, bucket, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_EXPECTED_BUCKET_OWNER", "123456789012")
    with tcp_proxy.proxied(moto_server.url) as proxy:
        fs = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        fs.pipe_file(f"{bucket}/x", b"x")
        fs.cat_file(f"{bucket}/x")
        fs.ls(bucket)
        fs.rm(f"{bucket}/x")
        assert len(proxy.requests) >= 4
        for request in proxy.requests:
            headers = {name.lower(): value for name, value in request.headers.items()}
            assert headers["x-amz-expected-bucket-owner"] == "123456789012"


@pytest.mark.parametrize(
    ("name", "kind", "encoding"),
    [
        ("table.csv", "text/csv", None),
        ("table.csv.gz", "text/csv", "gzip"),
        ("model.json", "application/json", None),
        ("no-ending", None, None),
    ],
)
def test_type_and_encoding_are_told_by_the_name(fs, bucket, tmp_path, name, kind, encoding):
    (tmp_path / name).write_bytes(b"x")
    fs.put_file(str(tmp_path / name), f"{bucket}/put/{name}")
    fs.pipe_file(f"{bucket}/piped/{name}", b"x")
    with fs.open(f"{bucket}/opened/{name}", "wb") as file:
        file.write(b"x")
    for way in ("put", "piped", "opened"):
        head = fs.call_s3("head_object", Bucket=bucket, Key=f"{way}/{name}")
        if kind is not None:
            assert head["ContentType"] == kind
        assert head.get("ContentEncoding") == encoding


def test_a_type_in_the_upload_arguments_wins(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", '{"ContentType": "x/y"}')
    fs = mlartifacts.filesystem("s3")
    (tmp_path / "a.csv").write_bytes(b"x")
    fs.put_file(str(tmp_path / "a.csv"), f"{bucket}/a.csv")
    assert fs.call_s3("head_object", Bucket=bucket, Key="a.csv")["ContentType"] == "x/y"


def test_a_failed_large_write_leaves_no_upload_behind(fs, bucket):
    with pytest.raises(ZeroDivisionError), fs.open(f"{bucket}/x", "wb", block_size=5 * 2**20) as f:
        f.write(b"x" * 11 * 2**20)
        raise ZeroDivisionError
    assert fs.list_multipart_uploads(bucket) == []
    assert not fs.exists(f"{bucket}/x")


def test_an_interrupted_put_leaves_no_upload_behind(fs, bucket, tmp_path):
    (tmp_path / "large").write_bytes(b"x" * 12_000_000)
    fs.pipe_file(f"{bucket}/file", b"old")
    told = Callback()
    told.relative_update = lambda inc: interrupt()
    given = {"chunksize": 5 * 2**20, "max_concurrency": 1}
    with pytest.raises(KeyboardInterrupt):
        fs.put_file(str(tmp_path / "large"), f"{bucket}/file", callback=told, **given)
    assert fs.list_multipart_uploads(bucket) == []
    assert fs.cat_file(f"{bucket}/file") == b"old"


def test_more_than_a_page_is_deleted_and_no_sibling(fs, bucket):
    fs.pipe({f"{bucket}/many/{number:04}": b"" for number in range(1005)})
    fs.pipe({f"{bucket}/many-more": b"x", f"{bucket}/many.txt": b"x"})
    fs.rm(f"{bucket}/many", recursive=True)
    assert sorted(fs.find(bucket)) == [f"{bucket}/many-more", f"{bucket}/many.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "Wed, 25 Nov 2026 14:18:06 GMT",
        "2026-11-25T14:18:06.123Z",
        "2026-11-25T14:18:06Z",
        "2026-11-25T15:18:06+01:00",
        "1795616417",
        1795616417.5,
    ],
)
def test_times_are_those_of_botocore(text):
    from botocore.utils import parse_timestamp

    from mlartifacts.stores.s3.answers import _when

    assert _when(text) == parse_timestamp(text)


_LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Name>b</Name><Prefix>dir%2F</Prefix><KeyCount>3</KeyCount><IsTruncated>false</IsTruncated>
  <EncodingType>url</EncodingType>{}
</ListBucketResult>"""
_PLAIN = """
  <Contents>
    <Key>dir%2Fa%26+%C3%A9%0A%252F</Key><LastModified>2026-11-25T14:18:06.123Z</LastModified>
    <ETag>&quot;0cc1&quot;</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm>
    <ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>
    <Size>5368709121</Size><StorageClass>STANDARD</StorageClass>
  </Contents>
  <Contents><Type>Normal</Type><StorageClass>GLACIER</StorageClass><Size>0</Size><ETag/>
    <LastModified>2026-11-25T14:18:06Z</LastModified><Key>x</Key><Something>else</Something>
  </Contents>"""
_ESCAPED = """
  <Contents><Size>1</Size><Key>a&lt;&amp;quot;&#13;&quot;é<![CDATA[<&]]></Key></Contents>"""
_NESTED = """<Contents><X><Key>evil</Key></X><Key>a</Key><Size>1</Size><!-- <Size>2</Size> -->
  <ETag>1</ETag><LastModified>2026-11-25T14:18:06Z</LastModified></Contents>"""
_OWNED = """<Contents>
    <Key>dir/of somebody</Key><LastModified>2026-11-25T14:18:06Z</LastModified><ETag>1</ETag>
    <Size>0</Size><Owner><ID>1</ID><DisplayName>she</DisplayName></Owner>
  </Contents>"""
_RESTORED = """<Contents><Key>x</Key><Size>7</Size>
    <RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus></Contents>"""
_BELOW = "<CommonPrefixes><Prefix>dir%2Fbelow%2F</Prefix></CommonPrefixes>"


@pytest.mark.parametrize(
    ("entries", "is_taken"),
    [
        (_PLAIN, True),
        (_PLAIN + _BELOW, True),
        (_BELOW + _PLAIN, True),
        (_PLAIN + _BELOW + _PLAIN, False),
        (_ESCAPED, True),
        (_NESTED, True),
        (_OWNED, False),
        (_RESTORED, False),
        (_BELOW, False),
        ("", False),
        ("<Contents><Key>a</Key><Size>1</Size></Contents><Contents><Key>b</K", True),
    ],
    ids=(
        "plain below-last below-first mixed escaped nested owned restored no-files empty"
        " cut".split()
    ),
)
def test_listings_are_read_as_botocore_reads_them(entries, is_taken):
    body = _LISTING.format(entries).encode()
    if entries.endswith("</K"):
        body = body[: body.index(b"</K\n")]

    async def read(quickly):
        given = []

        async def answer(request, **kwargs):
            return AioAWSResponse(request.url, 200, {}, _Raw(body))

        session = get_session()
        async with session.create_client(
            "s3",
            region_name="us-east-1",
            aws_access_key_id="k",
            aws_secret_access_key="s",
            endpoint_url="http://localhost",
            config=AioConfig(retries={"max_attempts": 0}),
        ) as client:
            if quickly:
                read_quickly(client)
                read_quickly(client)
            client.meta.events.register("before-send.s3", answer)
            client.meta.events.register(
                "after-call.s3", lambda parsed, **kwargs: given.append(type(parsed.get("Contents")))
            )
            try:
                said = await client.list_objects_v2(Bucket="b")
            except BotoClientError as error:
                return str(error), given
        del said["ResponseMetadata"]
        return {**said, "Contents": list(said.get("Contents", []))}, given

    (ours, kinds), (botocores, _) = asyncio.run(read(True)), asyncio.run(read(False))
    assert ours == botocores
    assert (list not in kinds and type(None) not in kinds) == is_taken


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("<IsTruncated>true</IsTruncated>", "says no place"),
        (
            "<IsTruncated>true</IsTruncated><NextContinuationToken>1</NextContinuationToken>",
            "says no place",
        ),
        ("<Contents><Key>&#x1;</Key><Size>1</Size></Contents>", "XML"),
        ("<Contents><Key>a</Key><Size>x</Size></Contents>", "an entry"),
        ("<Contents><Size>1</Size></Contents>", "an entry"),
    ],
    ids=["no-token", "same-token", "no-xml", "no-size", "no-key"],
)
def test_listings_that_are_none(moto_server, bucket, monkeypatch, page, reason):
    body = f"<ListBucketResult>{page}</ListBucketResult>".encode()
    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = lambda request: reverse_proxy.Answer(200, body)
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        with pytest.raises(OSError, match=reason) as caught:
            mlartifacts.filesystem("s3").find(f"{bucket}/tree")
    assert caught.value.errno == errno.EIO
    assert caught.value.filename.startswith(bucket)


class _Raw:
    """The body of an answer, as aiobotocore reads it."""

    def __init__(self, body):
        self._body = body

    async def read(self):
        return self._body


def test_trees_of_several_answers_are_listed(bucket, fs):
    names = [f"tree/{number:04}" for number in range(1003)]
    siblings = ["tree", "tree!/a", "tree0", "tree/é +%41%2F&<", "other"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: fs.pipe_file(f"{bucket}/{name}", b""), names + siblings))
    below = sorted(f"{bucket}/{name}" for name in [*names, "tree/é +%41%2F&<"])
    assert fs.find(f"{bucket}/tree") == below
    assert list(fs.entries(f"{bucket}/tree")) == [f"{bucket}/tree"]
    fs.rm_file(f"{bucket}/tree")
    entries = fs.entries(f"{bucket}/tree")
    assert list(entries) == below
    assert entries == fs.find(f"{bucket}/tree", detail=True)
    assert set(fs.entries(bucket)) == {f"{bucket}/{name}" for name in [*names, *siblings[1:]]}
    for name in siblings[1:]:
        assert list(fs.entries(f"{bucket}/{name}")) == [f"{bucket}/{name}"]


def test_times_in_listings_and_of_files(fs, bucket):
    fs.pipe_file(f"{bucket}/x", b"x")
    (listed,) = fs.ls(bucket, detail=True)
    assert listed["LastModified"].tzinfo is datetime.UTC  # so it is not dateutil's
    assert fs.modified(f"{bucket}/x") == listed["LastModified"].replace(microsecond=0)


def test_markers_of_directories_are_no_files(fs, bucket, moto_server):
    moto_server.request("PUT", f"/{bucket}/folder/", b"")
    moto_server.request("PUT", f"/{bucket}/folder/x", b"x")
    moto_server.request("PUT", f"/{bucket}/empty/", b"")
    assert fs.ls(f"{bucket}/folder", detail=False) == [f"{bucket}/folder/x"]
    assert fs.ls(f"{bucket}/empty") == []
    assert fs.find(bucket) == [f"{bucket}/folder/x"]
    assert fs.find(f"{bucket}/empty") == fs.find(f"{bucket}/empty/") == []
    assert list(fs.entries(bucket)) == [f"{bucket}/folder/x"]
    assert fs.entries(f"{bucket}/empty") == {}
    assert fs.isdir(f"{bucket}/empty")
    fs.rm(f"{bucket}/folder", recursive=True)
    assert not fs.exists(f"{bucket}/folder")


@pytest.mark.parametrize("below", [True, False])
def test_a_marker_of_bytes_is_deleted_with_its_directory(fs, bucket, moto_server, tmp_path, below):
    for name in ("folder/", "folder-2/", "other"):
        moto_server.request("PUT", f"/{bucket}/{name}", b"bytes")
    if below:
        moto_server.request("PUT", f"/{bucket}/folder/x", b"x")
    with pytest.raises(TransferError, match="folder"):  # no disk holds such a name
        mlartifacts.download(f"s3://{bucket}/folder", tmp_path / "folder")
    report = mlartifacts.delete(f"s3://{bucket}/folder")
    assert len(report.moved) == 1 + below
    assert fs.find(bucket) == [f"{bucket}/folder-2/", f"{bucket}/other"]


def test_an_endpoint_over_tls_is_verified(moto_server_tls, monkeypatch):
    for name, value in moto_server_tls.env.items():
        monkeypatch.setenv(name, value)
    uri = f"{moto_server_tls.new_root()}/x"
    with mlartifacts.open(uri, "wb") as file:
        file.write(b"x")
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(ConnectionError, match="AWS_CA_BUNDLE") as caught:
        mlartifacts.open(uri).open()
    assert caught.value.filename
    monkeypatch.setenv("MLFLOW_S3_IGNORE_TLS", "true")
    with mlartifacts.open(uri) as file:
        assert file.read() == b"x"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_are_none(monkeypatch, tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    with pytest.raises(InvalidConfig, match=r"AWS_CA_BUNDLE=.*ca\.pem"):
        mlartifacts.filesystem("s3")


def test_a_profile_is_botocores_business(moto_server, monkeypatch, tmp_path):
    bucket = moto_server.new_bucket()
    credentials = tmp_path / "credentials"
    credentials.write_text("[mine]\naws_access_key_id = one\naws_secret_access_key = two\n")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", moto_server.url)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PermissionError, match="AWS_PROFILE"):
        mlartifacts.filesystem("s3").ls(bucket)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert mlartifacts.filesystem("s3").ls(bucket) == []
    monkeypatch.setenv("AWS_PROFILE", "theirs")
    with pytest.raises(PermissionError, match="theirs"):
        mlartifacts.filesystem("s3").ls(bucket)


def test_requests_are_signed_for_the_region(moto_server, bucket, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    with tcp_proxy.proxied(moto_server.url) as proxy:
        mlartifacts.filesystem("s3", endpoint_url=proxy.url).exists(f"{bucket}/x")
        assert "/eu-west-3/s3/" in proxy.requests[0].headers["authorization"]


def test_anonymous(moto_server, bucket, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", "unsigned")
    with tcp_proxy.proxied(moto_server.url) as proxy:
        fs = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        fs.exists(f"{bucket}/x")
        assert all("Authorization" not in request.headers for request in proxy.requests)


def test_named_endpoints_give_back_their_uri(bucket, moto_server):
    host = moto_server.url.removeprefix("http://")
    uri = f"b2://{bucket}@{host}/folder/x"
    fs, path = mlartifacts.url_to_fs(uri, endpoint_url=moto_server.url)
    fs.pipe_file(path, b"x")
    assert [fs.unstrip_protocol(name) for name in fs.find(path)] == [uri]
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat_file(path) == b"x"


def keep_house(fs, path):
    """Write, list, read and delete, with one file in parts."""
    large = random.Random(1).randbytes(11 * 2**20)
    fs.pipe_file(f"{path}/small", b"small")
    with fs.open(f"{path}/large", "wb", block_size=5 * 2**20) as file:
        file.write(large)
    assert fs.ls(path, detail=False) == [f"{path}/large", f"{path}/small"]
    assert fs.cat_file(f"{path}/small") == b"small"
    assert fs.cat_file(f"{path}/large", start=-5) == large[-5:]
    fs.rm(path, recursive=True)
    assert not fs.exists(path)


@pytest.mark.parametrize("scheme", ["r2", "b2"])
def test_an_endpoint_in_the_uri(moto_server_tls, monkeypatch, scheme):
    """Its server is asked over TLS, whatever the variable for other servers says."""
    for name, value in moto_server_tls.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    host = moto_server_tls.url.removeprefix("https://")
    keep_house(*mlartifacts.url_to_fs(f"{scheme}://{moto_server_tls.new_bucket()}@{host}/run 1"))


def test_r2_by_the_addresses_that_it_has(moto_server, bucket, monkeypatch):
    """An HTTP proxy stands for Cloudflare: what it is asked for is what they would be."""
    host = "account.r2.cloudflarestorage.com"
    with tcp_proxy.proxied(moto_server.url) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        keep_house(*mlartifacts.url_to_fs(f"r2://{bucket}@{host}/r", endpoint_url=f"http://{host}"))
        assert len(proxy.requests) > 6
        for request in proxy.requests:
            assert request.target.startswith(f"http://{bucket}.{host}/")
            assert "/auto/s3/" in request.headers["authorization"]
        parts = [request for request in proxy.requests if "partNumber" in request.target]
        sizes = [int(part.headers["content-length"]) for part in parts]
        assert len(sizes) == 3
        assert sizes[0] == sizes[1] >= sizes[2]  # it refuses others


def allow(action, **of):
    statement = {"Effect": "Allow", "Action": action, **(of or {"Resource": "*"})}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def profiles(tmp_path):
    """Profiles in ``~/.aws``, which say all that there is to say; the server verifies logins.

    ``writer`` may use S3, ``clerk`` may assume a role alone, ``analyst`` is the role. The server
    is this test's own: others' could not log in.
    """
    with started(moto.serve(tmp_path / "moto"), "moto") as server:
        bucket = set_up_profiles(server, tmp_path / "home" / ".aws")
        with server.verifying():
            yield bucket


def set_up_profiles(moto_server, folder):
    iam = moto_server.iam()
    logins = []
    for name, action in (("writer", "s3:*"), ("clerk", "sts:AssumeRole")):
        user = iam.create_user(UserName=name)["User"]
        iam.put_user_policy(UserName=name, PolicyName="it", PolicyDocument=allow(action))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        logins += [f"[{name}]", f"aws_access_key_id = {made['AccessKeyId']}"]
        logins += [f"aws_secret_access_key = {made['SecretAccessKey']}"]
    logins += ["[liar]", *logins[1:2], "aws_secret_access_key = not the writer's"]
    trust = allow("sts:AssumeRole", Principal={"AWS": user["Arn"]})
    role = iam.create_role(RoleName="analyst", AssumeRolePolicyDocument=trust)["Role"]
    iam.put_role_policy(RoleName="analyst", PolicyName="it", PolicyDocument=allow("s3:*"))
    here = [f"region = {moto_server.region}", "services = here"]
    endpoint = f"  endpoint_url = {moto_server.url}"
    config = ["[services here]", "s3 =", endpoint, "sts =", endpoint]
    for name in ("writer", "clerk", "liar"):
        config += [f"[profile {name}]", *here]
    config += ["[profile analyst]", f"role_arn = {role['Arn']}", "source_profile = clerk", *here]
    folder.mkdir()
    (folder / "credentials").write_text("\n".join(logins))
    (folder / "config").write_text("\n".join(config))
    return moto_server.new_bucket()


def test_profiles_and_roles(profiles, monkeypatch, caplog):
    for name in ("writer", "analyst"):
        monkeypatch.setenv("AWS_PROFILE", name)
        with caplog.at_level(logging.DEBUG):
            keep_house(*mlartifacts.url_to_fs(f"s3://{profiles}/{name}"))
    # What STS answered, once.
    assert re.findall("<SecretAccessKey>(.*?)</", caplog.text) == ["<hidden>"]
    assert re.findall("<SessionToken>(.*?)</", caplog.text) == ["<hidden>"]
    for name, code in (("clerk", "AccessDenied"), ("liar", "SignatureDoesNotMatch")):
        monkeypatch.setenv("AWS_PROFILE", name)
        fs, path = mlartifacts.url_to_fs(f"s3://{profiles}/x")
        with pytest.raises(PermissionError, match=code) as caught:
            fs.pipe_file(path, b"x")
        assert caught.value.filename == path
        for act in (fs.open, fs.cat_file, fs.ls, fs.info, fs.exists, fs.rm):
            with pytest.raises(PermissionError) as caught:
                act(path)
            assert caught.value.filename
            assert "not the writer's" not in str(caught.value)


def test_secrets_of_the_environment_stay_there(fs):
    assert fs.storage_options == {}
    for shown in (repr(fs), fs.to_json(), repr(pickle.dumps(fs))):
        assert "testing-secret" not in shown


# ---- Who wins ------------------------------------------------------------------------------


def test_explicit_options_win_over_the_environment(moto_server, bucket, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_S3_IGNORE_TLS", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", "unsigned")
    url = moto_server.url
    for options in ({"endpoint_url": url}, {"client_kwargs": {"endpoint_url": url}}):
        assert mlartifacts.filesystem("s3", **options).ls(bucket) == []
    fs = mlartifacts.filesystem("s3", endpoint_url=url, client_kwargs={"region_name": "eu-west-1"})
    assert fs.client_kwargs == {"verify": False, "region_name": "eu-west-1"}
    with tcp_proxy.proxied(url) as proxy:
        for options, signed in (
            ({}, None),
            ({"anon": False}, moto_server.key),
            ({"key": "mine", "secret": "x"}, "mine"),
        ):
            proxy.reset()
            mlartifacts.filesystem("s3", endpoint_url=proxy.url, **options).ls(bucket)
            authorization = proxy.requests[0].headers.get("authorization")
            assert (authorization is None) if signed is None else f"={signed}/" in authorization


def test_a_changed_variable_takes_effect(moto_server, bucket, monkeypatch):
    uri = f"s3://{bucket}/x"
    with mlartifacts.open(uri, "wb") as file:
        file.write(b"x")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError):
        mlartifacts.open(uri).open()
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", moto_server.url)
    assert mlartifacts.open(uri).open().read() == b"x"


@pytest.mark.parametrize(
    "arguments", [{"Metadata": "x"}, {"SSECustomerKey": 31415926, "SSECustomerAlgorithm": "AES256"}]
)
def test_an_upload_argument_of_a_wrong_type(bucket, monkeypatch, arguments):
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", json.dumps(arguments))
    with pytest.raises(InvalidConfig, match=next(iter(arguments))) as caught:
        mlartifacts.filesystem("s3").pipe_file(f"{bucket}/x", b"x")
    assert "31415926" not in str(caught.value)


def test_each_request_has_only_the_arguments_that_it_knows(bucket, monkeypatch):
    """S3 takes an ``ACL`` for a new bucket too, but that is not what was set."""
    arguments = {"ACL": "public-read", "ChecksumSHA256": "x", "RequestPayer": "requester"}
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", json.dumps(arguments))
    fs = mlartifacts.filesystem("s3")
    fs.connect()
    asked = {
        name: set(fs._get_s3_method_kwargs(getattr(fs.s3, name), Key="x")) - {"Key"}
        for name in "put_object upload_part copy_object create_bucket get_object".split()
    }
    assert asked == {
        "put_object": {"ACL", "ChecksumSHA256", "RequestPayer"},
        "upload_part": {"RequestPayer"},
        "copy_object": {"ACL", "RequestPayer"},
        "create_bucket": set(),
        "get_object": {"RequestPayer"},
    }


def test_an_unknown_signature_version(bucket, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", "s3v99")
    with pytest.raises(InvalidConfig, match=r"SIGNATURE_VERSION.*s3v99"):
        mlartifacts.filesystem("s3").ls(bucket)


def test_an_endpoint_given_as_artifact_root(monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "https://minio.example")
    with pytest.raises(InvalidURI, match="--default-artifact-root"):
        mlartifacts.open("s3://minio.example/bucket/key").open()


# ---- Errors --------------------------------------------------------------------------------


def answer(code, status=400, message="Said so."):
    from botocore.exceptions import ClientError

    error = {"Error": {"Code": code, "Message": message}}
    return ClientError(error | {"ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize(
    ("code", "kind", "named"),
    [
        ("NoSuchKey", FileNotFoundError, "No such file"),
        ("NoSuchBucket", FileNotFoundError, "no bucket 'bucket'"),
        ("AccessDenied", PermissionError, "AWS_ACCESS_KEY_ID"),
        ("InvalidAccessKeyId", PermissionError, "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", PermissionError, "AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", PermissionError, "AWS_SESSION_TOKEN"),
        ("AuthorizationHeaderMalformed", PermissionError, "AWS_DEFAULT_REGION"),
        ("PermanentRedirect", OSError, "AWS_DEFAULT_REGION"),
        ("PreconditionFailed", FileExistsError, "File exists"),
        ("SlowDown", OSError, "overloaded"),
        ("KeyTooLongError", OSError, "too long"),
        ("MissingContentLength", OSError, "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
        ("NobodyKnows", OSError, "NobodyKnows: Said so"),
    ],
)
def test_answers_are_builtins(fs, code, kind, named):
    with pytest.raises(kind, match=named) as caught, fs._explaining("bucket/key"):
        raise answer(code)
    assert caught.value.filename == "bucket/key"
    assert caught.value.errno
    assert caught.value.__cause__.response["Error"]["Code"] == code


def test_an_older_server_that_knows_no_checksums(fs):
    message = "Unsupported header 'x-amz-checksum-crc32' received for this API call."
    with pytest.raises(OSError, match="when_required"), fs._explaining("bucket/key"):
        raise answer("InvalidArgument", message=message)


def test_a_changed_object_is_not_read_on(fs, bucket):
    fs.pipe_file(f"{bucket}/x", b"old" * 10**6)
    with fs.open(f"{bucket}/x") as file:
        file.read(10)
        fs.pipe_file(f"{bucket}/x", b"new" * 10**6)
        file.seek(2_000_000)
        with pytest.raises(OSError, match="changed") as caught:
            file.read(10)
    assert caught.value.errno == errno.ESTALE


def test_a_bucket_is_not_made_by_a_wrong_name(fs, bucket):
    fs.makedirs("never-made/folder", exist_ok=True)
    fs.mkdir("never-made/folder")
    assert not fs.exists("never-made")
    with pytest.raises(FileNotFoundError, match="never-made"):
        fs.pipe_file("never-made/folder/x", b"x")
    with pytest.raises(FileExistsError):
        fs.mkdir(bucket)


# ---- Servers that hang, cut or fall silent ---------------------------------------------------


@pytest.mark.parametrize("size", [1, 30 * 2**20], ids=["small", "large"])
def test_an_upload_that_nobody_takes_ends(bucket, monkeypatch, size):
    """s3fs waits for a ``100 Continue``, or for the last byte to be taken, for ever."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    with silent.hanging() as server:
        fs = mlartifacts.filesystem("s3", endpoint_url=server.url)
        with pytest.raises(TimeoutError) as caught:
            fs.pipe_file(f"{bucket}/x", b"x" * size)
        assert 0 < len(server.accepted) <= 4  # not as often as the driver does by itself
    assert caught.value.filename == f"{bucket}/x"


@pytest.mark.parametrize(
    "act",
    [
        lambda fs, at: fs.exists(f"{at}/x"),
        lambda fs, at: fs.find(at),
        lambda fs, at: fs.glob(f"{at}/*"),
        lambda fs, at: list(fs.walk(at)),
        lambda fs, at: fs.cat_file(f"{at}/x"),
        lambda fs, at: fs.du(at),
    ],
    ids="exists find glob walk cat_file du".split(),
)
def test_silence_is_a_timeout_and_no_answer(moto_server, bucket, monkeypatch, act):
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    with tcp_proxy.proxied(moto_server.url) as proxy:
        fs = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        proxy.swallow = True
        with pytest.raises(TimeoutError, match="MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT") as caught:
            act(fs, bucket)
    assert caught.value.filename.startswith(bucket)


@pytest.mark.parametrize(
    ("act", "most"),
    [
        (lambda fs, at, here: mlartifacts.copy(f"s3://{at}/tree", f"s3://{at}/copy"), 20),
        (lambda fs, at, here: mlartifacts.upload(here, f"s3://{at}/new"), 32),
        (lambda fs, at, here: mlartifacts.download(f"s3://{at}/tree", here / "back"), 32),
        (lambda fs, at, here: fs.cp(f"{at}/tree", f"{at}/copy", recursive=True), 20),
        (lambda fs, at, here: fs.cat([f"{at}/tree/{n}" for n in range(40)]), 20),
        (lambda fs, at, here: fs.rm([f"{at}/tree/{n}" for n in range(40)]), 1),
    ],
    ids="copy upload download cp cat rm".split(),
)
def test_a_server_that_falls_silent_is_waited_for_once(
    moto_server, fs, bucket, monkeypatch, tmp_path, act, most
):
    """By those that were on their way then; a client has ten connections.

    As many again may follow them: another was answered a moment after they had begun.
    """
    fs.pipe({f"{bucket}/tree/{number}": b"x" for number in range(40)})
    for number in range(40):
        (tmp_path / str(number)).write_bytes(b"x")
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    held, is_over = [], threading.Event()

    def answer(request):
        if re.search(r"/(tree|new|copy)/\d|\?delete", request.path):
            held.append(request)
            is_over.wait(30)

    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = answer
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        try:
            with pytest.raises(OSError, match="no answer in time"):
                act(mlartifacts.filesystem("s3"), bucket, tmp_path)
            assert 0 < len(held) <= most
        finally:
            is_over.set()


def reads(fs, path, size):
    def by_pieces():
        with fs.open(path) as file:
            return b"".join(iter(lambda: file.read(100_000), b""))

    return [lambda: fs.cat_file(path), lambda: fs.open(path).read(), by_pieces]


def test_a_broken_answer_is_read_on_where_it_broke(moto_server, fs, bucket):
    data = random.Random(3).randbytes(6 * 2**20)
    fs.pipe_file(f"{bucket}/x", data)
    with tcp_proxy.proxied(moto_server.url) as proxy:
        cut = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        for read in reads(cut, f"{bucket}/x", len(data)):
            proxy.reset()
            proxy.cut_after = 2 * 2**20
            assert read() == data
            assert proxy.cuts == 1
            assert proxy.bytes_to_client < 10 * 2**20  # not all of it again


@pytest.mark.parametrize(
    "act",
    [
        lambda fs, at, here: fs.find(at),
        lambda fs, at, here: mlartifacts.delete(f"s3://{at}", dry_run=True),
        lambda fs, at, here: mlartifacts.download(f"s3://{at}", here, exclude="*"),
    ],
    ids="find delete download".split(),
)
def test_a_listing_on_a_slow_line_is_no_silence(
    moto_server, fs, bucket, monkeypatch, tmp_path, act
):
    fs.pipe({f"{bucket}/{number}{'x' * 900}": b"" for number in range(110)})
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    with tcp_proxy.proxied(moto_server.url) as proxy:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.url)
        proxy.rate = 100_000
        act(mlartifacts.filesystem("s3"), bucket, tmp_path)
        assert proxy.bytes_to_client > proxy.rate  # more than comes in the time


def test_an_answer_that_stops_is_a_timeout(moto_server, fs, bucket, monkeypatch):
    fs.pipe_file(f"{bucket}/x", b"x" * 30 * 2**20)
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    with tcp_proxy.proxied(moto_server.url) as proxy:
        stopped = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        for read in reads(stopped, f"{bucket}/x", 0):
            proxy.reset()
            proxy.swallow_after = 2**20
            with pytest.raises(TimeoutError) as caught:
                read()
            assert caught.value.filename == f"{bucket}/x"
            assert proxy.swallow
            assert proxy.methods().count("GET") == 1  # it is waited for once


# ---- Pages, where a network wants a login -----------------------------------------------------

PAGES = {
    "html": b"<!DOCTYPE html><html><head><title>Log in</title></head><br></html>",
    "xhtml": b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>',
    "json": b'{"login": "required"}',
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_no_answer(front, bucket, page, tmp_path):
    fs, at = mlartifacts.filesystem("s3"), f"s3://{bucket}"
    (tmp_path / "x").write_bytes(b"new")
    fs.pipe({f"{bucket}/x": b"old", f"{bucket}/tree/y": b"old"})
    front.answer = lambda request: reverse_proxy.Answer(
        200, PAGES[page], {"Content-Type": "text/html"}
    )
    for act in (
        lambda: fs.info(bucket),
        lambda: fs.info(f"{bucket}/x"),
        lambda: fs.exists(f"{bucket}/x"),
        lambda: fs.isdir(f"{bucket}/tree"),
        lambda: fs.ls(bucket),
        lambda: fs.ls(f"{bucket}/tree"),
        lambda: fs.find(f"{bucket}/tree"),
        lambda: fs.cat_file(f"{bucket}/x"),
        lambda: fs.open(f"{bucket}/x"),
        lambda: fs.pipe_file(f"{bucket}/x", b"new"),
        lambda: fs.pipe_file(f"{bucket}/x", b"x" * 11 * 2**20, chunksize=5 * 2**20),
        lambda: fs.touch(f"{bucket}/x"),
        lambda: fs.cp_file(f"{bucket}/x", f"{bucket}/z"),
        lambda: fs.cp_listed(f"{bucket}/x", f"{bucket}/z", 3, None),
        lambda: fs.rm_file(f"{bucket}/x"),
        lambda: fs.rm(f"{bucket}/tree", recursive=True),
        lambda: fs.rm_listed([f"{bucket}/x"]),
        lambda: fs.rm_listed([f"{bucket}/x", f"{bucket}/tree/y"]),
        lambda: fs.mv(f"{bucket}/x", f"{bucket}/z"),
        lambda: mlartifacts.upload(tmp_path / "x", f"{at}/x"),
        lambda: mlartifacts.download(f"{at}/x", tmp_path / "back"),
        lambda: mlartifacts.delete(f"{at}/tree"),
        lambda: mlartifacts.sync(tmp_path, f"{at}/tree", delete=True),
    ):
        with pytest.raises(OSError, match="no S3 store answered") as caught:
            act()
        assert caught.value.errno == errno.EPROTO
        assert caught.value.filename.startswith(bucket)
    assert not front.waits
    front.answer = lambda request: None
    assert fs.cat(fs.find(bucket)) == {f"{bucket}/x": b"old", f"{bucket}/tree/y": b"old"}


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("method", ["PUT", "POST", "GET", "DELETE"])
def test_a_page_amid_a_transfer_is_no_answer(front, bucket, fs, tmp_path, method, status):
    data = b"x" * 11 * 2**20
    (tmp_path / "large").write_bytes(data)
    (tmp_path / "small").write_bytes(b"new")
    fs.pipe({f"{bucket}/tree/large": data, f"{bucket}/tree/small": b"old"})

    def answer(request):
        if request.method == method and "/tree/" in request.path:
            return reverse_proxy.Answer(status, PAGES["html"], {"Content-Type": "text/html"})
        return None

    front.answer = answer
    away = mlartifacts.filesystem("s3")
    act = {
        "GET": lambda: mlartifacts.download(f"s3://{bucket}/tree", tmp_path / "back"),
        "DELETE": lambda: away.rm(f"{bucket}/tree/small"),
    }.get(method, lambda: mlartifacts.upload(tmp_path, f"s3://{bucket}/tree"))
    with pytest.raises(OSError, match="no S3 store answered") as caught:
        act()
    failures = getattr(caught.value, "failures", {"": caught.value})
    assert all(each.errno == errno.EPROTO for each in failures.values())
    front.answer = lambda request: None
    expected = b"new" if method == "POST" else b"old"  # which the large file alone is sent by
    assert fs.cat_file(f"{bucket}/tree/small") == expected


# ---- Servers that redirect ---------------------------------------------------------------------

ELSEWHERE = {
    "ls": lambda fs, bucket, here: fs.ls(f"{bucket}/tree"),
    "info": lambda fs, bucket, here: fs.info(f"{bucket}/x"),
    "cat_file": lambda fs, bucket, here: fs.cat_file(f"{bucket}/x"),
    "pipe_file": lambda fs, bucket, here: fs.pipe_file(f"{bucket}/x", b"x"),
    "upload": lambda fs, bucket, here: mlartifacts.upload(here, f"s3://{bucket}/x"),
    "download": lambda fs, bucket, here: mlartifacts.download(f"s3://{bucket}/x", here),
}


def redirecting(front, url):
    front.answer = lambda request: reverse_proxy.Answer(307, b"", {"Location": url + request.path})


@pytest.mark.parametrize("act", ELSEWHERE)
def test_the_server_that_refuses_is_named(front, bucket, moto_server, tmp_path, act):
    (tmp_path / "x").write_bytes(b"x")
    with reverse_proxy.serve(moto_server.url) as other:
        redirecting(front, other.url)
        body = b"<Error><Code>AccessDenied</Code><Message>Go away.</Message></Error>"
        other.answer = lambda request: reverse_proxy.Answer(403, body)
        with pytest.raises(OSError, match=f"{other.port}, to which the server redirects, says"):
            ELSEWHERE[act](mlartifacts.filesystem("s3"), bucket, tmp_path / "x")
    with silent.refusing() as port:
        redirecting(front, f"http://127.0.0.1:{port}")
        with pytest.raises(OSError, match=f"{port}, to which the server redirects, cannot be"):
            ELSEWHERE[act](mlartifacts.filesystem("s3"), bucket, tmp_path / "x")


def test_transfers_follow_where_the_server_redirects(front, bucket, moto_server, fs, tmp_path):
    """obstore does not, with a body."""
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(b"x" * 9 * 2**20)

    def answer(request):
        is_file = request.method == "PUT" and "botocore" not in request.headers.get(
            "User-Agent", ""
        )
        there = {"Location": moto_server.url + request.path}
        return reverse_proxy.Answer(307, b"", there) if is_file else None

    front.answer = answer
    mlartifacts.upload(tmp_path, f"s3://{bucket}/tree")
    sizes = {f"{bucket}/tree/large": 9 * 2**20, f"{bucket}/tree/small": 1}
    assert fs.du(f"{bucket}/tree", total=False) == sizes


# ---- Servers that are busy, and lines that damage ---------------------------------------------


@pytest.fixture
def front(moto_server, bucket, monkeypatch):
    """What stands before the server; nobody waits for a next try."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("mlartifacts.stores.s3.asking.sleep", sleep)
    with reverse_proxy.serve(moto_server.url) as front:
        front.waits = waits
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        yield front


def busy(status, headers, times, code=None):
    """Refuse each request so many times."""
    asked = collections.Counter()

    def refuse(request):
        asked[request.method, request.path] += 1
        if asked[request.method, request.path] > times:
            return None
        body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
        return reverse_proxy.Answer(status, body, headers)

    return refuse


@pytest.mark.parametrize(
    ("refuse", "waits"),
    [
        (busy(429, {"Retry-After": "3"}, 1), {3.0}),
        (busy(503, {"Retry-After": "1"}, 2), {1.0}),
        (busy(503, {}, 3, "SlowDown"), None),
        (busy(500, {}, 2, "InternalError"), None),
    ],
    ids=["429", "503", "SlowDown", "500"],
)
def test_a_busy_server_is_waited_for(front, bucket, refuse, waits):
    fs = mlartifacts.filesystem("s3")
    front.answer = refuse
    fs.pipe_file(f"{bucket}/tree/x", b"x" * 11 * 2**20, chunksize=5 * 2**20)
    assert fs.find(bucket) == [f"{bucket}/tree/x"]
    assert fs.cat_file(f"{bucket}/tree/x", start=-1) == b"x"
    fs.rm(f"{bucket}/tree", recursive=True)
    assert front.waits
    assert waits in (None, set(front.waits))


def test_a_busy_server_is_not_waited_for_longer_than_is_allowed(front, bucket, monkeypatch):
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "5")
    front.answer = busy(429, {"Retry-After": "3"}, 9)
    with pytest.raises(OSError, match="overloaded") as caught:
        mlartifacts.filesystem("s3").ls(bucket)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, bucket)
    assert front.waits == [3.0]


@pytest.mark.parametrize("variable", [None, "AWS_SHARED_CREDENTIALS_FILE"])
def test_renewed_credentials_take_effect_at_the_next_open(
    front, bucket, tmp_path, monkeypatch, variable
):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = Path.home() / ".aws" / "credentials"
    if variable:
        file = tmp_path / "credentials"
        monkeypatch.setenv(variable, str(file))
    file.parent.mkdir(exist_ok=True)
    for key in ("OLD", "NEW"):
        file.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=x\n")
        front.requests.clear()
        mlartifacts.filesystem("s3").exists(f"{bucket}/x")
        assert f"Credential={key}/" in front.requests[-1].headers["Authorization"]


def test_a_session_of_the_callers_stays_as_it_was(bucket, moto_server):
    session = get_session()
    factory = session.get_component("response_parser_factory")
    fs = mlartifacts.filesystem("s3", session=session)
    fs.pipe_file(f"{bucket}/x", b"x")
    assert fs.ls(bucket, detail=False) == [f"{bucket}/x"]
    assert session.get_component("response_parser_factory") is factory
    assert "create_parser" not in vars(factory)


def test_a_server_that_knows_no_conditions(front, bucket):
    """Backblaze's say so; what is there was looked for before."""
    fs = mlartifacts.filesystem("s3")
    said = b"<Error><Code>NotImplemented</Code></Error>"
    front.answer = lambda request: (
        reverse_proxy.Answer(501, said)
        if any(name.lower() == "if-none-match" for name in request.headers)
        else None
    )
    for name, size in (("small", 3), ("large", 11 * 2**20), ("empty", 0)):
        with fs.open(f"{bucket}/{name}", "xb", block_size=5 * 2**20) as file:
            file.write(bytes(size))
        assert fs.size(f"{bucket}/{name}") == size
        with pytest.raises(FileExistsError):
            fs.open(f"{bucket}/{name}", "xb")


@pytest.mark.parametrize("by", ["option", "variable"])
def test_who_asks_pays_for_each_request(front, bucket, tmp_path, monkeypatch, by):
    options = {"requester_pays": True} if by == "option" else {}
    if by == "variable":
        payer = json.dumps({"RequestPayer": "requester"})
        monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", payer)
    unpaid = []

    def answer(request):
        headers = {name.lower(): value for name, value in request.headers.items()}
        is_upload = request.method in {"PUT", "POST"} and "delete" not in request.path
        if (by == "option" or is_upload) and headers.get("x-amz-request-payer") != "requester":
            unpaid.append((request.method, request.path))

    front.answer = answer
    fs = mlartifacts.filesystem("s3", **options)
    uri, here = f"s3://{bucket}/tree", tmp_path / "here"
    here.mkdir()
    for name, size in (("small", 10), ("large", 11 * 2**20)):
        (here / name).write_bytes(bytes(size))
        for mode in ("wb", "ab"):
            with fs.open(f"{bucket}/tree/{name}", mode, block_size=5 * 2**20) as file:
                file.write(bytes(size))
        with mlartifacts.open(f"{uri}/{name}", **options) as file:
            assert file.read() == bytes(2 * size)
    mlartifacts.upload(here, uri, **options)
    mlartifacts.copy(uri, f"{uri}2", source_options=options, target_options=options)
    mlartifacts.download(uri, tmp_path / "there", **options)
    fs.rm(f"{bucket}/tree", recursive=True)
    assert unpaid == []


@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_a_write_that_is_open_when_the_interpreter_ends(
    kind, bucket, moto_server, gcs_emulator, monkeypatch
):
    """What was sent of it is removed, while there is a session for it."""
    uri = f"s3://{bucket}/x"
    if kind == "gcs":
        for name, value in gcs_emulator.env.items():
            monkeypatch.setenv(name, value)
        uri = f"gs://{gcs_emulator.new_bucket()}/x"
    code = f"import mlartifacts; f = mlartifacts.open({uri!r}, 'wb').open(); f.write(bytes(2**26))"
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Remains" not in done.stderr
    assert "Error" not in done.stderr
    assert kind == "gcs" or moto_server.uploads(bucket) == []


def test_servers_that_want_an_md5_of_what_is_deleted(front, bucket):
    def answer(request):
        if request.method == "POST" and "delete" in request.path:
            made = {n.lower(): value for n, value in request.headers.items()}.get("content-md5")
            if made != base64.b64encode(hashlib.md5(request.begin).digest()).decode():
                return reverse_proxy.Answer(400, b"<Error><Code>MissingContentMD5</Code></Error>")
        return None

    front.answer = answer
    fs = mlartifacts.filesystem("s3")
    for act in (
        lambda: fs.rm(f"{bucket}/tree", recursive=True),
        lambda: fs.rm([f"{bucket}/tree/a", f"{bucket}/tree/b"]),
        lambda: mlartifacts.delete(f"s3://{bucket}/tree"),
    ):
        fs.pipe({f"{bucket}/tree/a": b"", f"{bucket}/tree/b": b""})
        act()
        assert fs.find(bucket) == []


def test_many_files_are_deleted_together(front, bucket, monkeypatch):
    monkeypatch.setattr("mlartifacts.stores.s3.filesystem.DELETED_AT_ONCE", 20)
    fs = mlartifacts.filesystem("s3")
    names = [f"{bucket}/many/{number}" for number in range(30)]
    fs.pipe(dict.fromkeys(names, b""))
    front.requests.clear()
    fs.rm([*names[1:], f"{bucket}/many/missing"])
    assert [request.method for request in front.requests] == ["POST", "POST"]
    assert fs.find(bucket) == [names[0]]


def test_parts_are_of_equal_sizes(front, bucket, tmp_path):
    """All but the last: Cloudflare's R2 refuses others, also where it is called ``s3:``."""
    sent = []

    def answer(request):
        if request.method == "PUT" and "partNumber=" in request.path:
            headers = {name.lower(): value for name, value in request.headers.items()}
            size = headers.get("x-amz-decoded-content-length") or headers["content-length"]
            number = re.search(r"partNumber=(\d+)", request.path)[1]
            sent.append((int(number), int(size)))

    front.answer = answer
    fs = mlartifacts.filesystem("s3")

    def written():
        with fs.open(f"{bucket}/x", "wb", block_size=5 * 2**20) as file:
            for size in (1, 7_000_000, 13_000_000, 3, 6_000_000):
                file.write(bytes(size))

    (tmp_path / "x").write_bytes(bytes(23_000_000))
    for act in (
        written,
        lambda: fs.pipe_file(f"{bucket}/x", bytes(23_000_000), chunksize=5 * 2**20),
        lambda: fs.put_file(str(tmp_path / "x"), f"{bucket}/x", chunksize=5 * 2**20),
        lambda: mlartifacts.upload(tmp_path / "x", f"s3://{bucket}/x"),
    ):
        sent.clear()
        act()
        sizes = [size for _, size in sorted(sent)]
        assert len(sizes) > 1
        assert len({*sizes[:-1]}) == 1
        assert all(last <= first for first, last in zip(sizes[:1], sizes[-1:], strict=True))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_for_seconds(front, bucket, status):
    """Each kind of failure is waited for, and as long as by s3fs."""
    front.answer = busy(status, {}, 9)
    for act in (lambda fs: fs.cat_file(f"{bucket}/x"), lambda fs: fs.info(f"{bucket}/x")):
        front.waits.clear()
        with pytest.raises(OSError, match=re.escape(bucket)) as caught:
            act(mlartifacts.filesystem("s3"))
        assert caught.value.errno == (errno.EIO if status == 500 else errno.EBUSY)
        longest = [0.5, 1, 2, 4]
        assert all(m / 2 <= wait <= m for wait, m in zip(front.waits, longest, strict=True))


def test_transfers_leave_a_busy_server_to_who_waits(front, bucket, fs, tmp_path):
    """obstore does not heed what a server says of when to come again."""
    here, back = tmp_path / "here", tmp_path / "back"
    here.mkdir()
    (here / "large").write_bytes(b"x" * 10 * 2**20)
    (here / "small").write_bytes(b"x")
    refuse = busy(429, {"Retry-After": "3"}, 1)
    never = busy(429, {"Retry-After": "3"}, math.inf)

    def answer(request):
        return (refuse if "botocore" in request.headers.get("User-Agent", "") else never)(request)

    front.answer = answer
    mlartifacts.upload(here, f"s3://{bucket}/tree")
    sizes = {f"{bucket}/tree/large": 10 * 2**20, f"{bucket}/tree/small": 1}
    assert fs.du(f"{bucket}/tree", total=False) == sizes
    mlartifacts.download(f"s3://{bucket}/tree", back)
    assert {path.name for path in back.iterdir()} == {"large", "small"}
    assert set(front.waits) == {3.0}


def by_open(fs, path, data):
    with fs.open(path, "wb", block_size=5 * 2**20) as file:
        file.write(data)


def by_put(fs, path, data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        fs.put_file(file.name, path, chunksize=5 * 2**20)


@pytest.mark.parametrize("size", [0, 11 * 2**20], ids=["small", "large"])
@pytest.mark.parametrize(
    "write",
    [by_open, by_put, lambda fs, path, data: fs.pipe_file(path, data, chunksize=5 * 2**20)],
    ids=["open", "put_file", "pipe_file"],
)
def test_what_a_line_damages_is_not_taken(front, bucket, write, size):
    """moto heeds no checksum that it is sent."""
    fs, path = mlartifacts.filesystem("s3"), f"{bucket}/x"
    data = b"x" * size + b"a mark"
    fs.pipe_file(path, b"old")
    front.damage = lambda body: body.replace(b"a mark", b"a mArk")
    with pytest.raises(OSError, match="other bytes arrived") as caught:
        write(fs, path, data)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, path)
    # An object that was written at once took the old one's place.
    assert fs.find(bucket) == ([path] if size else [])
    damaged = []

    def once(body):
        if b"a mark" in body and not damaged:
            damaged.append(body)
            return b"?" * len(body)
        return body

    front.damage = once
    write(fs, path, data)
    assert damaged
    front.damage = bytes
    assert fs.cat_file(path) == data


def test_a_damaged_write_leaves_the_version_before(moto_server, front, bucket):
    fs, path = mlartifacts.filesystem("s3"), f"{bucket}/x"
    fs.make_bucket_versioned(bucket)
    fs.pipe_file(path, b"old")
    front.damage = lambda body: body.replace(b"a mark", b"a mArk")
    with pytest.raises(OSError, match="other bytes arrived"):
        fs.pipe_file(path, b"a mark")
    assert fs.cat_file(path) == b"old"


@pytest.mark.parametrize(
    ("headers", "is_one"),
    [
        ({}, True),
        ({"x-amz-server-side-encryption": "AES256"}, True),
        ({"x-amz-server-side-encryption": "aws:kms"}, False),
        ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, False),
    ],
    ids=["plain", "AES256", "kms", "customer"],
)
def test_an_etag_of_an_encrypted_object_is_no_md5(front, bucket, headers, is_one):
    headers = {"ETag": f'"{"0" * 32}"', **headers}
    front.answer = lambda request: (
        reverse_proxy.Answer(headers=headers) if request.method == "PUT" else None
    )
    fs = mlartifacts.filesystem("s3")
    with pytest.raises(OSError, match="MD5") if is_one else contextlib.nullcontext():
        fs.pipe_file(f"{bucket}/x", b"x")


# ---- Uploads and copies ----------------------------------------------------------------------


def test_a_cancelled_upload_leaves_nothing(moto_server, bucket):
    """It is how ``put`` ends the others where one of its files fails."""

    async def cancel():
        fs = mlartifacts.filesystem("s3", asynchronous=True, endpoint_url=proxy.url)
        data = b"x" * 12 * 2**20
        task = asyncio.ensure_future(fs._pipe_file(f"{bucket}/x", data, chunksize=5 * 2**20))
        await asyncio.to_thread(wait_until, lambda: "PUT" in proxy.methods(), "a part")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = await fs._list_multipart_uploads(bucket)
        await (await fs.set_session()).close()
        return left

    with tcp_proxy.proxied(moto_server.url) as proxy:
        assert asyncio.run(cancel()) == []
        assert "POST" in proxy.methods()
        # moto fails now and then where a part still arrives; then s3fs asks again.
        aborts = [each.status for each in proxy.requests if each.method == "DELETE"]
        assert [status for status in aborts if status != 500] == [204]


@pytest.mark.parametrize(
    "act",
    [
        lambda fs, at: fs._pipe_file(f"{at}/new", b"x" * 11 * 2**20, chunksize=5 * 2**20),
        lambda fs, at: fs._cp_file(f"{at}/old", f"{at}/new"),
    ],
    ids=["write", "copy"],
)
def test_an_upload_that_is_cancelled_while_it_begins_is_aborted(
    moto_server, fs, bucket, monkeypatch, act
):
    """Its id, which it is aborted by, comes only then."""
    monkeypatch.setattr("mlartifacts.stores.s3.driver._COPIED_AT_ONCE", 0)
    fs.pipe_file(f"{bucket}/old", b"old")
    is_asked, is_cancelled = threading.Event(), threading.Event()

    def answer(request):
        if request.method == "POST" and request.path.endswith("?uploads"):
            is_asked.set()
            is_cancelled.wait(20)

    async def cancel():
        fs = mlartifacts.filesystem("s3", asynchronous=True, endpoint_url=front.url)
        task = asyncio.ensure_future(act(fs, bucket))
        assert await asyncio.to_thread(is_asked.wait, 20)
        task.cancel()
        asyncio.get_running_loop().call_soon(is_cancelled.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        await (await fs.set_session()).close()

    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = answer
        asyncio.run(cancel())
        assert len(front.asked("DELETE", f"/{bucket}/new?uploadId=")) == 1
    assert moto_server.uploads(bucket) == []
    assert fs.ls(bucket) == [f"{bucket}/old"]


def test_a_large_copy_keeps_what_the_source_is(fs, bucket, monkeypatch):
    monkeypatch.setattr("mlartifacts.stores.s3.driver._COPIED_AT_ONCE", 2**20)
    data = random.Random(4).randbytes(11 * 2**20)
    source = f"{bucket}/a b?versionId=1#%41.bin"
    fs.pipe_file(source, data, ContentType="x/y", Metadata={"made-by": "me"})
    fs.cp_file(source, f"{bucket}/copy.csv", block=5 * 2**20)
    assert fs.cat_file(f"{bucket}/copy.csv") == data
    head = fs.call_s3("head_object", Bucket=bucket, Key="copy.csv")
    assert (head["ContentType"], head["Metadata"]) == ("x/y", {"made-by": "me"})


@pytest.mark.parametrize("most", [None, 0], ids=["at-once", "in-parts"])
def test_a_copy_to_a_bucket_that_is_not_there(front, bucket, monkeypatch, most):
    if most is not None:
        monkeypatch.setattr("mlartifacts.stores.s3.driver._COPIED_AT_ONCE", most)
    fs = mlartifacts.filesystem("s3")
    fs.pipe_file(f"{bucket}/x", b"x")
    with pytest.raises(FileNotFoundError, match="no bucket 'away-from-here'") as caught:
        fs.cp_file(f"{bucket}/x", "away-from-here/x")
    assert caught.value.filename == "away-from-here/x"
    assert sum("/away-from-here/" in request.path for request in front.requests) == 1


def test_a_failed_large_copy_leaves_nothing(fs, bucket, monkeypatch):
    monkeypatch.setattr("mlartifacts.stores.s3.driver._COPIED_AT_ONCE", 2**20)
    fs.pipe_file(f"{bucket}/x", b"x" * 6 * 2**20)
    call = fs._call_s3

    async def fail(method, *args, **kwargs):
        if method == "upload_part_copy":
            raise ConnectionResetError(errno.ECONNRESET, "cut", kwargs["Key"])
        return await call(method, *args, **kwargs)

    monkeypatch.setattr(fs, "_call_s3", fail)
    with pytest.raises(ConnectionResetError):
        fs.cp_file(f"{bucket}/x", f"{bucket}/copy")
    assert fs.list_multipart_uploads(bucket) == []
    assert not fs.exists(f"{bucket}/copy")


def test_exclusive_writes_and_puts(fs, bucket, tmp_path):
    (tmp_path / "x").write_bytes(b"new")
    fs.pipe_file(f"{bucket}/x", b"old")
    for write in (
        lambda: fs.pipe_file(f"{bucket}/x", b"", mode="create"),
        lambda: fs.put_file(str(tmp_path / "x"), f"{bucket}/x", mode="create"),
        lambda: fs.open(f"{bucket}/x", "xb"),
    ):
        with pytest.raises(FileExistsError) as caught:
            write()
        assert caught.value.filename == f"{bucket}/x"
    file = fs.open(f"{bucket}/late", "xb")
    file.write(b"mine")
    fs.pipe_file(f"{bucket}/late", b"theirs")
    with pytest.raises(FileExistsError):
        file.close()
    assert fs.cat_file(f"{bucket}/late") == b"theirs"


def test_a_file_of_a_directorys_name_is_deleted_with_it(fs, bucket):
    fs.pipe({f"{bucket}/a": b"file", f"{bucket}/a/b": b"below", f"{bucket}/ab": b"sibling"})
    fs.rm(f"{bucket}/a", recursive=True)
    assert fs.find(bucket) == [f"{bucket}/ab"]


def test_another_clients_write_is_seen(moto_server, fs, bucket):
    assert fs.ls(bucket) == fs.find(bucket) == []
    assert not fs.exists(f"{bucket}/x")
    moto_server.request("PUT", f"/{bucket}/x", b"x")
    assert fs.ls(bucket) == fs.find(bucket) == [f"{bucket}/x"]
    moto_server.request("PUT", f"/{bucket}/x", b"longer")
    assert fs.info(f"{bucket}/x")["size"] == 6
    assert fs.open(f"{bucket}/x").read() == b"longer"


# ---- What is asked of the server -----------------------------------------------------------


def raw_and_ours(server: moto.Moto, proxy):
    import s3fs

    options = {"endpoint_url": proxy.url, "key": server.key, "secret": server.secret}
    raw = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
    return raw, mlartifacts.filesystem("s3", endpoint_url=proxy.url)


def ls_of_nothing(fs, path):
    with pytest.raises(FileNotFoundError):
        fs.ls(path)


def piecewise(file, size):
    with file:
        while file.read(size):
            pass


@pytest.fixture(scope="module")
def counted(moto_server):
    """A bucket with files, for tests that change none of them."""
    bucket = moto_server.new_root().removeprefix("s3://")
    files = {f"folder/{number:03}": b"x" for number in range(3)}
    for name, data in {**files, "large": b"x" * 2**21, "larger": b"x" * 2**26}.items():
        moto_server.request("PUT", f"/{bucket}/{name}", data)
    return bucket


@pytest.mark.parametrize(
    "act",
    [
        lambda fs, at: fs.ls(f"{at}/folder", detail=True),
        lambda fs, at: fs.info(f"{at}/folder/001"),
        lambda fs, at: fs.exists(f"{at}/folder/001"),
        lambda fs, at: fs.isdir(f"{at}/folder"),
        lambda fs, at: fs.find(at),
        lambda fs, at: fs.cat_file(f"{at}/folder/001"),
        lambda fs, at: fs.cat_file(f"{at}/large", start=5, end=10),
        lambda fs, at: fs.open(f"{at}/large").read(),
        lambda fs, at: piecewise(fs.open(f"{at}/large"), 2**16),
        lambda fs, at: piecewise(fs.open(f"{at}/larger"), 2**20),
        lambda fs, at: piecewise(fs.open(f"{at}/folder/001"), 2**13),
        lambda fs, at: fs.ls(f"{at}/folder/001"),
        lambda fs, at: ls_of_nothing(fs, f"{at}/missing"),
        lambda fs, at: fs.pipe_file(f"{at}/new", b"x"),
        lambda fs, at: fs.cp_file(f"{at}/folder/001", f"{at}/new"),
        lambda fs, at: fs.rm(f"{at}/gone", recursive=True),
    ],
    ids=(
        "ls info exists isdir find cat_file range read sequence long-sequence short-sequence"
        " ls-file ls-missing pipe_file cp_file rm-tree"
    ).split(),
)
def test_no_request_more_than_the_driver(moto_server, counted, fs, act):
    with tcp_proxy.proxied(moto_server.url) as proxy:
        counts = []
        for each in raw_and_ours(moto_server, proxy):
            fs.pipe({f"{counted}/gone/{number}": b"x" for number in range(3)})
            each.connect()
            before = len(proxy.requests)
            act(each, counted)
            counts.append([str(request) for request in proxy.requests[before:]])
    raw, ours = counts
    assert 0 < len(ours) <= len(raw), (ours, raw)


def test_a_jump_fetches_little(moto_server, bucket, fs):
    size = 20 * 2**20
    fs.pipe_file(f"{bucket}/large", random.Random(5).randbytes(size))
    with tcp_proxy.proxied(moto_server.url) as proxy:
        jumping = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        with jumping.open(f"{bucket}/large") as file:
            file.seek(size // 2)
            assert len(file.read(1024)) == 1024
        assert proxy.bytes_to_client < 2**16


def test_a_header_fetches_little(moto_server, bucket, fs):
    """safetensors: the length of the header, the header, and then a tensor somewhere."""
    size = 64 * 2**20
    fs.pipe_file(f"{bucket}/large", random.Random(6).randbytes(size))
    with tcp_proxy.proxied(moto_server.url) as proxy:
        reader = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        with reader.open(f"{bucket}/large") as file:
            file.read(8)
            file.read(10_000)
            file.seek(size // 2)
            file.read(100_000)
        assert sum(request.received for request in proxy.requests) < 8 * 2**20


def test_many_sequences_at_once_do_not_starve_each_other(fs, bucket):
    """Each has an answer under way, and a client has ten connections."""
    data = random.Random(7).randbytes(3 * 2**20)
    fs.pipe({f"{bucket}/{number}": data for number in range(25)})
    files = [fs.open(f"{bucket}/{number}") for number in range(25)]
    for start in range(0, len(data), 2**19):
        assert all(file.read(2**19) == data[start : start + 2**19] for file in files)
    assert len(fs.waiting) <= 4
    for file in files:
        file.close()


def test_a_closed_file_lets_go_of_its_answer(fs, bucket):
    fs.pipe_file(f"{bucket}/x", b"x" * 2**23)
    with fs.open(f"{bucket}/x") as file:
        file.read(100)
        assert not fs.waiting  # who reads the head may want nothing else
        file.read(2**14)
        assert len(fs.waiting) == 1
    wait_until(lambda: not fs.waiting, "the end of the answer")


def test_nothing_is_got_outside_of_its_target(moto_server, fs, bucket, tmp_path):
    """A key is only a name, also where it has steps of dots."""
    for folder in ("tree", "tree[1]"):
        for name in (f"{folder}/good", f"{folder}/../../evil"):
            moto_server.request("PUT", f"/{bucket}/{name}", b"x")
        target = tmp_path / "x" / "y" / folder
        with pytest.raises(ValueError, match="outside"):
            fs.get(f"{bucket}/{folder}", str(target), recursive=True)
        assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("secret", ["begins with b".replace(" ", "-"), "Bearer", "plain"])
def test_no_letter_of_a_secret_is_logged(secret):
    record = logging.LogRecord(
        "botocore.parsers",
        logging.DEBUG,
        "",
        0,
        "<SecretAccessKey>%s</SecretAccessKey>",
        (secret,),
        None,
    )
    hide_secrets()
    for each in logging.getLogger("botocore.parsers").filters:
        assert each(record)
    assert record.getMessage() == "<SecretAccessKey><hidden></SecretAccessKey>"


def test_a_write_that_is_abandoned_on_the_drivers_thread(moto_server, fs, bucket):
    """As one in a cycle can be, which is collected anywhere; it cannot wait there for itself."""
    writer = fs.open(f"{bucket}/large", "wb", block_size=5 * 2**20)
    writer.write(bytes(6 * 2**20))
    assert moto_server.uploads(bucket)
    fs.loop.call_soon_threadsafe(writer.abandon)
    wait_until(lambda: not moto_server.uploads(bucket), "the end of the upload")
    assert not fs.exists(f"{bucket}/large")
