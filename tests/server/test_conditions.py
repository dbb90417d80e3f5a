"""Which bytes are sent, by RFC 9110."""

from __future__ import annotations

import pytest

from mlartifacts.server.conditions import NotThere, Wanted, described, wanted
from mlartifacts.transfer.trees import File

FILE = File("file", 10, 1_700_000_000.0, version='"abc"')


def asked(file: File = FILE, **headers: str) -> Wanted:
    return wanted({name.replace("_", "-"): value for name, value in headers.items()}, file)


@pytest.mark.parametrize(
    ("said", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=3-", 3, 10),
        ("bytes=-3", 7, 10),
        ("bytes=0-99", 0, 10),
        ("bytes=-99", 0, 10),
        ("Bytes=9-9", 9, 10),
        ("bytes = 1 - 2", 1, 3),
    ],
)
def test_a_range(said: str, start: int, end: int) -> None:
    found = asked(range=said)
    assert (found.start, found.end, found.status) == (start, end, 206)
    assert found.headers["Content-Range"] == f"bytes {start}-{end - 1}/10"


@pytest.mark.parametrize(
    "said",
    ["", "bytes", "bytes=", "bytes=-", "bytes=5-4", "bytes=a-b", "lines=0-1", "bytes=0-1,4-5",
     "bytes=0x1-2", "bytes=+1-2", "bytes=1-2;3", "bytes=\u0661-\u0662",
     f"bytes={10**20}-"],
)  # fmt: skip
def test_what_is_no_single_range_is_not_heeded(said: str) -> None:
    found = asked(range=said)
    assert (found.start, found.end, found.status) == (0, 10, 200)
    assert "Content-Range" not in found.headers


@pytest.mark.parametrize("said", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_behind_the_end(said: str) -> None:
    with pytest.raises(NotThere):
        asked(range=said)


def test_a_range_of_an_empty_file() -> None:
    with pytest.raises(NotThere):
        asked(File("empty", 0), range="bytes=0-0")
    assert asked(File("empty", 0)).status == 200


def test_versions() -> None:
    tag = described(FILE)["ETag"]
    assert tag == '"abc"'
    # What Google calls a generation; and what could end a header.
    assert described(File("file", 10, version="17"))["ETag"] == '"17"'
    assert described(File("file", 10, version='a"\r\nb'))["ETag"] == '"a%22%0D%0Ab"'
    assert described(FILE)["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert described(File("file", 10)) == {}
    # A time of nanoseconds is as good as a version, and one of seconds is none.
    assert described(File("file", 10, 1.5))["ETag"].startswith('"')
    assert "ETag" not in described(File("file", 10, 1.0))


def test_a_part_of_another_version_is_not_sent() -> None:
    tag = described(FILE)["ETag"]
    assert asked(range="bytes=0-1", if_range=tag).status == 206
    for other in ('"other"', f"W/{tag}", "Tue, 14 Nov 2023 22:13:20 GMT"):
        assert asked(range="bytes=0-1", if_range=other).status == 200
    for said in ("", '""', "Thu, 01 Jan 1970 00:00:01 GMT"):
        assert asked(File("file", 10, 1.0), range="bytes=0-1", if_range=said).status == 200


def test_what_the_client_has_is_not_sent() -> None:
    tag = described(FILE)["ETag"]
    for said in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        found = asked(if_none_match=said, range="bytes=0-1")
        assert (found.status, found.headers["ETag"]) == (304, tag)
    for said in ('"x"', "x", tag.strip('"'), ""):
        assert asked(if_none_match=said).status == 200
    assert asked(File("file", 10), if_none_match="*").status == 200
