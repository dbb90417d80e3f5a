"""Starting a server: a port of its own, a log, readiness by asking, and no survivors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import psutil

P = ParamSpec("P")
T = TypeVar("T")

LOOPBACK = "127.0.0.1"

#: The first and last port that :func:`any_port` gives. They lie below every system's range for
#: outgoing connections, so that no client takes a port before its server does.
_PORTS = (15000, 32000)
#: How often a server is started where its ports turn out to be taken.
_STARTS = 5
#: How servers say that a port is taken.
_IS_TAKEN = re.compile("address (is )?already in use|EADDRINUSE|could not bind", re.IGNORECASE)

#: The server inherits nothing but its log. The watchdog (the subshell) reads a pipe whose other
#: end this process holds: when this process is gone, however it died, the read ends and the whole
#: group is killed. `exec` makes the server itself the process that Popen knows.
_WATCHED = 'exec 3<&0; ( read -r _ <&3; kill -KILL 0 ) & exec "$@" </dev/null 3<&-'


class ServerUnavailable(Exception):
    """A server that cannot start, and why."""


class PortTaken(ServerUnavailable):
    """A server that ended because another program listens on one of its ports."""


def any_port() -> int:
    """Return a port for a server that cannot choose one itself; see :func:`on_free_ports`."""
    return random.SystemRandom().randint(*_PORTS)


def on_free_ports(
    serve: Callable[Concatenate[Path, P], contextlib.AbstractContextManager[T]],
) -> Callable[Concatenate[Path, P], contextlib.AbstractContextManager[T]]:
    """Have a server start again, with other ports and a directory of its own, if one is taken.

    Nobody can know that a port is free before the server listens on it, so `serve` draws its
    ports by :func:`any_port` and waits by :meth:`Process.wait_for_port`.
    """

    @functools.wraps(serve)
    @contextlib.contextmanager
    def start(directory: Path, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        with contextlib.ExitStack() as stack:
            for attempt in range(_STARTS):
                folder = directory / f"start-{attempt}" if attempt else directory
                try:
                    server = stack.enter_context(serve(folder, *args, **kwargs))
                    break
                except PortTaken:
                    if attempt == _STARTS - 1:
                        raise
            yield server

    return start


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
                kind = PortTaken if _IS_TAKEN.search(self.tail(200)) else ServerUnavailable
                raise kind(f"{name}: exited with status {self.popen.returncode}")
            return check()

        try:
            wait_until(alive_and_ready, name, timeout)
        except ServerUnavailable as exc:
            raise type(exc)(f"{exc}\n--- {self.log}\n{self.tail()}") from exc

    def wait_for_port(
        self, port: int, check: Callable[[], object] = lambda: True, timeout: float = 30
    ) -> None:
        """Wait until this server, and no other program, listens on a port, and `check` is true."""
        self.wait_until(lambda: self.listens_on(port) and check(), timeout)

    def listens_on(self, port: int) -> bool:
        """Tell whether the server or a child of it listens on a port."""
        with contextlib.suppress(psutil.Error):
            server = psutil.Process(self.pid)
            for process in (server, *server.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    for connection in process.net_connections("tcp"):
                        is_listening = connection.status == psutil.CONN_LISTEN
                        if is_listening and connection.laddr.port == port:
                            return True
        return False

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
