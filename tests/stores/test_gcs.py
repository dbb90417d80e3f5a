"""Google Cloud Storage: which settings reach the driver, and what of gcsfs' is mended."""

from __future__ import annotations

import base64
import collections
import errno
import http.server
import json
import logging
import os
import pickle
import threading
import warnings

import fsspec
import google_crc32c
import pytest
from gcsfs.core import GCSFileSystem

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI, TransferError
from mlartifacts.stores.gcs import STORE
from mlartifacts.stores.gcs import filesystem as gcs
from mlartifacts.stores.gcs.uploads import Uploads
from mlartifacts.uri import parse
from tests.servers import reverse_proxy, tcp_proxy
from tests.servers.reverse_proxy import Answer

URI = "gs://bucket/run/model"
TIMEOUT = "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT"
OLD_TIMEOUT = "MLFLOW_GCS_DEFAULT_TIMEOUT"
UPLOAD = "MLFLOW_GCS_UPLOAD_CHUNK_SIZE"
DOWNLOAD = "MLFLOW_GCS_DOWNLOAD_CHUNK_SIZE"
MIB = 2**20
BASE = {
    "use_listings_cache": False,
    "requests_timeout": 60,
    "upload_chunk_size": 100 * MIB,
    "download_chunk_size": 100 * MIB,
}


def located(uri=URI, explicit=None, /, **variables):
    return STORE.locate(parse(uri), Environment(variables), explicit or {})


# ---- URIs and variables ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        (URI, "bucket/run/model"),
        ("gs://bucket", "bucket"),
        ("gs://bucket/", "bucket"),
        ("gcs://bucket/a/", "bucket/a"),
        ("GS://bucket/a", "bucket/a"),
        ("gs://my_bucket.example.com/a", "my_bucket.example.com/a"),
        ("gs://bucket/a#123?generation=1%41+[1]*", "bucket/a#123?generation=1%41+[1]*"),
        ("gs://bucket/ä b//c", "bucket/ä b//c"),
    ],
)
def test_places(uri, path):
    assert (located(uri).path, located(uri).options) == (path, BASE)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://", "names no bucket"),
        ("gs:///key", "names no bucket"),
        ("gs:key", "names no bucket"),
        ("gs://localhost:4443/bucket/key", "STORAGE_EMULATOR_HOST"),
        ("gs://me:secret@bucket/key", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_what_is_no_place(uri, message):
    with pytest.raises(InvalidURI, match=message) as caught:
        located(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["gs://bucket/a#1 b", "gcs://bucket/a"])
def test_the_uri_comes_back(uri):
    fs, path = mlartifacts.url_to_fs(uri, token="anon")
    assert fs.unstrip_protocol(path) == uri.replace("gcs://", "gs://")
    assert fs.unstrip_protocol(uri) == uri


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, {}),
        ({TIMEOUT: "7"}, {"requests_timeout": 7}),
        ({TIMEOUT: "-1"}, {"requests_timeout": None}),
        ({UPLOAD: "262144"}, {"upload_chunk_size": 2**18}),
        ({DOWNLOAD: "1048576"}, {"download_chunk_size": MIB}),
        ({UPLOAD: ""}, {}),
        ({"GOOGLE_CLOUD_PROJECT": "p"}, {"project": "p"}),
        (
            {"STORAGE_EMULATOR_HOST": "http://localhost:4443/"},
            {"endpoint_url": "http://localhost:4443", "token": "anon"},
        ),
        (
            {"STORAGE_EMULATOR_HOST": "localhost:4443"},
            {"endpoint_url": "http://localhost:4443", "token": "anon"},
        ),
        ({"STORAGE_EMULATOR_HOST": "default"}, {}),
    ],
)
def test_settings(variables, options):
    assert located(**variables).options == {**BASE, **options}
    assert set(variables) <= set(STORE.variables)


def test_the_callers_options_win():
    variables = {"STORAGE_EMULATOR_HOST": "localhost:1", TIMEOUT: "7", UPLOAD: "262144"}
    explicit = {"token": "t", "endpoint_url": "u", "requests_timeout": 8, "upload_chunk_size": 9}
    assert located(URI, explicit, **variables).options == {**BASE, **explicit}


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("-1", None)])
def test_old_timeout_still_counts_and_warns(value, seconds):
    # MLflow deprecates by FutureWarning, which users see.
    with pytest.warns(FutureWarning, match=f"{OLD_TIMEOUT} is deprecated.*{TIMEOUT}") as caught:
        assert located(**{OLD_TIMEOUT: value}).options["requests_timeout"] == seconds
    assert len(caught) == 1


def test_new_timeout_beats_the_old_in_silence():
    with warnings.catch_warnings(action="error"):
        location = located(**{OLD_TIMEOUT: "7", TIMEOUT: "8"})
    assert location.options["requests_timeout"] == 8


