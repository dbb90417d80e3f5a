"""Local paths: which place a URI names, and writes that land by rename."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import warnings

import fsspec
import pytest

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidURI
from mlartifacts.stores.local import STORE
from mlartifacts.uri import parse
from mlartifacts.writing import landing

CWD = os.getcwd()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/mnt/nfs/x", "/mnt/nfs/x"),
        ("/mnt/nfs/x/", "/mnt/nfs/x"),
        ("/mnt/a#b?c%41+[1]*", "/mnt/a#b?c%41+[1]*"),
        ("file:/mnt/nfs", "/mnt/nfs"),
        ("file:///mnt/my%20nfs", "/mnt/my nfs"),
        ("file:///mnt/my nfs", "/mnt/my nfs"),
        ("file:///a%2541", "/a%41"),
        ("file://localhost/mnt", "/mnt"),
        ("mlartifacts+file:///mnt", "/mnt"),
        ("local:///mnt", "/mnt"),
        ("mlruns/0", f"{CWD}/mlruns/0"),
        ("./mlruns", f"{CWD}/mlruns"),
        ("../mlruns", f"{os.path.dirname(CWD)}/mlruns"),
        ("file:mlruns", f"{CWD}/mlruns"),
        ("/", "/"),
        ("file:///", "/"),
        ("a:b/c", f"{CWD}/a:b/c"),
    ],
)
def test_places(uri, path):
    location = STORE.locate(parse(uri), Environment({}), {})
    assert (location.path, dict(location.options)) == (path, {"auto_mkdir": True})


def test_home():
    assert mlartifacts.locate("~/mlruns").path == f"{os.environ['HOME']}/mlruns"


def test_steps_up_behind_links(tmp_path):
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/sub")
    (tmp_path / "real/entry").symlink_to("../entry")
    (tmp_path / "near").symlink_to("real")
    for uri in ("link/../x", "link/..", "link/../x/../y", "link/../entry"):
        for spelled in (f"{tmp_path}/{uri}", f"file://{tmp_path}/{uri}/"):
            with pytest.raises(InvalidURI, match="a link"):
                mlartifacts.open(spelled)
    for uri, path in {
        "near/../x": "x",
        "near/sub/../x": "near/x",
        "near/sub/..": "near",
        "none/../x": "x",
    }.items():
        assert mlartifacts.locate(f"{tmp_path}/{uri}").path == f"{tmp_path}/{path}"


def test_another_host_is_refused():
    with pytest.raises(InvalidURI, match="fileserver.*three slashes"):
        mlartifacts.locate("file://fileserver/share/x")


@pytest.fixture
def fs():
    return mlartifacts.filesystem("file")


def test_a_reader_never_sees_half(fs, tmp_path):
    target = tmp_path / "x"
    target.write_bytes(b"old" * 1000)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(target.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(50):
            with fs.open(str(target), "wb") as file:
                for _ in range(20):
                    file.write(b"new" * 50)
                    file.flush()
            fs.pipe_file(str(target), b"old" * 1000)
    finally:
        done.set()
        reader.join()
    assert seen <= {b"old" * 1000, b"new" * 1000}


def test_a_link_stays_a_link(fs, tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with fs.open(str(tmp_path / "link"), "wb") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_permissions_are_kept_and_new_files_follow_the_umask(fs, tmp_path):
    kept = tmp_path / "kept"
    kept.write_bytes(b"old")
    kept.chmod(0o600)
    fs.pipe_file(str(kept), b"new")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    before = os.umask(0o027)
    try:
        fs.pipe_file(str(tmp_path / "fresh"), b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


def copy(fs, source, target):
    fs.cp_file(source, target)


def put(fs, source, target):
    fs.put_file(source, target)


def get(fs, source, target):
    fs.get_file(source, target)


def get_of_another_store(fs, source, target):
    memory = fsspec.filesystem("memory")
    with open(source, "rb") as file:
        memory.pipe_file("/source", file.read())
    with landing(target) as temporary:
        memory.get_file("/source", temporary)


@pytest.mark.parametrize("act", [copy, put, get, get_of_another_store])
def test_what_lands_on_a_file_takes_its_place(fs, tmp_path, act):
    source, kept, link = tmp_path / "source", tmp_path / "kept", tmp_path / "link"
    source.write_bytes(b"new")
    kept.write_bytes(b"old")
    kept.chmod(0o600)
    link.symlink_to("kept")
    act(fs, str(source), str(link))
    assert link.is_symlink()
    assert kept.read_bytes() == b"new"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["home", "kept", "link", "source"]
    act(fs, str(source), "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_write_under_way_is_as_private_as_its_target(fs, tmp_path):
    kept = tmp_path / "kept"
    kept.write_bytes(b"old")
    kept.chmod(0o600)
    with fs.open(str(kept), "wb"):
        (part,) = tmp_path.glob("*.part")
        assert stat.S_IMODE(part.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_errors_name_the_file_that_was_asked_for(fs, tmp_path, mode):
    (tmp_path / "file").touch()
    for name, said in (("x" * 300, "too long"), ("file/below", "Not a directory")):
        path = str(tmp_path / name)
        with pytest.raises(OSError, match=said) as caught, fs.open(path, mode) as file:
            file.write(b"x")
        assert caught.value.filename == path
        with pytest.raises(OSError, match=said) as caught:
            fs.cp_file(str(tmp_path / "file"), path)
        assert caught.value.filename == path
    assert sorted(os.listdir(tmp_path)) == ["file", "home"]


def test_no_file_is_changed_in_place(fs, tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ValueError, match="in place"):
        fs.open(str(tmp_path / "file"), "r+b")


def test_the_other_name_of_the_scheme(tmp_path):
    url = mlartifacts.to_url(f"local:{tmp_path}/file")
    with fsspec.open(url, "wb") as file:
        file.write(b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("end", ["del files[:]", "files[0].__exit__(*error)"])
@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_forked_child_leaves_its_parents_write_alone(fs, tmp_path, mode, end):
    files = [fs.open(str(tmp_path / "file"), mode)]
    half, rest = (b"half ", b"and rest") if mode == "wb" else ("half ", "and rest")
    files[0].write(half)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        child = os.fork()
    if child == 0:
        with contextlib.suppress(Exception):
            exec(end, {"files": files, "error": (ValueError, ValueError(), None)})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    files[0].write(rest)
    files[0].close()
    assert (tmp_path / "file").read_bytes() == b"half and rest"
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["file"]


def test_exclusive(fs, tmp_path):
    path = str(tmp_path / "x")
    with fs.open(path, "xb") as file:
        file.write(b"first")
    with pytest.raises(FileExistsError) as caught:
        fs.open(path, "xb")
    assert caught.value.filename == path
    assert fs.cat_file(path) == b"first"


def test_exclusive_loses_a_race_without_damage(fs, tmp_path):
    path = str(tmp_path / "x")
    mine = fs.open(path, "xb")
    mine.write(b"mine")
    (tmp_path / "x").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        mine.close()
    assert (tmp_path / "x").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["home", "x"]


def test_a_failed_append_keeps_the_old(fs, tmp_path):
    path = str(tmp_path / "log")
    fs.pipe_file(path, b"one\n")
    with fs.open(path, "ab") as file:
        file.write(b"two\n")
    with pytest.raises(ZeroDivisionError), fs.open(path, "ab") as file:
        file.write(b"three\n")
        raise ZeroDivisionError
    assert fs.cat_file(path) == b"one\ntwo\n"


def test_a_transaction_publishes_at_its_end(fs, tmp_path):
    paths = [str(tmp_path / name) for name in "ab"]
    with fs.transaction:
        for path in paths:
            with fs.open(path, "wb") as file:
                file.write(b"x")
        assert not any(map(fs.exists, paths))
    assert all(map(fs.exists, paths))


def test_a_broken_transaction_leaves_nothing(fs, tmp_path):
    with pytest.raises(ZeroDivisionError), fs.transaction:
        with fs.open(str(tmp_path / "a"), "wb") as file:
            file.write(b"x")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["home"]


def test_urls_give_back_their_path(fs, tmp_path):
    name = str(tmp_path / "a b#c?d%41")
    fs.pipe_file(name, b"x")
    mlartifacts.register()
    try:
        assert fsspec.open(fs.unstrip_protocol(name)).open().read() == b"x"
        assert fsspec.open(f"file:{tmp_path}/a%20b#c?d%2541").open().read() == b"x"
    finally:
        mlartifacts.unregister()
