"""The cache of what is read again and again, with real stores, processes and crashes."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.callbacks import Callback

import mlartifacts
from mlartifacts.transfer.times import is_settled
from mlartifacts.transfer.trees import File
from tests.contract.stores import Folder, Harbour
from tests.servers.mlflow_server import MlflowServer
from tests.servers.moto import Moto
from tests.servers.process import wait_until
from tests.servers.static_http import StaticHttp
from tests.servers.tcp_proxy import Proxy, proxied
from tests.transfer.conftest import Line
from tests.transfer.trees import found, plant

Opened = Callable[[str], Harbour]

TREE = {"MLmodel": b"a model", "data/a [1]*.bin": b"\0" * 3000, "data/empty": b"", "ünï": b"1"}

CHILD = """
import sys, mlartifacts
for uri in sys.argv[1:]:
    print(mlartifacts.cached(uri), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache/cached-1"


@pytest.fixture
def s3(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Moto, str, Proxy]]:
    """A server, a bucket of it, and what its clients ask for."""
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    with proxied(moto_server.url) as proxy:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.url)
        yield moto_server, moto_server.new_bucket(), proxy


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let local files pass for old: nobody can set the time when a file's state changed."""
    monkeypatch.setattr("mlartifacts.transfer.cache.is_settled", lambda file, now: True)


def objects_read(proxy: Proxy, since: int = 0) -> list[str]:
    asked = proxy.requests[since:]
    return [str(r) for r in asked if r.method == "GET" and "list-type" not in r.target]