@pytest.mark.parametrize("name", [UPLOAD, DOWNLOAD])
@pytest.mark.parametrize("value", ["0", "-1", "-262144", "100", "262145", "1e6", "256 KiB"])
def test_chunks_that_google_refuses(name, value):
    with pytest.raises(InvalidConfig, match=name) as caught:
        located(**{name: value})
    assert value in str(caught.value)


@pytest.mark.parametrize(
    "value", ["http://", ":4443", "localhost:port", "localhost:99999", "http://[::1", "ftp://h"]
)
def test_emulator_that_is_none(value):
    with pytest.raises(InvalidConfig, match="STORAGE_EMULATOR_HOST"):
        located(STORAGE_EMULATOR_HOST=value)


@pytest.mark.parametrize("value", ["0", "-2", "soon"])
@pytest.mark.parametrize("name", [TIMEOUT, OLD_TIMEOUT])
def test_timeout_that_is_none(name, value):
    with pytest.raises(InvalidConfig, match=name):
        located(**{name: value})


# ---- Logging in --------------------------------------------------------------------------


@pytest.fixture
def no_metadata_server(monkeypatch):
    """A machine outside Google's cloud; that asking is bounded, another test says."""
    from google.auth import _default

    monkeypatch.setattr(_default, "_get_gce_credentials", lambda *_, **__: (None, None))


