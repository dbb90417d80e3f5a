"""HDFS: which cluster a URI names, and what two drivers must do alike on a real one."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
from urllib.parse import urlsplit

import pyarrow
import pytest

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.stores.hdfs import STORE, site
from mlartifacts.stores.hdfs.driver import Cluster
from mlartifacts.stores.hdfs.native import _connection
from mlartifacts.uri import parse
from tests.servers import silent
from tests.transfer.trees import found, plant

DRIVERS = ("pyarrow", "hdfs-native")


# ---- Pure: URIs and settings -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "env", "path", "options"),
    [
        ("hdfs://Nn:8020/a/b", {}, "/a/b", {"host": "hdfs://nn", "port": 8020}),
        ("hdfs://nn/a/", {}, "/a", {"host": "hdfs://nn", "port": 0}),
        ("hdfs://nn", {}, "/", {"host": "hdfs://nn", "port": 0}),
        ("hdfs:///a//b/./c", {}, "/a/b/c", {"host": "default", "port": 0}),
        ("hdfs:/a/../b", {}, "/b", {"host": "default", "port": 0}),
        ("hdfs:", {}, "/", {"host": "default", "port": 0}),
        ("viewfs://cluster/a", {}, "/a", {"host": "viewfs://cluster", "port": 0}),
        ("viewfs:///a", {}, "/a", {"host": "default", "port": 0}),
        ("hdfs://[::1]:9000/a", {}, "/a", {"host": "hdfs://[::1]", "port": 9000}),
        ("hdfs://n/ü #?%41+[1]*", {}, "/ü #?%41+[1]*", {"host": "hdfs://n", "port": 0}),
        (
            "hdfs://a%40b@nn/x",
            {"MLFLOW_KERBEROS_USER": "other"},
            "/x",
            {"host": "hdfs://nn", "port": 0, "user": "a@b"},
        ),
        (
            "hdfs://nn/x",
            {
                "MLFLOW_KERBEROS_USER": "u",
                "MLFLOW_KERBEROS_TICKET_CACHE": "/tmp/cc",
                "MLFLOW_PYARROW_EXTRA_CONF": "a.b=1,c= d =e",
                "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "7",
            },
            "/x",
            {
                "host": "hdfs://nn",
                "port": 0,
                "user": "u",
                "kerb_ticket": "/tmp/cc",
                "extra_conf": {"a.b": "1", "c": " d =e"},
                "timeout": 7,
            },
        ),
        (
            "hdfs://nn/x",
            {"MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "-1"},
            "/x",
            {"host": "hdfs://nn", "port": 0, "timeout": None},
        ),
    ],
)
def test_places(uri, env, path, options):
    location = STORE.locate(parse(uri), Environment(env), {})
    assert (location.path, dict(location.options)) == (path, options)


def test_explicit_options_win():
    environment = Environment({"MLFLOW_KERBEROS_USER": "u", "MLFLOW_PYARROW_EXTRA_CONF": "a=1,b=2"})
    explicit = {"user": "me", "extra_conf": {"b": "3"}}
    options = STORE.locate(parse("hdfs://you@nn/x"), environment, explicit).options
    assert options["user"] == "me"
    assert options["extra_conf"] == {"a": "1", "b": "3"}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hdfs:a/b", "relative path"),
        ("hdfs://nn:many/x", "'many'"),
        ("hdfs://user:geheim@nn/x", "has a password"),
        ("hdfs://nn/../x", "climbs"),
    ],
)
def test_bad_uris(uri, message):
    with pytest.raises(InvalidURI, match=message) as caught:
        mlartifacts.locate(uri)
    assert "geheim" not in str(caught.value)


def test_settings_without_a_value(monkeypatch):
    monkeypatch.setenv("MLFLOW_PYARROW_EXTRA_CONF", "a=1,b")
    with pytest.raises(InvalidConfig, match=r"MLFLOW_PYARROW_EXTRA_CONF .* \(the 2\. of them\)"):
        mlartifacts.locate("hdfs://nn/x")


def test_unknown_driver():
    with pytest.raises(InvalidConfig, match="pyarrow, hdfs-native"):
        mlartifacts.filesystem("hdfs", driver="webhdfs")


def _site(folder, **files):
    for name, settings in files.items():
        properties = "".join(
            f"<property><name>{key}</name><value>{value}</value></property>"
            for key, value in settings.items()
        )
        (folder / f"{name}-site.xml").write_text(f"<configuration>{properties}</configuration>")
    return folder


def test_namenodes_of_a_nameservice(tmp_path):
    _site(
        tmp_path,
        core={"fs.defaultFS": "hdfs://prod"},
        hdfs={
            "dfs.ha.namenodes.prod": "a, b",
            "dfs.namenode.rpc-address.prod.a": "one:8020",
            "dfs.namenode.rpc-address.prod.b": "two:9000",
        },
    )
    settings = site.read(["/nowhere", str(tmp_path)], {"extra": "1"})
    assert settings["fs.defaultFS"] == "hdfs://prod"
    assert settings["extra"] == "1"
    assert site.namenodes("hdfs://prod", settings) == [("one", 8020), ("two", 9000)]
    assert site.namenodes("hdfs://other", settings) == [("other", 8020)]
    assert site.namenodes("hdfs://prod:1", settings) == [("prod", 1)]
    assert site.namenodes("viewfs://prod", settings) == []


def test_broken_site_files_count_as_absent(tmp_path):
    (tmp_path / "core-site.xml").write_text("<configuration>")
    assert site.read([str(tmp_path)], {}) == {}


def _cluster(host="hdfs://nn", port=0, **changes):
    given = {"user": None, "kerb_ticket": None, "extra_conf": {}, "replication": None}
    return Cluster(host, port, **{**given, "timeout": 1.0, **changes})


def test_native_gets_a_port_and_no_failover_where_there_is_one_namenode(tmp_path, monkeypatch):
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    once = {"dfs.client.failover.max.attempts": "0"}
    assert _connection(_cluster()) == ("hdfs://nn:8020", once, {})
    assert _connection(_cluster(host="hdfs://[::1]", port=9))[0] == "hdfs://[::1]:9"
    own = {"dfs.client.failover.max.attempts": "3"}
    assert _connection(_cluster(extra_conf=own))[1] == own
    service = {"dfs.ha.namenodes.nn": "a,b"}
    for each in "ab":
        service[f"dfs.namenode.rpc-address.nn.{each}"] = f"{each}:1"
    assert _connection(_cluster(extra_conf=service)) == ("hdfs://nn", service, {})


def test_native_needs_a_default_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    with pytest.raises(InvalidConfig, match=r"fs\.defaultFS: set HADOOP_CONF_DIR"):
        _connection(_cluster(host="default"))


def test_native_cannot_be_another_user(monkeypatch):
    with pytest.raises(InvalidConfig, match="HADOOP_USER_NAME=alice, or use driver='pyarrow'"):
        _connection(_cluster(user="alice"))
    monkeypatch.setenv("HADOOP_USER_NAME", "alice")
    assert _connection(_cluster(user="alice"))[2] == {}


def test_native_names_a_ticket_cache_that_cannot_be_read(tmp_path):
    secure = {"hadoop.security.authentication": "kerberos"}
    (tmp_path / "cc").write_bytes(b"nonsense")
    for cache in (tmp_path / "cc", tmp_path / "missing"):
        with pytest.raises(InvalidConfig, match="MLFLOW_KERBEROS_TICKET_CACHE"):
            _connection(_cluster(extra_conf=secure, kerb_ticket=str(cache)))


# ---- On a real cluster, with both drivers ------------------------------------------------------


@pytest.fixture
def cluster(hdfs, monkeypatch):
    for name, value in hdfs.env.items():
        monkeypatch.setenv(name, value)
    return hdfs


@pytest.fixture(params=DRIVERS)
def fs(request, cluster):
    return mlartifacts.filesystem(cluster.url, driver=request.param)


@pytest.fixture
def other(fs, cluster):
    """The same cluster through the other driver."""
    [name] = set(DRIVERS) - {fs.driver.name}
    return mlartifacts.filesystem(cluster.url, driver=name)


@pytest.fixture
def root(fs, cluster):
    path = urlsplit(cluster.new_root()).path
    fs.makedirs(path)
    return path


@pytest.fixture
def native(cluster):
    from hdfs_native import Client

    client = Client(cluster.url, {})
    client.get_file_info("/")  # as this user, whom a test may change before its next call
    return client


def test_names_beyond_the_basic_plane(fs, other, root):
    """Java's own UTF-8, which pyarrow does not write, is not everybody's."""
    for name in ("owl 🦉", "owl 🦊", "ünï-日本"):
        fs.pipe(f"{root}/{name}", name.encode())
    assert other.ls(root, detail=False) == fs.ls(root, detail=False)
    for name in ("owl 🦉", "owl 🦊", "ünï-日本"):
        assert other.cat(f"{root}/{name}") == fs.cat(f"{root}/{name}") == name.encode()
    fs.mv(f"{root}/owl 🦉", f"{root}/🦉🦉")
    assert other.exists(f"{root}/🦉🦉")
    other.rm(f"{root}/🦉🦉")
    assert not fs.exists(f"{root}/🦉🦉")


PLAIN = b"x,y\n1,2\n" * 50
LARGE = random.Random(11).randbytes(9_000_000)


def packed(codec, data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


#: Under names for which MLflow compresses them; most are compressed already.
LOGGED = {
    "t.csv.gz": gzip.compress(PLAIN),
    "large.gz": gzip.compress(LARGE, 1),
    "misnamed.gz": PLAIN,
    "empty.gz": b"",
    "m.tar.bz2": bz2.compress(PLAIN),
    "d.lz4": packed("lz4", PLAIN),
    "misnamed.lz4": PLAIN,
    "large.lz4": LARGE,
    "d.zst": packed("zstd", PLAIN),
    "no.zst": b"\x28\xb5\x2f\xfd" + PLAIN,
    "empty.zst": b"",
    "t.csv": PLAIN,
    ".gz": PLAIN,
}


@pytest.fixture
def repository(cluster, root):
    """MLflow's own."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(f"{cluster.url}{root}")


