"""Ctrl-C amid a transfer: it ends in a second, leaves nothing half-written, and can go on.

That it ends does not hang on what lies between, where nothing passes until it has ended; and the
second is what all its waits allow together.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fsspec.callbacks import Callback

import mlartifacts
from mlartifacts import promises
from mlartifacts.writing import is_temporary
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy, tcp_proxy
from tests.servers.process import wait_until
from tests.servers.tcp_proxy import Proxy
from tests.transfer.conftest import Line
from tests.transfer.trees import found, odd_tree, plant

LARGE = odd_tree()["large.bin"] * 5
TREE = {"large": LARGE, "a": b"a", "b/c": b"cc"}

# It says how long it would wait at most, once it was interrupted in a wait. Then it lives on, as a
# notebook does, until whatever its transfer was at has ended.
ACTING = """
import sys, threading, fsspec.asyn, mlartifacts
{before}
waits, wait = [], threading.Condition.wait
def waiting(self, timeout=None):
    if threading.current_thread() is threading.main_thread():
        waits.append(timeout or 0)
    try:
        return wait(self, timeout)
    except KeyboardInterrupt:
        waits.clear()
        raise
threading.Condition.wait = waiting
print("ready", flush=True)
try:
    mlartifacts.{act}(*sys.argv[1:])
except KeyboardInterrupt:
    print("interrupted", sum(waits), flush=True)
sys.stdin.read()
for thread in threading.enumerate():
    if "(_work)" in thread.name:
        thread.join(20)
if fsspec.asyn.loop[0] and (threads := fsspec.asyn.loop[0]._default_executor):
    threads.shutdown()
"""
# Whoever is impatient presses Ctrl-C again, where the first has something to be waited for.
TWICE = """
import signal
interrupts, once = [], threading.Condition.wait
def twice(self, timeout=None):
    is_main = threading.current_thread() is threading.main_thread()
    try:
        if is_main and len(interrupts) == 1:
            signal.raise_signal(signal.SIGINT)
        return once(self, timeout)
    except KeyboardInterrupt:
        interrupts.append(timeout)
        raise
