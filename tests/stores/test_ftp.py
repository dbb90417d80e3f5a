"""FTP against vsftpd (LIST only), pyftpdlib (MLSD) and pyftpdlib with explicit TLS."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import errno
import ftplib
import gc
import multiprocessing
import os
import pickle
import random
import threading
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.callbacks import Callback

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.stores.ftp import STORE
from mlartifacts.stores.ftp import connections as connections_module
from mlartifacts.stores.ftp.connections import Connection, ConnectionPool, Download, Upload
from mlartifacts.stores.ftp.filesystem import FTPArtifactFileSystem
from mlartifacts.stores.ftp.listings import Entry, UnknownLine, parse_facts, parse_line
from mlartifacts.uri import parse
from tests.servers import pyftpd as pyftpd_module
from tests.servers.process import wait_until
from tests.servers.pyftpd import Ftp
from tests.servers.silent import hanging, refusing
from tests.servers.tcp_proxy import proxied
from tests.transfer.conftest import AtOnce

NAMES = [
    "a b.txt",
    " before",
    "after ",
    "ünïcødé 文字 🙂",
    "a#b",
    "a?b",
    "a%41b",
    "a+b",
    "a[1].txt",
    "b*.txt",
    "-la",
    ".hidden",
    "it's",
    '"quoted"',
    "a -> b",
    "semi;colon=1",
    "back\\slash",
    "~tilde",
    "{x}",
]


@pytest.fixture(params=["pyftpd", "vsftpd", "pyftpd_tls"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ftp:
    found: Ftp = request.getfixturevalue(request.param)
    for name, value in found.env.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture(autouse=True)
def _fresh_connections() -> Iterator[None]:
    """Leave each test with no connection open, so that it counts only its own."""
    yield
    for pool in list(connections_module._alive):
        assert pool._lent == 0, "a connection was not given back"
        pool.close_idle()


@pytest.fixture
def url(server: Ftp) -> str:
    return server.new_root()


@pytest.fixture
def place(url: str) -> tuple[FTPArtifactFileSystem, str]:
    fs, path = mlartifacts.url_to_fs(url)
    assert isinstance(fs, FTPArtifactFileSystem)
    return fs, path


@dataclasses.dataclass
class Recorder:
    """What pyftpdlib (it runs in this process) is asked."""

    commands: list[str] = dataclasses.field(default_factory=list)
    sessions: set[int] = dataclasses.field(default_factory=set)
    most_sessions: int = 0

    def counted(self) -> Counter[str]:
        return Counter(line.split(" ")[0].upper() for line in self.commands)


@pytest.fixture
def ftp_handler() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from pyftpdlib.handlers import FTPHandler
    return FTPHandler


@pytest.fixture
def recorder(ftp_handler: Any, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    record = Recorder()
    process = ftp_handler.pre_process_command

    def pre_process_command(self: Any, line: str, cmd: str, arg: str) -> None:
        record.commands.append(line)
        process(self, line, cmd, arg)

    def on_connect(self: Any) -> None:
        record.sessions.add(id(self))
        record.most_sessions = max(record.most_sessions, len(record.sessions))

    def on_disconnect(self: Any) -> None:
        record.sessions.discard(id(self))

    monkeypatch.setattr(ftp_handler, "pre_process_command", pre_process_command)
    monkeypatch.setattr(ftp_handler, "on_connect", on_connect)
    monkeypatch.setattr(ftp_handler, "on_disconnect", on_disconnect)
    return record


def on(server: Ftp) -> tuple[FTPArtifactFileSystem, str]:
    fs, path = mlartifacts.url_to_fs(server.new_root())
    assert isinstance(fs, FTPArtifactFileSystem)
    return fs, path


# ---- URIs and options ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "path", "options"),
    [
        ("ftp://h", "/", {"host": "h", "port": 21, "username": None, "password": None}),
        ("ftp://h/", "/", {"host": "h"}),
        ("ftp://h/a/b/", "/a/b", {}),
        ("ftp://h//a//./b", "/a/b", {}),
        ("ftp://H:2121/x", "/x", {"host": "h", "port": 2121}),
        ("ftp://[::1]:2121/x", "/x", {"host": "::1", "port": 2121}),
        ("ftp:///x", "/x", {"host": "localhost", "port": 21}),
        ("ftp://me@h/x", "/x", {"username": "me", "password": None}),
        ("ftp://me:p%40s%3As%2F%2541@h/x", "/x", {"username": "me", "password": "p@s:s/%41"}),
        ("ftp://d%5Cme:@h/x", "/x", {"username": "d\\me", "password": ""}),
        ("ftp://h/a b/ü#x?y%41", "/a b/ü#x?y%41", {"tls": False}),
        ("ftps://h/x", "/x", {"port": 21, "tls": True}),
    ],
)
def test_locate(uri: str, path: str, options: dict[str, object]) -> None:
    location = mlartifacts.locate(uri)
    assert location.protocol == uri.partition(":")[0]
    assert location.path == path
    assert {name: location.options[name] for name in options} == options


def test_timeout_comes_from_mlflows_variable() -> None:
    name = "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT"
    root = parse("ftp://h")
    assert "timeout" not in STORE.options(root, Environment({}))
    assert STORE.options(root, Environment({name: "7"}))["timeout"] == 7
    assert STORE.options(root, Environment({name: "-1"}))["timeout"] is None
    with pytest.raises(InvalidConfig, match=name):
        STORE.options(root, Environment({name: "soon"}))


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://h:port/x",
        "ftp://h:99999/x",
        "ftp:h/x",
        "ftp://h/../x",
        "ftp://h/a/../../x",
        "ftp://h/a\r\nDELE b",
        "ftp://h/a\nb",
        "ftp://h/a\0b",
        "ftp://me:se%0Acret@h/x",
        "ftp://m%0De:secret@h/x",
    ],
)
def test_bad_uris(uri: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        mlartifacts.locate(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("bad", ["/a\r\nDELE /b", "/a\nb", "/a\0b", "/../x"])
def test_a_path_cannot_smuggle_a_command(bad: str) -> None:
    fs = mlartifacts.filesystem("ftp", host="192.0.2.1")
    for operation in (fs.info, fs.ls, fs.cat, fs.rm_file, fs.mkdir, fs.open, fs.exists):
        with pytest.raises(InvalidURI):
            operation(bad)


def test_defaults_are_mlflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow logs in through ftplib with what the URI has: anonymous, and an empty password."""
    seen: list[tuple[object, ...]] = []

    def refuse(self: Connection, endpoint: object) -> None:
        seen.append((self.__class__, endpoint))
        raise ConnectionRefusedError(errno.ECONNREFUSED, "no")

    monkeypatch.setattr(Connection, "_open", refuse)
    with pytest.raises(ConnectionRefusedError):
        mlartifacts.filesystem("ftp://h/x").info("/")
    endpoint: Any = seen[0][1]
    assert (endpoint.host, endpoint.port, endpoint.username, endpoint.password) == ("h", 21, "", "")
    assert endpoint.timeout == 60