def test_files_that_mlflow_compressed_for_their_names(fs, root, cluster, repository, tmp_path):
    """They come back as they were logged, in whole and in parts, with their sizes."""
    plant(tmp_path / "here", LOGGED)
    repository.log_artifacts(str(tmp_path / "here"))
    sizes = {f"{root}/{name}": len(data) for name, data in LOGGED.items()}
    assert {each["name"]: each["size"] for each in fs.ls(root, detail=True)} == sizes
    for name, data in LOGGED.items():
        path = f"{root}/{name}"
        assert (name, fs.size(path)) == (name, len(data))
        assert fs.cat_file(path) == data
        assert fs.cat_file(path, 2, -1) == data[2:-1]
        with fs.open(path) as file:
            assert file.read(5) == data[:5]
            file.seek(0)
            assert file.read() == data
            file.seek(-3 if data else 0, 2)
            assert file.read() == data[-3:]
    mlartifacts.download(f"{cluster.url}{root}", tmp_path / "there", driver=fs.driver.name)
    assert found(tmp_path / "there") == LOGGED


def test_files_that_mlflow_decompresses_for_their_names(fs, root, cluster, repository, tmp_path):
    """It gets them as they were written here."""
    here = plant(tmp_path / "here", LOGGED)
    mlartifacts.upload(here, f"{cluster.url}{root}/by-us", driver=fs.driver.name)
    for name, data in LOGGED.items():
        assert fs.cat_file(f"{root}/by-us/{name}") == data
    repository.download_artifacts("by-us", str(tmp_path))
    assert found(tmp_path / "by-us") == LOGGED