@pytest.mark.usefixtures("no_metadata_server")
def test_anonymous_without_credentials():
    fs = mlartifacts.filesystem("gs")
    assert fs.credentials.token == "anon"
    assert "Authorization" not in fs._get_headers(None)


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    """A user's credentials, as gcloud writes them."""
    file = tmp_path / "credentials.json"
    secrets = {"client_id": "id", "client_secret": "secret-1", "refresh_token": "secret-2"}
    file.write_text(json.dumps({"type": "authorized_user", "quota_project_id": "q", **secrets}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return file


@pytest.mark.usefixtures("credentials")
def test_application_default_credentials(monkeypatch):
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "mine")
    fs = mlartifacts.filesystem("gs")
    assert fs.credentials.credentials.refresh_token == "secret-2"
    assert fs.project == "mine"
    shown = [repr(fs), str(fs), fs.to_json(), repr(located()), repr(pickle.dumps(fs))]
    assert not [text for text in shown if "secret-" in text]
    assert mlartifacts.filesystem("gs", token="anon").credentials.token == "anon"


def test_credentials_changed_in_a_notebook(credentials, monkeypatch):
    before = mlartifacts.filesystem("gs")
    other = credentials.with_name("other.json")
    other.write_text(credentials.read_text().replace("secret-2", "secret-3"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(other))
    after = mlartifacts.filesystem("gs")
    assert after is not before
    assert after.credentials.credentials.refresh_token == "secret-3"


def test_a_key_file_that_is_replaced(credentials):
    mlartifacts.filesystem("gs")
    credentials.write_text(credentials.read_text().replace("secret-2", "secret-3"))
    assert mlartifacts.filesystem("gs").credentials.credentials.refresh_token == "secret-3"


def test_credentials_that_are_not_there(monkeypatch, tmp_path):
    """Anonymous access would be refused later, with no word on the name that was mistyped."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(InvalidConfig, match=r"GOOGLE_APPLICATION_CREDENTIALS.*missing\.json"):
        mlartifacts.filesystem("gs")


def test_asking_for_a_metadata_server_is_bounded(hanging_server, monkeypatch):
    from google.auth.compute_engine import _metadata
    from google.auth.transport import _http_client

    ask, waited = _http_client.Request.__call__, []

    def asked(*args, timeout=None, **kwargs):
        waited.append(timeout)
        return ask(*args, timeout=timeout, **kwargs)

    monkeypatch.setattr(_http_client.Request, "__call__", asked)
    address = f"{hanging_server.host}:{hanging_server.port}"
    monkeypatch.setattr(_metadata, "_get_metadata_ip_root", lambda *_: f"http://{address}")
    monkeypatch.setattr(_metadata, "detect_gce_residency_linux", lambda: False)
    assert mlartifacts.filesystem("gs").credentials.token == "anon"
    # google-auth asks three times, and would wait for three seconds each time.
    assert 0 < len(hanging_server.accepted) <= 3
    assert waited == [1] * len(hanging_server.accepted)


# ---- On a server -------------------------------------------------------------------------


@pytest.fixture
def bucket(gcs_emulator, monkeypatch):
    for name, value in gcs_emulator.env.items():
        monkeypatch.setenv(name, value)
    return gcs_emulator.new_bucket()


@pytest.fixture
def fs(bucket):
    return mlartifacts.filesystem("gs")


@pytest.fixture
def proxy(gcs_emulator, bucket, monkeypatch):
    with tcp_proxy.proxied(gcs_emulator.url) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy


def test_no_look_up_of_the_buckets_kind(fs):
    """gcsfs' own class asks over gRPC, and waits a minute for an emulator."""
    assert not [cls for cls in type(fs).__mro__ if cls.__name__ == "ExtendedGcsFileSystem"]


def test_generation_is_a_name_unless_asked_for(fs, bucket):
    fs.pipe_file(f"{bucket}/a", b"not this")
    for name in ("a#123", "a?generation=123"):
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{bucket}/{name}")
        fs.pipe_file(f"{bucket}/{name}", name.encode())
        assert fs.cat_file(f"{bucket}/{name}") == name.encode()
    fs.rm(f"{bucket}/a#123")
    assert fs.find(bucket) == [f"{bucket}/a", f"{bucket}/a?generation=123"]
    aware = mlartifacts.filesystem("gs", version_aware=True)
    assert aware.split_path("b/a#123") == ("b", "a", "123")


def test_names_that_mean_the_bucket(fs, bucket):
    for act in (fs.rm_file, fs.rm, fs.info, fs.cat_file):
        for name in (".", ".."):
            with pytest.raises(InvalidURI, match="no name"):
                act(f"{bucket}/{name}")
    assert fs.exists(bucket)


def test_missing_bucket(fs):
    for act in (fs.info, fs.ls):
        with pytest.raises(FileNotFoundError) as caught:
            act("not-there")
        assert caught.value.filename == "not-there"
    assert not fs.exists("not-there/file")


def test_a_copy_to_a_missing_bucket(proxy, bucket):
    fs = mlartifacts.filesystem("gs")
    fs.pipe({f"{bucket}/tree/{number}": b"x" for number in range(60)})
    for act in (fs.cp_file, fs.cp, fs.mv):
        with pytest.raises(FileNotFoundError, match="no bucket 'not-there'") as caught:
            act(f"{bucket}/tree/1", "not-there/copy")
        assert caught.value.filename == "not-there/copy"
    with pytest.raises(FileNotFoundError, match="No such file") as caught:
        fs.cp_file(f"{bucket}/missing", f"{bucket}/copy")
    assert caught.value.filename == f"{bucket}/missing"
    proxy.requests.clear()
    with pytest.raises(TransferError, match="no bucket 'not-there'") as caught:
        mlartifacts.copy(f"gs://{bucket}/tree", "gs://not-there/copy")
    assert len(caught.value.failures) == 60
    # Those that were on their way are answered, too.
    assert len([each for each in proxy.requests if "rewriteTo" in each.target]) < 40


def test_large_file_in_chunks(fs, bucket, monkeypatch):
    monkeypatch.setenv(UPLOAD, str(MIB))
    monkeypatch.setenv(DOWNLOAD, str(MIB))
    data = bytes(range(256)) * 2**13 + b"end"
    fs = mlartifacts.filesystem("gs")
    with fs.open(f"{bucket}/written", "wb") as file:
        assert file.blocksize == MIB
        file.write(data)
    fs.pipe_file(f"{bucket}/piped", data)
    for name in ("written", "piped"):
        with fs.open(f"{bucket}/{name}") as file:
            assert file.blocksize == MIB
            assert file.read() == data


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\n\r", b"\r\r"])
def test_a_file_that_ends_with_a_line(fs, bucket, end):
    """gcsfs ends an upload's parts with LF alone: a CR before it was taken for a part of that."""
    for data in (end, b"\r\n\r\nline\n" + end):
        fs.pipe_file(f"{bucket}/piped", data)
        with fs.open(f"{bucket}/written", "wb") as file:
            file.write(data)
        assert fs.cat([f"{bucket}/{name}" for name in ("piped", "written")]) == {
            f"{bucket}/piped": data,
            f"{bucket}/written": data,
        }


def test_append_keeps_what_is_said_of_an_object(fs, bucket, monkeypatch):
    monkeypatch.setenv(UPLOAD, str(MIB))
    told = {"content_type": "text/x-test", "metadata": {"by": "me"}}
    told["fixed_key_metadata"] = {"cache_control": "no-store"}
    fs.pipe_file(f"{bucket}/file", bytes(3 * MIB), **told)
    with fs.open(f"{bucket}/file", "ab") as file:
        file.write(b"2")
    assert fs.cat_file(f"{bucket}/file") == bytes(3 * MIB) + b"2"
    there = fs.info(f"{bucket}/file")
    assert there["contentType"] == "text/x-test"
    assert there["metadata"] == {"by": "me"}
    assert there["cacheControl"] == "no-store"


@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "in batches"])
def test_delete_a_tree(fs, bucket, monkeypatch, batches):
    if batches:  # of Google's own only, for gcsfs; this emulator knows them too
        monkeypatch.setattr(type(fs), "on_google", True)
    names = ["tree/one", "tree/two #1?%41.txt", "tree/deep/[1]*", "tree", "treetop/three"]
    fs.pipe({f"{bucket}/{name}": b"x" for name in names})
    fs.rm(f"{bucket}/tree", recursive=True)
    assert fs.find(bucket) == [f"{bucket}/treetop/three"]
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{bucket}/tree", recursive=True)


