"""Servers start when they answer, say why they do not, and never outlive the tests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import vsftpd
from tests.servers.fixtures import started
from tests.servers.process import (
    LOOPBACK,
    Process,
    ServerUnavailable,
    any_port,
    on_free_ports,
    running,
    wait_until,
)

ROOT = Path(__file__).parents[2]

#: A server with a child; it writes the ids of both.
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(300)
"""

#: Somebody who runs that server and dies without a word.
OWNER = """
import os, signal, sys
from pathlib import Path
from tests.servers.process import running
with running([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2])) as process:
    process.wait_until(lambda: process.log.read_text().endswith("\\n"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    try:
        # The third field, behind a name that may hold anything in parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def are_gone(log: Path) -> bool:
    server, child = map(int, log.read_text().split())
    return not is_alive(server) and not is_alive(child)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")


@needs_proc
def test_stops_the_server_and_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running([sys.executable, "-c", PARENT], log) as process:
        process.wait_until(lambda: log.read_text().endswith("\n"))
        assert not are_gone(log)
        assert log.read_text().split()[0] == str(process.pid)
    wait_until(lambda: are_gone(log), "end", 10)


@needs_proc
def test_no_server_outlives_its_owner(tmp_path: Path) -> None:
    log = tmp_path / "log"
    owner = subprocess.run([sys.executable, "-c", OWNER, PARENT, log], cwd=ROOT, check=False)
    assert owner.returncode == -9
    wait_until(lambda: are_gone(log), "end", 10)


def test_shows_why_a_server_ended(tmp_path: Path) -> None:
    log = tmp_path / "moto.log"
    command = [sys.executable, "-c", "raise SystemExit('no such option')"]
    with (
        pytest.raises(ServerUnavailable, match=r"(?s)moto: exited with status 1.*no such option"),
        running(command, log) as process,
    ):
        process.wait_until(lambda: False)


def test_shows_why_a_server_never_answered(tmp_path: Path) -> None:
    log = tmp_path / "mute.log"
    command = [sys.executable, "-c", "import time; print('deaf', flush=True); time.sleep(300)"]
    with running(command, log) as process:
        wait_until(lambda: log.read_text(), "output")
        with pytest.raises(ServerUnavailable, match=r"(?s)mute: not ready after 0.1 s.*deaf"):
            process.wait_until(lambda: False, timeout=0.1)


#: A server that listens on a port.
LISTENER = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
time.sleep(300)
"""


def listener(directory: Path, port: int) -> contextlib.AbstractContextManager[Process]:
    return running([sys.executable, "-c", LISTENER, str(port)], directory / "listener.log")


def test_starts_on_another_port_where_one_is_taken(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        asked: list[Path] = []

        @on_free_ports
        @contextlib.contextmanager
        def serve(directory: Path) -> Iterator[int]:
            asked.append(directory)
            port = any_port() if len(asked) > 1 else taken.getsockname()[1]
            with listener(directory, port) as process:
                process.wait_for_port(port)
                yield port

        with serve(tmp_path) as port:
            assert port != taken.getsockname()[1]
            socket.create_connection((LOOPBACK, port), timeout=5).close()
    assert len(set(asked)) == len(asked) >= 2


def test_vsftpd_starts_on_another_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that its port is taken where a client would hear it."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(vsftpd, "any_port", lambda: ports.pop() if ports else any_port())
        with started(vsftpd.serve(tmp_path), "vsftpd") as server:
            assert server.port != taken.getsockname()[1]


def test_gives_up_where_all_ports_are_taken(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]

        @on_free_ports
        @contextlib.contextmanager
        def serve(directory: Path) -> Iterator[None]:
            with listener(directory, port) as process:
                process.wait_for_port(port)
                yield

        with pytest.raises(ServerUnavailable, match="already in use"), serve(tmp_path):
            pass


def test_another_program_on_the_port_is_not_the_server(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as another:
        command = [sys.executable, "-c", "import time; time.sleep(300)"]
        with (
            running(command, tmp_path / "mute.log") as process,
            pytest.raises(ServerUnavailable, match=r"not ready after 0.3 s"),
        ):
            process.wait_for_port(another.getsockname()[1], timeout=0.3)


@contextlib.contextmanager
def unavailable() -> Iterator[None]:
    raise ServerUnavailable("sshd is not installed")
    yield


def test_a_person_skips_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with (
        pytest.raises(pytest.skip.Exception, match=r"not installed\n.*servers/install.sh sshd"),
        started(unavailable(), "sshd"),
    ):
        pass


def test_ci_fails_for_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ServerUnavailable, match="not installed"), started(unavailable(), "sshd"):
        pass


def test_a_test_has_an_environment_of_its_own(tmp_path: Path) -> None:
    assert Path.home() == tmp_path / "home"
    assert not [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "AZURE_"))]
    assert os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] == "false"