@contextlib.contextmanager
def child(*uris: str) -> Iterator[subprocess.Popen[str]]:
    """A process that was given snapshots, and lives until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *uris],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.communicate(timeout=30)


def snapshots(cache: Path) -> set[Path]:
    return set(cache.glob("entries/*/*"))


# ---- What it gives -----------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
def test_a_version_keeps_its_path_and_another_has_its_own(tmp_path: Path) -> None:
    here = plant(tmp_path / "model", TREE)
    first = mlartifacts.cached(here)
    assert (first.name, found(first)) == ("model", TREE)
    assert mlartifacts.cached(str(here)) == first

    (here / "MLmodel").write_bytes(b"another")
    second = mlartifacts.cached(here)
    assert second != first
    assert found(second) == TREE | {"MLmodel": b"another"}
    assert found(first) == TREE

    file = mlartifacts.cached(here / "data/a [1]*.bin")
    assert (file.name, file.read_bytes()) == ("a [1]*.bin", TREE["data/a [1]*.bin"])
    assert mlartifacts.cached(here / "data/a [1]*.bin") == file


@pytest.mark.usefixtures("settled")
def test_a_local_file_in_place_of_one_of_its_size_and_time(tmp_path: Path) -> None:
    """As an archive, or a copy that keeps times, puts it there."""
    here = plant(tmp_path / "model", {"best": b"A", "last": b"B"})
    for path in here.iterdir():
        os.utime(path, (1_600_000_000, 1_600_000_000))
    old = [mlartifacts.cached(here / "best"), mlartifacts.cached(here)]
    os.rename(here / "last", here / "best")
    assert mlartifacts.cached(here / "best").read_bytes() == b"B"
    assert found(mlartifacts.cached(here)) == {"best": b"B"}
    (here / "best").write_bytes(b"C")
    os.utime(here / "best", (1_600_000_000, 1_600_000_000))
    assert mlartifacts.cached(here / "best").read_bytes() == b"C"
    assert (old[0].read_bytes(), found(old[1])) == (b"A", {"best": b"A", "last": b"B"})


def test_the_files_are_read_only_and_the_cache_is_the_users_alone(
    tmp_path: Path, cache: Path
) -> None:
    cache.mkdir(parents=True, mode=0o755)
    got = mlartifacts.cached(plant(tmp_path / "model", TREE))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in got.rglob("*") if p.is_file()} == {0o444}


def test_a_young_file_of_the_same_size_is_never_stale(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for number in range(20):
        file.write_text(f"{number:3}")
        os.utime(file, (1_600_000_000, 1_600_000_000))
        assert mlartifacts.cached(file).read_text() == f"{number:3}"


@pytest.mark.usefixtures("settled")
def test_what_somebody_changed_in_the_cache_is_fetched_again(tmp_path: Path, cache: Path) -> None:
    here = plant(tmp_path / "model", TREE)
    path = mlartifacts.cached(here)
    changed = path / "MLmodel"
    changed.chmod(0o644)
    changed.write_bytes(b"A MODEL")
    assert found(mlartifacts.cached(here)) == TREE
    (path / "ünï").unlink()
    assert found(mlartifacts.cached(here)) == TREE
    for text in ("{", "[]", "null", '{"name": 1, "files": []}', '{"name": "model", "files": [1]}'):
        (next(iter(snapshots(cache))) / "manifest").write_text(text)
        assert found(mlartifacts.cached(here)) == TREE
    assert len(snapshots(cache)) == 1
    assert list((cache / "trash").iterdir()) == []


def test_what_somebody_removed_from_the_cache_of_a_server(
    opened: Callable[[str], Harbour], cache: Path
) -> None:
    """It says nothing by which its files are known again, so that each is fetched each time."""
    store = opened("mlflow-artifacts")
    store.seed({"model/a": b"1", "model/sub/b": b"2"})
    for _ in range(2):
        path = mlartifacts.cached(store.uri("model"))
        assert found(path) == {"a": b"1", "sub/b": b"2"}
        (path / "a").unlink()


def test_the_store_is_asked_each_time_and_read_when_it_changed(
    s3: tuple[Moto, str, Proxy],
) -> None:
    server, bucket, proxy = s3
    for name in ("a", "b/c"):
        server.request("PUT", f"/{bucket}/model/{name}", name.encode())
    first = mlartifacts.cached(f"s3://{bucket}/model")
    assert found(first) == {"a": b"a", "b/c": b"b/c"}
    since = len(proxy.requests)
    assert mlartifacts.cached(f"s3://{bucket}/model") == first
    assert len(proxy.requests) > since
    assert objects_read(proxy, since) == []

    file = mlartifacts.cached(f"s3://{bucket}/model/a")
    since = len(proxy.requests)
    assert mlartifacts.cached(f"s3://{bucket}/model/a") == file
    assert ["list-type" in request.target for request in proxy.requests[since:]] == [True]

    server.request("PUT", f"/{bucket}/model/a", b"A")
    assert mlartifacts.cached(f"s3://{bucket}/model/a").read_bytes() == b"A"
    assert found(mlartifacts.cached(f"s3://{bucket}/model")) == {"a": b"A", "b/c": b"b/c"}
    server.request("DELETE", f"/{bucket}/model/a")
    assert found(mlartifacts.cached(f"s3://{bucket}/model")) == {"b/c": b"b/c"}
    with pytest.raises(FileNotFoundError):
        mlartifacts.cached(f"s3://{bucket}/model/a")


def test_a_store_that_cannot_be_asked_is_an_error(
    s3: tuple[Moto, str, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, bucket, proxy = s3
    server.request("PUT", f"/{bucket}/file", b"text")
    mlartifacts.cached(f"s3://{bucket}/file")
    proxy.close()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ConnectionError):
        mlartifacts.cached(f"s3://{bucket}/file")


def test_an_endpoint_is_part_of_what_is_named(
    s3: tuple[Moto, str, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, bucket, _ = s3
    server.request("PUT", f"/{bucket}/file", b"text")
    one = mlartifacts.cached(f"s3://{bucket}/file")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
    assert mlartifacts.cached(f"s3://{bucket}/file") != one


@pytest.mark.parametrize("name", ["sftp", "ftp", "wasbs", "gcs", "hdfs"])
def test_stores(name: str, line: Callable[[str], Line]) -> None:
    wire = line(name)
    store = wire.store
    store.seed({f"model/{each}": data for each, data in TREE.items()})
    path = mlartifacts.cached(wire.uri("model"))
    assert found(path) == TREE
    assert found(mlartifacts.cached(wire.uri("model"))) == TREE
    with mlartifacts.open(wire.uri("model/MLmodel"), "w") as file:
        file.write("a MODEL")  # in the same second, as long as before
    again = mlartifacts.cached(wire.uri("model"))
    assert found(again) == TREE | {"MLmodel": b"a MODEL"}
    assert found(path) == TREE


@pytest.mark.parametrize("name", ["sftp", "ftp", "wasbs", "gcs", "hdfs"])
def test_what_a_store_has_not_changed_is_not_read_again(
    name: str, line: Callable[[str], Line]
) -> None:
    wire = line(name)
    wire.store.seed({"model/weights": b"w" * 1_000_000, "model/card": b"c"})
    if isinstance(wire.store, Folder):
        for file in (wire.store.folder / "model").iterdir():
            os.utime(file, (1_600_000_000, 1_600_000_000))
    elif name == "hdfs":
        fs, root = mlartifacts.url_to_fs(wire.uri("model"))
        newest = max(fs.modified(path) for path in fs.find(root))
        file = File("", 1, newest.timestamp())
        wait_until(lambda: is_settled(file, time.time()), "its old age")
    path = mlartifacts.cached(wire.uri("model"))
    since = wire.received
    assert since > 1_000_000
    assert mlartifacts.cached(wire.uri("model")) == path
    assert wire.received - since < 100_000


def test_an_alias_that_moves(
    mlflow_server: MlflowServer, moto_server: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (mlflow_server.env | moto_server.env).items():
        monkeypatch.setenv(name, value)
    api = mlflow_server.api
    api("POST", "registered-models/create", name="cached")
    for version in ("1", "2"):
        run = mlflow_server.new_run(mlflow_server.new_experiment(moto_server.new_root()))
        with mlartifacts.open(f"runs:/{run['run_id']}/MLmodel", "w") as file:
            file.write(version)
        api("POST", "model-versions/create", name="cached", source=run["artifact_uri"])
    paths = []
    for version in ("1", "2", "1"):
        api("POST", "registered-models/alias", name="cached", alias="now", version=version)
        paths.append(mlartifacts.cached("models:/cached@now"))
        assert found(paths[-1]) == {"MLmodel": version.encode()}
    assert paths[0] == paths[2] == mlartifacts.cached("models:/cached/1") != paths[1]
    assert found(mlartifacts.cached(f"runs:/{run['run_id']}")) == {"MLmodel": b"2"}
    with pytest.raises(FileNotFoundError) as caught:
        mlartifacts.cached("models:/cached@now/nothing")
    assert caught.value.filename == "cached@now/nothing"
    with pytest.raises(mlartifacts.Unresolved):
        mlartifacts.cached("models:/cached@nobody")


def test_the_proxy_lists_no_versions_so_that_it_is_read_each_time(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxied(mlflow_server.url) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        uri = "mlflow-artifacts:/cached/model"
        with mlartifacts.open(f"{uri}/MLmodel", "w") as file:
            file.write("one")
        first = mlartifacts.cached(uri)
        since = len(proxy.requests)
        assert mlartifacts.cached(uri) == first
        asked = [r.target for r in proxy.requests[since:]]
        assert len([target for target in asked if target.endswith("/model/MLmodel")]) == 1, asked
        with mlartifacts.open(f"{uri}/MLmodel", "w") as file:
            file.write("two")
        assert found(mlartifacts.cached(uri)) == {"MLmodel": b"two"}
        assert found(first) == {"MLmodel": b"one"}


# ---- Changes amid a fetch ----------------------------------------------------------------


class _Meddling(Callback):
    """Changes a file while another is fetched."""

    def __init__(self, file: Path, times: int) -> None:
        super().__init__()
        self.file, self.times = file, times

    def relative_update(self, inc: int = 1) -> None:
        if self.times and inc:
            self.times -= 1
            self.file.write_text(f"{self.times} more")


@pytest.mark.usefixtures("settled")
def test_no_mixture_of_two_versions(tmp_path: Path, cache: Path) -> None:
    here = plant(tmp_path / "model", {"a": b"a" * 10, "b": b"2 more"})
    meddler = _Meddling(here / "b", 2)
    path = mlartifacts.cached(here, callback=meddler)
    assert found(path) == found(here)
    with pytest.raises(OSError, match="it changes while it is fetched"):
        mlartifacts.cached(here / "a", callback=_Meddling(here / "a", 10**6))
    assert list((cache / "parts").iterdir()) == []


# ---- Processes ---------------------------------------------------------------------------


def test_processes_that_ask_at_once_read_once(s3: tuple[Moto, str, Proxy]) -> None:
    server, bucket, proxy = s3
    for number in range(5):
        server.request("PUT", f"/{bucket}/model/{number}", b"x" * 1000)
    proxy.delay = 0.02
    uri = f"s3://{bucket}/model"
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(child(uri)) for _ in range(3)]
        paths = {process.stdout.readline().strip() for process in children}
    assert len(paths) == 1
    assert found(Path(paths.pop())) == {str(number): b"x" * 1000 for number in range(5)}
    assert len(objects_read(proxy)) == 5


def test_threads_that_ask_at_once_read_once(s3: tuple[Moto, str, Proxy]) -> None:
    server, bucket, proxy = s3
    server.request("PUT", f"/{bucket}/file", b"x")
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(mlartifacts.cached, [f"s3://{bucket}/file"] * 16))
    assert len(paths) == 1
    assert len(objects_read(proxy)) == 1


def test_who_waits_for_a_killed_process_goes_on_in_its_place(
    s3: tuple[Moto, str, Proxy], cache: Path
) -> None:
    server, bucket, proxy = s3
    tree = {str(number): os.urandom(100_000) for number in range(40)}
    for name, data in tree.items():
        server.request("PUT", f"/{bucket}/model/{name}", data)
    uri = f"s3://{bucket}/model"
    proxy.delay = 0.1
    with child(uri) as process, ThreadPoolExecutor(1) as pool:
        wait_until(lambda: any(cache.glob("parts/*/files/model/*")), "a first file")
        since = len(proxy.requests)
        waiting = pool.submit(mlartifacts.cached, uri)
        wait_until(lambda: len(proxy.requests) > since, "a question")
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert snapshots(cache) == set()
        proxy.delay = 0
        assert found(waiting.result(30)) == tree
    assert list((cache / "parts").iterdir()) == []


SUICIDE = """
import os, sys, mlartifacts
from mlartifacts.transfer import snapshots
module, name = sys.argv[1].split(".")
holder = {"os": os, "snapshots": snapshots}[module]
real = getattr(holder, name)
def act(*args, **kwargs):
    if sys.argv[2] == "after":
        real(*args, **kwargs)
    os.kill(os.getpid(), 9)
