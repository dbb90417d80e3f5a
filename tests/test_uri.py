"""The grammar of artifact URIs."""

from __future__ import annotations

import pickle

import pytest

import mlartifacts
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.uri import ArtifactURI, parse, redact


@pytest.mark.parametrize(
    ("text", "scheme", "netloc", "path"),
    [
        ("s3://bucket/1/abc/artifacts", "s3", "bucket", "/1/abc/artifacts"),
        ("S3://Bucket/Key", "s3", "Bucket", "/Key"),
        ("s3://bucket", "s3", "bucket", ""),
        ("s3://bucket/", "s3", "bucket", "/"),
        ("s3://bucket/a#b?c%41+[1]*", "s3", "bucket", "/a#b?c%41+[1]*"),
        ("s3://bucket/a@b:c/d", "s3", "bucket", "/a@b:c/d"),
        ("s3://bucket/données/数据", "s3", "bucket", "/données/数据"),
        ("mlartifacts+s3://bucket/key", "s3", "bucket", "/key"),
        ("hdfs:/data", "hdfs", "", "/data"),
        ("hdfs:///data", "hdfs", "", "/data"),
        ("runs:/abc/model", "runs", "", "/abc/model"),
        ("file:/mnt/my%20nfs", "file", "", "/mnt/my nfs"),
        ("file:relative/x", "file", "", "relative/x"),
        ("/mnt/my%20nfs", "", "", "/mnt/my%20nfs"),
        ("../mlruns/0", "", "", "../mlruns/0"),
        ("~/mlruns", "", "", "~/mlruns"),
        ("C:\\data\\x", "", "", "C:\\data\\x"),
        ("C:/data/x", "", "", "C:/data/x"),
        ("\\\\host\\share\\x", "", "", "\\\\host\\share\\x"),
        ("s3://bucket/a/../b", "s3", "bucket", "/a/../b"),
    ],
)
def test_parts(text, scheme, netloc, path):
    assert parse(text) == ArtifactURI(scheme, netloc, path)


@pytest.mark.parametrize(
    ("text", "username", "password", "host", "port"),
    [
        ("sftp://host/x", None, None, "host", None),
        ("sftp://Host:22/x", None, None, "host", 22),
        ("sftp://user@host/x", "user", None, "host", None),
        ("sftp://user:pass@host:2222/x", "user", "pass", "host", 2222),
        ("sftp://us%40er:p%3Aa%2Fs%40s@host/x", "us@er", "p:a/s@s", "host", None),
        ("sftp://user:a@b@host/x", "user", "a@b", "host", None),
        ("sftp://user:@host/x", "user", "", "host", None),
        ("sftp://user@[::1]:2222/x", "user", None, "::1", 2222),
        ("sftp://[fe80::1]/x", None, None, "fe80::1", None),
        ("sftp://host:/x", None, None, "host", None),
        ("wasbs://container@account.blob.core.windows.net/x", "container", None,
         "account.blob.core.windows.net", None),
    ],
)  # fmt: skip
def test_authority(text, username, password, host, port):
    uri = parse(text)
    assert (uri.username, uri.secret(), uri.host, uri.port) == (username, password, host, port)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        ("s3://bucket/a\0b", "control character"),
        ("s3://bucket/a\nb", "control character"),
        ("file:///tmp/a%00b", "control character"),
        ("s3://bucket/../other/secret", "climbs"),
        ("s3://bucket/a/../../other", "climbs"),
        ("file:///tmp/%2e%2e/%2e%2e/etc", "climbs"),
    ],
)
def test_refused(text, named):
    with pytest.raises(InvalidURI, match=named):
        parse(text)


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "2 2", "²"])
def test_a_port_that_is_no_number_is_named(port):
    with pytest.raises(InvalidURI, match="port") as caught:
        _ = parse(f"sftp://user:hunter2@host:{port}/x").port
    assert "hunter2" not in str(caught.value)


def test_an_open_bracket_is_refused():
    with pytest.raises(InvalidURI, match="bracket"):
        _ = parse("sftp://[::1/x").host


@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64, "a\udcff"])
def test_a_host_that_no_resolver_takes(host):
    with pytest.raises(InvalidURI, match="no valid host"):
        _ = parse(f"sftp://{host}:22/x").host


@pytest.mark.parametrize("host", ["a.", "a_b", "bücher.de", "::ffff:1.2.3.4", "a" * 63])
def test_a_host_that_resolvers_take(host):
    assert parse(f"sftp://[{host}]/x" if ":" in host else f"sftp://{host}/x").host == host


@pytest.mark.parametrize("server", ["a..b", "a" * 300, "a\udcff"])
@pytest.mark.parametrize(
    "start",
    (
        "ftp:// ftps://u:p@ http:// http://u:p@ sftp:// ssh://u@ hdfs:// viewfs:// r2://b@ b2://b@"
        " wasbs://c@ mlflow-artifacts://"
    ).split(),
)
def test_every_store_refuses_a_host_that_is_none(start, server):
    with pytest.raises(InvalidURI):
        mlartifacts.locate(f"{start}{server}/x")


def test_not_text_is_refused():
    with pytest.raises(InvalidURI, match="int"):
        parse(3)  # type: ignore[arg-type]


def test_a_password_is_never_shown():
    uri = parse("sftp://user:hunter2@host/x")
    for shown in (str(uri), repr(uri), uri.with_handle(), repr(pickle.dumps(uri))):
        assert "hunter2" not in shown
    assert str(uri) == "sftp://user:***@host/x"


def test_a_password_survives_its_handle():
    uri = parse("sftp://user:hunter%2F2@host/x")
    assert parse(uri.with_handle()) == uri
    assert parse(uri.with_handle()).secret() == "hunter/2"


def test_equal_passwords_have_equal_handles_and_others_others():
    one, same, other = (parse(f"ftp://u:{word}@h/") for word in ("one", "one", "other"))
    assert one == same
    assert one != other


def test_a_handle_of_another_process_says_what_to_do():
    uri = parse("sftp://user:hidden-0123456789abcdef01234567@host/x")
    with pytest.raises(InvalidConfig, match="password="):
        uri.secret()


def test_redact_leaves_what_is_no_password():
    assert redact("see ftp://u:sec/ret@h/x") == "see ftp://u:***@h/x"


def test_the_root_has_no_path():
    assert str(parse("sftp://user@host:22/a/b").root) == "sftp://user@host:22"


@pytest.mark.parametrize(
    "text",
    ["ftp://u:hun/ter2@host/x", "s3://AKIA:hun/ter2@bucket/x", "wasbs://c:hun/ter2@acct/x"],
)
def test_a_slash_in_a_password_is_named_without_the_password(text):
    with pytest.raises(InvalidURI, match="%2F") as caught:
        parse(text)
    assert "hun" not in str(caught.value)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "ftp:user:secret@host/x",
        "sftp:user:secret@host/x",
        "s3:user:secret@host/x",
        "simplecache::ftp:user:secret@host/x",
        "ftp://user@mail:secret/b@host/x",
        " ftp://user:secret@host/x",
    ],
)
def test_a_password_in_the_wrong_place_is_not_shown(uri):
    with pytest.raises(InvalidURI) as caught:
        mlartifacts.url_to_fs(uri)
    assert "secret" not in str(caught.value)
