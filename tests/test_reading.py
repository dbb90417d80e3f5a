"""The cache of open files: what is fetched for which pattern of reads."""

from __future__ import annotations

import contextlib
import random

import pytest

from mlartifacts.reading import ProportionalCache, checked

DATA = random.Random(7).randbytes(3 * 2**20)
BLOCK = 2**20


class Store:
    """Bytes that remember which ranges were asked for."""

    def __init__(self):
        self.ranges = []

    def fetch(self, start, end):
        self.ranges.append((start, end))
        return DATA[start:end]

    @property
    def fetched(self):
        return sum(end - start for start, end in self.ranges)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def cache(store):
    return ProportionalCache(BLOCK, store.fetch, len(DATA))


def test_random_reads_equal_slices(cache):
    rng = random.Random(11)
    for _ in range(500):
        start = rng.randrange(len(DATA) + 10)
        end = start + rng.choice([0, 1, 100, 9000, 300_000])
        assert cache._fetch(start, end) == DATA[start:end]


def test_mixed_runs_and_jumps_equal_slices(cache):
    rng = random.Random(13)
    place = 0
    for _ in range(500):
        if rng.random() < 0.2:
            place = rng.randrange(len(DATA))
        length = rng.choice([1, 777, 70_000])
        assert cache._fetch(place, place + length) == DATA[place : place + length]
        place += length


def test_a_jump_fetches_little_more_than_was_asked(cache, store):
    for start in (1_000_000, 5_000, 2_000_000, 700_000):
        cache._fetch(start, start + 1024)
    assert store.fetched == 4 * 2**13


def test_a_large_jump_fetches_exactly_what_was_asked(cache, store):
    cache._fetch(100_000, 600_000)
    assert store.ranges == [(100_000, 600_000)]


def test_reads_in_sequence_reach_ahead_ever_further(cache, store):
    for start in range(0, len(DATA), 1000):
        assert cache._fetch(start, start + 1000) == DATA[start : start + 1000]
    lengths = [end - start for start, end in store.ranges]
    assert store.fetched == len(DATA)  # nothing twice
    assert lengths[1:3] == sorted(lengths[1:3])
    assert max(lengths) <= BLOCK + 1000
    assert len(lengths) < 8


def test_a_whole_read_is_one_request(cache, store):
    assert cache._fetch(0, len(DATA)) == DATA
    assert store.ranges == [(0, len(DATA))]


def test_nothing_beyond_the_end(cache, store):
    assert cache._fetch(len(DATA), len(DATA) + 10) == b""
    assert cache._fetch(len(DATA) - 5, len(DATA) + 10) == DATA[-5:]
    assert store.ranges == [(len(DATA) - 5, len(DATA))]


def test_a_short_answer_is_an_error():
    fetch = checked(lambda start, end: b"abc", "bucket/key", 9, contextlib.nullcontext)
    with pytest.raises(OSError, match="short read: 3 bytes for 0-4") as caught:
        fetch(0, 4)
    assert caught.value.filename == "bucket/key"
    assert fetch(0, 3) == b"abc"
    short = checked(
        lambda start, end: b"abcdef"[start:end], "bucket/key", 6, contextlib.nullcontext
    )
    assert short(4, 9) == b"ef"
    assert short(7, 9) == b""