setattr(holder, name, act)
mlartifacts.cached(sys.argv[3])
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["os.replace", "snapshots._seal", "os.rename", "os.utime"])
def test_killed_at_each_step(what: str, when: str, tmp_path: Path, cache: Path) -> None:
    here = plant(tmp_path / "model", TREE)
    command = [sys.executable, "-c", SUICIDE, what, when, here]
    assert subprocess.run(command, timeout=30).returncode == -signal.SIGKILL
    for manifest in cache.glob("entries/*/*/manifest"):
        assert found(manifest.parent / "files/model") == TREE
    # Whoever comes next sweeps, whatever is asked for.
    mlartifacts.cached(here / "ünï")
    assert list((cache / "parts").iterdir()) == []
    assert len(list((cache / "readers").glob("*.lock"))) == 1
    assert found(mlartifacts.cached(here)) == TREE


@pytest.mark.usefixtures("settled")
def test_killed_while_it_deletes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with child(str(tmp_path / "a")):
        pass
    monkeypatch.setenv("MLARTIFACTS_CACHE_SIZE", "0")
    command = [sys.executable, "-c", SUICIDE, "snapshots._remove", "before", tmp_path / "b"]
    assert subprocess.run(command, timeout=30).returncode == -signal.SIGKILL
    assert len(list((cache / "trash").iterdir())) == 1
    assert mlartifacts.cached(tmp_path / "a").read_text() == "a"
    assert list((cache / "trash").iterdir()) == []