@pytest.mark.parametrize(
    ("act", "name", "args"),
    [
        ("ls", "/tree", ()),
        ("ls", "", ()),
        ("find", "/tree", ()),
        ("glob", "/tree/*", ()),
        ("info", "/new", ()),
        ("exists", "/new", ()),
        ("cat_file", "/new", (1, 3)),
        ("cat_file", "/new", ()),
        ("pipe_file", "/new", (b"x",)),
        ("cp_file", "/new", ("{bucket}/copy",)),
        ("rm_file", "/new", ()),
    ],
)
def test_requests(proxy, bucket, act, name, args):
    fs = mlartifacts.filesystem("gs")
    plain = GCSFileSystem(
        endpoint_url=proxy.url, token="anon", use_listings_cache=False, skip_instance_cache=True
    )
    args = [each.format(bucket=bucket) if isinstance(each, str) else each for each in args]

    def asked(filesystem):
        fs.pipe({f"{bucket}/{name}": b"0123456789" for name in ("tree/one", "tree/two", "new")})
        proxy.requests.clear()
        getattr(filesystem, act)(bucket + name, *args)
        return len(proxy.requests)

    ours, theirs = asked(fs), asked(plain)
    if act in {"info", "exists"}:
        theirs = (
            3  # it asks two things at once, and may ask the first again if the other is quicker
        )
    assert ours <= theirs


def test_requests_of_a_small_file(proxy, bucket):
    fs = mlartifacts.filesystem("gs")
    fs.pipe_file(f"{bucket}/one", b"0123456789")
    with fs.open(f"{bucket}/one") as file:
        proxy.requests.clear()
        assert file.read() == b"0123456789"
    # What opening it asks in parallel may come late.
    assert len([each for each in proxy.requests if "alt=media" in each.target]) == 1


@pytest.fixture(params=[b"", b"placeholder"], ids=["empty", "as the console made them"])
def marked(request, bucket, gcs_emulator, fs):
    """A tree with markers of directories: of itself, of one with a file, of an empty one."""
    fs.pipe({f"{bucket}/tree/data/x": b"x", f"{bucket}/tree/y": b"y"})
    for name in ("tree/", "tree/data/", "tree/none/", "tree/none/deep/"):
        gcs_emulator.put(bucket, name, request.param)
    return f"{bucket}/tree"


def test_markers_are_directories(fs, marked):
    files = [f"{marked}/data/x", f"{marked}/y"]
    directories = [marked, f"{marked}/data", f"{marked}/none", f"{marked}/none/deep"]
    assert sorted(fs.find(marked)) == files
    assert sorted(fs.find(marked, withdirs=True)) == sorted(files + directories)
    assert sorted(fs.find(marked, maxdepth=1)) == [f"{marked}/y"]
    assert sorted(fs.glob(f"{marked}/*")) == [f"{marked}/data", f"{marked}/none", f"{marked}/y"]
    assert sorted(fs.glob(f"{marked}/**")) == sorted(files + directories)
    assert fs.du(marked) == 2
    assert sorted(fs.ls(marked, detail=False)) == [
        f"{marked}/data",
        f"{marked}/none",
        f"{marked}/y",
    ]
    assert fs.ls(f"{marked}/none/deep") == []
    for path in directories:
        assert fs.isdir(path)
        assert fs.info(path)["type"] == fs.info(f"{path}/")["type"] == "directory"
    assert [(top, sorted(d), sorted(f)) for top, d, f in fs.walk(marked)] == [
        (marked, ["data", "none"], ["y"]),
        (f"{marked}/data", [], ["x"]),
        (f"{marked}/none", ["deep"], []),
        (f"{marked}/none/deep", [], []),
    ]