# ---- Listings, as text ---------------------------------------------------------------------

_NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = 86400


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            "-rw-r--r--    1 102      105          1000 Feb 03 09:24 a b.txt",
            Entry("a b.txt", "file", 1000, datetime(2026, 2, 3, 9, 24, tzinfo=UTC), unit=60),
        ),
        (
            "-rw-r--r--    1 ftp      ftp             0 Nov 23 09:24  lead",
            Entry(" lead", "file", 0, datetime(2025, 11, 23, 9, 24, tzinfo=UTC), unit=60),
        ),
        (
            "drwxr-xr-x    2 102      105          4096 Nov 23  2019 sub dir ",
            Entry("sub dir ", "directory", 4096, datetime(2019, 11, 23, tzinfo=UTC), unit=DAY),
        ),
        (
            "-rw-r--r--+ 1 Domain Users 12345678901 Jan  1 00:00 1 Jan 2 2020 x",
            Entry("1 Jan 2 2020 x", "file", 12345678901, datetime(2026, 1, 1, tzinfo=UTC), unit=60),
        ),
        (
            "lrwxrwxrwx   1 u g 7 Jan  1  2020 link -> target",
            Entry("link", "link", 7, datetime(2020, 1, 1, tzinfo=UTC), None, "target", DAY),
        ),
        (
            "-r--r--r--  1 owner  321 Jan  1  2020 nogroup",
            Entry("nogroup", "file", 321, datetime(2020, 1, 1, tzinfo=UTC), unit=DAY),
        ),
        ("drwxr-xr-x 2 u g 4096 Jan  1  2020 .", None),
        ("total 12", None),
        (
            "02-05-26  09:41PM       <DIR>          sub dir",
            Entry("sub dir", "directory", None, datetime(2026, 2, 5, 21, 41, tzinfo=UTC), unit=60),
        ),
        (
            "02-05-2026  09:41                 1234 a b.txt",
            Entry("a b.txt", "file", 1234, datetime(2026, 2, 5, 9, 41, tzinfo=UTC), unit=60),
        ),
    ],
)
def test_lines_of_list(line: str, entry: Entry | None) -> None:
    assert parse_line(line, _NOW) == entry


def test_a_line_of_unknown_form_is_not_passed_over() -> None:
    with pytest.raises(UnknownLine, match="no known form"):
        parse_line("+i8388621.48594,m825718503,r,s280,\teplf", _NOW)


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            "modify=20260203092410;perm=r;size=10;type=file;unique=1; a b; c=1",
            Entry("a b; c=1", "file", 10, datetime(2026, 2, 3, 9, 24, 10, tzinfo=UTC)),
        ),
        (
            "Type=dir;Modify=20260203092410.5;  x",
            Entry(" x", "directory", None, datetime(2026, 2, 3, 9, 24, 10, 500_000, tzinfo=UTC)),
        ),
        ("type=cdir;size=4096; .", None),
        ("type=pdir; ..", None),
        (
            "type=OS.unix=slink:/to;size=3; l",
            Entry("l", "link", 3, None, None, "/to"),
        ),
        (
            "type=file;create=20200101000000; f",
            Entry("f", "file", None, None, datetime(2020, 1, 1, tzinfo=UTC)),
        ),
    ],
)
def test_facts_of_mlsd(line: str, entry: Entry | None) -> None:
    assert parse_facts(line) == entry


# ---- Reading and writing -------------------------------------------------------------------


def test_round_trips(place: tuple[FTPArtifactFileSystem, str], tmp_path: Path) -> None:
    fs, root = place
    for size in (0, 1, 2**18 - 1, 2**18, 3_000_001):
        data = random.Random(size).randbytes(size)
        fs.pipe(f"{root}/new/dirs/f", data)
        assert fs.cat(f"{root}/new/dirs/f") == data
        assert fs.size(f"{root}/new/dirs/f") == size
        fs.get(f"{root}/new/dirs/f", str(tmp_path / "got"))
        assert (tmp_path / "got").read_bytes() == data
        fs.put(str(tmp_path / "got"), f"{root}/put/f")
        fs.cp(f"{root}/put/f", f"{root}/copies/f")
        assert fs.cat(f"{root}/copies/f") == data
    assert fs.find(root) == [f"{root}/copies/f", f"{root}/new/dirs/f", f"{root}/put/f"]


