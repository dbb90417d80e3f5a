"""What every test has: an environment of its own, and no filesystem of the test before."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import botocore.httpsession
import certifi
import pytest
from botocore.loaders import JSONFileLoader
from fsspec.spec import AbstractFileSystem

pytest_plugins = ["tests.groups", "tests.retries", "tests.servers.fixtures"]

#: Variables that some store or driver reads, by their beginnings.
_READ_BY_STORES = (
    "AWS_",
    "MLARTIFACTS_",
    "MLFLOW_",
    "XDG_",
    "AZURE_",
    "GCS",
    "GOOGLE_",
    "STORAGE_EMULATOR_HOST",
    "ARROW_",
    "HADOOP",
    "CLASSPATH",
    "LIBHDFS",
    "KRB5",
    "FSSPEC_",
    "SSH_",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)

#: Read once, when gcsfs is imported: it must hold in every test and every child process.
_KEPT = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"}


@pytest.fixture(scope="module", autouse=True)
def _collections_are_quick() -> None:
    """Have the collections that tests ask for pass over what many libraries made when imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the person's credentials and settings out of the tests, and the tests out of theirs."""
    if (mlflow := sys.modules.get("mlflow")) is not None:
        # mlflow keeps what a test gave set_tracking_uri() for as long as the process lives.
        mlflow.set_tracking_uri(None)
    for name in list(os.environ):
        if name.upper().startswith(_READ_BY_STORES) and name not in _KEPT:
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    yield
    # Filesystems outlive their test in fsspec's caches, with the environment that they had.
    _clear_instances(AbstractFileSystem)


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what programs leave in the directory for temporary files off the person's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _sessions_of_aws_are_quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have botocore parse what it describes AWS by once, and not for each session.

    A session's clients share what it has read, so that nothing changes it. Each client reads the
    hundred authorities of the web as well, of which no server of the tests has a certificate. Both
    take longer than most tests on S3.
    """
    with pytest.MonkeyPatch.context() as patch:
        load_file = functools.cache(JSONFileLoader().load_file)
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: load_file(path))
        authorities = tmp_path_factory.mktemp("authorities") / "one.pem"
        first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
        authorities.write_text(f"{first}{end}\n")
        patch.setattr(botocore.httpsession, "where", lambda: str(authorities))
        yield


def _clear_instances(cls: type[AbstractFileSystem]) -> None:
    cls.clear_instance_cache()
    for subclass in cls.__subclasses__():
        _clear_instances(subclass)


def interrupt() -> None:
    """Press Ctrl-C, from whichever thread."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGINT)