def test_trees_with_markers_are_moved(fs, marked, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / "cache"))
    tree, names = f"gs://{marked}", ["data/x", "y"]
    mlartifacts.download(tree, tmp_path / "got")
    assert (
        sorted(str(p.relative_to(tmp_path / "got")) for p in (tmp_path / "got").rglob("[xy]"))
        == names
    )
    for move in (
        lambda: mlartifacts.sync(tmp_path / "got", tree, delete=True),
        lambda: mlartifacts.upload(tmp_path / "got", tree, overwrite="always"),
        lambda: mlartifacts.copy(tree, f"gs://{bucket}/copy"),
    ):
        report = move()
        assert sorted([*report.moved, *report.skipped]) == names
    assert sorted(p.name for p in mlartifacts.cached(tree).rglob("*") if p.is_file()) == ["x", "y"]
    fs.get(marked, str(tmp_path / "by fs"), recursive=True)
    assert (tmp_path / "by fs" / "data" / "x").read_bytes() == b"x"
    fs.cp(marked, f"{bucket}/again", recursive=True)
    assert sorted(fs.find(f"{bucket}/again")) == [f"{bucket}/again/{name}" for name in names]


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("act", ["delete", "rm"])
def test_trees_with_markers_are_deleted(
    fs, marked, bucket, gcs_emulator, act, batches, monkeypatch
):
    monkeypatch.setattr(type(fs), "on_google", batches)
    fs.pipe_file(f"{bucket}/tree-beside", b"1")
    if act == "delete":
        report = mlartifacts.delete(f"gs://{marked}")
        assert report.moved == ("data/x", "y")
    else:
        fs.rm(marked, recursive=True)
    assert gcs_emulator.names(bucket) == ["tree-beside"]
    with pytest.raises(FileNotFoundError):
        fs.rm(marked, recursive=True)


def test_listings_are_never_stale(fs, bucket, gcs_emulator):
    fs.pipe_file(f"{bucket}/tree/one", b"x")
    assert fs.ls(f"{bucket}/tree", detail=False) == [f"{bucket}/tree/one"]
    other = GCSFileSystem(endpoint_url=gcs_emulator.url, token="anon", skip_instance_cache=True)
    other.pipe_file(f"{bucket}/tree/two", b"y")
    assert fs.ls(f"{bucket}/tree", detail=False) == [f"{bucket}/tree/one", f"{bucket}/tree/two"]
    other.rm_file(f"{bucket}/tree/one")
    assert not fs.exists(f"{bucket}/tree/one")


def test_hang_while_downloading(proxy, bucket, tmp_path, monkeypatch):
    fs = mlartifacts.filesystem("gs")
    fs.pipe_file(f"{bucket}/file", b"x" * 2 * MIB)
    monkeypatch.setenv(TIMEOUT, "1")
    fs = mlartifacts.filesystem("gs")
    assert fs.exists(f"{bucket}/file")

    proxy.reset()
    proxy.swallow_after = 100_000
    with pytest.raises(TimeoutError):
        fs.get_file(f"{bucket}/file", str(tmp_path / "file"))
    assert proxy.swallow
    # It is waited for once; what it is was asked at the same time.
    assert len([each for each in proxy.requests if "alt=media" in each.target]) == 1
    assert not list(tmp_path.glob("*file*"))


def test_the_networks_own_proxy(bucket, gcs_emulator, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine google.invalid login of password netrc")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://google.invalid")
    fs = mlartifacts.filesystem("gs")
    with reverse_proxy.serve(gcs_emulator.url) as network:
        network.whole_urls = True
        monkeypatch.setenv("HTTP_PROXY", network.url)
        fs.pipe_file(f"{bucket}/file", b"data")
        assert fs.cat_file(f"{bucket}/file") == b"data"
        assert fs.info(f"{bucket}/file")["size"] == 4
        assert not [each for each in network.requests if "Authorization" in each.headers]
        monkeypatch.setenv("NO_PROXY", "google.invalid")
        with pytest.raises(ConnectionError):
            fs.cat_file(f"{bucket}/file")


def test_the_networks_own_proxy_is_asked_for_a_tunnel(gcs_emulator, monkeypatch):
    monkeypatch.setattr(gcs, "_WAIT", 0.01)
    with tcp_proxy.proxied(gcs_emulator.url) as network:  # which makes none
        monkeypatch.setenv("HTTPS_PROXY", network.url)
        with pytest.raises(OSError, match="501|disconnected"):
            mlartifacts.filesystem("gs", token="anon").cat_file("bucket/file")
    assert str(network.requests[0]) == "CONNECT storage.googleapis.com:443"


def test_by_plain_fsspec_after_register(bucket):
    mlartifacts.register()
    try:
        with fsspec.open(f"gs://{bucket}/file", "wb") as file:
            file.write(b"x")
        with fsspec.open(f"gcs://{bucket}/file") as file:
            assert file.read() == b"x"
    finally:
        mlartifacts.unregister()


# ---- What Google answers, and the emulator does not --------------------------------------