def test_what_is_no_bzip2_is_stored_as_it_is(fs, root, native):
    """It would not be known again: every file of bzip2 looks alike."""
    fs.pipe(f"{root}/misnamed.bz2", PLAIN)
    with native.read(f"{root}/misnamed.bz2") as file:
        assert file.read() == PLAIN
    assert fs.cat(f"{root}/misnamed.bz2") == PLAIN


def test_compressed_files_of_other_programs(fs, root, native):
    stored = {
        "t.gz": gzip.compress(PLAIN),
        "t.bz2": bz2.compress(PLAIN),
        "t.zst": pyarrow.compress(PLAIN, "zstd", asbytes=True),
        "plain.gz": PLAIN,
    }
    for name, data in stored.items():
        with native.create(f"{root}/{name}") as file:
            file.write(data)
    for name, data in stored.items():
        assert (fs.cat(f"{root}/{name}"), fs.size(f"{root}/{name}")) == (data, len(data))


def test_a_file_that_was_compressed_for_its_name_and_is_cut(fs, root, native):
    with native.create(f"{root}/a.gz") as file:
        file.write(gzip.compress(gzip.compress(LARGE))[:-100])
    assert fs.ls(root, detail=False) == [f"{root}/a.gz"]
    with pytest.raises(OSError, match="damaged: Truncated") as caught:
        fs.cat(f"{root}/a.gz")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, f"{root}/a.gz")


