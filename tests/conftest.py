"""What every test has: an environment of its own, and no filesystem of the test before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.spec import AbstractFileSystem

pytest_plugins = ["tests.retries", "tests.servers.fixtures"]

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


def _clear_instances(cls: type[AbstractFileSystem]) -> None:
    cls.clear_instance_cache()
    for subclass in cls.__subclasses__():
        _clear_instances(subclass)
