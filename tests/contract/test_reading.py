"""Reads: ranges, seeks and blocks are slices of the whole."""

from __future__ import annotations

import gzip
import io
import random
from typing import Any

import fsspec.caching
import pytest

import mlartifacts
from tests.contract.stores import Harbour

#: No two positions look alike, and it is longer than any driver's smallest block.
DATA = random.Random(5).randbytes(700_001)

RANGES = [
    (None, None),
    (0, None),
    (None, 0),
    (None, 10),
    (0, 10),
    (10, 20),
    (7, 7),
    (20, 10),
    (-10, None),
    (-10, -5),
    (None, -10),
    (5, -5),
    (-700_001, None),
    (700_000, 700_001),
    (700_000, 800_000),
    (10, 800_000),
    (800_000, 900_000),
    (65_530, 65_550),
    (262_143, 524_289),
]


# gcsfs registers one of its own, which asks its own files alone.
_MODULES = {"fsspec.caching", "mlartifacts.reading"}


@pytest.fixture
def data_at(harbour: Harbour, root: str) -> str:
    """The path of a file that holds `DATA`."""
    harbour.seed({"data.bin": DATA})
    return f"{root}/data.bin"


def test_cat_file_is_a_slice(fs: Any, data_at: str) -> None:
    for start, end in RANGES:
        assert fs.cat_file(data_at, start=start, end=end) == DATA[start:end], (start, end)


# fsspec's "mmap" does not close the file that it maps.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_cache(fs: Any, root: str, harbour: Harbour) -> None:
    """Some ask for whole blocks, also where the file ends within one, or before it begins."""
    data = DATA[:100_001]
    harbour.seed({"data.bin": data})
    ours = [name for name, each in fsspec.caching.caches.items() if each.__module__ in _MODULES]
    for name in ours:
        for block_size in (40_000, 2**20):
            options = {"data": {(0, len(data)): data}} if name == "parts" else {}
            how = {"cache_type": name, "cache_options": options, "block_size": block_size}
            with fs.open(f"{root}/data.bin", **how) as file:
                # What is known of a file, fsspec itself pads with zeros where it ends.
                beyond = () if name == "parts" else ((100_000, 100), (99_000, 99_000))
                for start, length in (*beyond, (50, 100), (0, -1)):
                    file.seek(start)
                    wanted = data[start:][:length] if length > 0 else data
                    assert file.read(length) == wanted, (name, block_size, start)


def test_opening_a_full_url_by_the_drivers_call(harbour: Harbour, fs: Any, data_at: str) -> None:
    """As fsspec's own filesystems do that stand before another."""
    with fs._open(harbour.uri("data.bin")) as file:
        assert file.read(10) == DATA[:10]


def test_cat_of_several(fs: Any, root: str, harbour: Harbour) -> None:
    harbour.seed({"one": b"1", "two": b"22", "none": b""})
    names = ("one", "two", "none")
    found = fs.cat([f"{root}/{name}" for name in names])
    assert {path.rpartition("/")[2]: data for path, data in found.items()} == {
        "one": b"1",
        "two": b"22",
        "none": b"",
    }


def test_cat_of_several_with_one_missing(fs: Any, root: str, harbour: Harbour) -> None:
    harbour.seed({"one": b"1"})
    paths = [f"{root}/one", f"{root}/missing"]
    with pytest.raises(FileNotFoundError):
        fs.cat(paths)
    assert set(fs.cat(paths, on_error="omit").values()) == {b"1"}
    returned = fs.cat(paths, on_error="return")
    assert returned[paths[0]] == b"1"
    assert isinstance(returned[paths[1]], FileNotFoundError)


def test_cat_ranges_are_slices(fs: Any, data_at: str) -> None:
    rng = random.Random(7)
    starts = [rng.randrange(len(DATA)) for _ in range(12)]
    ends = [start + rng.randrange(1, 9000) for start in starts]
    wanted = [DATA[start:end] for start, end in zip(starts, ends, strict=True)]
    assert [bytes(got) for got in fs.cat_ranges([data_at] * 12, starts, ends)] == wanted


def test_head_tail_and_read_block(fs: Any, data_at: str) -> None:
    assert fs.head(data_at, 100) == DATA[:100]
    assert fs.tail(data_at, 100) == DATA[-100:]
    assert fs.read_block(data_at, 1000, 50) == DATA[1000:1050]
    assert fs.read_block(data_at, 700_000, 50) == DATA[700_000:]


def test_read_block_at_delimiters(fs: Any, root: str, harbour: Harbour) -> None:
    harbour.seed({"lines": b"Alice, 100\nBob, 200\nCharlie, 300"})
    assert fs.read_block(f"{root}/lines", 0, 13, delimiter=b"\n") == b"Alice, 100\nBob, 200\n"


def test_whole_file(harbour: Harbour, data_at: str) -> None:
    with mlartifacts.open(harbour.uri("data.bin"), **harbour.options) as file:
        assert file.read() == DATA
        assert file.read() == b""
        assert file.read(5) == b""