def test_a_file_that_gets_a_name_for_which_it_is_compressed(fs, root, repository, tmp_path):
    data = gzip.compress(PLAIN)
    fs.pipe(f"{root}/a.bin", data)
    fs.mv(f"{root}/a.bin", f"{root}/a.gz")
    assert fs.cat(f"{root}/a.gz") == data
    repository.download_artifacts("a.gz", str(tmp_path))
    assert (tmp_path / "a.gz").read_bytes() == data
    with fs.open(f"{root}/a.gz", "ab") as file:
        file.write(b"more")
    assert fs.cat(f"{root}/a.gz") == data + b"more"
    fs.mv(f"{root}/a.gz", f"{root}/b/c.bin")
    assert fs.cat(f"{root}/b/c.bin") == data + b"more"
    assert fs.find(root) == [f"{root}/b/c.bin"]


def test_nul_does_not_end_a_name(fs, root):
    fs.pipe(f"{root}/a", b"old")
    for act in (fs.rm, fs.cat, fs.exists):
        with pytest.raises(ValueError, match="NUL"):
            act(f"{root}/a\0b")
    assert fs.cat(f"{root}/a") == b"old"


def test_colon_is_no_name_on_hdfs(fs, root):
    assert not fs.exists(f"{root}/a:b")
    with pytest.raises(FileNotFoundError):
        fs.cat(f"{root}/a:b")
    with pytest.raises(OSError, match="no ':' in a name") as caught:
        fs.pipe(f"{root}/a:b", b"x")
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, f"{root}/a:b")
    assert fs.ls(root) == []


def test_how_deep_a_path_may_be(fs, root):
    """As deep as HDFS itself takes it, and no step deeper."""
    above = root + "/a" * (999 - root.count("/"))
    fs.pipe(f"{above}/a", b"x")
    assert fs.unfit(f"{above}/a") is None
    with pytest.raises(OSError, match="1000 levels|Java exception"):
        fs.pipe(f"{above}/b/a", b"x")
    assert fs.unfit(f"{above}/b/a") == "the path is too long"


def test_replication_is_the_clusters(fs, root, native, cluster):
    fs.pipe(f"{root}/a", b"x")
    assert native.get_file_info(f"{root}/a").replication == 1
    two = mlartifacts.filesystem(cluster.url, driver=fs.driver.name, replication=2)
    two.pipe(f"{root}/b", b"x")
    assert native.get_file_info(f"{root}/b").replication == 2


def test_moves(fs, root):
    fs.pipe({f"{root}/a": b"a", f"{root}/b": b"b", f"{root}/d/x": b"x"})
    fs.mv(f"{root}/a", f"{root}/b")  # over a file
    assert fs.cat(f"{root}/b") == b"a"
    fs.mv(f"{root}/b", f"{root}/d")  # into a directory
    fs.mv(f"{root}/d", f"{root}/new/parents/e")  # a tree
    assert fs.find(root) == [f"{root}/new/parents/e/b", f"{root}/new/parents/e/x"]
    with pytest.raises(FileNotFoundError):
        fs.mv(f"{root}/missing", f"{root}/z")
    with pytest.raises(OSError, match="into itself"):
        fs.mv(f"{root}/new", f"{root}/new/parents/deeper")
    assert len(fs.find(root)) == 2


def test_directories_are_removed_only_when_asked(fs, root):
    fs.pipe(f"{root}/d/x", b"x")
    for act in (fs.rm, fs.rm_file):
        with pytest.raises(IsADirectoryError):
            act(f"{root}/d")
    with pytest.raises(OSError, match=".") as caught:
        fs.rmdir(f"{root}/d")
    assert caught.value.errno == errno.ENOTEMPTY
    with pytest.raises(PermissionError, match="root"):
        fs.rm("/", recursive=True)
    assert fs.cat(f"{root}/d/x") == b"x"
    fs.rm(f"{root}/d", recursive=True)
    assert fs.ls(root) == []


