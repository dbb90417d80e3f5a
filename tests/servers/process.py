"""Starting a server: a free port, a log, readiness by asking, and no survivors."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"

#: The first and last port that :func:`free_port` hands out. They lie below every system's range
#: for outgoing connections, so that no client takes the port before its server does.
_PORTS = (15000, 32000)

#: The server inherits nothing but its log. The watchdog (the subshell) reads a pipe whose other
#: end this process holds: when this process is gone, however it died, the read ends and the whole
#: group is killed. `exec` makes the server itself the process that Popen knows.
_WATCHED = 'exec 3<&0; ( read -r _ <&3; kill -KILL 0 ) & exec "$@" </dev/null 3<&-'


class ServerUnavailable(Exception):
    """A server that cannot start, and why."""


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    while True:
        port = random.SystemRandom().randint(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def wait_until(check: Callable[[], object], what: str, timeout: float = 30) -> None:
    """Ask until `check` is true; an `OSError` from it means not yet."""
    deadline = time.monotonic() + timeout
    last: object = None
    while time.monotonic() < deadline:
        try:
            if check():
                return
        except OSError as exc:
            last = exc
            if isinstance(exc, urllib.error.HTTPError):
                exc.close()
        time.sleep(0.02)
    raise ServerUnavailable(f"{what}: not ready after {timeout:g} s ({last or 'no answer'})")


@dataclasses.dataclass(frozen=True)
class Process:
    """A running server process."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def tail(self, lines: int = 20) -> str:
        """Return the end of what the server wrote."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(text[-lines:])

    def wait_until(self, check: Callable[[], object], timeout: float = 30) -> None:
        """Wait until the server answers, or show why it never will."""
        name = self.log.stem

        def alive_and_ready() -> object:
            if self.popen.poll() is not None:
                raise ServerUnavailable(f"{name}: exited with status {self.popen.returncode}")
            return check()

        try:
            wait_until(alive_and_ready, name, timeout)
        except ServerUnavailable as exc:
            raise ServerUnavailable(f"{exc}\n--- {self.log}\n{self.tail()}") from exc

    def stop(self, timeout: float = 5) -> None:
        """Ask the server and its children to end; kill those that do not."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout)
        self._signal(signal.SIGKILL)
        self.popen.wait()
        if self.popen.stdin:
            self.popen.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)


@contextlib.contextmanager
def running(
    command: Sequence[str | os.PathLike[str]],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Process]:
    """Run a server in a process group of its own, and end the group afterwards."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        try:
            popen = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, "sh", *map(os.fspath, command)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else {**env},
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as exc:
            raise ServerUnavailable(f"{command[0]}: {exc}") from exc
    process = Process(popen, log)
    try:
        yield process
    finally:
        process.stop()


def base_env(**extra: str) -> dict[str, str]:
    """Return the little of the environment that a server needs, and `extra`.

    Servers get none of the variables under test: a proxy or a credential of the person who runs
    the tests must not change what a server does.
    """
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "JAVA_HOME", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | extra


def find_program(name: str, *extra: str | Path) -> Path:
    """Return where a program lies; Debian's ``sbin`` is not on everybody's ``PATH``."""
    folders = [*map(str, extra), *os.environ.get("PATH", "").split(os.pathsep)]
    for folder in (*folders, "/usr/sbin", "/sbin", "/usr/local/sbin"):
        candidate = Path(folder) / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise ServerUnavailable(f"{name} is not installed")


def http_answers(port: int, path: str = "/") -> bool:
    """Tell whether an HTTP server on loopback answers at all, whatever it says."""
    with socket.create_connection((LOOPBACK, port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {LOOPBACK}:{port}\r\n\r\n".encode())
        return connection.recv(5) == b"HTTP/"
