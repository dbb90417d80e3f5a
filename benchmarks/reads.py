"""Listing, reading in sequence, reading at random places, and two columns of a Parquet file."""

from __future__ import annotations

import os
import random
from typing import Any

import mlartifacts
from benchmarks.timing import interleaved, table

MIB = 2**20
JUMPS = 200


def measure_s3(name: str, server: Any) -> None:
    """Print how S3 compares to s3fs itself, and to MLflow's whole downloads."""
    import s3fs

    raw = s3fs.S3FileSystem(endpoint_url=server.url, key=server.key, secret=server.secret)
    fs, _ = mlartifacts.url_to_fs("s3://benchmark/x")
    raw.mkdir("benchmark")
    _listing_and_sequence(f"S3 ({name})", fs, raw, "benchmark", driver="s3fs")
    _random_places(f"S3 ({name})", fs, raw)
    _two_columns(fs, raw)


def measure_sftp(server: Any) -> None:
    """Print how SFTP compares to sshfs itself."""
    import sshfs

    settings = {
        "port": server.port,
        "username": server.user,
        "client_keys": [str(server.identity)],
        "known_hosts": str(server.known_hosts),
    }
    raw = sshfs.SSHFileSystem(server.host, **settings)
    fs, _ = mlartifacts.url_to_fs(f"sftp://{server.host}/", **settings)
    _listing_and_sequence("SFTP (OpenSSH)", fs, raw, str(server.root), driver="sshfs")


def _listing_and_sequence(title: str, fs: Any, raw: Any, root: str, driver: str) -> None:
    folder = f"{root}/folder"
    fs.pipe({f"{folder}/{number:04}": b"x" for number in range(1000)})
    seconds = interleaved(
        {
            driver: lambda: (raw.invalidate_cache(), raw.ls(folder, detail=True)),
            "mlartifacts": lambda: (fs.invalidate_cache(), fs.ls(folder, detail=True)),
        }
    )
    table(f"{title}: ls of 1,000 keys", seconds, driver)
    fs.pipe_file(f"{root}/64MiB", os.urandom(64 * MIB))
    for step in (MIB, 64 * MIB):
        seconds = interleaved(
            {
                driver: lambda step=step: _read_through(raw, f"{root}/64MiB", step),
                "mlartifacts": lambda step=step: _read_through(fs, f"{root}/64MiB", step),
            }
        )
        table(f"{title}: 64 MiB in sequence, read({step // MIB} MiB)", seconds, driver)


def _read_through(fs: Any, path: str, step: int) -> None:
    with fs.open(path, "rb") as file:
        while file.read(step):
            pass


def _random_places(title: str, fs: Any, raw: Any) -> None:
    path, size = "benchmark/100MiB", 100 * MIB
    fs.pipe_file(path, os.urandom(size))
    places = [random.Random(3).randrange(size - 1024) for _ in range(JUMPS)]

    def cat(fs: Any) -> None:
        for place in places:
            fs.cat_file(path, start=place, end=place + 1024)

    def jump(fs: Any) -> None:
        for place in places:
            with fs.open(path, "rb") as file:
                file.seek(place)
                file.read(1024)

    seconds = interleaved(
        {
            "cat_file(start, end), s3fs": lambda: cat(raw),
            "cat_file(start, end), mlartifacts": lambda: cat(fs),
            "open, seek, read: mlartifacts": lambda: jump(fs),
        },
        rounds=7,
    )
    seconds["open, seek, read: s3fs's default"] = _once(lambda: jump(raw))
    table(f"{title}: 1 KiB at {JUMPS} random places of 100 MiB (goal: within 2 x)", seconds,
          "cat_file(start, end), s3fs", "s")  # fmt: skip


def _once(way: Any) -> float:
    return interleaved({"": way}, rounds=1)[""]


def _two_columns(fs: Any, raw: Any) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        f"c{number:02}": np.random.default_rng(number).random(650_000) for number in range(20)
    }
    path = "benchmark/20columns.parquet"
    with fs.open(path, "wb") as file:
        pq.write_table(pa.table(columns), file, row_group_size=130_000, compression="none")
    size = fs.info(path)["size"]
    print(
        f"\nS3: two of twenty columns of a Parquet file of {size / MIB:.0f} MiB (goal: under 15 %)"
    )
    for name, each in (("s3fs", raw), ("mlartifacts", fs)):
        with each.open(path, "rb") as file:
            pq.ParquetFile(file, pre_buffer=False).read(columns=["c03", "c11"])
            fetched = file.cache.total_requested_bytes
        print(f"  {name:<46} {fetched / size * 100:10.1f} % of the bytes")
