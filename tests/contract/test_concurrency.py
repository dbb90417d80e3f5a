"""Many threads on one filesystem, and programs that have an event loop of their own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from typing import Any

import pytest

import mlartifacts
from tests.contract.stores import Harbour

THREADS = 20


def content(number: int) -> bytes:
    return random.Random(number).randbytes(20_000 + number)


def test_threads_that_read(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({f"file-{n}": content(n) for n in range(THREADS)})

    def read(number: int) -> bool:
        path, data = f"{root}/file-{number}", content(number)
        start = number * 13
        with fs.open(path, "rb") as file:
            file.seek(start)
            middle = file.read(1000)
        return (
            fs.cat_file(path) == data
            and fs.cat_file(path, start=start, end=start + 1000) == data[start : start + 1000]
            and middle == data[start : start + 1000]
            and fs.info(path)["size"] == len(data)
            and not fs.exists(f"{path}-missing")
        )

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(read, list(range(THREADS)) * 2))


@pytest.mark.writes
def test_threads_that_read_and_write(harbour: Harbour, fs: Any, root: str) -> None:
    def work(number: int) -> bool:
        path, data = f"{root}/folder-{number % 3}/file-{number}", content(number)
        with fs.open(path, "wb") as file:
            for start in range(0, len(data), 5000):
                file.write(data[start : start + 5000])
        right = fs.cat_file(path) == data
        right &= path in fs.ls(f"{root}/folder-{number % 3}", detail=False)
        fs.pipe_file(f"{path}-piped", data[::-1])
        with fs.open(f"{path}-piped", "rb") as file:
            right &= file.read() == data[::-1]
        fs.rm(f"{path}-piped")
        return right and not fs.exists(f"{path}-piped")

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))
    assert harbour.stored() == {f"folder-{n % 3}/file-{n}": content(n) for n in range(THREADS)}


@pytest.mark.writes
def test_threads_that_write_one_file(harbour: Harbour, fs: Any, root: str) -> None:
    """The file is one of them, never a mixture."""
    candidates = [bytes([number]) * 300_000 for number in range(8)]

    def work(data: bytes) -> None:
        with fs.open(f"{root}/file", "wb") as file:
            for start in range(0, len(data), 50_000):
                file.write(data[start : start + 50_000])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, candidates))
    stored = harbour.stored()
    assert set(stored) == {"file"}
    assert stored["file"] in candidates


def test_inside_a_running_loop(harbour: Harbour) -> None:
    """A notebook, whose cells run inside a loop, calls the plain functions."""
    harbour.seed({"file": b"data"})

    async def cell() -> bytes:
        fs, root = mlartifacts.url_to_fs(harbour.base, **harbour.options)
        assert fs.cat_file(f"{root}/file") == b"data"
        assert f"{root}/file" in fs.ls(root, detail=False)
        if harbour.writable:
            with mlartifacts.open(harbour.uri("written"), "wb", **harbour.options) as file:
                file.write(b"written")
            assert fs.cat_file(f"{root}/written") == b"written"
        with mlartifacts.open(harbour.uri("file"), **harbour.options) as file:
            data: bytes = file.read()
            return data

    assert asyncio.run(cell()) == b"data"
    assert asyncio.run(cell()) == b"data"  # and once more, in another loop


def test_threads_beside_a_running_loop(harbour: Harbour) -> None:
    harbour.seed({"file": b"data"})

    async def serve() -> list[bytes]:
        fs, root = mlartifacts.url_to_fs(harbour.base, **harbour.options)
        calls = [asyncio.to_thread(fs.cat_file, f"{root}/file") for _ in range(THREADS)]
        return await asyncio.gather(*calls)

    assert asyncio.run(serve()) == [b"data"] * THREADS


def test_asynchronously(harbour: Harbour) -> None:
    """An asynchronous driver's coroutines, awaited by the caller's own loop."""
    harbour.seed({"file": b"data"})

    async def main() -> None:
        fs, root = mlartifacts.url_to_fs(harbour.base, asynchronous=True, **harbour.options)
        try:
            assert fs.asynchronous
            assert await fs._cat_file(f"{root}/file") == b"data"
            assert await fs._cat_file(f"{root}/file", start=1, end=3) == b"at"
            assert await fs._cat_file(f"{root}/file", start=-2) == b"ta"
            assert (await fs._info(f"{root}/file"))["size"] == 4
            assert [entry["name"] for entry in await fs._ls(root, detail=True)] == [f"{root}/file"]
            assert not await fs._exists(f"{root}/missing")
            with pytest.raises(FileNotFoundError) as caught:
                await fs._cat_file(f"{root}/missing")
            assert caught.value.filename
            if harbour.writable:
                await fs._pipe_file(f"{root}/piped", b"piped")
                assert await fs._cat_file(f"{root}/piped") == b"piped"
                await fs._rm(f"{root}/piped")
        finally:
            await harbour.close(fs)

    if mlartifacts.filesystem(harbour.base, **harbour.options).async_impl:
        asyncio.run(main())
