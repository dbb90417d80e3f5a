"""Moving 500 small files and a large one, beside what a user would pick instead.

``python -m benchmarks.transfer`` runs it on S3, without and with 11 ms of latency; ``--help``
shows what else there is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlartifacts
from tests.servers import ceph, latency, sshd, vsftpd

_ROOT = Path(__file__).parents[1]
_PEERS = {
    "s3": ["mlflow", "boto3", "s3fs", "pyarrow", "obstore", "fallback", "ours"],
    "sftp": ["mlflow", "sshfs", "ours"],
    "ftp": ["mlflow", "ftp", "ours"],
}
# Of FTP's transfers: as many as are on their way, and those that were and are not forgotten.
_PASSIVE = range(14000, 14500)


@dataclass
class Place:
    """A running server, as its clients are told of it."""

    base: str
    env: dict[str, str]
    collect: Callable[[], object] = field(default=lambda: None)


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[Callable[[float], contextlib.AbstractContextManager[Place]]]:
    with ceph.serve(folder / "ceph") as server:
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id=server.key,
            aws_secret_access_key=server.secret,
        )
        client.create_bucket(Bucket="benchmark")

        @contextlib.contextmanager
        def place(seconds: float) -> Iterator[Place]:
            env = {**server.env, "BENCHMARK_BUCKET": "benchmark", "AWS_REGION": server.region}
            with _behind(folder, server.url, seconds) as url:
                yield Place(
                    "s3://benchmark", {**env, "MLFLOW_S3_ENDPOINT_URL": url}, server.collect
                )

        yield place


@contextlib.contextmanager
def sftp(folder: Path) -> Iterator[Callable[[float], contextlib.AbstractContextManager[Place]]]:
    with sshd.serve(folder / "sshd") as server:
        server.set_up_home_for_pysftp(folder / "home")

        @contextlib.contextmanager
        def place(seconds: float) -> Iterator[Place]:
            with _behind(folder, f"sftp://{server.host}:{server.port}", seconds) as url:
                host, port = url.removeprefix("sftp://").split(":")
                options = {"client_keys": [str(server.identity)], "known_hosts": None}
                told = {**options, "host": host, "port": int(port), "username": server.user}
                yield Place(
                    f"sftp://{server.user}@{host}:{port}{server.root}",
                    {
                        "HOME": str(folder / "home"),
                        "BENCHMARK_OPTIONS": json.dumps(options),
                        "BENCHMARK_DRIVER": json.dumps(told),
                    },
                )

        yield place


@contextlib.contextmanager
def ftp(folder: Path) -> Iterator[Callable[[float], contextlib.AbstractContextManager[Place]]]:
    with vsftpd.serve(folder / "ftp", passive=(_PASSIVE[0], _PASSIVE[-1])) as server:
        root = server.new_root().removeprefix(server.url)

        @contextlib.contextmanager
        def place(seconds: float) -> Iterator[Place]:
            with _behind(folder, server.url, seconds, _PASSIVE) as url:
                host, port = url.removeprefix("ftp://").split(":")
                told = {"host": host, "port": int(port)}
                yield Place(f"{url}{root}", {"BENCHMARK_DRIVER": json.dumps(told)})

        yield place


@contextlib.contextmanager
def _behind(folder: Path, url: str, seconds: float, passive: Sequence[int] = ()) -> Iterator[str]:
    if not seconds:
        yield url
        return
    with latency.serve(folder, url, seconds, passive) as behind:
        yield behind


def _run(way: str, work: str, uri: str, local: str, env: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.peers", way, work, uri, local]
    done = subprocess.run(
        command, env={**os.environ, **env}, cwd=_ROOT, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        print(f"  {way} failed: {done.stderr.strip()[-600:]}")
        return {}
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(
    server: Callable[[float], contextlib.AbstractContextManager[Place]],
    folder: Path,
    arguments: argparse.Namespace,
    ways: list[str],
) -> None:
    """Print a table for each kind of work."""
    sources = _sources(folder, arguments.files, arguments.large)
    for ms in arguments.latency:
        with server(ms / 1000) as place:
            for work, source in sources.items():
                for direction in ("up", "down"):
                    if arguments.only and f"{work} {direction}" not in arguments.only:
                        continue
                    title = f"{arguments.store}, {work} {direction}, {ms:g} ms"
                    taken = _interleaved(place, folder, direction, source, arguments, ways)
                    _table(title, taken)


def _sources(folder: Path, files: int, large: int) -> dict[str, str]:
    small, one = folder / "small", folder / "large"
    small.mkdir()
    one.mkdir()
    for number in range(files):
        (small / f"{number:05}").write_bytes(os.urandom(4096))
    with open(one / "large.bin", "wb") as file:
        for _ in range(large):
            file.write(os.urandom(2**20))
    return {f"{files} x 4 KiB": str(small), f"{large} MiB": str(one)}


def _interleaved(
    place: Place,
    folder: Path,
    direction: str,
    source: str,
    arguments: argparse.Namespace,
    ways: list[str],
) -> dict[str, list[dict[str, float]]]:
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    kept = f"{place.base}/kept"
    if direction == "down":
        _run("ours", "up", kept, source, place.env)
        shutil.rmtree(f"{source}.warm")
    for turn in range(arguments.rounds):
        for way in ways:
            local = str(folder / f"work-{turn}-{way}")
            if direction == "up":
                os.symlink(source, local)
                uri = f"{place.base}/{os.path.basename(local)}"
            else:
                uri = kept
            if result := _run(way, direction, uri, local, place.env):
                taken[way].append(result)
            if direction == "up":
                os.unlink(local)
                _clear(uri, place)
            else:
                shutil.rmtree(local, ignore_errors=True)
            shutil.rmtree(f"{local}.warm", ignore_errors=True)
    if direction == "down":
        _clear(kept, place)
    return taken


def _clear(uri: str, place: Place) -> None:
    os.environ.update(place.env)
    options = json.loads(place.env.get("BENCHMARK_OPTIONS", "{}"))
    # A peer may have failed.
    with contextlib.suppress(FileNotFoundError):
        freed = mlartifacts.delete(uri, **options)
        if freed.size > 2**27:
            place.collect()


def _table(title: str, taken: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{title}")
    print(f"  {'':<10}{'s':>8}{'to ours':>9}{'to MLflow':>10}{'CPU, s':>8}{'MiB':>7}")
    medians: dict[str, dict[str, float]] = {
        way: {name: statistics.median(each[name] for each in runs) for name in runs[0]}
        for way, runs in taken.items()
        if runs
    }
    for way, each in medians.items():
        ratios = [
            f"{each['seconds'] / medians[other]['seconds']:.2f}" if other in medians else ""
            for other in ("ours", "mlflow")
        ]
        print(
            f"  {way:<10}{each['seconds']:8.2f}{ratios[0]:>9}{ratios[1]:>10}"
            f"{each['cpu']:8.2f}{each['peak']:7.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("--store", choices=list(_PEERS), default="s3")
    parser.add_argument("--files", type=int, default=500, help="small files, of 4 KiB each")
    parser.add_argument("--large", type=int, default=512, help="MiB of the large file")
    parser.add_argument("--latency", type=float, nargs="+", default=None, help="ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", help="some of the peers; ours is 'ours'")
    parser.add_argument("--only", nargs="+", help="such as '500 x 4 KiB up'")
    arguments = parser.parse_args()
    if arguments.latency is None:
        arguments.latency = [0, 11]
    servers: dict[str, Any] = {"s3": s3, "sftp": sftp, "ftp": ftp}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {arguments.rounds}")
    print("interleaved runs, each in its own process.")
    with (
        tempfile.TemporaryDirectory() as directory,
        servers[arguments.store](Path(directory)) as server,
    ):
        measure(server, Path(directory), arguments, arguments.ways or _PEERS[arguments.store])


if __name__ == "__main__":
    main()