def test_a_replaced_file_is_old_or_new_to_a_reader(fs, root, cluster):
    """With pyarrow it may be away for a moment; it is never half of one."""
    contents = {bytes([number]) * 200_000 for number in range(6)}
    fs.pipe(f"{root}/file", next(iter(contents)))
    done = threading.Event()
    seen = []

    def read():
        while not done.is_set():
            try:
                seen.append(fs.cat(f"{root}/file"))
            except FileNotFoundError:
                assert fs.driver.name == "pyarrow"
            except OSError as error:
                # Open while the block behind it was deleted: an error, and no wrong bytes.
                seen.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        fs.pipe(f"{root}/file", content)
    done.set()
    reader.join()
    assert seen
    assert set(seen) <= contents | {errno.EIO}
    assert fs.ls(root, detail=False) == [f"{root}/file"]


def test_a_failed_rename_brings_the_old_file_back(cluster, monkeypatch):
    fs = mlartifacts.filesystem(cluster.url, driver="pyarrow", skip_instance_cache=True)
    root = urlsplit(cluster.new_root()).path
    fs.pipe(f"{root}/file", b"old")
    move = fs.driver._move

    def break_off(source, target):
        if target == f"{root}/file" and fs.driver.peek(source).size == 3 + 1:
            raise OSError(errno.EIO, "broken")
        move(source, target)

    monkeypatch.setattr(fs.driver, "_move", break_off)
    with pytest.raises(OSError, match="Input/output"):
        fs.pipe(f"{root}/file", b"new!")
    assert fs.cat(f"{root}/file") == b"old"
    assert fs.ls(root, detail=False) == [f"{root}/file"]


def test_default_cluster(fs, root):
    fs.pipe(f"{root}/a", b"x")
    for form in ("hdfs:{}", "hdfs://{}"):
        uri = form.format(f"{root}/a")
        with mlartifacts.open(uri, driver=fs.driver.name) as file:
            assert file.read() == b"x"


def test_viewfs(fs, root, cluster):
    fs.pipe(f"{root}/a", b"x")
    conf = {
        "fs.viewfs.mounttable.lab.link./data": f"{cluster.url}{root}",
        "fs.viewfs.mounttable.lab.linkFallback": f"{cluster.url}/",
    }
    options = {"driver": fs.driver.name, "extra_conf": conf}
    with mlartifacts.open("viewfs://lab/data/b", "wb", **options) as file:
        file.write(b"y")
    view, path = mlartifacts.url_to_fs("viewfs://lab/data", **options)
    assert sorted(view.cat(view.find(path)).values()) == [b"x", b"y"]
    assert view.unstrip_protocol(path) == "viewfs://lab/data"
    assert fs.cat(f"{root}/b") == b"y"


def test_viewfs_without_a_fallback(cluster):
    conf = {"fs.viewfs.mounttable.lab.link./data": f"{cluster.url}/"}
    view = mlartifacts.filesystem("viewfs://lab", driver="hdfs-native", extra_conf=conf)
    with pytest.raises(InvalidConfig, match=r"mounttable\.lab\.linkFallback.*driver='pyarrow'"):
        view.ls("/data")


def test_user_of_the_uri(cluster, native):
    root = urlsplit(cluster.new_root()).path
    native.mkdirs(root, 0o777, True)
    native.set_permission(root, 0o777)
    uri = cluster.url.replace("hdfs://", "hdfs://bob@")
    with mlartifacts.open(f"{uri}{root}/a", "wb", driver="pyarrow") as file:
        file.write(b"x")
    assert native.get_file_info(f"{root}/a").owner == "bob"


@pytest.fixture
def as_bob(fs, root, native, cluster, monkeypatch):
    """The same driver under a user who is not the superuser."""
    if fs.driver.name == "pyarrow":
        return mlartifacts.filesystem(cluster.url.replace("://", "://bob@"), driver="pyarrow")
    monkeypatch.setenv("HADOOP_USER_NAME", "bob")
    return mlartifacts.filesystem(cluster.url, driver="hdfs-native")


def test_what_may_not_be_seen_is_not_called_absent(fs, as_bob, root, native):
    fs.pipe(f"{root}/closed/a", b"x")
    native.set_permission(f"{root}/closed", 0o700)
    native.mkdirs(f"{root}/drop", 0o711, True)
    path = f"{root}/closed/a"
    for act in (as_bob.exists, as_bob.info, as_bob.cat, as_bob.ls, as_bob.isfile, as_bob.rm):
        with pytest.raises(PermissionError) as caught:
            act(path)
        assert caught.value.filename == path
    with pytest.raises(PermissionError):
        as_bob.pipe(path, b"y")
    with pytest.raises(PermissionError):
        as_bob.mv(path, f"{root}/mine")
    # A directory that may be entered but not listed does tell what is not in it.
    assert not as_bob.exists(f"{root}/drop/missing")
    assert fs.cat(path) == b"x"