FORKS = """
import os, sys, mlartifacts
uri, other = sys.argv[1:]
path = mlartifacts.cached(uri)
if (pid := os.fork()) == 0:
    assert mlartifacts.cached(uri) == path
    mlartifacts.cached(other)
    sys.exit(0)  # with every finalizer
assert os.waitpid(pid, 0)[1] == 0
print(path, flush=True)
sys.stdin.read()
"""


# ---- The bound ---------------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
def test_the_least_recently_used_goes_first(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("a", "b", "c", "d")]
    for file in files:
        file.write_bytes(b"x" * 1000)
    first, second, third, last = map(str, files)
    with child(first, second, third, first) as process:
        ages = [Path(process.stdout.readline().strip()) for _ in range(4)]
    monkeypatch.setenv("MLARTIFACTS_CACHE_SIZE", "2500")
    path = mlartifacts.cached(last)
    assert path.exists()
    assert [each.exists() for each in ages] == [True, False, False, True]
    monkeypatch.setenv("MLARTIFACTS_CACHE_SIZE", "0")
    assert mlartifacts.cached(third).exists()
    assert path.exists()  # ours
    assert not ages[0].exists()
    assert len(snapshots(cache)) == 2
    assert list((cache / "trash").iterdir()) == []
    assert len(list((cache / "entries").iterdir())) == len(list((cache / "locks").iterdir())) == 2


