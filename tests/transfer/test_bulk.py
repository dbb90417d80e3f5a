"""S3's bytes through obstore: what it is told, what it leaves to s3fs, and how it fails."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fsspec.callbacks import Callback

import mlartifacts
from mlartifacts.errors import TransferError
from mlartifacts.transfer import engine
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy, silent, tcp_proxy
from tests.servers.moto import Moto
from tests.servers.process import wait_until
from tests.stores.test_s3 import profiles
from tests.transfer.conftest import AtOnce
from tests.transfer.trees import found, odd_tree, plant

__all__ = ["profiles"]

LARGE = random.Random(5).randbytes(20_000_000)


@pytest.fixture
def bucket(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    return moto_server.new_bucket()


@pytest.fixture
def proxy(
    moto_server: Moto, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tcp_proxy.Proxy]:
    with tcp_proxy.proxied(moto_server.url) as proxy:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.url)
        yield proxy


def carried(proxy: tcp_proxy.Proxy, *methods: str) -> set[str]:
    """Who sent the requests of these methods."""
    return {
        "s3fs" if "boto" in request.headers["user-agent"].lower() else "obstore"
        for request in proxy.requests
        if request.method in methods
    }


def head(bucket: str, key: str) -> dict[str, Any]:
    answer: dict[str, Any] = mlartifacts.filesystem("s3").call_s3(
        "head_object", Bucket=bucket, Key=key
    )
    return answer


def without_obstore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)


def only(caught: pytest.ExceptionInfo[TransferError]) -> BaseException:
    (cause,) = caught.value.failures.values()
    return cause


@pytest.mark.parametrize("up", ["obstore", "s3fs"])
@pytest.mark.parametrize("down", ["obstore", "s3fs"])
def test_both_write_and_read_the_same(
    up: str, down: str, proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path
) -> None:
    tree = odd_tree(12) | {"tab\tin it": b"a name that obstore refuses"}
    here = plant(tmp_path / "here", tree)
    with pytest.MonkeyPatch.context() as patch:
        if up == "s3fs":
            without_obstore(patch)
        mlartifacts.upload(here, f"s3://{bucket}/tree")
    # Of the odd name alone, s3fs' own request.
    assert carried(proxy, "PUT", "POST") == {up, "s3fs"}
    mlartifacts.filesystem("s3").clear_instance_cache()
    proxy.reset()
    with pytest.MonkeyPatch.context() as patch:
        if down == "s3fs":
            without_obstore(patch)
        got = mlartifacts.download(f"s3://{bucket}/tree", tmp_path / "there")
    sent = {
        "s3fs" if "boto" in request.headers["user-agent"].lower() else "obstore"
        for request in proxy.requests
        if request.method == "GET" and "list-type" not in request.target
    }
    assert sent == {down, "s3fs"}
    assert found(got) == tree


def test_small_files_cost_one_request_each(
    proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path
) -> None:
    """Whole, without a range; and one to know what there is."""
    here = plant(tmp_path / "here", {f"file {n}": bytes([n]) * 5000 for n in range(9)})
    mlartifacts.upload(here, f"s3://{bucket}/tree")
    assert [request.method for request in proxy.requests].count("PUT") == 9
    proxy.reset()
    mlartifacts.download(f"s3://{bucket}/tree", tmp_path / "there")
    asked = [(r.method, "list-type" in r.target) for r in proxy.requests]
    assert sorted(asked) == [*[("GET", False)] * 9, ("GET", True)]
    assert not any("range" in request.headers for request in proxy.requests)
    proxy.reset()
    mlartifacts.download(f"s3://{bucket}/tree/file 3", tmp_path / "one")
    assert ["list-type" in request.target for request in proxy.requests] == [True, False]


def test_what_is_there_is_asked_in_few_requests(
    proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path
) -> None:
    fs = mlartifacts.filesystem("s3")
    fs.call_s3("put_object", Bucket=bucket, Key="marked/")
    fs.pipe_file(f"{bucket}/both", b"a file")
    fs.pipe_file(f"{bucket}/both/x", b"below it")
    here = plant(tmp_path / "here", {"x": b"x"})

    def asked(act: Callable[[], object]) -> list[str]:
        proxy.reset()
        act()
        lists = ["LIST" if "list-type" in r.target else r.method for r in proxy.requests]
        return sorted(lists)

    def missing(uri: str) -> None:
        with pytest.raises(FileNotFoundError):
            mlartifacts.download(uri, tmp_path / "missing")

    uri = f"s3://{bucket}"
    assert asked(lambda: mlartifacts.sync(here, f"{uri}/fresh")) == ["LIST", "PUT"]
    assert asked(lambda: mlartifacts.sync(here, f"{uri}/fresh")) == ["LIST"]
    assert asked(lambda: missing(f"{uri}/missing")) == ["LIST"]
    assert asked(lambda: missing(f"{uri}/fres")) == ["LIST"]
    assert asked(lambda: missing(f"{uri}-missing")) == ["LIST"]
    fresh = asked(lambda: mlartifacts.download(f"{uri}/fresh/", tmp_path / "a"))
    assert fresh == ["GET", "LIST"]
    marked = asked(lambda: mlartifacts.download(f"{uri}/marked/", tmp_path / "b"))
    assert marked == ["LIST"]
    assert found(tmp_path / "b") == {}
    assert asked(lambda: mlartifacts.download(f"{uri}/both", tmp_path / "c")) == ["GET", "LIST"]
    assert (tmp_path / "c").read_bytes() == b"a file"
    mlartifacts.download(uri, tmp_path / "all", include=["both/*", "fresh"])
    assert found(tmp_path / "all") == {"both/x": b"below it", "fresh/x": b"x"}


DENIED = reverse_proxy.Answer(
    403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
)


def test_who_may_not_list_may_upload(
    moto_server: Moto, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {f"{number}": bytes([number]) * 9_000_000 for number in range(5)}
    here = plant(tmp_path / "here", tree)

    def answer(request: reverse_proxy.Request) -> reverse_proxy.Answer | None:
        return DENIED if request.method == "GET" else None

    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = answer
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        mlartifacts.upload(here, f"s3://{bucket}/tree")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", moto_server.url)
    assert mlartifacts.filesystem("s3").du(f"{bucket}/tree") == 45_000_000


def test_who_may_list_a_directory_alone_may_fetch_it(
    moto_server: Moto, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many policies allow a prefix that ends in a slash, and not the name without it."""
    mlartifacts.filesystem("s3").pipe_file(f"{bucket}/tree/x", b"x")
    mlartifacts.filesystem("s3").pipe_file(f"{bucket}/tree-other", b"y")

    def answer(request: reverse_proxy.Request) -> reverse_proxy.Answer | None:
        is_denied = "list-type" in request.path and "prefix=tree%2F" not in request.path
        return DENIED if is_denied else None

    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = answer
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        assert found(mlartifacts.download(f"s3://{bucket}/tree", tmp_path / "a")) == {"x": b"x"}
        got = mlartifacts.download(f"s3://{bucket}/tree-other", tmp_path / "b")
        assert got.read_bytes() == b"y"