threading.Condition.wait = twice
"""
# Less is copied by one request, which nobody can stop.
IN_PARTS = "from mlartifacts.stores.s3 import driver; driver._COPIED_AT_ONCE = 0"
# Else all ranges of the file end together, and nothing of it is kept before.
IN_TURN = "from mlartifacts.transfer import engine; engine._AHEAD = engine._CARRIED_AHEAD = 2"


class Standstill:
    """Has a slow line stand still, both ways, as soon as something is true of it.

    Attributes
    ----------
    reached
        Set when it does.
    """

    def __init__(self, begun: Callable[[], object], *proxies: Proxy) -> None:
        self.reached = threading.Event()
        self._begun = begun
        self._pace = [(proxy, proxy.delay, proxy.drag) for proxy in proxies]
        self._is_over = threading.Event()
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        """What a proxy does before it passes on a piece."""
        if not self._is_over.is_set():
            with self._lock:
                if not self.reached.is_set() and self._has_begun():
                    self._pace = [(proxy, proxy.delay, proxy.drag) for proxy, *_ in self._pace]
                    for proxy, *_ in self._pace:
                        proxy.delay = proxy.drag = 1  # so that each piece comes by here
                    self.reached.set()
            if self.reached.is_set():
                self._is_over.wait()
                return
        time.sleep(seconds)

    def _has_begun(self) -> bool:
        try:
            return bool(self._begun())
        except OSError:
            return False

    def end(self) -> None:
        """Let everything pass as slowly as before."""
        for proxy, delay, drag in self._pace:
            proxy.delay, proxy.drag = delay, drag
        self._is_over.set()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call a function of the package in another process, and interrupt it when it has begun."""
    # No silence is too long for a driver: only an interrupt ends it.
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "-1")

    def interrupt(
        begun: Callable[[], object],
        proxies: Iterable[Proxy],
        act: str,
        *places: object,
        before: str = "",
        removed: Callable[[], object] = lambda: True,
    ) -> None:
        still = Standstill(begun, *proxies)
        monkeypatch.setattr(tcp_proxy, "time", SimpleNamespace(sleep=still.sleep))
        program = ACTING.format(act=act, before=before)
        command = [sys.executable, "-c", program, *map(str, places)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            assert process.stdout.readline() == "ready\n"
            try:
                assert still.reached.wait(60), "the transfer"
                process.send_signal(signal.SIGINT)
                said, seconds = process.stdout.readline().split()
            finally:
                still.end()
            wait_until(removed, "the end of what was begun")
        assert said == "interrupted"
        # A second in all; and one call by itself waits for a second, and as long for that wait.
        assert float(seconds) <= (2 * promises._STOP_SECONDS if "cp_file" in act else 1)

    return interrupt


def whole(store: Harbour, folder: str) -> dict[str, bytes]:
    """What is new in a folder; no part of a file, under whatever name, is."""
    stored = {
        name.removeprefix(f"{folder}/"): data
        for name, data in store.stored().items()
        if name.startswith(f"{folder}/")
    }
    assert stored.pop("large") == b"old"
    assert stored.items() <= TREE.items()
    return stored


@pytest.mark.parametrize("name", ["s3", "wasbs", "gcs", "sftp", "ftp", "hdfs"])
def test_an_upload(
    name: str, line: Callable[[str], Line], interrupted: Callable[..., None], tmp_path: Path
) -> None:
    wire = line(name)
    here = plant(tmp_path / "here", TREE)
    wire.store.seed({"tree/large": b"old"})
    wire.store.age()
    if name == "sftp":
        wire.bulk.delay = 0.03  # a window of a channel at a time
    else:
        wire.bulk.drag = 0.01
    begun = lambda: wire.bulk.bytes_to_server > 9_000_000  # noqa: E731
    interrupted(begun, {wire.proxy, wire.bulk}, "upload", here, wire.uri("tree"))
    arrived = whole(wire.store, "tree")
    assert wire.store.uploads() == []
    wire.bulk.delay = wire.bulk.drag = 0
    again = mlartifacts.upload(here, wire.uri("tree"), resume=True)
    # What arrived is left alone where its checksum is listed. Elsewhere its time or a record tells,
    # and the interrupt may come after its name and before those.
    missing = TREE.keys() - arrived.keys()
    untold = arrived.keys() if name in {"sftp", "ftp", "hdfs"} else set()
    assert missing <= set(again.moved) <= missing | untold
    assert wire.store.stored() == {f"tree/{name}": data for name, data in TREE.items()}


@pytest.mark.parametrize("name", ["s3", "wasbs"])
def test_an_upload_that_is_interrupted_twice(
    name: str, line: Callable[[str], Line], interrupted: Callable[..., None], tmp_path: Path
) -> None:
    """The second one ends the waiting, and not what the first has begun to tidy up."""
    wire = line(name)
    here = plant(tmp_path / "here", TREE)
    wire.store.seed({"tree/large": b"old"})
    wire.bulk.drag = 0.01
    begun = lambda: wire.bulk.bytes_to_server > len(LARGE) - 4_000_000  # noqa: E731
    interrupted(begun, [wire.proxy], "upload", here, wire.uri("tree"), before=TWICE)
    whole(wire.store, "tree")
    assert wire.store.uploads() == []


@pytest.mark.parametrize("name", ["s3", "sftp", "ftp", "hdfs"])
def test_an_upload_of_files_that_are_written_at_once(
    name: str, line: Callable[[str], Line], interrupted: Callable[..., None], tmp_path: Path
) -> None:
    """None of them is there once its last bytes have passed."""
    wire = line(name)
    here = plant(tmp_path / "here", dict.fromkeys("abcd", LARGE[:7_000_000]))
    wire.bulk.drag = 0.01
    begun = lambda: wire.bulk.bytes_to_server > 2_500_000  # noqa: E731
    interrupted(begun, {wire.proxy, wire.bulk}, "upload", here, wire.uri("tree"))
    assert {name for name in wire.store.stored() if not is_temporary(name)} == set()


@pytest.mark.parametrize("small", [0, 40])
def test_nothing_that_waits_for_an_sftp_server_is_sent_any_more(
    small: int, line: Callable[[str], Line], interrupted: Callable[..., None], tmp_path: Path
) -> None:
    """All share one connection, where they wait for each other: it goes, and with it the queue."""
    wire = line("sftp")
    tree = {"large": LARGE} | {f"{number:02}": b"x" * 3000 for number in range(small)}
    here = plant(tmp_path / "here", tree)
    wire.bulk.drag = 0.01
    passed: list[int] = []

    def begun() -> bool:
        passed.append(wire.bulk.bytes_to_server)
        return passed[-1] > 5_000_000

    interrupted(
        begun,
        [wire.proxy],
        "upload",
        here,
        wire.uri("tree"),
        removed=lambda: not any(map(is_temporary, wire.store.stored())),
    )
    assert wire.bulk.bytes_to_server - passed[-1] < 1_000_000
    assert wire.store.stored().items() <= {f"tree/{n}": data for n, data in tree.items()}.items()


@pytest.mark.parametrize("name", ["s3", "sftp", "ftp", "hdfs"])
def test_a_download(
    name: str, line: Callable[[str], Line], interrupted: Callable[..., None], tmp_path: Path
) -> None:
    """What came of a large file is kept, and the next call goes on there."""
    wire = line(name)
    wire.store.seed({f"tree/{name}": data for name, data in TREE.items()})
    wire.store.age()
    there = tmp_path / "there"
    wire.bulk.delay = 0.002

    def begun() -> bool:
        kept = (path for path in there.iterdir() if is_temporary(path.name))
        return wire.bulk.bytes_to_client > 20_000_000 and any(path.stat().st_size for path in kept)

    proxies = {wire.proxy, wire.bulk}
    interrupted(begun, proxies, "download", wire.uri("tree"), there, before=IN_TURN)
    arrived = found(there)
    (part,) = filter(is_temporary, arrived)
    came = arrived.pop(part)
    assert LARGE.startswith(came)
    assert arrived.items() <= TREE.items()
    wire.bulk.delay = 0
    before = wire.bulk.bytes_to_client
    mlartifacts.download(wire.uri("tree"), there)
    # Samples of it, and on FTP what was on its way behind each.
    more = 10_000_000 if name == "ftp" else 2_000_000
    assert wire.bulk.bytes_to_client - before < len(LARGE) - len(came) + more
    assert found(there) == TREE


@pytest.mark.parametrize("name", ["s3", "sftp", "ftp", "hdfs"])
def test_a_copy_within_a_store(
    name: str, line: Callable[[str], Line], interrupted: Callable[..., None], tmp_path: Path
) -> None:
    wire = line(name)
    wire.store.seed({f"tree/{name}": data for name, data in TREE.items()})
    wire.store.age()
    wire.store.seed({"copied/large": b"old"})
    wire.store.age()
    before, removed = "", lambda: True
    begun = lambda: wire.bulk.bytes_to_server > 9_000_000  # noqa: E731
    if name == "s3":
        wire.proxy.delay = 0.2
        before, removed = IN_PARTS, lambda: not wire.store.uploads()
        begun = lambda: any("partNumber" in each.target for each in wire.proxy.requests)  # noqa: E731
    elif name == "sftp":
        wire.proxy.delay = 0.1
        begun = lambda: any(map(is_temporary, wire.store.stored()))  # noqa: E731
    else:
        wire.bulk.drag = 0.002
    places = wire.uri("tree"), wire.uri("copied")
    interrupted(begun, {wire.proxy, wire.bulk}, "copy", *places, before=before, removed=removed)
    arrived = whole(wire.store, "copied")
    assert wire.store.uploads() == []
    wire.proxy.delay = wire.bulk.drag = 0
    again = mlartifacts.copy(wire.uri("tree"), wire.uri("copied"))
    assert set(again.moved) == TREE.keys() - arrived.keys()
    assert set(wire.store.stored()) == {f"{at}/{n}" for at in ("tree", "copied") for n in TREE}
    assert wire.store.stored()["copied/large"] == LARGE


@pytest.mark.parametrize("way", ["to s3", "to sftp", "from s3", "from sftp"])
def test_a_callback_that_raises(way: str, opened: Callable[[str], Harbour], tmp_path: Path) -> None:
    """It ends the transfer as Ctrl-C does, and is no failure of the file at hand."""
    direction, name = way.split()
    store, tree = opened(name), {f"{number:03}": b"x" for number in range(300)} | TREE
    error = ValueError("boom")

    class Raising(Callback):
        calls = 0

        def relative_update(self, inc: int = 1) -> None:
            self.calls += 1
            if self.calls == 5:
                raise error

    callback = Raising()
    there = tmp_path / "there"
    with pytest.raises(ValueError, match="boom") as caught:
        if direction == "to":
            mlartifacts.upload(plant(tmp_path / "here", tree), store.uri("t"), callback=callback)
        else:
            store.seed({f"t/{name}": data for name, data in tree.items()})
            mlartifacts.download(store.uri("t"), there, callback=callback)
    assert caught.value is error
    assert callback.calls == 5
    arrived = store.stored() if direction == "to" else found(there)
    assert len(arrived) < len(tree)


def test_a_callback_that_raises_while_a_server_is_silent(
    opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing that is on its way is waited for."""
    s3, let, waited = opened("s3"), threading.Event(), []

    def wait(request: reverse_proxy.Request) -> None:
        if request.method == "PUT" and request.target.endswith("/held"):
            waited.append(let.wait(60))

    class Raising(Callback):
        def relative_update(self, inc: int = 1) -> None:
            raise ValueError("boom")

    here = plant(tmp_path / "here", {"held": b"h", "other": b"o"})
    with reverse_proxy.serve(s3.server.url) as front:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        front.answer = wait
        with pytest.raises(ValueError, match="boom"):
            mlartifacts.upload(here, s3.uri("tree"), callback=Raising())
        assert waited == []
        let.set()


@pytest.mark.parametrize("act", ["copy", "filesystem('runs').cp_file"])
def test_a_copy_between_runs_of_two_stores(
    opened: Callable[[str], Harbour],
    behind_s3: Callable[[], Proxy],
    interrupted: Callable[..., None],
    act: str,
) -> None:
    """The same filesystem has both: no part of it goes on in another thread."""
    disk, s3 = opened("runs-local"), opened("runs-s3")
    disk.seed({"large": LARGE})
    s3.seed({"large": b"old"})
    wire = behind_s3()
    wire.drag = 0.002
    begun = lambda: wire.bytes_to_server > 9_000_000  # noqa: E731
    interrupted(begun, [wire], act, disk.uri("large"), s3.uri("large"))
    assert s3.stored() == {"large": b"old"}
    assert s3.uploads() == []
