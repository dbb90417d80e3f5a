"""Run the measurements: ``python -m benchmarks [startup mapping s3 sftp logical serving]``."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import logical, mapping, reads, serving, startup
from tests.servers import ceph, moto, sshd
from tests.servers.process import ServerUnavailable


@contextlib.contextmanager
def s3_server(directory: Path) -> Iterator[tuple[str, ceph.Ceph | moto.Moto]]:
    """Ceph, or moto where Ceph is not installed."""
    with contextlib.ExitStack() as stack:
        try:
            yield "Ceph", stack.enter_context(ceph.serve(directory))
        except ServerUnavailable as error:
            print(f"\n{error}: moto instead, which copies whole objects at ranged reads,")
            print("so its times for those say little (bash tests/servers/install.sh ceph)")
            yield "moto", stack.enter_context(moto.serve(directory))


def main(chosen: list[str]) -> None:
    chosen = chosen or ["startup", "mapping", "s3", "sftp", "logical", "serving"]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}")
    print("Medians of interleaved runs; the ratio is to the raw driver, or MLflow's download.")
    if "startup" in chosen:
        startup.measure()
    if "mapping" in chosen:
        mapping.measure()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        if {"s3", "logical", "serving"} & set(chosen):
            name, server = stack.enter_context(s3_server(Path(directory) / "s3"))
            os.environ.update(server.env)
            if "s3" in chosen:
                reads.measure_s3(name, server)
            if "logical" in chosen:
                logical.measure(Path(directory) / "logical", name, server)
            if "serving" in chosen:
                serving.measure(Path(directory) / "serving", name, server)
        if "sftp" in chosen:
            reads.measure_sftp(stack.enter_context(sshd.serve(Path(directory) / "sshd")))


main(sys.argv[1:])