def test_a_small_file_that_grew_is_not_taken_into_memory(
    moto_server: Moto, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a server that heeds no conditions either."""
    mlartifacts.filesystem("s3").pipe_file(f"{bucket}/tree/x", b"x" * 1000)
    sent = []

    def answer(request: reverse_proxy.Request) -> reverse_proxy.Answer | None:
        if request.method != "GET" or "list-type" in request.path:
            return None
        sent.append(request.path)
        return reverse_proxy.Answer(200, b"y" * 3_000_000, {"ETag": '"other"'})

    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = answer
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        with pytest.raises(TransferError) as caught:
            mlartifacts.download(f"s3://{bucket}/tree", tmp_path / "there")
    assert only(caught).errno == errno.ESTALE  # type: ignore[attr-defined]
    assert "(0, 3000000)" in str(only(caught))
    assert len(sent) == 4
    assert found(tmp_path / "there") == {}


@pytest.mark.parametrize("direction", ["up", "down"])
def test_more_are_on_their_way_where_the_network_is_slow(
    direction: str,
    moto_server: Moto,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = {f"file {n}": bytes([n]) for n in range(200)}
    here = plant(tmp_path / "here", tree)
    uri = f"s3://{bucket}/tree"
    if direction == "down":
        mlartifacts.upload(here, uri)
    # By this clock a second passes between two looks, so that no file is quick.
    clock = SimpleNamespace(sleep=time.sleep, time=time.time, monotonic=itertools.count().__next__)
    monkeypatch.setattr(engine, "time", clock)
    asked, at_once = itertools.count(), AtOnce(64)

    def answer(request: reverse_proxy.Request) -> None:
        if "/tree/file" in request.path and next(asked) >= 32:  # by which it is known
            at_once.pass_by()

    with reverse_proxy.serve(moto_server.url) as front:
        front.answer = answer
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
            if direction == "up":
                mlartifacts.upload(here, uri)
            else:
                mlartifacts.download(uri, tmp_path / "there")
    assert at_once.most == 64
    assert found(mlartifacts.download(uri, tmp_path / "there")) == tree


def test_a_small_file_that_was_replaced_by_another(
    proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path
) -> None:
    """It is asked for in the version that was listed, and then in the new one."""
    fs = mlartifacts.filesystem("s3")
    fs.pipe_file(f"{bucket}/tree/x", b"old")
    fs.pipe_file(f"{bucket}/tree/y", b"y" * 9_000_000)
    proxy.reset()

    class Change(Callback):  # type: ignore[misc]
        changed = False

        def relative_update(self, inc: int = 1) -> None:
            if not self.changed:  # the larger one comes first
                self.changed = True
                fs.pipe_file(f"{bucket}/tree/x", b"new!")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_CARRIED_AT_ONCE", 1)
        mlartifacts.download(f"s3://{bucket}/tree", tmp_path / "there", callback=Change())
    assert (tmp_path / "there" / "x").read_bytes() == b"new!"
    asked = [r for r in proxy.requests if r.method == "GET" and r.target.endswith("/tree/x")]
    versions = [request.headers["if-match"] for request in asked]
    assert len(set(versions)) == len(versions) == 2


def test_what_is_stored_is_described_alike(
    proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "1234",
        "Metadata": {"team": "night shift", "Cost-Centre": "7"},
        "CacheControl": "max-age=60",
        "StorageClass": "STANDARD_IA",
    }
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", json.dumps(arguments))
    tree = {"a.json": b"{}", "b.csv.gz": b"x", "c": b"x", "large.html": LARGE}
    here = plant(tmp_path / "here", tree)
    mlartifacts.upload(here, f"s3://{bucket}/ours")
    assert carried(proxy, "PUT") == {"obstore"}
    with pytest.MonkeyPatch.context() as patch:
        without_obstore(patch)
        mlartifacts.filesystem("s3").clear_instance_cache()
        mlartifacts.upload(here, f"s3://{bucket}/theirs")
    said = (
        "ContentType ContentEncoding CacheControl Metadata ServerSideEncryption SSEKMSKeyId"
        " StorageClass ContentLength"
    ).split()
    for name in tree:
        one, other = head(bucket, f"ours/{name}"), head(bucket, f"theirs/{name}")
        kinds = [{key: each.get(key) for key in said} for each in (one, other)]
        # Without a type, each sends that of bytes in its own way.
        for each in kinds:
            if name == "c":
                each.pop("ContentType")
        assert kinds[0] == kinds[1], name
    assert head(bucket, "ours/large.html")["SSEKMSKeyId"].endswith("1234")
    assert head(bucket, "ours/b.csv.gz")["ContentEncoding"] == "gzip"


@pytest.mark.parametrize(
    "arguments",
    [
        {"ACL": "public-read"},
        {"Tagging": "a=b"},
        {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "a key of thirty-two letters long"},
        {"Metadata": {"Content-Type": "text/plain"}},
        {"Metadata": {"name": "ünï"}},
        {"ChecksumAlgorithm": "CRC32C"},
        {"ExpectedBucketOwner": "123456789012"},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_what_obstore_cannot_say_s3fs_says(
    arguments: dict[str, Any], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mlartifacts.filesystem("s3").carrier(bucket) is not None
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", json.dumps(arguments))
    assert mlartifacts.filesystem("s3").carrier(bucket) is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
        ("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms"),
        ("AWS_CHECKSUM_ALGORITHM", "SHA256"),
        ("MLFLOW_S3_EXPECTED_BUCKET_OWNER", "123456789012"),
        ("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", "s3"),
    ],
)
def test_what_obstore_reads_otherwise_is_left_to_s3fs(
    variable: str, value: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert mlartifacts.filesystem("s3").carrier(bucket) is None


def test_what_obstore_would_take_from_the_environment(
    proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that botocore does not read change nothing."""
    for name, value in {
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_ENDPOINT": "http://127.0.0.1:9",
        "AWS_REGION": "eu-north-1",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_UNSIGNED_PAYLOAD": "true",
        "AWS_TIMEOUT": "1ns",
        "AWS_S3_EXPRESS": "true",
        "AWS_TOKEN": "none",
    }.items():
        monkeypatch.setenv(name, value)
    plant(tmp_path / "here", {"a": b"x"})
    mlartifacts.upload(tmp_path / "here", f"s3://{bucket}/tree")
    (put,) = (request for request in proxy.requests if request.method == "PUT")
    assert carried(proxy, "PUT") == {"obstore"}
    assert "/us-east-1/s3/" in put.headers["authorization"]
    assert put.headers["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD"
    assert "x-amz-security-token" not in put.headers


def test_anonymous(
    proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", "unsigned")
    plant(tmp_path / "here", {"a": b"x"})
    mlartifacts.upload(tmp_path / "here", f"s3://{bucket}/tree")
    assert carried(proxy, "PUT") == {"obstore"}
    assert all("authorization" not in request.headers for request in proxy.requests)


def test_tls(moto_server_tls: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto_server_tls.env.items():
        monkeypatch.setenv(name, value)
    root = moto_server_tls.new_root()
    tree = {"a": b"x", "large": LARGE}
    plant(tmp_path / "here", tree)
    fs, path = mlartifacts.url_to_fs(root)
    carrier = fs.carrier(path)
    carrier.write(f"{path}/carried", b"x")
    mlartifacts.upload(tmp_path / "here", f"{root}/tree")
    assert found(mlartifacts.download(f"{root}/tree")) == tree

    monkeypatch.delenv("AWS_CA_BUNDLE")
    fs, path = mlartifacts.url_to_fs(root)
    with pytest.raises(ConnectionError, match="AWS_CA_BUNDLE") as caught:
        fs.carrier(path).read(f"{path}/carried", 0, 1, None)
    assert caught.value.filename == f"{path}/carried"

    monkeypatch.setenv("MLFLOW_S3_IGNORE_TLS", "true")
    fs, path = mlartifacts.url_to_fs(root)
    assert b"".join(fs.carrier(path).read(f"{path}/carried", 0, 1, None)) == b"x"


def test_profiles_and_roles(profiles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("writer", "analyst"):
        monkeypatch.setenv("AWS_PROFILE", name)
        fs, path = mlartifacts.url_to_fs(f"s3://{profiles}/{name}")
        carrier = fs.carrier(path)
        carrier.write(path, b"bytes")
        assert b"".join(carrier.read(path, 1, 4, None)) == b"yte"
    for name, code in (("clerk", "AccessDenied"), ("liar", "SignatureDoesNotMatch")):
        monkeypatch.setenv("AWS_PROFILE", name)
        fs, path = mlartifacts.url_to_fs(f"s3://{profiles}/x")
        acts: list[Callable[[], Any]] = [
            lambda fs=fs, path=path: fs.carrier(path).write(path, b"x"),
            lambda fs=fs, path=path: fs.carrier(path).read(path, 0, 1, None),
            lambda fs=fs, path=path: fs.carrier(path).write_pieces(
                path, iter([LARGE]), 2**23, 2, [].append
            ),
        ]
        for act in acts:
            with pytest.raises(PermissionError, match=code) as caught:
                act()
            assert caught.value.filename == path
            shown = f"{caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"
            assert "Debug" not in shown
            assert "not the writer's" not in shown


def test_refusals_are_builtins(bucket: str, tmp_path: Path) -> None:
    fs = mlartifacts.filesystem("s3")
    carrier = fs.carrier(bucket)
    with pytest.raises(FileNotFoundError) as caught:
        carrier.read(f"{bucket}/missing", 0, 1, None)
    assert caught.value.filename == f"{bucket}/missing"
    fs.pipe_file(f"{bucket}/x", b"x")
    with pytest.raises(OSError, match="changed") as stale:
        carrier.read(f"{bucket}/x", 0, 1, '"00000000000000000000000000000000"')
    assert stale.value.filename == f"{bucket}/x"
    plant(tmp_path / "here", {"a": b"x", "large": LARGE})
    with pytest.raises(TransferError) as failed:
        mlartifacts.upload(tmp_path / "here", "s3://no-such-bucket/x")
    for cause in failed.value.failures.values():
        assert isinstance(cause, FileNotFoundError)
        assert "no-such-bucket" in str(cause)


def test_a_refused_connection(bucket: str) -> None:
    fs = mlartifacts.filesystem("s3", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(ConnectionRefusedError) as caught:
        fs.carrier(bucket).read(f"{bucket}/x", 0, 1, None)
    assert caught.value.filename == f"{bucket}/x"


def test_silence_is_a_timeout(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    with silent.hanging() as server:
        carrier = mlartifacts.filesystem("s3", endpoint_url=server.url).carrier(bucket)
        acts: list[Callable[[], Any]] = [
            lambda: carrier.read(f"{bucket}/x", 0, 1, None),
            lambda: carrier.write(f"{bucket}/x", b"x"),
            lambda: carrier.write_pieces(f"{bucket}/x", iter([LARGE]), 2**23, 2, [].append),
        ]
        for act in acts:
            with pytest.raises(TimeoutError, match="MLFLOW_ARTIFACT_UPLOAD") as caught:
                act()
            assert caught.value.filename == f"{bucket}/x"


def test_a_write_that_fails_leaves_nothing(moto_server: Moto, bucket: str) -> None:
    carrier = mlartifacts.filesystem("s3").carrier(bucket)

    def pieces() -> Iterator[bytes]:
        yield LARGE
        assert len(moto_server.uploads(bucket)) == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        carrier.write_pieces(f"{bucket}/x", pieces(), 2**23, 2, [].append)
    assert moto_server.uploads(bucket) == []
    assert not mlartifacts.filesystem("s3").exists(f"{bucket}/x")


def test_an_abandoned_write_leaves_nothing(moto_server: Moto, bucket: str) -> None:
    """Nor another's upload of the same key less, whether it began before or after."""
    others = [moto_server.request("POST", f"/{bucket}/x?uploads")]
    carrier = mlartifacts.filesystem("s3").carrier(bucket)
    begun, abandoned = threading.Event(), threading.Event()
    abandons: list[Callable[[], None]] = []

    def pieces() -> Iterator[bytes]:
        yield LARGE
        begun.set()
        abandoned.wait(20)
        yield LARGE

    def write() -> None:
        with contextlib.suppress(OSError):
            carrier.write_pieces(f"{bucket}/x", pieces(), 2**23, 2, abandons.append)

    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(20)
    others.append(moto_server.request("POST", f"/{bucket}/x?uploads"))
    assert len(moto_server.uploads(bucket)) == 3
    (abandon,) = abandons
    abandon()
    abandoned.set()
    thread.join(20)
    left = moto_server.uploads(bucket)
    assert len(left) == 2
    assert all(any(upload.encode() in other for other in others) for upload in left)
    assert not mlartifacts.filesystem("s3").exists(f"{bucket}/x")


_UPLOADING = """
import sys, mlartifacts
mlartifacts.upload(*sys.argv[1:])
"""


def test_an_interrupt_ends_soon_and_leaves_nothing(
    moto_server: Moto, proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path
) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**30)  # far more than is sent before somebody looks
    command = [sys.executable, "-c", _UPLOADING, str(tmp_path / "large"), f"s3://{bucket}/large"]
    proxy.delay = 0.1
    proxy.drag = 0.02  # all of it would take a minute
    with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
        wait_until(
            lambda: any("partNumber" in request.target for request in proxy.requests), "a part"
        )
        child.send_signal(signal.SIGINT)
        _, said = child.communicate()
    assert child.returncode == -signal.SIGINT
    assert said.rstrip().endswith(b"KeyboardInterrupt")
    assert proxy.bytes_to_server < 2**27
    assert moto_server.uploads(bucket) == []
    assert not mlartifacts.filesystem("s3").exists(f"{bucket}/large")


def test_parts_are_of_one_size(proxy: tcp_proxy.Proxy, bucket: str, tmp_path: Path) -> None:
    """R2 refuses others."""
    plant(tmp_path, {"large": LARGE})
    mlartifacts.upload(tmp_path / "large", f"s3://{bucket}/large")
    parts = sorted(
        (int(urllib.parse.parse_qs(request.target.partition("?")[2])["partNumber"][0]), request)
        for request in proxy.requests
        if "partNumber" in request.target
    )
    *sizes, last = (int(request.headers["content-length"]) for _, request in parts)
    assert carried(proxy, "PUT") == {"obstore"}
    assert set(sizes) == {2**23}
    assert last <= 2**23


_FORKED = """
import os, sys, warnings, mlartifacts
warnings.simplefilter("ignore")
fs, path = mlartifacts.url_to_fs(sys.argv[1])
fs.carrier(path).write(path, b"parent")
child = os.fork()
if child == 0:
    mlartifacts.upload(sys.argv[2], sys.argv[1])
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_moves_files_too(bucket: str, tmp_path: Path) -> None:
    """obstore's threads are not in it."""
    plant(tmp_path, {"local": b"child"})
    command = [sys.executable, "-c", _FORKED, f"s3://{bucket}/x", str(tmp_path / "local")]
    subprocess.run(command, check=True, timeout=60)
    assert mlartifacts.filesystem("s3").cat_file(f"{bucket}/x") == b"child"


@pytest.mark.parametrize("name", ["runs-s3", "models-s3"])
def test_what_lies_on_s3_is_carried(
    name: str, opened: Callable[[str], Harbour], tmp_path: Path
) -> None:
    store = opened(name)
    store.seed({"tree/a": b"a", "tree/large": LARGE})
    fs, path = mlartifacts.url_to_fs(store.uri("tree"))
    carrier = fs.carrier(path)
    assert carrier.takes(f"{path}/a")
    assert b"".join(carrier.read(f"{path}/large", 1, 3, None)) == LARGE[1:3]
    with pytest.raises(FileNotFoundError) as caught:
        carrier.read(f"{path}/missing", 0, 1, None)
    assert caught.value.filename == f"{path}/missing"
    assert found(mlartifacts.download(store.uri("tree"))) == {"a": b"a", "large": LARGE}
    if name == "models-s3":
        for write in (
            carrier.write,
            lambda path, data: carrier.write_pieces(path, data, 1, 1, [].append),
        ):
            with pytest.raises(OSError, match="only be read"):
                write(f"{path}/a", b"x")
        return
    carrier.write(f"{path}/b", b"b")
    carrier.write_pieces(f"{path}/c", iter([LARGE]), 2**23, 2, [].append)
    assert store.stored()["tree/b"] == b"b"
    assert store.stored()["tree/c"] == LARGE