@pytest.fixture
def google(monkeypatch):
    """A server that gives every request one answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        answer: tuple[int, str] = (200, "{}")

        def respond(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = self.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = do_DELETE = respond  # noqa: N815

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        yield Handler
        server.shutdown()
        thread.join()


def test_a_service_account_logs_in(gcs_emulator, google, tmp_path, monkeypatch):
    """By application default credentials, at the address that its file names."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "me@project",
        "private_key": key.decode(),
        "token_uri": os.environ["STORAGE_EMULATOR_HOST"],
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    google.answer = 200, json.dumps({"access_token": "the-token", "expires_in": 3600})
    with tcp_proxy.proxied(gcs_emulator.url) as proxy:
        uri = f"gs://{gcs_emulator.new_bucket()}/x"
        with mlartifacts.open(uri, "wb", endpoint_url=proxy.url) as file:
            file.write(b"x")
        fs, path = mlartifacts.url_to_fs(uri, endpoint_url=proxy.url)
        assert fs.cat_file(path) == b"x"
        fs.rm(path)
        said = {request.headers.get("authorization") for request in proxy.requests}
        assert said == {"Bearer the-token"}
    assert "the-token" not in f"{fs!r} {fs.to_json()} {pickle.dumps(fs)!r}"


def error(code, message):
    return code, json.dumps({"error": {"code": code, "message": message}})


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (
            error(401, "Anonymous caller does not have storage.objects.get access"),
            PermissionError,
            "Anonymous caller.*GOOGLE_APPLICATION_CREDENTIALS",
        ),
        (error(403, "No access for you"), PermissionError, "No access.*gcloud auth"),
        (error(400, "The bucket's name is invalid"), OSError, "400.*name is invalid"),
        (error(404, "Not found"), FileNotFoundError, "No such file|no bucket 'bucket'"),
        (error(412, "Precondition"), FileExistsError, "File exists"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else None,
)
def test_errors(google, answer, kind, message):
    google.answer = answer
    fs = mlartifacts.filesystem("gs")
    for act in (fs.cat_file, lambda path: fs.pipe_file(path, b"x"), fs.rm_file):
        with pytest.raises(kind, match=message) as caught:
            act("bucket/file")
        assert caught.value.filename == "bucket/file"
        assert caught.value.__cause__ is not None
    if kind is PermissionError:
        with pytest.raises(PermissionError):
            fs.exists("bucket/file")


def test_a_denied_deletion_among_many(fs, bucket, monkeypatch):
    denied = OSError('{"code": 403, "message": "No deleting"}')

    async def one_denied(self, files, batchsize):
        return [denied]

    monkeypatch.setattr(GCSFileSystem, "_delete_files", one_denied)
    fs.pipe_file(f"{bucket}/tree/one", b"x")
    with pytest.raises(PermissionError, match="No deleting"):
        fs.rm(f"{bucket}/tree", recursive=True)


@pytest.fixture
def front(gcs_emulator, bucket, monkeypatch):
    """What stands between the emulator and us."""
    with reverse_proxy.serve(gcs_emulator.url) as front:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
        yield front


HTML = b"<!DOCTYPE html><html><title>Log in to this network</title></html>"
PAGE = Answer(200, HTML, {"Content-Type": "text/html"})
LARGE = bytes(5 * MIB + 1)
READS = {
    "ls": lambda fs, path: fs.ls(path),
    "find": lambda fs, path: fs.find(path),
    "glob": lambda fs, path: fs.glob(f"{path}/*"),
    "du": lambda fs, path: fs.du(path),
    "walk": lambda fs, path: list(fs.walk(path)),
    "info": lambda fs, path: fs.info(path),
    "info of a bucket": lambda fs, path: fs.info(path.partition("/")[0]),
    "exists": lambda fs, path: fs.exists(path),
    "isdir": lambda fs, path: fs.isdir(path),
    "cat": lambda fs, path: fs.cat(path),
    "cat_file": lambda fs, path: fs.cat_file(path),
    "cat_file of a range": lambda fs, path: fs.cat_file(path, 0, 1),
    "get_file": lambda fs, path: fs.get_file(path, "never"),
    "open": lambda fs, path: fs.open(path).read(),
}
WRITES = {
    "pipe_file": lambda fs, path: fs.pipe_file(path, b"new"),
    "pipe_file of a large one": lambda fs, path: fs.pipe_file(path, LARGE),
    "write": lambda fs, path: written(fs, path, b"new"),
    "write a large one": lambda fs, path: written(fs, path, LARGE),
    "write full blocks": lambda fs, path: written(fs, path, LARGE[:-1]),
}
OTHERS = {
    "rm_file": lambda fs, path: fs.rm_file(path),
    "rm": lambda fs, path: fs.rm(path),
    "rm -r": lambda fs, path: fs.rm(path, recursive=True),
    "cp_file": lambda fs, path: fs.cp_file(path, f"{path}-copy"),
    "cp": lambda fs, path: fs.cp(path, f"{path}-copy"),
    "cp onto": lambda fs, path: fs.cp_file(f"{path}-new", path),
    "mv": lambda fs, path: fs.mv(path, f"{path}-copy"),
    "rmdir": lambda fs, path: fs.rmdir(path.partition("/")[0]),
}