@pytest.mark.usefixtures("settled")
def test_what_a_living_process_has_stays(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLARTIFACTS_CACHE_SIZE", "1500")
    for name, data in {"a": b"x", "b": b"y", "c": b"z"}.items():
        (tmp_path / name).write_bytes(data * 1000)
    # The children ask as a user's do, with nothing put in place of anything.
    wait_until(lambda: _is_old(tmp_path / "c"), "the files' old age")
    with child(str(tmp_path / "a")) as process:
        theirs = Path(process.stdout.readline().strip())
        mine = mlartifacts.cached(tmp_path / "b")
        assert theirs.read_bytes() == b"x" * 1000
    assert theirs.exists()
    with child(str(tmp_path / "b")):  # which is there already, so that nothing is fetched
        pass
    assert not theirs.exists()
    assert mlartifacts.cached(tmp_path / "b") == mine
    mlartifacts.cached(tmp_path / "c")
    assert mine.exists()
    assert len(list((cache / "readers").glob("*.lock"))) == 1


def test_a_fork_does_not_give_back_what_its_parent_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLARTIFACTS_CACHE_SIZE", "0")
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    wait_until(lambda: _is_old(tmp_path / "c"), "the files' old age")
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, tmp_path / "a", tmp_path / "b"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        theirs = Path(process.stdout.readline().strip())
        mlartifacts.cached(tmp_path / "c")
        assert theirs.read_text() == "a"
        process.communicate(timeout=30)
    assert process.returncode == 0


def _is_old(path: Path) -> bool:
    return is_settled(File("", 0, path.stat().st_ctime, unit=0), time.time() - 1)


# ---- What is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("value", ["ten", "-1", "1.5", "10GiB"])
def test_a_size_that_is_none(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLARTIFACTS_CACHE_SIZE", value)
    with pytest.raises(mlartifacts.InvalidConfig, match=f"MLARTIFACTS_CACHE_SIZE='?{value}"):
        mlartifacts.cached(tmp_path)


def test_a_directory_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(mlartifacts.InvalidConfig, match="MLARTIFACTS_CACHE_DIR=.*directory"):
        mlartifacts.cached(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", "file:///cache")
    with pytest.raises(mlartifacts.InvalidConfig, match="MLARTIFACTS_CACHE_DIR=.*no URI"):
        mlartifacts.cached(tmp_path)


@pytest.mark.parametrize("name", ["dangling", "dangling/below", "file/below"])
def test_a_directory_that_cannot_be_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / name))
    what = "leads nowhere" if name.startswith("dangling") else "no directory"
    with pytest.raises(mlartifacts.InvalidConfig, match=f"MLARTIFACTS_CACHE_DIR=.*{what}"):
        mlartifacts.cached(tmp_path / "file")


@pytest.mark.parametrize("where", ["here", "here/a/cache", "link", "xdg"])
@pytest.mark.parametrize("name", ["local", "runs-local"])
def test_a_cache_in_what_is_cached(
    where: str, name: str, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would change as it is fetched."""
    store: Any = opened(name)
    store.seed({"here/a/b": b"1"})
    here = Path(mlartifacts.locate(mlartifacts.resolve(store.uri("here"))).path)
    (tmp_path / "link").symlink_to(here / "a")
    places = {"here": here, "here/a/cache": here / "a/cache", "link": tmp_path / "link/cache"}
    if where == "xdg":
        monkeypatch.delenv("MLARTIFACTS_CACHE_DIR")
        monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(here / "cache"))
    else:
        monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(places[where]))
    with pytest.raises(mlartifacts.InvalidConfig, match="MLARTIFACTS_CACHE_DIR"):
        mlartifacts.cached(store.uri("here"))
    assert found(here) == {"a/b": b"1"}
    if where == "here/a/cache":
        assert mlartifacts.cached(store.uri("here/a/b")).read_bytes() == b"1"


def test_the_users_own_directory_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLARTIFACTS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "file").write_text("x")
    path = mlartifacts.cached(tmp_path / "file")
    if sys.platform == "linux":
        assert path.is_relative_to(tmp_path / "xdg/mlartifacts/cached-1")


def test_a_directory_that_others_could_have_made(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir()
    (tmp_path / "theirs").mkdir()
    cache.symlink_to(tmp_path / "theirs")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        mlartifacts.cached(tmp_path / "file")
    cache.unlink()
    cache.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="another user's"):
        mlartifacts.cached(tmp_path / "file")


@pytest.mark.usefixtures("settled")
def test_a_directory_that_cannot_be_written_to(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    path = mlartifacts.cached(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may always
    before = {each: each.stat().st_mtime_ns for each in cache.rglob("*")}
    assert mlartifacts.cached(tmp_path / "file") == path
    assert {each: each.stat().st_mtime_ns for each in cache.rglob("*")} == before
    cache.chmod(0o770)
    with pytest.raises(PermissionError, match="can write"):
        mlartifacts.cached(tmp_path / "file")
    cache.chmod(0o755)
    owner = cache.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    if owner == 0:  # who made the image
        assert mlartifacts.cached(tmp_path / "file") == path
    else:
        with pytest.raises(PermissionError, match="another user"):
            mlartifacts.cached(tmp_path / "file")


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "filelock", None)
    monkeypatch.delitem(sys.modules, "mlartifacts.transfer.snapshots", raising=False)
    with pytest.raises(mlartifacts.MissingDriver, match=r"mlartifacts\[cache\]") as caught:
        mlartifacts.cached(tmp_path)
    assert caught.value.package == "filelock"


@pytest.mark.parametrize("key", ["model/" + "x" * 300, "model/a//b", "model"])
def test_names_that_the_disk_cannot_hold(
    key: str, s3: tuple[Moto, str, Proxy], cache: Path
) -> None:
    server, bucket, _ = s3
    server.request("PUT", f"/{bucket}/root/{key}", b"x")
    server.request("PUT", f"/{bucket}/root/model/b", b"x")
    with pytest.raises(mlartifacts.InvalidURI):
        mlartifacts.cached(f"s3://{bucket}/root")
    assert snapshots(cache) == set()
    assert list((cache / "parts").iterdir()) == []


def test_links_that_lead_out_and_chains(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "model/link").symlink_to(tmp_path / "secret")
    with pytest.raises(mlartifacts.InvalidURI, match="leads out"):
        mlartifacts.cached(tmp_path / "model")
    with pytest.raises(mlartifacts.InvalidURI, match="chain"):
        mlartifacts.cached(f"simplecache::file://{tmp_path}/secret")


# ---- Secrets -----------------------------------------------------------------------------


def everything_written(cache: Path) -> str:
    texts = [str(path) for path in cache.rglob("*")]
    texts += [
        path.read_text(errors="replace")
        for path in cache.rglob("*")
        if path.is_file() and "files" not in path.parts
    ]
    return "\n".join(texts)


def test_no_password_and_no_signature_is_written(
    opened: Opened, static_http: StaticHttp, cache: Path
) -> None:
    ftp = opened("ftp")
    ftp.seed({"file": b"x"})
    password = mlartifacts.url_to_fs(ftp.uri("file"))[0].root_uri.secret()
    assert password
    assert mlartifacts.cached(ftp.uri("file"), **ftp.options).read_bytes() == b"x"
    folder = static_http.new_folder()
    (folder / "file.bin").write_bytes(b"y")
    url = f"{static_http.url}/{folder.name}/file.bin?X-Amz-Signature=signed-by-me"
    path = mlartifacts.cached(url)
    assert (path.name, path.read_bytes()) == ("file.bin", b"y")
    assert mlartifacts.cached(url) == path
    written = everything_written(cache)
    assert "file.bin" in written
    assert password not in written
    assert "signed-by-me" not in written