def test_beneath_a_file_is_nothing(fs, as_bob, root):
    fs.pipe(f"{root}/a", b"x")
    for each in (fs, as_bob):
        assert not each.exists(f"{root}/a/b/c")
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            each.ls(f"{root}/a/b")


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_namenode_that_is_down_is_not_an_absent_file(driver, cluster):
    with silent.refusing() as port:
        fs = mlartifacts.filesystem(f"hdfs://127.0.0.1:{port}", driver=driver)
        for act in (fs.exists, fs.info, fs.ls, fs.cat, lambda path: fs.pipe(path, b"x")):
            with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port}") as caught:
                act("/a")
            assert caught.value.filename == "/a"


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_namenode_that_hangs_times_out(driver, cluster):
    with silent.hanging() as server:
        uri = f"hdfs://{server.host}:{server.port}"
        fs = mlartifacts.filesystem(uri, driver=driver, timeout=1)
        for act in (fs.exists, fs.cat):
            before = len(server.accepted)
            with pytest.raises(TimeoutError) as caught:
                act("/a")
            assert caught.value.filename == "/a"
            # Hadoop would try 45 times.
            assert 0 < len(server.accepted) - before <= 5


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_unknown_host(driver, cluster):
    fs = mlartifacts.filesystem("hdfs://no-such-host.invalid:8020", driver=driver)
    with pytest.raises(ConnectionError, match=r"no-such-host\.invalid.* not known"):
        fs.exists("/a")


def test_pickles_hold_the_callers_options_alone(fs, root, monkeypatch):
    monkeypatch.setenv("MLFLOW_PYARROW_EXTRA_CONF", "some.key=geheim")
    fs = mlartifacts.filesystem(fs.unstrip_protocol("/"), driver=fs.driver.name)
    assert fs.cluster.extra_conf == {"some.key": "geheim"}
    for shown in (pickle.dumps(fs).decode("latin-1"), fs.to_json(), repr(fs), repr(fs.cluster)):
        assert "geheim" not in shown
    assert pickle.loads(pickle.dumps(fs)) is fs


# ---- In processes of their own -----------------------------------------------------------------


def _python(code, env, *arguments):
    """Run a program in a fresh process, and give what it printed as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


_SAYS = """
    import json, sys, mlartifacts
    from mlartifacts.errors import ArtifactError
    options = json.loads(sys.argv[2])
    try:
        fs, path = mlartifacts.url_to_fs(sys.argv[1], **options)
        print(json.dumps([fs.driver.name, fs.exists(path)]))
    except (ArtifactError, OSError) as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def _says(uri, env, **options):
    return _python(_SAYS, env, uri, json.dumps(options))


def test_every_missing_part_is_named(hdfs):
    env = {"JAVA_HOME": "/no/java", "ARROW_LIBHDFS_DIR": "/no/hadoop", "CLASSPATH": ""}
    kind, text = _says(hdfs.url, {**hdfs.env, **env}, driver="pyarrow")
    assert kind == "InvalidConfig"
    assert "libhdfs.so in /no/hadoop: set ARROW_LIBHDFS_DIR" in text
    assert "export CLASSPATH=$(hadoop classpath --glob)" in text
    if not any(os.path.exists(f"/usr/lib/jvm/default-java/{p}") for p in ("lib/server", "jre")):
        assert "JAVA_HOME=/no/java: set JAVA_HOME" in text


@pytest.mark.parametrize("missing", ["ARROW_LIBHDFS_DIR", "CLASSPATH"])
def test_hdfs_native_steps_in(hdfs, missing):
    env = {name: value for name, value in hdfs.env.items() if name != missing}
    assert _says(f"{hdfs.url}/", env) == ["hdfs-native", True]


def test_pyarrow_comes_first(hdfs):
    assert _says(f"{hdfs.url}/", hdfs.env) == ["pyarrow", True]