def written(fs, path, data):
    with fs.open(path, "wb") as file:
        file.write(data)


def of(acts):
    return [pytest.param(act, id=name) for name, act in acts.items()]


@pytest.fixture
def old(fs, bucket):
    """An object that is there, and what may take its place."""
    fs.pipe({f"{bucket}/dir/old": b"old", f"{bucket}/dir/old-new": b"new"})
    return f"{bucket}/dir/old"


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("act", of(READS | WRITES | OTHERS))
def test_a_page_is_no_answer(front, old, act, status, monkeypatch):
    """Of a portal, or a proxy that wants a login; nor is it a word on a file that is missing."""
    monkeypatch.setenv(UPLOAD, str(MIB))
    fs = mlartifacts.filesystem("gs")
    front.answer = lambda request: Answer(status, HTML, PAGE.headers)
    with pytest.raises(OSError, match=f"not Google.*{status}.*Log in to this network") as caught:
        act(fs, old)
    assert type(caught.value) is OSError
    assert caught.value.filename.startswith(old.partition("/")[0])
    front.answer = lambda request: None
    assert fs.cat_file(old) == b"old"


@pytest.mark.parametrize("act", of(WRITES))
def test_a_page_is_no_end_of_an_upload(front, old, act, monkeypatch):
    monkeypatch.setenv(UPLOAD, str(MIB))
    fs = mlartifacts.filesystem("gs")
    front.answer = lambda request: PAGE if is_last(request) else None
    with pytest.raises(OSError, match="not Google"):
        act(fs, old)
    front.answer = lambda request: None
    assert fs.cat_file(old) == b"old"


def is_last(request):
    """Whether it brings the last of an object."""
    said = request.headers.get("Content-Range", "/1" if "multipart" in request.path else "/*")
    return request.method == "POST" and not said.endswith("/*")


PARTS = {
    "page": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML),
    "page for a missing one": (b"HTTP/1.1 404 Not Found\r\n\r\n" + HTML),
    "nothing": b"",
}


@pytest.mark.parametrize("batch", ["each", "page", *PARTS, "fewer parts"])
def test_a_page_is_no_deletion(front, fs, bucket, batch, monkeypatch):
    monkeypatch.setattr(type(fs), "on_google", batch != "each")
    fs.pipe({f"{bucket}/tree/{name}": b"x" for name in "abc"})
    part = b"--x\r\nContent-Type: application/http\r\n\r\n" + PARTS.get(batch, b"")
    count = 2 if batch == "fewer parts" else 3
    mixed = Answer(200, part * count + b"--x--", {"Content-Type": "multipart/mixed; boundary=x"})

    def answer(request):
        if request.path.startswith("/batch/"):
            return PAGE if batch == "page" else mixed
        return PAGE if request.method == "DELETE" else None

    front.answer = answer
    with pytest.raises(TransferError, match="not Google") as caught:
        mlartifacts.delete(f"gs://{bucket}/tree", include="**")
    assert set(caught.value.failures) == set("abc")
    with pytest.raises(OSError, match="not Google"):
        mlartifacts.filesystem("gs").rm(f"{bucket}/tree", recursive=True)
    assert len(fs.find(bucket)) == 3


@pytest.mark.parametrize("act", of({name: READS[name] for name in ("find", "info")} | WRITES))
def test_a_silence_within_an_answer(proxy, old, act, monkeypatch):
    monkeypatch.setenv(TIMEOUT, "1")
    monkeypatch.setenv(UPLOAD, str(MIB))
    fs = mlartifacts.filesystem("gs")
    proxy.reset()
    proxy.swallow_after = 20
    with pytest.raises(TimeoutError, match="no answer in time") as caught:
        act(fs, old)
    assert caught.value.filename == old


@pytest.mark.parametrize("act", of(READS | OTHERS))
def test_a_cut_within_an_answer(proxy, old, act, monkeypatch):
    monkeypatch.setattr(gcs, "_WAIT", 0.01)
    fs = mlartifacts.filesystem("gs")
    proxy.reset()
    proxy.most = 20
    with pytest.raises(ConnectionError) as caught:
        act(fs, old)
    assert caught.value.filename.startswith(old.partition("/")[0])


