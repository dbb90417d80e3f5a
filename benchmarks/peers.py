"""What moves files, ours and what a user would pick instead; a process for each measurement.

``python -m benchmarks.peers WAY up|down|find URI LOCAL`` moves what is at `LOCAL` or `URI`, or
lists it, and prints what it took as JSON. A file of one byte is moved or listed before, so that
imports, clients and connections are not measured.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Moves what is at the first place to the second; one of them is local.
Move = Callable[[str, str], object]

_AT_ONCE = 32


def _key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _below(local: str) -> Iterator[tuple[str, Path]]:
    root = Path(local)
    for path in [root] if root.is_file() else root.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(root if root.is_dir() else root.parent)), path


def ours() -> tuple[Move, Move]:
    import mlartifacts

    options = json.loads(os.environ.get("BENCHMARK_OPTIONS", "{}"))

    def up(local: str, uri: str) -> None:
        inside = f"/{os.path.basename(local)}" if os.path.isfile(local) else ""
        mlartifacts.upload(local, uri + inside, **options)

    return up, lambda uri, local: mlartifacts.download(uri, local, **options)


def fallback() -> tuple[Move, Move]:
    """Ours, where obstore is not installed."""
    sys.modules["obstore"] = None  # type: ignore[assignment]
    return ours()


def mlflow() -> tuple[Move, Move]:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    def up(local: str, uri: str) -> None:
        repository = get_artifact_repository(uri)
        if os.path.isdir(local):
            repository.log_artifacts(local)
        else:
            repository.log_artifact(local)

    def down(uri: str, local: str) -> None:
        os.makedirs(local)
        get_artifact_repository(uri).download_artifacts("", local)

    return up, down


def boto3() -> tuple[Move, Move]:
    import boto3
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])

    def up(local: str, uri: str) -> None:
        bucket, key = _key(uri)
        with create_transfer_manager(client, TransferConfig()) as manager:
            futures = [
                manager.upload(str(path), bucket, f"{key}/{name}") for name, path in _below(local)
            ]
            for future in futures:
                future.result()

    def down(uri: str, local: str) -> None:
        bucket, key = _key(uri)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/")
        with create_transfer_manager(client, TransferConfig()) as manager:
            futures = []
            for each in (item["Key"] for page in pages for item in page["Contents"]):
                path = os.path.join(local, each.removeprefix(f"{key}/"))
                os.makedirs(os.path.dirname(path), exist_ok=True)
                futures.append(manager.download(bucket, each, path))
            for future in futures:
                future.result()

    return up, down


def _fsspec(fs: Any) -> tuple[Move, Move]:
    def place(uri: str) -> str:
        return str(fs._strip_protocol(uri))

    def up(local: str, uri: str) -> None:
        if os.path.isdir(local):
            fs.put(f"{local}/", f"{place(uri)}/", recursive=True)
        else:
            fs.put_file(local, f"{place(uri)}/{os.path.basename(local)}")

    def down(uri: str, local: str) -> None:
        fs.get(f"{place(uri)}/", f"{local}/", recursive=True)

    return up, down


def s3fs() -> tuple[Move, Move]:
    import s3fs

    return _fsspec(s3fs.S3FileSystem(endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"]))


def sshfs() -> tuple[Move, Move]:
    import sshfs

    fs = sshfs.SSHFileSystem(**json.loads(os.environ["BENCHMARK_DRIVER"]))
    up, _ = _fsspec(fs)

    def down(uri: str, local: str) -> None:
        # Its `get` of a directory fails at the directory itself.
        place = str(fs._strip_protocol(uri))
        found = fs.find(place)
        fs.get(found, [local + path.removeprefix(place) for path in found])

    return up, down


def ftp() -> tuple[Move, Move]:
    from fsspec.implementations.ftp import FTPFileSystem

    return _fsspec(FTPFileSystem(**json.loads(os.environ["BENCHMARK_DRIVER"])))


def pyarrow() -> tuple[Move, Move]:
    # Otherwise it fails to upload parts to Ceph, and says so on stderr alone.
    os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
    from pyarrow import fs

    scheme, _, host = os.environ["MLFLOW_S3_ENDPOINT_URL"].partition("://")
    store = fs.S3FileSystem(endpoint_override=host, scheme=scheme)
    here = fs.LocalFileSystem()

    def up(local: str, uri: str) -> None:
        target = "/".join(_key(uri))
        if os.path.isfile(local):
            target = f"{target}/{os.path.basename(local)}"
        fs.copy_files(local, target, source_filesystem=here, destination_filesystem=store)

    def down(uri: str, local: str) -> None:
        os.makedirs(local)
        fs.copy_files(
            "/".join(_key(uri)), local, source_filesystem=store, destination_filesystem=here
        )

    return up, down


def obstore() -> tuple[Move, Move]:
    import obstore
    from obstore.store import S3Store

    bucket = os.environ["BENCHMARK_BUCKET"]
    endpoint = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    store = S3Store(bucket, endpoint=endpoint, client_options={"allow_http": True})

    def up(local: str, uri: str) -> None:
        _, key = _key(uri)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            each = [
                pool.submit(obstore.put, store, f"{key}/{name}", path)
                for name, path in _below(local)
            ]
        for future in each:
            future.result()

    def down(uri: str, local: str) -> None:
        _, key = _key(uri)

        def one(each: str) -> None:
            path = os.path.join(local, each.removeprefix(f"{key}/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                for piece in obstore.get(store, each).stream():
                    file.write(piece)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            each = [
                pool.submit(one, item["path"])
                for page in obstore.list(store, f"{key}/")
                for item in page
            ]
        for future in each:
            future.result()

    return up, down


def finds(way: str) -> Callable[[str], int]:
    """What lists all files below a directory on S3, and says how many there are."""
    endpoint = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    if way in {"ours", "s3fs"}:
        import s3fs

        import mlartifacts

        theirs = s3fs.S3FileSystem(endpoint_url=endpoint, use_listings_cache=False)
        fs = mlartifacts.filesystem("s3") if way == "ours" else theirs
        return lambda uri: len(fs.find(fs._strip_protocol(uri)))
    if way == "pyarrow":
        from pyarrow import fs as arrow

        scheme, _, host = endpoint.partition("://")
        store = arrow.S3FileSystem(endpoint_override=host, scheme=scheme)
        return lambda uri: len(
            store.get_file_info(arrow.FileSelector("/".join(_key(uri)), recursive=True))
        )
    if way == "obstore":
        import obstore
        from obstore.store import S3Store

        bucket = os.environ["BENCHMARK_BUCKET"]
        known = S3Store(bucket, endpoint=endpoint, client_options={"allow_http": True})
        return lambda uri: sum(map(len, obstore.list(known, f"{_key(uri)[1]}/")))
    if way == "boto3":
        import boto3

        pages = boto3.client("s3", endpoint_url=endpoint).get_paginator("list_objects_v2")
        return lambda uri: sum(
            len(page["Contents"])
            for page in pages.paginate(Bucket=_key(uri)[0], Prefix=f"{_key(uri)[1]}/")
        )
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return lambda uri: len(get_artifact_repository(uri).list_artifacts())


WAYS: dict[str, Callable[[], tuple[Move, Move]]] = {
    "mlflow": mlflow,
    "boto3": boto3,
    "s3fs": s3fs,
    "sshfs": sshfs,
    "ftp": ftp,
    "pyarrow": pyarrow,
    "obstore": obstore,
    "fallback": fallback,
    "ours": ours,
}


def _peak() -> float:
    """The most memory that this process held, in MiB."""
    try:
        # What getrusage says begins with what the parent held.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(way: str, work: str, uri: str, local: str) -> None:
    warm = Path(f"{local}.warm")
    if work == "find":
        find = finds(way)
        find(f"{uri}.warm")
        _measured(lambda: find(uri))
        return
    up, down = WAYS[way]()
    warm.mkdir()
    if work == "up":
        (warm / "one").write_bytes(b"1")
        up(str(warm), f"{uri}.warm")
        move, one, other = up, local, uri
    else:
        shutil.rmtree(warm)
        down(f"{uri}.warm", str(warm))
        move, one, other = down, uri, local
    _measured(lambda: move(one, other))


def _measured(act: Callable[[], object]) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    act()
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": _peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
