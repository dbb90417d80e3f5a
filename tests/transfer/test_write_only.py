"""Credentials that may write and not look, as many jobs have."""

from __future__ import annotations

import datetime
import json
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.errors import TransferError
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.transfer.trees import odd_tree, plant

Opened = Callable[[str], Harbour]

TREE = odd_tree()
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return plant(tmp_path / "here", TREE)


@pytest.fixture
def letterbox(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Harbour, Reverse]]:
    """A bucket that takes what it is given and shows nothing."""

    def refuse(request: Request) -> Answer | None:
        return Answer(403, DENIED) if request.method in {"GET", "HEAD"} else None

    s3 = opened("s3")
    with reverse_proxy.serve(s3.server.url) as proxy:
        proxy.answer = refuse
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.url)
        yield s3, proxy


# s3fs moves the bytes where obstore lacks a setting; an object that is encrypted by a key of the
# user's has an ETag that is no MD5.
ARGUMENTS = ({}, {"ACL": "private"}, {"ServerSideEncryption": "aws:kms"})


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_bucket_that_shows_nothing(
    arguments: dict[str, str],
    letterbox: tuple[Harbour, Reverse],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3, proxy = letterbox
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", json.dumps(arguments))
    for name in ("large.bin", "one byte"):
        mlartifacts.upload(here / name, s3.uri(f"single/{name}"))
        mlartifacts.upload(here / name, s3.uri("into/"))
    mlartifacts.upload(here, s3.uri("tree"))
    single = {name: TREE[name] for name in ("large.bin", "one byte")}
    assert s3.stored() == {
        **{f"single/{name}": data for name, data in single.items()},
        **{f"into/{name}": data for name, data in single.items()},
        **{f"tree/{name}": data for name, data in TREE.items()},
    }
    # Whatever brings bytes says their checksum, which S3 compares (and moto does not).
    for request in proxy.requests:
        if request.method == "PUT":
            said = {name.lower(): value for name, value in request.headers.items()}
            assert said["x-amz-content-sha256"] == request.sha256.hex()


def test_a_bucket_that_is_sent_no_checksum(
    letterbox: tuple[Harbour, Reverse], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what arrived."""
    s3, _ = letterbox
    monkeypatch.setenv("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", "unsigned")
    with pytest.raises(TransferError) as caught:
        mlartifacts.upload(here / "large.bin", s3.uri("large.bin"))
    assert isinstance(caught.value.failures[""], PermissionError)


def test_a_bucket_that_shows_nothing_is_compared_with_nothing(
    letterbox: tuple[Harbour, Reverse], here: Path
) -> None:
    """A sync, and a copy that may skip what is there, must look."""
    s3, _ = letterbox
    for act in (mlartifacts.sync, mlartifacts.copy):
        with pytest.raises(PermissionError):
            act(here, s3.uri("tree"))
    assert s3.stored() == {}


def test_a_run_in_a_bucket_that_shows_nothing(
    opened: Opened, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened("runs-s3")
    with reverse_proxy.serve(opened("s3").server.url) as proxy:
        proxy.answer = lambda r: Answer(403, DENIED) if r.method in {"GET", "HEAD"} else None
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.url)
        mlartifacts.upload(here / "large.bin", run.uri("large.bin"))
        mlartifacts.upload(here, run.uri("tree"))
    assert run.stored() == {
        "large.bin": TREE["large.bin"],
        **{f"tree/{name}": data for name, data in TREE.items()},
    }


def test_a_google_bucket_that_shows_nothing(
    opened: Opened, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    google = opened("gcs")
    denied = b'{"error": {"code": 403, "message": "no access"}}'
    with reverse_proxy.serve(google.server.url) as proxy:
        proxy.answer = lambda r: Answer(403, denied) if r.method == "GET" else None
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        mlartifacts.upload(here / "large.bin", google.uri("single/large.bin"))
        mlartifacts.upload(here, google.uri("tree"))
    assert google.stored() == {
        "single/large.bin": TREE["large.bin"],
        **{f"tree/{name}": data for name, data in TREE.items()},
    }


@pytest.mark.parametrize("permission", ["cw", "w"])
def test_a_container_that_shows_nothing(
    permission: str, opened: Opened, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob import generate_container_sas

    azure = opened("wasbs")
    server = azure.server
    container = urllib.parse.urlsplit(azure.base).username
    signature = generate_container_sas(
        server.account,
        container,
        server.key,
        permission=permission,
        expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1),
    )
    string = f"BlobEndpoint={server.endpoint};SharedAccessSignature={signature}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", string)
    with pytest.raises(PermissionError):
        mlartifacts.url_to_fs(azure.uri())[0].ls(mlartifacts.url_to_fs(azure.uri())[1])
    mlartifacts.upload(here / "large.bin", azure.uri("single/large.bin"))
    mlartifacts.upload(here / "one byte", azure.uri("into/"))
    mlartifacts.upload(here, azure.uri("tree"))
    assert azure.stored() == {
        "single/large.bin": TREE["large.bin"],
        "into/one byte": b"1",
        **{f"tree/{name}": data for name, data in TREE.items()},
    }