def test_a_busy_server_is_waited_for_as_long_as_it_says(front, old, monkeypatch):
    monkeypatch.setattr(gcs, "pause", None)  # it is not for us to say
    asked = collections.Counter()

    def answer(request):
        asked[request.path] += 1
        return Answer(429, b"{}", {"Retry-After": "0"}) if asked[request.path] < 3 else None

    front.answer = answer
    fs = mlartifacts.filesystem("gs")
    assert fs.cat_file(old) == b"old"
    fs.pipe_file(old, b"new")
    assert old in fs.ls(old.rpartition("/")[0], detail=False)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_for_seconds(front, old, monkeypatch, status):
    """It is asked as often as by gcsfs, and waited for no longer than is allowed."""
    waits = []
    monkeypatch.setattr(gcs, "pause", lambda first, tries: waits.append((first, tries)) or 0)
    fs = mlartifacts.filesystem("gs")
    front.answer = lambda request: Answer(status, b"{}")
    with pytest.raises(OSError, match=f"Google says {status}") as caught:
        fs.cat_file(old)
    assert caught.value.errno == (errno.EIO if status == 500 else errno.EBUSY)
    assert waits == [(0.5, tries) for tries in range(1, 7)]
    monkeypatch.setattr(gcs, "pause", lambda *args: 40)
    with pytest.raises(OSError, match=f"Google says {status}"):  # and not in an hour
        mlartifacts.filesystem("gs", requests_timeout=30).cat_file(old)


@pytest.mark.parametrize("damage", [lambda body: body[:-5], lambda body: rename(body, b"name")])
@pytest.mark.parametrize("act", of({name: READS[name] for name in ("ls", "find", "info", "open")}))
def test_a_damaged_answer(front, fs, old, act, damage):
    fs = mlartifacts.filesystem("gs")
    front.damage = lambda body: damage(body) if b'"storage#object' in body else body
    with pytest.raises(OSError, match="Google's answer") as caught:
        act(fs, old)
    assert caught.value.filename == old


@pytest.mark.parametrize("act", of({name: READS[name] for name in ("cat", "cat_file", "get_file")}))
def test_an_object_that_is_given_in_part(front, old, act):
    front.answer = lambda request: (
        Answer(200, b"ol", {"x-goog-stored-content-length": "3"})
        if "alt=media" in request.path
        else None
    )
    with pytest.raises(OSError, match="short read: 2 of 3 bytes") as caught:
        act(mlartifacts.filesystem("gs"), old)
    assert caught.value.filename == old


def rename(body, field):
    return body.replace(b'"%b":' % field, b'"%b":' % field[::-1])


@pytest.mark.parametrize(("said", "size"), [({"Range": "bytes=0-599"}, 600), ({}, 0)])
def test_the_checksum_where_google_takes_less_than_was_sent(said, size):
    uploads, data = Uploads(), bytes(range(250)) * 8
    first = uploads.part("url", data[:1000], {"headers": {"Content-Range": "bytes 0-999/*"}})
    first.taken(308, said)
    options = {"headers": {"Content-Range": f"bytes {size}-1999/2000"}}
    uploads.part("url", memoryview(data)[size:], options).taken(200, {})
    crc = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    assert options["headers"]["X-Goog-Hash"] == f"crc32c={crc}"
    assert uploads.known == {}


def test_nothing_is_logged_where_nobody_listens(front, fs, bucket, monkeypatch, capsys):
    """gcsfs says what it raises, which Python prints where no logger has a handler."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    front.answer = lambda request: Answer(413) if request.method == "POST" else None
    fs = mlartifacts.filesystem("gs")

    def fail():
        with pytest.raises(OSError, match="413"):
            fs.pipe_file(f"{bucket}/file", b"x")
        with pytest.raises(OSError, match="413"):
            fs.mv_file(f"{bucket}/one", f"{bucket}/two")

    fail()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])
    fail()
    said = capsys.readouterr().err
    assert "Failed to move file" in said
    assert "Traceback" in said


# ---- With MLflow -------------------------------------------------------------------------


def test_mlflow_reads_and_writes_the_same(bucket, tmp_path):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage
    from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

    client = storage.Client(project="test", credentials=AnonymousCredentials())
    repository = GCSArtifactRepository(f"gs://{bucket}/run/artifacts", client=client)
    (tmp_path / "theirs ü.txt").write_bytes(b"theirs")
    repository.log_artifact(str(tmp_path / "theirs ü.txt"), "deep")
    with mlartifacts.open(f"gs://{bucket}/run/artifacts/deep/theirs ü.txt") as file:
        assert file.read() == b"theirs"
    with mlartifacts.open(f"gs://{bucket}/run/artifacts/deep/ours %41.txt", "wb") as file:
        file.write(b"ours")
    listed = [(info.path, info.file_size) for info in repository.list_artifacts("deep")]
    assert listed == [("deep/ours %41.txt", 4), ("deep/theirs ü.txt", 6)]
    repository._download_file("deep/ours %41.txt", str(tmp_path / "ours"))
    assert (tmp_path / "ours").read_bytes() == b"ours"
    client.close()
