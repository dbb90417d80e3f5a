"""S3: which settings reach the driver, and what of the driver's is mended."""

from __future__ import annotations

import json
import pickle
import random

import pytest

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.stores.s3 import STORE
from mlartifacts.uri import parse
from tests.servers import moto, tcp_proxy

BASE = {
    "default_cache_type": "proportional",
    "use_listings_cache": False,
    "config_kwargs": {"retries": {"total_max_attempts": 2, "mode": "standard"}},
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
    b2 = located("b2://bucket@s3.us-west-004.backblazeb2.com/k", MLFLOW_S3_ENDPOINT_URL="http://x")
    assert b2.options["endpoint_url"] == "https://s3.us-west-004.backblazeb2.com"
    assert b2.options["config_kwargs"]["s3"] == {"addressing_style": "path"}


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3:///key", "no bucket"),
        ("s3:/bucket/key", "no bucket"),
        ("s3://user:hunter2@bucket/key", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket:many/key", "endpoint"),
        ("s3://localhost:9000/bucket/key", "MLFLOW_S3_ENDPOINT_URL"),
        ("s3://bucket.s3.eu-west-1.amazonaws.com/key", "MLFLOW_S3_ENDPOINT_URL"),
        ("s3://s3.amazonaws.com/bucket/key", "MLFLOW_S3_ENDPOINT_URL"),
        ("r2://account.r2.cloudflarestorage.com/key", "r2://<bucket>@"),
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
        ({"MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "dns"}, "auto, path or virtual"),
        ({"MLFLOW_S3_ENDPOINT_URL": "s3://bucket/key"}, "MLFLOW_S3_ENDPOINT_URL.*unset"),
        ({"MLFLOW_S3_ENDPOINT_URL": "https://b.s3.us-east-1.amazonaws.com/k"}, "second time"),
        ({"MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "soon"}, "UPLOAD_DOWNLOAD_TIMEOUT"),
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


def test_more_than_a_page_is_deleted_and_no_sibling(fs, bucket):
    fs.pipe({f"{bucket}/many/{number:04}": b"" for number in range(1005)})
    fs.pipe({f"{bucket}/many-more": b"x", f"{bucket}/many.txt": b"x"})
    fs.rm(f"{bucket}/many", recursive=True)
    assert sorted(fs.find(bucket)) == [f"{bucket}/many-more", f"{bucket}/many.txt"]


def test_markers_of_directories_are_no_files(fs, bucket, moto_server):
    moto_server.request("PUT", f"/{bucket}/folder/", b"")
    moto_server.request("PUT", f"/{bucket}/folder/x", b"x")
    moto_server.request("PUT", f"/{bucket}/empty/", b"")
    assert fs.ls(f"{bucket}/folder", detail=False) == [f"{bucket}/folder/x"]
    assert fs.ls(f"{bucket}/empty") == []
    assert fs.isdir(f"{bucket}/empty")
    fs.rm(f"{bucket}/folder", recursive=True)
    assert not fs.exists(f"{bucket}/folder")


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


def test_secrets_of_the_environment_stay_there(fs):
    assert fs.storage_options == {}
    for shown in (repr(fs), fs.to_json(), repr(pickle.dumps(fs))):
        assert "testing-secret" not in shown


# ---- What is asked of the server -----------------------------------------------------------


def raw_and_ours(server: moto.Moto, proxy):
    import s3fs

    options = {"endpoint_url": proxy.url, "key": server.key, "secret": server.secret}
    raw = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
    return raw, mlartifacts.filesystem("s3", endpoint_url=proxy.url)


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
        lambda fs, at: fs.pipe_file(f"{at}/new", b"x"),
        lambda fs, at: fs.cp_file(f"{at}/folder/001", f"{at}/new"),
        lambda fs, at: fs.rm(f"{at}/gone", recursive=True),
    ],
    ids="ls info exists isdir find cat_file range read pipe_file cp_file rm-tree".split(),
)
def test_no_request_more_than_the_driver(moto_server, bucket, fs, act):
    fs.pipe({f"{bucket}/folder/{number:03}": b"x" for number in range(3)})
    fs.pipe_file(f"{bucket}/large", b"x" * 2**21)
    with tcp_proxy.proxied(moto_server.url) as proxy:
        counts = []
        for each in raw_and_ours(moto_server, proxy):
            fs.pipe({f"{bucket}/gone/{number}": b"x" for number in range(3)})
            each.connect()
            before = len(proxy.requests)
            act(each, bucket)
            counts.append(len(proxy.requests) - before)
    raw, ours = counts
    assert 0 < ours <= raw


def test_a_jump_fetches_little(moto_server, bucket, fs):
    size = 20 * 2**20
    fs.pipe_file(f"{bucket}/large", random.Random(5).randbytes(size))
    with tcp_proxy.proxied(moto_server.url) as proxy:
        jumping = mlartifacts.filesystem("s3", endpoint_url=proxy.url)
        with jumping.open(f"{bucket}/large") as file:
            file.seek(size // 2)
            assert len(file.read(1024)) == 1024
        assert proxy.bytes_to_client < 2**16