def test_ranges_are_slices(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    data = random.Random(1).randbytes(700_001)
    fs.pipe(f"{root}/f", data)
    bounds = [None, 0, 1, 5, 65_536, 699_999, 700_001, 700_002, 10**9, -1, -5, -700_001, -(10**9)]
    for start in bounds:
        for end in bounds:
            assert fs.cat_file(f"{root}/f", start, end) == data[start:end], (start, end)
    assert fs.cat_ranges([f"{root}/f"] * 2, [0, 7], [3, 9]) == [data[:3], data[7:9]]
    with fs.open(f"{root}/f") as file:
        for _ in range(100):
            start, length = random.randrange(700_001), random.choice([0, 1, 100, 70_000])
            file.seek(start)
            assert file.read(length) == data[start : start + length]
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        assert file.read() == b""
        file.seek(0)
        assert b"".join(iter(lambda: file.read(10_000), b"")) == data
    assert fs.pool._lent == 0


def test_a_file_read_in_order_is_one_transfer(pyftpd: Ftp, recorder: Recorder) -> None:
    fs, root = on(pyftpd)
    data = random.Random(2).randbytes(20_000_000)
    fs.pipe(f"{root}/f", data)
    recorder.commands.clear()
    with fs.open(f"{root}/f") as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == data
    assert recorder.counted() == {"SIZE": 1, "PASV": 1, "RETR": 1}


def test_ranges_leave_no_connection_behind(pyftpd: Ftp, recorder: Recorder) -> None:
    fs, root = on(pyftpd)
    data = random.Random(3).randbytes(5_000_000)
    fs.pipe(f"{root}/f", data)
    for start in range(0, 4_000_000, 100_000):
        assert fs.cat_file(f"{root}/f", start, start + 10) == data[start : start + 10]
    with fs.open(f"{root}/f") as file:
        for start in range(0, 4_000_000, 100_000):
            file.seek(start)
            assert file.read(10) == data[start : start + 10]
    assert recorder.most_sessions <= 1  # another test's may be there already
    assert fs.info(f"{root}/f")["size"] == len(data)  # the replies are still in step


def test_memory_stays_bounded(place: tuple[FTPArtifactFileSystem, str], tmp_path: Path) -> None:
    fs, root = place
    local = tmp_path / "big"
    with local.open("wb") as file:
        file.truncate(50_000_000)
    tracemalloc.start()
    try:
        fs.put_file(str(local), f"{root}/big")
        fs.cp_file(f"{root}/big", f"{root}/copy")
        fs.get_file(f"{root}/copy", str(local))
        with fs.open(f"{root}/piecewise", "wb") as out:
            for _ in range(500):
                out.write(b"x" * 100_000)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert local.stat().st_size == fs.size(f"{root}/piecewise") == 50_000_000


def test_names_are_literal(place: tuple[FTPArtifactFileSystem, str], url: str) -> None:
    fs, root = place
    for name in NAMES:
        fs.pipe(f"{root}/d/{name}", name.encode())
        fs.pipe(f"{root}/{name}/inside", b"x")
    assert sorted(fs.ls(f"{root}/d", detail=False)) == sorted(f"{root}/d/{n}" for n in NAMES)
    for name in NAMES:
        assert fs.cat_file(f"{root}/d/{name}") == name.encode()
        assert fs.info(f"{root}/d/{name}")["size"] == len(name.encode())
        assert fs.ls(f"{root}/{name}", detail=False) == [f"{root}/{name}/inside"]
        with mlartifacts.open(f"{url}/d/{name}") as file:
            assert file.read() == name.encode()
    for name in NAMES:
        fs.mv(f"{root}/d/{name}", f"{root}/moved {name}")
        fs.rm(f"{root}/moved {name}")
        fs.rm(f"{root}/{name}", recursive=True)
    assert fs.find(root, withdirs=True) == [root, f"{root}/d"]


def test_a_name_that_is_no_utf8(vsftpd: Ftp) -> None:
    fs, root = on(vsftpd)
    folder = vsftpd.root / root.rpartition("/")[2]
    (folder / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    (name,) = fs.ls(root, detail=False)
    assert fs.cat_file(name) == b"latin"


def test_modes(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    path = f"{root}/sub/f"
    with fs.open(path, "xb") as file:
        file.write(b"one")
    with pytest.raises(FileExistsError) as caught, fs.open(path, "xb"):
        pass
    assert caught.value.filename == path
    with fs.open(path, "ab") as file:
        assert file.tell() == 3
        file.write(b" two")
    assert fs.cat(path) == b"one two"
    with fs.open(f"{root}/sub/appended", "ab") as file:
        file.write(b"new")
    assert fs.cat(f"{root}/sub/appended") == b"new"
    with fs.open(path, "wb") as file:
        file.write(b"3")
    assert fs.cat(path) == b"3"
    with fs.open(path, "w", newline="") as file:
        file.write("é\n")
    assert fs.read_text(path) == "é\n"
    with pytest.raises(FileExistsError):
        fs.pipe_file(path, b"", mode="create")
    with pytest.raises(ValueError, match="r\\+b"):
        fs.open(path, "r+b")


def test_a_file_that_came_meanwhile_is_not_replaced_by_x(
    place: tuple[FTPArtifactFileSystem, str],
) -> None:
    fs, root = place
    with pytest.raises(FileExistsError), fs.open(f"{root}/f", "xb") as file:
        file.write(b"late")
        fs.pipe(f"{root}/f", b"early")
    assert fs.cat(f"{root}/f") == b"early"
    assert fs.ls(root, detail=False) == [f"{root}/f"]


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.parametrize(
    ("mode", "existing"),
    [("wb", True), ("wb", False), ("ab", True), ("ab", False), ("xb", False)],
)
def test_a_failed_write_leaves_what_was(
    place: tuple[FTPArtifactFileSystem, str], size: int, mode: str, existing: bool
) -> None:
    fs, root = place
    path = f"{root}/f"
    if existing:
        fs.pipe(path, b"old")
    with pytest.raises(RuntimeError, match="mine"), fs.open(path, mode) as file:
        file.write(b"n" * size)
        raise RuntimeError("mine")
    assert fs.ls(root, detail=False) == ([path] if existing else [])
    if existing:
        assert fs.cat(path) == b"old"


def test_an_append_that_breaks_off_leaves_what_was(
    place: tuple[FTPArtifactFileSystem, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, root = place
    fs.pipe(f"{root}/f", b"old" * 1000)
    write, pieces = Upload.write, []

    def breaking(upload: Upload, data: Any) -> None:
        pieces.append(len(data))
        if len(pieces) == 5:
            raise ConnectionResetError(errno.ECONNRESET, "broken off")
        write(upload, data)

    with pytest.raises(ConnectionResetError), fs.open(f"{root}/f", "ab") as file:
        file.write(b"n" * 2**21)
        monkeypatch.setattr(Upload, "write", breaking)
    monkeypatch.undo()
    assert len(pieces) == 5
    assert fs.cat(f"{root}/f") == b"old" * 1000
    assert fs.ls(root, detail=False) == [f"{root}/f"]


def test_an_unfinished_write_is_not_published(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    file = fs.open(f"{root}/f", "wb")
    file.write(b"n" * 1_000_000)
    with pytest.warns(ResourceWarning, match="not written"):
        del file
        gc.collect()
    assert fs.ls(root) == []


def test_transactions(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    with fs.transaction:
        fs.pipe(f"{root}/a", b"1" * 1_000_000)
        with fs.open(f"{root}/b", "ab") as file:
            file.write(b"2")
        assert not fs.exists(f"{root}/a")
        assert not fs.exists(f"{root}/b")
    assert fs.size(f"{root}/a") == 1_000_000
    assert fs.cat(f"{root}/b") == b"2"
    with pytest.raises(RuntimeError), fs.transaction:
        fs.pipe(f"{root}/c", b"1" * 1_000_000)
        raise RuntimeError
    assert fs.ls(root, detail=False) == [f"{root}/a", f"{root}/b"]


def test_progress_and_failed_gets(place: tuple[FTPArtifactFileSystem, str], tmp_path: Path) -> None:
    fs, root = place
    fs.pipe(f"{root}/f", b"x" * 1_000_000)
    callback = Callback()
    fs.get_file(f"{root}/f", str(tmp_path / "deep" / "f"), callback=callback)
    assert (callback.size, callback.value) == (1_000_000, 1_000_000)
    with pytest.raises(FileNotFoundError):
        fs.get_file(f"{root}/missing", str(tmp_path / "missing"))
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["f"]


# ---- Looking and moving --------------------------------------------------------------------


def test_listing_and_looking(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    fs.pipe(f"{root}/d/foo", b"12345")
    fs.pipe(f"{root}/d/foobar", b"1")
    fs.makedirs(f"{root}/d/empty")
    before = datetime.now(UTC) - timedelta(days=1, minutes=5)
    listing = {info["name"]: info for info in fs.ls(f"{root}/d")}
    assert {n: (i["type"], i["size"]) for n, i in listing.items()} == {
        f"{root}/d/foo": ("file", 5),
        f"{root}/d/foobar": ("file", 1),
        f"{root}/d/empty": ("directory", 0),
    }
    assert all(before < info["mtime"] for info in listing.values())
    assert fs.ls(f"{root}/d/empty") == []
    assert fs.ls(f"{root}/d/foo", detail=False) == [f"{root}/d/foo"]
    assert fs.info("/")["type"] == fs.info(f"{root}/d/")["type"] == "directory"
    assert fs.isdir(f"{root}/d")
    assert not fs.isdir(f"{root}/d/foo")
    assert fs.isfile(f"{root}/d/foo")
    assert not fs.exists(f"{root}/d/fo")
    assert not fs.exists(f"{root}/d/foo/below")
    assert not fs.exists(f"{root}/no/such/thing")
    assert before < fs.modified(f"{root}/d/foo")
    with pytest.raises(NotImplementedError):
        fs.created(f"{root}/d/foo")
    assert fs.glob(f"{root}/d/foo*") == [f"{root}/d/foo", f"{root}/d/foobar"]
    assert fs.glob(f"{root}/**/empty") == [f"{root}/d/empty"]
    assert fs.find(f"{root}/d/foo") == [f"{root}/d/foo"]
    for path in (f"{root}/missing", f"{root}/d/foo/below", f"{root}/no/such/thing"):
        with pytest.raises((FileNotFoundError, NotADirectoryError)) as caught:
            fs.ls(path)
        assert caught.value.filename == path
        assert isinstance(caught.value.__cause__, ftplib.Error)


def test_links(place: tuple[FTPArtifactFileSystem, str], server: Ftp) -> None:
    fs, root = place
    folder = server.root / root.rpartition("/")[2]
    (folder / "kept").mkdir()
    (folder / "kept" / "file").write_bytes(b"12345")
    (folder / "tree").mkdir()
    (folder / "tree" / "to_dir").symlink_to("../kept")
    (folder / "tree" / "to_file").symlink_to("../kept/file")
    for each in (folder / "tree", folder / "kept"):
        each.chmod(0o777)
    kinds = {info["name"].rpartition("/")[2]: info for info in fs.ls(f"{root}/tree")}
    assert kinds["to_dir"]["type"] == "directory"
    assert (kinds["to_file"]["type"], kinds["to_file"]["size"]) == ("file", 5)
    fs.rm(f"{root}/tree", recursive=True)
    assert not fs.exists(f"{root}/tree")
    assert fs.cat(f"{root}/kept/file") == b"12345"  # what a link led to is not ours to delete


def test_deletes_are_complete_and_touch_no_sibling(
    place: tuple[FTPArtifactFileSystem, str],
) -> None:
    fs, root = place
    for path in ("foo/a", "foo/b/c", "foo/b/.hidden", "foobar/a", "foo.txt"):
        fs.pipe(f"{root}/{path}", b"x")
    fs.makedirs(f"{root}/foo/empty/er")
    with pytest.raises(IsADirectoryError) as caught:
        fs.rm(f"{root}/foo")
    assert caught.value.filename == f"{root}/foo"
    fs.rm(f"{root}/foo", recursive=True)
    assert fs.find(root) == [f"{root}/foo.txt", f"{root}/foobar/a"]
    assert not fs.exists(f"{root}/foo")
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{root}/foo", recursive=True)
    with pytest.raises(FileNotFoundError):
        fs.rm_file(f"{root}/foo")
    with pytest.raises(IsADirectoryError):
        fs.rm_file(f"{root}/foobar")
    with pytest.raises(OSError, match="empty") as full:
        fs.rmdir(f"{root}/foobar")
    assert full.value.errno == errno.ENOTEMPTY
    with pytest.raises(NotADirectoryError):
        fs.rmdir(f"{root}/foo.txt")
    with pytest.raises(FileNotFoundError):
        fs.rmdir(f"{root}/foo")
    fs.rm([f"{root}/foo.txt", f"{root}/foobar/a"])
    fs.rmdir(f"{root}/foobar")
    assert fs.ls(root) == []


def test_a_tree_is_deleted_by_all_connections(
    pyftpd: Ftp, ftp_handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, root = on(pyftpd)
    folder = pyftpd.root / root.strip("/") / "tree"
    for name in map(str, range(20)):
        (folder / "in" / name).mkdir(parents=True)
        (folder / name).write_bytes(b"x")
    held, delete = AtOnce(16), ftp_handler.ftp_DELE

    def deleting(self: Any, path: str) -> Any:
        if os.path.isfile(path):
            held.pass_by()
        return delete(self, path)

    monkeypatch.setattr(ftp_handler, "ftp_DELE", deleting)
    fs.rm(f"{root}/tree", recursive=True)
    assert held.most == 16
    assert not folder.exists()


def test_moves(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    fs.pipe({f"{root}/a": b"a", f"{root}/b": b"b", f"{root}/d/e/f": b"f"})
    fs.mv(f"{root}/a", f"{root}/b")
    assert fs.cat(f"{root}/b") == b"a"
    fs.mv(f"{root}/b", f"{root}/new/dir/b")
    fs.mv(f"{root}/d", f"{root}/moved", recursive=True)
    assert fs.find(root) == [f"{root}/moved/e/f", f"{root}/new/dir/b"]
    fs.mv(f"{root}/new/dir/b", f"{root}/moved")
    assert fs.cat(f"{root}/moved/b") == b"a"
    fs.mv(f"{root}/moved/b", f"{root}/moved/b")
    assert fs.cat(f"{root}/moved/b") == b"a"
    with pytest.raises(FileNotFoundError) as caught:
        fs.mv(f"{root}/missing", f"{root}/x")
    assert caught.value.filename == f"{root}/missing"
    assert not fs.exists(f"{root}/x")


def test_directories(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    fs.makedirs(f"{root}/a/b/c")
    fs.makedirs(f"{root}/a/b/c", exist_ok=True)
    with pytest.raises(FileExistsError) as caught:
        fs.makedirs(f"{root}/a/b/c")
    assert caught.value.filename == f"{root}/a/b/c"
    with pytest.raises(FileExistsError):
        fs.mkdir(f"{root}/a")
    with pytest.raises(FileNotFoundError):
        fs.mkdir(f"{root}/x/y", create_parents=False)
    fs.mkdir(f"{root}/x/y")
    fs.pipe(f"{root}/file", b"")
    with pytest.raises(FileExistsError):
        fs.makedirs(f"{root}/file", exist_ok=True)
    with pytest.raises(NotADirectoryError):
        fs.makedirs(f"{root}/file/below")


def test_touch(place: tuple[FTPArtifactFileSystem, str], server: Ftp) -> None:
    fs, root = place
    fs.touch(f"{root}/deep/f")
    assert fs.size(f"{root}/deep/f") == 0
    fs.pipe(f"{root}/f", b"123")
    if "MFMT" in fs.pool.features():
        folder = server.root / root.rpartition("/")[2]
        os.utime(folder / "f", (0, 0))
        fs.touch(f"{root}/f", truncate=False)
        assert fs.modified(f"{root}/f") > datetime.now(UTC) - timedelta(minutes=1)
    else:
        with pytest.raises(NotImplementedError):
            fs.touch(f"{root}/f", truncate=False)
    assert fs.cat(f"{root}/f") == b"123"
    fs.touch(f"{root}/f")
    assert fs.size(f"{root}/f") == 0


def test_requests(pyftpd: Ftp, recorder: Recorder) -> None:
    """Count what each operation asks of a server that knows MLSD."""
    fs, root = on(pyftpd)
    for number in range(20):
        fs.pipe(f"{root}/{number % 2}/f{number}", b"x")

    def asked(operation: Callable[[], object]) -> dict[str, int]:
        recorder.commands.clear()
        operation()
        return dict(recorder.counted())

    assert asked(lambda: fs.ls(f"{root}/0")) == {"PASV": 1, "MLSD": 1}
    assert asked(lambda: fs.find(root)) == {"PASV": 3, "MLSD": 3}
    assert asked(lambda: fs.info(f"{root}/0/f0")) == {"MLST": 1}
    assert asked(lambda: fs.exists(f"{root}/0/nope")) == {"MLST": 1}
    assert asked(lambda: fs.cat(f"{root}/0/f0")) == {"SIZE": 1, "PASV": 1, "RETR": 1}
    assert asked(lambda: fs.pipe(f"{root}/0/f0", b"y")) == {
        "PASV": 1,
        "STOR": 1,
        "RNFR": 1,
        "RNTO": 1,
    }
    assert asked(lambda: fs.rm_file(f"{root}/0/f0")) == {"DELE": 1}
    assert asked(lambda: fs.mkdir(f"{root}/2")) == {"MKD": 1}


def test_requests_without_mlsd(tmp_path: Path, recorder: Recorder, ftp_handler: Any) -> None:
    with pyftpd_module.serve(tmp_path, mlsd=False) as server:
        fs, root = on(server)
        for number in range(6):
            fs.pipe(f"{root}/{number % 2}/f{number}", b"x")
        fs.ls(root)  # learns whether LIST knows -a
        recorder.commands.clear()
        assert len(fs.find(root)) == 6
        # The first file says which zone the listings have the times of.
        assert dict(recorder.counted()) == {"CWD": 3, "PASV": 3, "LIST": 3, "MDTM": 1}
        recorder.commands.clear()
        assert len(fs.find(root)) == 6
        assert dict(recorder.counted()) == {"CWD": 3, "PASV": 3, "LIST": 3}
        recorder.commands.clear()
        assert fs.info(f"{root}/0/f0")["size"] == 1
        assert dict(recorder.counted()) == {"SIZE": 1, "MDTM": 1}
        fs.close()


# ---- Refusals ------------------------------------------------------------------------------


def test_errors_name_the_file(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    fs.pipe(f"{root}/d/f", b"x")
    cases: list[tuple[type[OSError], str, Callable[[str], object]]] = [
        (FileNotFoundError, f"{root}/missing", fs.open),
        (FileNotFoundError, f"{root}/missing", fs.cat),
        (FileNotFoundError, f"{root}/no/way/there", fs.cat),
        (FileNotFoundError, f"{root}/missing", fs.info),
        (FileNotFoundError, f"{root}/missing", fs.rm_file),
        (IsADirectoryError, f"{root}/d", fs.open),
        (IsADirectoryError, f"{root}/d", fs.cat_file),
        (IsADirectoryError, f"{root}/d", lambda p: fs.open(p, "wb")),
        (IsADirectoryError, f"{root}/d", lambda p: fs.open(p, "ab")),
        (NotADirectoryError, f"{root}/d/f/g", lambda p: fs.pipe(p, b"x")),
    ]
    for kind, path, operation in cases:
        with pytest.raises(kind) as caught:
            operation(path)
        assert type(caught.value) is kind
        assert caught.value.filename == path
        assert caught.value.errno is not None
    assert fs.find(root) == [f"{root}/d/f"]


def test_denied_is_not_missing(vsftpd: Ftp) -> None:
    if os.geteuid() != 0:
        pytest.skip("vsftpd serves as this user then, who may read what is his")
    fs, root = on(vsftpd)
    folder = vsftpd.root / root.rpartition("/")[2]
    (folder / "secret").write_bytes(b"x")
    (folder / "secret").chmod(0)
    (folder / "closed" / "below").mkdir(parents=True)
    (folder / "closed").chmod(0)
    (folder / "fixed").mkdir(mode=0o755)
    (folder / "fixed" / "file").write_bytes(b"old")
    (folder / "fixed" / "link").symlink_to("nowhere")
    for operation in (fs.cat, fs.open):
        with pytest.raises(PermissionError) as caught:
            with contextlib.closing(operation(f"{root}/secret")) as file:
                file.read()
        assert caught.value.filename == f"{root}/secret"
    assert fs.info(f"{root}/closed")["type"] == "directory"
    denied: list[tuple[str, Callable[[str], object]]] = [
        (f"{root}/closed", fs.ls),
        (f"{root}/closed/below/it", fs.info),
        (f"{root}/closed/below/it", fs.exists),
        (f"{root}/fixed/new", lambda p: fs.pipe(p, b"x")),
        (f"{root}/fixed/file", lambda p: fs.pipe(p, b"x")),
        (f"{root}/fixed/file", fs.rm_file),
        (f"{root}/fixed/link", fs.rm_file),
        (f"{root}/fixed/new", fs.mkdir),
        (f"{root}/fixed", lambda p: fs.rm(p, recursive=True)),
    ]
    for path, operation in denied:
        with pytest.raises(PermissionError) as caught:
            operation(path)
        assert str(caught.value.filename).startswith(path)
        assert isinstance(caught.value.__cause__, ftplib.Error)
    assert (folder / "fixed" / "file").read_bytes() == b"old"


def test_a_link_that_cannot_be_deleted(pyftpd: Ftp, tmp_path: Path) -> None:
    """The server says of a link that leads out of its root what it says of nothing."""
    fs, root = on(pyftpd)
    folder = pyftpd.root / root.strip("/")
    (folder / "in").mkdir()
    (folder / "in" / "out").symlink_to(tmp_path)
    (folder / "in" / "file").write_bytes(b"x")
    for delete in (
        fs.rm_file,
        fs.rm,
        lambda path: fs.rm(path, recursive=True),
        lambda path: fs.rm(path.rpartition("/")[0], recursive=True),
    ):
        with pytest.raises(PermissionError, match="outside") as caught:
            delete(f"{root}/in/out")
        assert caught.value.filename.endswith("/in/out")
    with pytest.raises(NotADirectoryError):
        fs.rmdir(f"{root}/in/out")
    assert os.listdir(folder / "in") == ["out"]


def test_what_somebody_else_deletes_of_a_tree(
    pyftpd: Ftp, ftp_handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, root = on(pyftpd)
    folder = pyftpd.root / root.strip("/") / "tree"
    (folder / "in").mkdir(parents=True)
    for name in ("a", "b", "in/c"):
        (folder / name).write_bytes(b"x")
    delete = ftp_handler.ftp_DELE

    def deleting(self: Any, path: str) -> Any:
        if path.endswith(("/a", "/c")):
            os.unlink(path)
        return delete(self, path)

    monkeypatch.setattr(ftp_handler, "ftp_DELE", deleting)
    fs.rm(f"{root}/tree", recursive=True)
    assert not folder.exists()


def test_a_user_who_may_only_read(pyftpd: Ftp) -> None:
    _, root = on(pyftpd)
    fs = mlartifacts.filesystem(f"ftp://{pyftpd.host}:{pyftpd.port}")  # anonymous
    for operation in (
        lambda: fs.pipe(f"{root}/f", b"x"),
        lambda: fs.mkdir(f"{root}/d"),
        lambda: fs.makedirs(f"{root}/d/e", exist_ok=True),
    ):
        with pytest.raises(PermissionError):
            operation()
    assert fs.ls(root) == []


def test_a_wrong_password_is_not_shown(pyftpd: Ftp) -> None:
    fs = mlartifacts.filesystem(f"ftp://someone:hunter22@{pyftpd.host}:{pyftpd.port}/x")
    with pytest.raises(PermissionError) as caught:
        fs.ls("/x")
    assert caught.value.filename == "/x"
    shown = "".join(map(repr, (caught.value, caught.value.__cause__, fs, fs.pool.endpoint)))
    assert "hunter22" not in shown + fs.to_json() + str(pickle.dumps(fs))


def test_a_full_disk(pyftpd: Ftp, ftp_handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyftpdlib.filesystems import AbstractedFS

    fs, root = on(pyftpd)
    fs.pipe(f"{root}/f", b"old")
    opened = AbstractedFS.open
    # pyftpdlib loses the number on the way to its reply ("426 None; transfer aborted").
    monkeypatch.setattr("pyftpdlib.handlers.ftp.data.strerror", lambda _: "No space left")

    class Full:
        def __init__(self, file: Any) -> None:
            self._file, self.name, self.closed = file, file.name, False

        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.closed = True
            self._file.close()

    monkeypatch.setattr(
        AbstractedFS,
        "open",
        lambda self, name, mode: Full(opened(self, name, mode)) if "w" in mode else None,
    )
    for size in (10, 5_000_000):
        with pytest.raises(OSError, match="space") as caught:
            fs.pipe(f"{root}/f", b"n" * size)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{root}/f")
        with pytest.raises(OSError, match="space") as caught, fs.open(f"{root}/g", "wb") as file:
            for _ in range(10):
                file.write(b"n" * (size // 10))
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{root}/g")
    monkeypatch.setattr(AbstractedFS, "open", opened)
    assert fs.find(root) == [f"{root}/f"]
    assert fs.cat(f"{root}/f") == b"old"


def test_a_short_read_is_an_error(
    pyftpd: Ftp, ftp_handler: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fs, root = on(pyftpd)
    fs.pipe(f"{root}/f", b"x" * 1000)
    monkeypatch.setattr(ftp_handler, "ftp_SIZE", lambda self, path: self.respond("213 1500"))
    for operation in (
        lambda: fs.cat(f"{root}/f"),
        lambda: fs.get_file(f"{root}/f", str(tmp_path / "f")),
        lambda: fs.open(f"{root}/f").read(),
    ):
        with pytest.raises(OSError, match=r".") as caught:
            operation()
        assert caught.value.filename == f"{root}/f"
    assert not (tmp_path / "f").exists()


def test_a_server_that_overwrites_nothing(
    pyftpd: Ftp, ftp_handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = ftp_handler.ftp_RNTO

    def refuse_overwriting(self: Any, path: str) -> None:
        if Path(path).exists():
            self._rnfr = None
            self.respond("550 Cannot create a file when that file already exists.")
        else:
            rename(self, path)

    fs, root = on(pyftpd)
    monkeypatch.setattr(ftp_handler, "ftp_RNTO", refuse_overwriting)
    fs.pipe(f"{root}/f", b"old")
    fs.pipe(f"{root}/f", b"new")
    assert fs.cat(f"{root}/f") == b"new"
    assert fs.ls(root, detail=False) == [f"{root}/f"]


def test_a_server_that_is_down_or_hangs() -> None:
    with refusing() as port:
        fs = mlartifacts.filesystem(f"ftp://127.0.0.1:{port}")
        for operation in (fs.info, fs.ls, fs.exists, fs.cat, lambda p: fs.pipe(p, b"x")):
            with pytest.raises(ConnectionRefusedError) as caught:
                operation("/f")
            assert caught.value.filename == "/f"
    with hanging() as server:
        fs = mlartifacts.filesystem(f"ftp://{server.host}:{server.port}", timeout=0.2)
        for operation in (fs.info, fs.ls, fs.exists, fs.cat, lambda p: fs.pipe(p, b"x")):
            with pytest.raises(TimeoutError) as caught:
                operation("/f")
            assert caught.value.filename == "/f"
    fs = mlartifacts.filesystem("ftp://no-such-host.invalid/")
    with pytest.raises(OSError, match=r"no-such-host\.invalid"):
        fs.ls("/")


def test_a_server_that_stops_answering(pyftpd: Ftp) -> None:
    with proxied(pyftpd.url) as proxy:
        fs = mlartifacts.filesystem(proxy.url, timeout=0.3)
        fs.ls("/")
        proxy.swallow = True
        with pytest.raises(TimeoutError):
            fs.info("/f")
        proxy.swallow = False
        assert fs.info("/")["type"] == "directory"  # the late answer is not taken for this one's


def test_tls_is_verified(pyftpd_tls: Ftp, pyftpd: Ftp, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match="SSL_CERT_FILE") as caught:
        mlartifacts.filesystem(pyftpd_tls.url).ls("/")
    assert caught.value.filename == "/"
    monkeypatch.setenv("SSL_CERT_FILE", str(pyftpd_tls.ca))  # takes effect at the next open
    mlartifacts.filesystem(pyftpd_tls.url).ls("/")
    with pytest.raises(ConnectionError, match="offers no TLS"):
        mlartifacts.filesystem(pyftpd.url.replace("ftp:", "ftps:")).ls("/")
    # Plain ftp: never sends a password to a server that insists on TLS and gets an answer.
    with pytest.raises(OSError, match=r"550|530|503|522|SSL|TLS"):
        mlartifacts.filesystem(pyftpd_tls.url.replace("ftps:", "ftp:")).ls("/")


# ---- Connections ---------------------------------------------------------------------------


def test_twenty_threads(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place
    data = {f"{root}/{i}": random.Random(i).randbytes(50_000 + i) for i in range(20)}

    def work(path: str) -> bool:
        right = True
        for number in range(5):
            fs.pipe(f"{path}/{number}", data[path])
            right &= fs.cat_file(f"{path}/{number}") == data[path]
            right &= fs.cat_file(f"{path}/{number}", 100, 200) == data[path][100:200]
            with fs.open(f"{path}/{number}") as file:
                file.seek(30_000)
                right &= file.read(10) == data[path][30_000:30_010]
            right &= fs.info(f"{path}/{number}")["size"] == len(data[path])
            right &= len(fs.ls(path)) == number + 1
        return right

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert all(pool.map(work, data))
    assert fs.pool._lent == 0
    assert len(fs.pool._idle) <= 16
    for path in data:
        fs.rm(path, recursive=True)
    assert fs.ls(root) == []


def test_no_session_is_leaked(pyftpd: Ftp, recorder: Recorder) -> None:
    fs, root = on(pyftpd)
    wait_until(lambda: not recorder.sessions, "the sessions of other tests to end")

    def work(number: int) -> None:
        fs.pipe(f"{root}/{number}", b"x" * 100_000)
        fs.cat_file(f"{root}/{number}", 5, 10)
        fs.exists(f"{root}/missing")
        with pytest.raises(RuntimeError), fs.open(f"{root}/failed{number}", "wb") as file:
            file.write(b"x" * 500_000)
            raise RuntimeError

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(60)))
    assert len(recorder.sessions) <= 16  # what is kept for later
    fs.close()
    wait_until(lambda: not recorder.sessions, "every session to end")


def test_threads_with_filesystems_of_their_own_share_connections(
    pyftpd: Ftp, recorder: Recorder
) -> None:
    """fsspec makes a filesystem for each thread."""
    url = pyftpd.new_root()
    filesystems = []

    one_by_one = threading.Lock()

    def work(_: int) -> None:
        fs = mlartifacts.filesystem(url)
        barrier.wait()  # so that there are as many threads
        with one_by_one:
            fs.ls("/")
        filesystems.append(fs)

    barrier = threading.Barrier(20)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(20)))
    assert len({id(fs) for fs in filesystems}) == 20
    assert recorder.most_sessions <= 1  # another test's may be there already


def test_an_asyncio_program(place: tuple[FTPArtifactFileSystem, str]) -> None:
    fs, root = place

    async def program() -> list[bytes]:
        def one(number: int) -> bytes:
            fs.pipe(f"{root}/{number}", b"%d" % number)
            return bytes(fs.cat(f"{root}/{number}"))

        fs.pipe(f"{root}/inline", b"x")  # a running loop is not in the way either
        return await asyncio.gather(*(asyncio.to_thread(one, n) for n in range(20)))

    assert asyncio.run(program()) == [b"%d" % number for number in range(20)]


def test_more_open_files_than_the_server_lets_in(tmp_path: Path, recorder: Recorder) -> None:
    """Idle downloads give up their sessions; nothing waits for itself."""
    with pyftpd_module.serve(tmp_path, max_connections=4) as server:
        # pyftpdlib counts its listening socket and each data connection among them.
        fs, root = on(server)
        data = {n: random.Random(n).randbytes(3_000_000) for n in range(6)}
        for number, content in data.items():
            fs.pipe(f"{root}/{number}", content)
        files = {number: fs.open(f"{root}/{number}", block_size=1000) for number in data}
        for _ in range(3):
            for number, file in files.items():
                start = file.tell()
                assert file.read(2000) == data[number][start : start + 2000]
        for file in files.values():
            file.close()
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            sizes = list(pool.map(lambda n: len(fs.cat(f"{root}/{n % 6}")), range(40)))
        assert sizes == [3_000_000] * 40
        fs.close()


def test_a_session_that_the_server_dropped_when_idle(tmp_path: Path, recorder: Recorder) -> None:
    with pyftpd_module.serve(tmp_path, idle_timeout=1) as server:
        fs, root = on(server)
        fs.pipe(f"{root}/f", b"x" * 1000)
        for operation in (
            lambda: fs.cat(f"{root}/f"),
            lambda: fs.ls(root),
            lambda: fs.pipe(f"{root}/f", b"y" * 1000),
            lambda: fs.mkdir(f"{root}/d"),
            lambda: fs.rm(f"{root}/d", recursive=True),
        ):
            wait_until(lambda: not recorder.sessions, "the server to hang up")
            operation()
        file = fs.open(f"{root}/f", "rb", block_size=10, cache_type="none")
        assert file.read(10) == b"y" * 10
        wait_until(lambda: not recorder.sessions, "the server to hang up")
        assert file.read() == b"y" * 990
        file.close()
        fs.close()


@pytest.mark.parametrize("answer", ["421 Timeout.", ""])
def test_a_connection_that_dies_at_the_next_command(
    pyftpd: Ftp, ftp_handler: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """The server hangs up at the very moment at which it is asked."""
    fs, root = on(pyftpd)
    fs.pipe(f"{root}/f", b"x")
    process = ftp_handler.pre_process_command
    victims: list[str] = []

    def hang_up(self: Any, line: str, cmd: str, arg: str) -> None:
        if victims:
            victims.clear()
            if answer:
                self.respond(answer)
            self.close_when_done()
        else:
            process(self, line, cmd, arg)

    monkeypatch.setattr(ftp_handler, "pre_process_command", hang_up)
    for operation in (
        lambda: fs.cat(f"{root}/f"),
        lambda: fs.info(f"{root}/f"),
        lambda: fs.ls(root),
        lambda: fs.pipe(f"{root}/f", b"x"),
        lambda: fs.mkdir(f"{root}/d"),
        lambda: fs.rmdir(f"{root}/d"),
    ):
        victims.append("the next one")
        operation()
        assert not victims
    assert fs.ls(root, detail=False) == [f"{root}/f"]


@pytest.mark.parametrize("how", ["pipe_file", "cp_file", "open"])
def test_a_silent_server_is_not_waited_for_to_tidy_up(
    how: str, pyftpd: Ftp, ftp_handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    with proxied(pyftpd.url, passive=True) as proxy:
        fs, root = on(dataclasses.replace(pyftpd, port=proxy.port))
        fs.pipe_file(f"{root}/f", b"x")
        is_over, dropped = threading.Event(), []

        def drop(self: Any, path: str) -> None:
            is_over.wait(5)
            dropped.append(path)

        def fall_silent(self: Any, path: str) -> None:
            proxy.swallow = True

        monkeypatch.setattr(FTPArtifactFileSystem, "drop", drop)
        monkeypatch.setattr(ftp_handler, "ftp_RNFR", fall_silent)
        writes = {
            "pipe_file": lambda path: fs.pipe_file(path, b"x"),
            "cp_file": lambda path: fs.cp_file(f"{root}/f", path),
            "open": lambda path: fs.open(path, "wb").close(),
        }
        with pytest.raises(TimeoutError):
            writes[how](f"{root}/g")
        assert dropped == []
        is_over.set()
        wait_until(lambda: len(dropped) == 1, "the temporary file to be dropped")


def test_idle_connections_to_a_silent_server_are_asked_once(
    pyftpd: Ftp, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall that forgot one of them has forgotten all that are older."""
    with proxied(pyftpd.url, passive=True) as proxy:
        fs, root = on(dataclasses.replace(pyftpd, port=proxy.port))
        files = [fs.open(f"{root}/{n}", "wb", size=2**17) for n in range(4)]
        for file in files:
            file.write(bytes(2**17))
        for file in files:
            file.close()
        assert len(fs.pool._idle) == 4
        recorder.commands.clear()
        monkeypatch.setattr(connections_module, "_TRUSTED_SECONDS", 0)
        monkeypatch.setattr(connections_module, "_PROBE_SECONDS", 0.2)
        proxy.swallow = True
        monkeypatch.setattr(ConnectionPool, "_connect", lambda pool: pytest.fail("it is asked"))
        with pytest.raises(pytest.fail.Exception):
            fs.mkdir(f"{root}/d")
        assert recorder.counted() == {"NOOP": 1}


def test_a_reset_connection_is_replaced(pyftpd: Ftp) -> None:
    folder = pyftpd.new_root().rpartition("/")[2]
    with proxied(pyftpd.url) as proxy:
        fs = mlartifacts.filesystem(proxy.url)
        fs.pipe(f"/{folder}/f", b"x")
        for operation in (fs.cat, fs.info, fs.ls, lambda p: fs.pipe(p, b"x")):
            assert proxy.cut() >= 1
            operation(f"/{folder}/f")


def test_a_download_goes_on_after_a_cut(
    place: tuple[FTPArtifactFileSystem, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fs, root = place
    data = random.Random(4).randbytes(4_000_000)
    fs.pipe(f"{root}/f", data)
    readinto, cuts = Download.readinto, [0]

    def cut_now_and_then(self: Download, view: memoryview) -> int:
        if self.position - self.origin > 1_000_000:
            cuts[0] += 1
            self._data.close()
            self._end(clean=False)
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")
        return readinto(self, view)

    monkeypatch.setattr(Download, "readinto", cut_now_and_then)
    assert fs.cat(f"{root}/f") == data
    fs.get_file(f"{root}/f", str(tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == data
    assert cuts[0] >= 4


def test_a_download_does_not_go_on_in_another_file(
    place: tuple[FTPArtifactFileSystem, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, root = place
    fs.pipe(f"{root}/f", b"a" * 4_000_000)
    readinto = Download.readinto

    def cut_once(self: Download, view: memoryview) -> int:
        if self.position > 1_000_000:
            self._data.close()
            self._end(clean=False)
            monkeypatch.setattr(Download, "readinto", readinto)
            fs.pipe(f"{root}/f", b"b" * 3_000_000)
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")
        return readinto(self, view)

    monkeypatch.setattr(Download, "readinto", cut_once)
    with pytest.raises(OSError, match="4000000 bytes and now has 3000000"):
        fs.cat(f"{root}/f")


def test_a_cut_upload_publishes_nothing(pyftpd: Ftp) -> None:
    folder = pyftpd.new_root().rpartition("/")[2]
    with proxied(pyftpd.url) as proxy:
        fs = mlartifacts.filesystem(proxy.url)
        fs.pipe(f"/{folder}/f", b"old")
        with pytest.raises(ConnectionError) as caught, fs.open(f"/{folder}/f", "wb") as file:
            file.write(b"n" * 1_000_000)
            proxy.cut()
        assert caught.value.filename == f"/{folder}/f"
        assert fs.cat(f"/{folder}/f") == b"old"
        assert fs.ls(f"/{folder}", detail=False) == [f"/{folder}/f"]


def test_pickles_and_other_processes(
    place: tuple[FTPArtifactFileSystem, str], url: str, server: Ftp
) -> None:
    fs, root = place
    fs.pipe(f"{root}/f", b"0123456789")
    copy = pickle.loads(pickle.dumps(fs))
    assert copy.cat(f"{root}/f") == b"0123456789"
    with fs.open(f"{root}/f") as file:
        file.seek(3)
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read(2) == b"34"
    # Passwords of URIs do not travel, those given explicitly do.
    options = {} if server.anonymous_only else {"password": server.password}
    bare = mlartifacts.filesystem(_without_password(url), **options)
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        assert workers.apply(_read, (bare, f"{root}/f")) == b"0123456789"


def test_forked_children_leave_the_parents_connections_alone(
    vsftpd: Ftp,
) -> None:
    fs, root = on(vsftpd)
    data = random.Random(5).randbytes(3_000_000)
    fs.pipe(f"{root}/f", data)
    fs.ls(root)
    with fs.open(f"{root}/f") as file, fs.open(f"{root}/written", "wb") as out:
        assert file.read(10) == data[:10]
        out.write(b"x" * 1_000_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
            child = os.fork()
        if child == 0:
            right = file.read(1000) == data[10:1010] and fs.cat(f"{root}/f") == data
            fs.pipe(f"{root}/child", b"x")
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert file.read() == data[10:]
    assert fs.size(f"{root}/written") == 1_000_000
    assert fs.cat(f"{root}/f") == data
    assert fs.exists(f"{root}/child")


def test_nothing_is_shown(pyftpd: Ftp) -> None:
    fs, _ = on(pyftpd)
    shown = repr(fs) + fs.to_json() + str(fs.storage_options) + repr(fs.pool.endpoint)
    shown += repr(mlartifacts.locate(pyftpd.url)) + fs.unstrip_protocol("/x")
    assert pyftpd.password not in shown
    assert "p%40ss" not in shown


def test_what_mlflow_writes_and_reads(pyftpd: Ftp, tmp_path: Path) -> None:
    from mlflow.store.artifact.ftp_artifact_repo import FTPArtifactRepository

    url = pyftpd.new_root()
    repository = FTPArtifactRepository(url)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a b.bin").write_bytes(b"\r\n\0" * 1000)
    repository.log_artifacts(str(tmp_path / "up"), "from mlflow")
    with mlartifacts.open(f"{url}/from mlflow/a b.bin") as file:
        assert file.read() == b"\r\n\0" * 1000
    with mlartifacts.open(f"{url}/ours/x#1.bin", "wb") as file:
        file.write(b"\n\r" * 1000)
    listed = {info.path: info.file_size for info in repository.list_artifacts("ours")}
    assert listed == {"ours/x#1.bin": 2000}
    repository._download_file("ours/x#1.bin", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == b"\n\r" * 1000


def test_registered_with_fsspec(pyftpd: Ftp) -> None:
    url = pyftpd.new_root()
    mlartifacts.register()
    try:
        with fsspec.open(f"{url}/a b.txt", "wb") as file:
            file.write(b"x")
        fs, path = fsspec.url_to_fs(f"{url}/a b.txt")
        assert isinstance(fs, FTPArtifactFileSystem)
        assert fs.cat(path) == b"x"
        assert "p%40ss" not in fs.unstrip_protocol(path)
    finally:
        mlartifacts.unregister()


def test_a_pool_ends_with_its_filesystems(
    pyftpd: Ftp, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of its own, and not that of a filesystem which some library's cache still holds.
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "59")
    fs, root = on(pyftpd)
    wait_until(lambda: not recorder.sessions, "the sessions of other tests to end")
    fs.ls(root)
    assert len(recorder.sessions) == 1
    FTPArtifactFileSystem.clear_instance_cache()
    del fs
    gc.collect()
    wait_until(lambda: not recorder.sessions, "the session to end")


def test_pools_differ_by_endpoint() -> None:
    one = mlartifacts.filesystem("ftp://a:x@h")
    assert mlartifacts.filesystem("ftp://a:x@h", skip_instance_cache=True).pool is one.pool
    for other in ("ftp://b:x@h", "ftp://a:y@h", "ftp://a:x@h:22", "ftps://a:x@h"):
        assert mlartifacts.filesystem(other).pool is not one.pool
    assert isinstance(one.pool, ConnectionPool)


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.rpartition(':')[0]}{at}{tail}" if at else url


def _read(fs: Any, path: str) -> bytes:
    return bytes(fs.cat(path))
