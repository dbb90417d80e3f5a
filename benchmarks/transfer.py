"""Moving small files, a large one and a mixed tree, beside what a user would pick instead.

``python -m benchmarks.transfer`` does all of it, which takes hours; ``--help`` shows how to do
parts.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
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
_DIRECTIONS = ["up", "down", "find"]
_SHOWN = {
    "small": "500 x 4 KiB",
    "many": "5,000 x 4 KiB",
    "large": "512 MiB",
    "mixed": "mixed (200 of 1 to 100 KiB, 40 of 1 to 8 MiB, 3 of 64 MiB)",
}
# What takes longer is not taken again: no moods of a machine are as large.
_LONG = 30.0
# In memory: ext4 makes files at a fraction of its speed for minutes after others were deleted.
_SHARED_MEMORY = "/dev/shm"
# Bytes of a tree that is removed when it was measured.
_ROOM = 2**26
_number = itertools.count()


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
    store: str,
    arguments: argparse.Namespace,
    ways: list[str],
) -> None:
    """Print a table for each kind of work."""
    for ms in arguments.latency:
        with server(ms / 1000) as place:
            for work in arguments.work:
                source = folder / work
                if not source.exists():
                    source.mkdir()
                    _fill(source, work)
                for direction in arguments.direction:
                    if direction == "find" and (store != "s3" or work != "many"):
                        continue
                    title = f"{store}, {_SHOWN[work]} {direction}, {ms:g} ms"
                    rounds = arguments.rounds
                    _table(title, _interleaved(place, folder, direction, str(source), rounds, ways))


def _fill(folder: Path, work: str) -> None:
    chosen = random.Random(0)
    sizes = {
        "small": [4096] * 500,
        "many": [4096] * 5000,
        "large": [2**29],
        "mixed": [
            *(chosen.randint(2**10, 100 * 2**10) for _ in range(200)),
            *(chosen.randint(2**20, 2**23) for _ in range(40)),
            *[2**26] * 3,
        ],
    }[work]
    for number, size in enumerate(sizes):
        inside = folder / f"{number % 10}" if work == "mixed" else folder
        inside.mkdir(exist_ok=True)
        with open(inside / f"{number:05}", "wb") as file:
            for start in range(0, size, 2**20):
                file.write(os.urandom(min(2**20, size - start)))


def _interleaved(
    place: Place,
    folder: Path,
    direction: str,
    source: str,
    rounds: int,
    ways: list[str],
) -> dict[str, list[dict[str, float]]]:
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    kept = f"{place.base}/kept"
    is_large = sum(path.stat().st_size for path in Path(source).rglob("*")) > _ROOM
    if direction != "up":
        _run("ours", "up", kept, source, place.env)
        shutil.rmtree(f"{source}.warm")
    for _ in range(rounds):
        for way in ways:
            if any(each["seconds"] > _LONG for each in taken[way]):
                continue
            local = str(folder / f"work-{next(_number)}-{way}")
            if direction == "up":
                os.symlink(source, local)
                uri = f"{place.base}/{os.path.basename(local)}"
            else:
                uri = kept
            if result := _run(way, direction, uri, local, place.env):
                taken[way].append(result)
            if direction == "up":
                os.unlink(local)
                if is_large:
                    _clear(uri, place)
            elif is_large:
                shutil.rmtree(local, ignore_errors=True)
    if direction != "up":
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
            f"  {way:<10}{each['seconds']:8.3f}{ratios[0]:>9}{ratios[1]:>10}"
            f"{each['cpu']:8.2f}{each['peak']:7.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("--store", nargs="+", choices=list(_PEERS), default=list(_PEERS))
    parser.add_argument("--work", nargs="+", choices=list(_SHOWN), default=list(_SHOWN))
    parser.add_argument("--direction", nargs="+", choices=_DIRECTIONS, default=_DIRECTIONS)
    parser.add_argument("--latency", type=float, nargs="+", default=[0, 11, 30], help="ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", help="some of the peers; ours is 'ours'")
    parser.add_argument("--folder", help="where all files lie (default: in memory, some GiB)")
    arguments = parser.parse_args()
    memory = _SHARED_MEMORY if os.path.isdir(_SHARED_MEMORY) else None
    servers: dict[str, Any] = {"s3": s3, "sftp": sftp, "ftp": ftp}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {arguments.rounds}")
    print(
        f"interleaved runs, each in its own process; of one run where that took over {_LONG:g} s."
    )
    for store in arguments.store:
        ways = [way for way in _PEERS[store] if way in (arguments.ways or _PEERS[store])]
        with tempfile.TemporaryDirectory(dir=arguments.folder or memory) as directory:
            folder = Path(directory)
            with servers[store](folder) as server:
                measure(server, folder, store, arguments, ways)


if __name__ == "__main__":
    main()