def test_without_any_driver(hdfs, tmp_path):
    """Each installation has its own command."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules.update(hdfs_native=None)\n"
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('pyarrow', 'hdfs_native') else find(n, *a)\n"
    )
    kind, text = _says(hdfs.url, {**hdfs.env, "PYTHONPATH": str(tmp_path)})
    assert kind == "MissingDriver"
    assert text.count("pip install 'mlartifacts[hdfs]'") == 1
    assert "hdfs-native" in text


def test_class_path_without_hadoop(hdfs, tmp_path):
    kind, text = _says(hdfs.url, {**hdfs.env, "CLASSPATH": str(tmp_path)}, driver="pyarrow")
    assert (kind, "CLASSPATH names no jar of Hadoop" in text) == ("InvalidConfig", True)


def test_no_default_cluster_is_not_the_local_disk(hdfs):
    """Which is where Java would write for want of a core-site.xml."""
    without = os.pathsep.join(hdfs.class_path.split(os.pathsep)[1:])
    kind, text = _says("hdfs:///tmp", {**hdfs.env, "CLASSPATH": without}, driver="pyarrow")
    assert (kind, "fs.defaultFS" in text) == ("InvalidConfig", True)


@pytest.mark.parametrize("driver", DRIVERS)
def test_after_a_fork(hdfs, driver):
    """A JVM does not survive it, which must be an error and no hang; hdfs-native starts anew."""
    code = """
        import json, os, sys, mlartifacts
        fs = mlartifacts.filesystem(sys.argv[1], driver=sys.argv[2])
        assert fs.exists("/")
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                answer = fs.exists("/")
            except OSError as error:
                answer = str(error)
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.close(writer)
        os.wait()
        print(os.read(reader, 9999).decode())
    """
    answer = _python(code, hdfs.env, hdfs.url, driver)
    if driver == "pyarrow":
        assert "forked" in answer
        assert "'spawn'" in answer
    else:
        assert answer is True


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_write_that_is_open_when_python_ends(hdfs, driver):
    """It is abandoned, and holds up nothing."""
    code = """
        import json, sys, mlartifacts
        fs, path = mlartifacts.url_to_fs(sys.argv[1] + "/file", driver=sys.argv[2])
        fs.pipe(path, b"old")
        sys.modules["held"] = fs.open(path, "wb")
        sys.modules["held"].write(b"new" * 500_000)
        print("true")
    """
    uri = hdfs.new_root()
    assert _python(code, hdfs.env, uri, driver)  # which allows two minutes
    fs, path = mlartifacts.url_to_fs(uri, driver="hdfs-native")
    assert fs.cat(fs.find(path)) == {f"{path}/file": b"old"}


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_interrupted_write(hdfs, driver):
    """A JVM takes Ctrl-C for itself, and ends the process, unless it is told not to."""
    code = """
        import json, os, signal, sys, mlartifacts
        fs, path = mlartifacts.url_to_fs(sys.argv[1] + "/file", driver=sys.argv[2])
        fs.pipe(path, b"old")
        heard = []
        try:
            with fs.open(path, "wb") as file:
                file.write(b"new" * 500_000)
                os.kill(os.getpid(), signal.SIGINT)
                while True:
                    signal.pause()
        except KeyboardInterrupt:
            heard.append("SIGINT")
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append("SIGTERM"))
        os.kill(os.getpid(), signal.SIGTERM)
        print(json.dumps([heard, fs.find(os.path.dirname(path)), fs.cat(path).decode()]))
    """
    heard, found, content = _python(code, hdfs.env, hdfs.new_root(), driver)
    assert heard == ["SIGINT", "SIGTERM"]
    assert [path.rpartition("/")[2] for path in found] == ["file"]
    assert content == "old"


@pytest.mark.parametrize("driver", DRIVERS)
def test_memory_does_not_grow_with_the_file(hdfs, driver):
    code = """
        import hashlib, json, os, resource, sys, tempfile, mlartifacts
        fs, path = mlartifacts.url_to_fs(sys.argv[1] + "/large", driver=sys.argv[2])
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        def write(pieces):
            digest = hashlib.sha256()
            with fs.open(path, "wb") as file:
                for number in range(pieces):
                    piece = bytes([number]) * 2**20
                    digest.update(piece)
                    file.write(piece)
            return digest.hexdigest()
        def read():
            digest = hashlib.sha256()
            with fs.open(path) as file:
                while piece := file.read(2**20):
                    digest.update(piece)
            return digest.hexdigest()
        def get():
            with tempfile.TemporaryDirectory() as folder:
                fs.get_file(path, folder + "/x")
                return hashlib.file_digest(open(folder + "/x", "rb"), "sha256").hexdigest()
        assert write(30) == read() == get()  # the JVM's heap has its size now, or nearly
        before = peak()
        assert write(100) == read() == get()
        print(json.dumps([fs.size(path), peak() - before]))
    """
    size, grown = _python(code, hdfs.env, hdfs.new_root(), driver)
    assert size == 100 * 2**20
    assert grown < 60


def test_a_file_larger_than_javas_memory(hdfs):
    """libhdfs gives Java an array of as many bytes as it is asked for."""
    code = """
        import json, os, sys, mlartifacts
        fs, path = mlartifacts.url_to_fs(sys.argv[1] + "/large", driver="pyarrow")
        data = os.urandom(2**20) * 100
        fs.pipe_file(path, data)
        same = [fs.cat_file(path) == data, fs.open(path).read() == data]
        with fs.open(path, "wb") as file:
            file.write(memoryview(data))
        same.append(fs.cat_file(path, 1, -1) == data[1:-1])
        print(json.dumps(same))
    """
    env = {**hdfs.env, "LIBHDFS_OPTS": "-Xmx64m -XX:+UseSerialGC"}
    assert _python(code, env, hdfs.new_root()) == [True] * 3


@pytest.fixture
def secured(hdfs_kerberos):
    """A cluster with Kerberos, and a directory of which anyone may write."""
    env = {**hdfs_kerberos.env, "KRB5CCNAME": str(hdfs_kerberos.realm.ticket("hdfs"))}
    code = """
        import sys
        from hdfs_native import Client
        client = Client(sys.argv[1], {})
        client.mkdirs("/shared", 0o777, True)
        client.set_permission("/shared", 0o777)
        print("true")
    """
    assert _python(code, env, hdfs_kerberos.url)
    return hdfs_kerberos


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("user", [None, "alice"])
def test_kerberos_ticket(secured, driver, user):
    code = """
        import json, sys, mlartifacts
        uri = sys.argv[1] + "/shared/" + sys.argv[2]
        with mlartifacts.open(uri, "wb", driver=sys.argv[2]) as file:
            file.write(b"x")
        native = mlartifacts.filesystem(sys.argv[1], driver="hdfs-native")
        with mlartifacts.open(uri, driver=sys.argv[2]) as file:
            print(json.dumps([file.read().decode(), native.info(uri)["owner"]]))
    """
    env = {
        **secured.env,
        "MLFLOW_KERBEROS_TICKET_CACHE": str(secured.realm.ticket("alice")),
        "MLFLOW_KERBEROS_USER": user or "",
    }
    assert _python(code, env, secured.url, driver) == ["x", "alice"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_kerberos_without_a_ticket(secured, driver, tmp_path):
    env = {**secured.env, "KRB5CCNAME": f"FILE:{tmp_path}/none"}
    kind, text = _says(f"{secured.url}/shared", env, driver=driver)
    assert kind == "PermissionError"
    assert "kinit" in text
    assert "MLFLOW_KERBEROS_TICKET_CACHE" in text


@pytest.mark.parametrize("driver", DRIVERS)
def test_kerberos_ticket_cache_that_is_not_there(secured, driver, tmp_path):
    cache = str(tmp_path / "cc")
    env = {**secured.env, "MLFLOW_KERBEROS_TICKET_CACHE": cache, "MLFLOW_KERBEROS_USER": "alice"}
    kind, text = _says(f"{secured.url}/shared", env, driver=driver)
    assert kind == "PermissionError"
    assert f"{cache} (MLFLOW_KERBEROS_TICKET_CACHE, or kerb_ticket=) does not exist" in text


@pytest.mark.parametrize("driver", DRIVERS)
def test_kerberos_ticket_of_another(secured, driver):
    env = {
        **secured.env,
        "MLFLOW_KERBEROS_TICKET_CACHE": str(secured.realm.ticket("alice")),
        "MLFLOW_KERBEROS_USER": "bob",
    }
    kind, text = _says(f"{secured.url}/shared", env, driver=driver)
    assert (kind, "MLFLOW_KERBEROS_USER" in text) == ("PermissionError", True)