@pytest.mark.parametrize("seed", [1, 2])
def test_random_reads_and_seeks(harbour: Harbour, data_at: str, seed: int) -> None:
    """A file object does whatever `io.BytesIO` does."""
    rng = random.Random(seed)
    twin = io.BytesIO(DATA)
    with mlartifacts.open(harbour.uri("data.bin"), **harbour.options) as file:
        for _ in range(40):
            match rng.randrange(6):
                case 0:
                    place = rng.randrange(len(DATA))
                    assert file.seek(place) == twin.seek(place)
                case 1:
                    place = -rng.randrange(1, 2000)
                    assert file.seek(place, 2) == twin.seek(place, 2)
                case 2:
                    step = rng.randrange(500)
                    assert file.seek(step, 1) == twin.seek(step, 1)
                case 3:
                    size = rng.choice([0, 1, 100, 8192, 65536, 300_000])
                    assert file.read(size) == twin.read(size)
                case 4:
                    size = rng.choice([1, 100, 10_000])
                    mine, other = bytearray(size), bytearray(size)
                    assert file.readinto(mine) == twin.readinto(other)
                    assert mine == other
                case 5:
                    assert file.tell() == twin.tell()
        assert file.tell() == twin.tell()


def test_seek_before_the_start_and_past_the_end(harbour: Harbour, data_at: str) -> None:
    with mlartifacts.open(harbour.uri("data.bin"), **harbour.options) as file:
        with pytest.raises((ValueError, OSError)):
            file.seek(-1)
        file.seek(len(DATA) + 100)
        assert file.read(10) == b""
        file.seek(0)
        assert file.read(3) == DATA[:3]


def test_file_flags(harbour: Harbour, data_at: str) -> None:
    with mlartifacts.open(harbour.uri("data.bin"), **harbour.options) as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        with pytest.raises((ValueError, OSError)):
            file.write(b"x")
    assert file.closed


def test_lines_and_text(harbour: Harbour, root: str) -> None:
    harbour.seed({"text": "één\r\ntwo\nthree".encode()})
    uri = harbour.uri("text")
    with mlartifacts.open(uri, **harbour.options) as file:
        assert list(file) == ["één\r\n".encode(), b"two\n", b"three"]
    with mlartifacts.open(uri, "r", **harbour.options) as file:
        assert file.readlines() == ["één\n", "two\n", "three"]
    with mlartifacts.open(uri, "rt", newline="", encoding="latin-1", **harbour.options) as file:
        assert file.readline() == "één\r\n".encode().decode("latin-1")


def test_compressed(harbour: Harbour, root: str) -> None:
    harbour.seed({"packed.csv.gz": gzip.compress(b"a,b\n1,2\n")})
    uri = harbour.uri("packed.csv.gz")
    with mlartifacts.open(uri, "rt", compression="infer", **harbour.options) as file:
        assert file.read() == "a,b\n1,2\n"


def test_empty_and_one_byte_files(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"empty": b"", "one": b"x"})
    for name, data in {"empty": b"", "one": b"x"}.items():
        with mlartifacts.open(harbour.uri(name), **harbour.options) as file:
            assert file.read() == data
            assert file.read(1) == b""
        assert fs.info(f"{root}/{name}")["size"] == len(data)
        assert fs.size(f"{root}/{name}") == len(data)
        assert fs.cat_file(f"{root}/{name}") == data
        assert fs.cat_file(f"{root}/{name}", start=0, end=10) == data
        assert fs.cat_file(f"{root}/{name}", start=-1) == data


def test_open_files(harbour: Harbour, root: str) -> None:
    harbour.seed({"part-1": b"1", "part-2": b"2", "parting": b"3"})
    several = mlartifacts.open_files(
        [harbour.uri("part-1"), harbour.uri("part-2")], "rb", **harbour.options
    )
    with several as files:
        assert [file.read() for file in files] == [b"1", b"2"]


def test_get(harbour: Harbour, fs: Any, data_at: str, tmp_path: Any) -> None:
    target = tmp_path / "new folder" / "data.bin"
    fs.get_file(data_at, str(target))
    assert target.read_bytes() == DATA
    fs.get(data_at, str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == DATA


def test_get_that_fails_leaves_nothing(fs: Any, root: str, tmp_path: Any) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"old")
    for target in (old, tmp_path / "new"):
        with pytest.raises(FileNotFoundError):
            fs.get_file(f"{root}/missing", str(target))
    assert old.read_bytes() == b"old"
    assert not (tmp_path / "new").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".mlartifacts")]


@pytest.mark.writes
def test_a_file_that_is_replaced_while_it_is_read(harbour: Harbour, fs: Any, root: str) -> None:
    """The old bytes or an error, never some of each."""
    old, new = b"o" * 3_000_000, b"n" * 3_000_000
    harbour.seed({"file": old})
    with fs.open(f"{root}/file") as file:
        assert file.read(1000) == old[:1000]
        fs.pipe_file(f"{root}/file", new)
        file.seek(2_500_000)
        try:
            data = file.read(1000)
        except OSError as error:
            refused = error.filename
        else:
            refused = None
            assert data == old[:1000]
        assert refused in {None, f"{root}/file"}
    assert fs.cat_file(f"{root}/file") == new
