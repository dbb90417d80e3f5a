"""From a URI to a cached filesystem and a path: goal, within 30 µs of fsspec's own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import fsspec.core

import mlartifacts
from benchmarks.timing import interleaved, table
from tests.servers import azurite, hdfs, sshd, vsftpd
from tests.servers.process import ServerUnavailable

FILE = "1/8f2c1d/artifacts/model.pkl"
ACCOUNT = {"connection_string": f"AccountName=name;AccountKey={azurite.KEY}"}

# Drivers that ask no server when they are made.
URIS: dict[str, dict[str, Any]] = {
    f"s3://bucket/{FILE}": {"anon": True},
    f"gs://bucket/{FILE}": {"token": "anon"},
    f"abfss://container@name.dfs.core.windows.net/{FILE}": ACCOUNT,
    f"file:///tmp/mlruns/{FILE}": {},
}

SERVERS: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "sftp": sshd.serve,
    "ftp": vsftpd.serve,
    "hdfs": hdfs.serve_here,
}


def measure() -> None:
    """Print the time of a call, the filesystem being there already."""
    for uri, options in URIS.items():
        _measure(uri, options)
    for scheme, serve in SERVERS.items():
        with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(serve(Path(directory)))
            except ServerUnavailable as error:
                print(f"\nMapping {scheme}: {error}")
                continue
            options = {}
            if scheme == "sftp":
                options["client_keys"] = [str(server.identity)]
                options["known_hosts"] = str(server.known_hosts)
            os.environ.update(server.env)
            # fsspec keeps no FTP filesystem: each of its calls connects.
            _measure(f"{server.url}/{FILE}", options, 20 if scheme == "ftp" else 2000)


def _measure(uri: str, options: dict[str, Any], number: int = 2000) -> None:
    raw, ours = f"fsspec.core.url_to_fs({uri[:5]}...)", "mlartifacts.url_to_fs"
    seconds = interleaved(
        {
            raw: lambda: fsspec.core.url_to_fs(uri, **options),
            ours: lambda: mlartifacts.url_to_fs(uri, **options),
            "mlartifacts.locate": lambda: mlartifacts.locate(uri, **options),
        },
        number=number,
    )
    table(f"Mapping {uri.partition(':')[0]}:", seconds, raw, "µs")
    over = seconds[ours] - seconds[raw]
    print(f"  {'over fsspec':<46} {over * 1e6:10.2f} µs  (goal: under 30)")
    over += seconds["mlartifacts.locate"]
    print(f"  {'the same, and locate':<46} {over * 1e6:10.2f} µs  (goal: under 30)")
