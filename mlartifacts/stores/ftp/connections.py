"""Connections to one FTP server, shared by every thread and filesystem of a process.

``ftplib`` gives one control connection that serves one caller at a time and is lost for good
when anything goes wrong on it. Here connections are kept in a pool: a caller borrows one for
an exchange of commands or for a transfer, and it is lent again only if it is certain that no
reply is outstanding on it. Servers hang up on idle clients, so a connection is looked at
before it is lent, and one that turns out to be dead is replaced before any byte has moved.
"""

from __future__ import annotations

import contextlib
import errno
import ftplib
import os
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from mlartifacts.retrying import pause

__all__ = [
    "AT_ONCE",
    "Connection",
    "ConnectionPool",
    "Download",
    "Endpoint",
    "Upload",
    "dropped",
    "is_crowded",
    "is_cut_off",
    "is_lost",
    "reply",
]

T = TypeVar("T")

#: Commands that run at once, and connections kept for later: one for each file of a transfer. To
# log in again takes more round trips than a small file does. A server that has fewer sessions for
# a client says so, and the others wait (see ConnectionPool).
AT_ONCE = 16
# A connection that was idle for longer is asked (NOOP) before it is used: a firewall may have
# forgotten it without telling either side. After the second time it is not kept at all.
_TRUSTED_SECONDS = 15.0
_KEPT_SECONDS = 240.0
_PROBE_SECONDS = 5.0
# How long a server without a free session is asked again, if none of its sessions are ours.
_PATIENCE_SECONDS = 10.0
# How often a connection may be lost in what can be done twice, and seconds before a second try.
_TRIES = 4
_PAUSE = 0.2
# A socket's timeout covers a whole ``sendall``, so one call must not carry much.
_SEND_BYTES = 2**18


@dataclass(frozen=True)
class Endpoint:
    """A server, and who we are there.

    Attributes
    ----------
    timeout : float or None
        Seconds of silence after which the server counts as hanging; ``None`` for no limit.
    trust : tuple
        Where the certificates that are trusted come from; part of what makes two endpoints
        differ.
    """

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    tls: bool
    timeout: float | None
    encoding: str
    trust: tuple[str | None, ...] = ()


class Connection(ftplib.FTP):
    """A control connection, logged in, in binary mode and passive.

    Attributes
    ----------
    reused : bool
        Whether it was lent before: it may then have died while it was idle.
    answered : bool
        Whether the server has said anything since it was lent.
    uncertain : bool
        Whether a transfer on it was broken off. One reply to that was read, and servers owe
        no more than one, but a second one would be taken for the answer to a later command.
    """

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> None:
        super().__init__(timeout=endpoint.timeout, encoding=endpoint.encoding)
        self.reused = False
        self.answered = False
        self.uncertain = False
        self.idle_since = 0.0
        self._context = context
        try:
            self._open(endpoint)
        except BaseException:
            self.close()
            raise

    def _open(self, endpoint: Endpoint) -> None:
        self.host, self.port = endpoint.host, endpoint.port
        self.sock = socket.create_connection((self.host, self.port), self.timeout)
        self.af = self.sock.family
        self._listen()
        self.welcome = self.getresp()
        if self._context is not None:
            self._encrypt(self._context)
        self.login(endpoint.username, endpoint.password)
        if self._context is not None:
            self.voidcmd("PBSZ 0")
            self.voidcmd("PROT P")
        self.voidcmd("TYPE I")

    def _listen(self) -> None:
        # Names and banners that are not in the encoding must not end the session: their bytes
        # go through unchanged in both directions.
        assert self.sock is not None
        self.file = self.sock.makefile("r", encoding=self.encoding, errors="surrogateescape")

    def _encrypt(self, context: ssl.SSLContext) -> None:
        try:
            self.voidcmd("AUTH TLS")
        except ftplib.Error as error:
            raise ConnectionError(
                f"The server at {self.host}:{self.port} offers no TLS ({error});"
                " an ftp:// URI would talk to it unencrypted."
            ) from error
        assert self.sock is not None
        assert self.file is not None
        # What came in plain text behind the reply is not to be believed.
        self.file.close()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
        self._listen()

    def read_features(self) -> frozenset[str]:
        """What the server offers beyond RFC 959, by command, in upper case."""
        try:
            lines = self.sendcmd("FEAT").splitlines()[1:-1]
        except ftplib.error_perm:
            return frozenset()
        return frozenset(line.split()[0].upper() for line in lines if line.strip())

    # ---- What ftplib does otherwise ------------------------------------------------------

    def putline(self, line: str) -> None:  # noqa: D102
        if any(mark in line for mark in "\r\n\0"):
            raise ValueError("an FTP command of one line cannot hold CR, LF or NUL")
        assert self.sock is not None
        self.sock.sendall(line.encode(self.encoding, "surrogateescape") + b"\r\n")

    def getline(self) -> str:  # noqa: D102
        line = super().getline()
        # With a 421 the server hangs up, and has not looked at the command.
        self.answered = self.answered or not line.startswith("421")
        return line

    def size(self, filename: str) -> int:
        """Bytes in a file; another answer than SIZE's own is an error."""
        size = super().size(filename)
        if size is None:
            raise ftplib.error_reply(self.lastresp)  # noqa: S321  (an exception only)
        return size

    # ---- Transfers -----------------------------------------------------------------------

    def transfer(self, command: str, rest: int = 0) -> socket.socket:
        """Open a data connection and start a transfer on it."""
        data, _ = self.ntransfercmd(command, rest or None)
        if self._context is None:
            return data
        assert isinstance(self.sock, ssl.SSLSocket)
        # Servers (vsftpd by default) refuse a data connection that does not resume the
        # session of its control connection: it could be anyone's.
        return self._context.wrap_socket(data, server_hostname=self.host, session=self.sock.session)

    def read_lines(self, command: str) -> list[str]:
        """The lines that a listing command sends."""
        data = self.transfer(command)
        with data:
            chunks = []
            while chunk := data.recv(2**16):
                chunks.append(chunk)
            _say_goodbye(data)
        self.voidresp()
        text = b"".join(chunks).decode(self.encoding, "surrogateescape")
        return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]

    # ---- Health --------------------------------------------------------------------------

    def is_quiet(self) -> bool:
        """Whether the server has nothing to say; a 421 or a hang-up would lie there unread."""
        if self.sock is None:
            return False
        poll = select.poll() if hasattr(select, "poll") else None
        if poll is None:
            return not select.select([self.sock], [], [], 0)[0]
        poll.register(self.sock, select.POLLIN | select.POLLERR | select.POLLHUP)
        return not poll.poll(0)

    def is_alive(self) -> bool:
        """Ask the server, and expect the very answer to this question."""
        assert self.sock is not None
        try:
            self.sock.settimeout(_shorter(self.timeout))
            alive = self.sendcmd("NOOP").startswith("200")
            self.sock.settimeout(self.timeout)
        except (ftplib.Error, OSError, EOFError):
            return False
        return alive


class Download:
    """The bytes of a file, as they arrive on a data connection."""

    def __init__(
        self, pool: ConnectionPool, connection: Connection, data: socket.socket, position: int
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._data = data
        self.origin = position
        self.position = position
        self.finished = False
        # A file that is forgotten and not closed is collected with its sockets, in any order.
        self._forgotten = weakref.finalize(self, _drop, pool, connection, data)
        self._forgotten.atexit = False

    def readinto(self, view: memoryview) -> int:
        """Read some bytes; 0 where the server says that there are no more.

        Raises
        ------
        ftplib.Error, OSError, EOFError
            The transfer broke. The connection is closed.
        """
        if self.finished:
            return 0
        try:
            count = self._data.recv_into(view)
            if count == 0:
                _say_goodbye(self._data)
                self._data.close()
                self._connection.voidresp()
        except BaseException as error:
            self._end(clean=_is_complete_reply(error))
            raise
        if count == 0:
            self._end(clean=True)
        self.position += count
        return count

    def finish(self) -> None:
        """Take the end of the transfer, all bytes being here; what else comes is not wanted."""
        try:
            with memoryview(bytearray(1)) as view:
                self.readinto(view)
        except (OSError, EOFError, ftplib.Error):
            return  # the bytes are here all the same, and the connection is closed
        self.close()

    def close(self) -> None:
        """Stop, wherever it is.

        Closing the data connection makes the server give up with one reply (226 where
        everything was under way already, else 426), which leaves the control connection in
        order: so it is on vsftpd and pyftpdlib. With ABOR there are two replies, in an order
        that depends on who was faster.
        """
        if self.finished or not self._forgotten.alive:
            return
        self._data.close()
        try:
            assert self._connection.sock is not None
            self._connection.sock.settimeout(_shorter(self._connection.timeout))
            answer = self._connection.getmultiline()
            self._connection.sock.settimeout(self._connection.timeout)
            clean = answer[:1] in {"2", "4"} and not answer.startswith("421")
        except (OSError, EOFError, ftplib.Error):
            clean = False
        self._connection.uncertain = True
        self._end(clean=clean)

    def forget(self) -> None:
        """Close this process's copy of the sockets, saying nothing to the server."""
        self._forgotten.detach()
        self._data.close()
        self._connection.close()
        self.finished = True

    def _end(self, *, clean: bool) -> None:
        self._forgotten.detach()
        self._data.close()
        self.finished = True
        self._pool.give_back(self._connection, clean=clean)


class Upload:
    """The bytes of a file, as they leave on a data connection."""

    def __init__(self, pool: ConnectionPool, connection: Connection, data: socket.socket) -> None:
        self._pool = pool
        self._connection = connection
        self._data = data
        self._process = os.getpid()
        self.finished = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes.

        Raises
        ------
        ftplib.Error, OSError, EOFError
            The transfer broke; the server's own reason where it gave one.
        """
        with memoryview(data).cast("B") as view:
            try:
                for start in range(0, len(view), _SEND_BYTES):
                    with view[start : start + _SEND_BYTES] as piece:
                        self._data.sendall(piece)
            except ConnectionError as error:
                # The server stopped taking bytes: a full disk, say. It tells on the control
                # connection.
                reason = self._reason()
                self._end(clean=False)
                raise (reason or error) from error
            except BaseException:
                self._end(clean=False)
                raise

    def finish(self) -> None:
        """Tell the server that this was all, and wait until it says that it has everything."""
        try:
            _say_goodbye(self._data)
            self._data.close()
            self._connection.voidresp()
        except BaseException as error:
            self._end(clean=_is_complete_reply(error))
            raise
        self._end(clean=True)

    def abort(self) -> None:
        """Stop. The server takes what it has for a whole file, so that is to be deleted."""
        if self.finished:
            return
        if self._process != os.getpid():  # a fork's copy: the upload is its parent's
            self._data.close()
            self._connection.close()
            self.finished = True
            return
        self._data.close()
        self._reason()  # so that the server is done with the file when it is deleted
        self._end(clean=False)

    def _reason(self) -> Exception | None:
        try:
            assert self._connection.sock is not None
            self._connection.sock.settimeout(_shorter(self._connection.timeout))
            self._connection.getresp()
        except ftplib.Error as error:
            return error
        except (OSError, EOFError):
            pass
        return None

    def _end(self, *, clean: bool) -> None:
        self._data.close()
        self.finished = True
        self._pool.give_back(self._connection, clean=clean)


class ConnectionPool:
    """The connections to one endpoint.

    Exchanges of commands are bounded in number; transfers are not, as a caller can hold any
    number of files open and would wait for itself. Where the server refuses a further
    session, idle downloads give up theirs (they can go on later) and callers wait for one.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.timeout = endpoint.timeout
        self._context = ssl.create_default_context() if endpoint.tls else None
        self._idle: list[Connection] = []
        self._features: frozenset[str] | None = None
        self._parkable: weakref.WeakSet[Parkable] = weakref.WeakSet()
        self.list_hidden = True
        # What the times of LIST are ahead of UTC, once a file has told.
        self.zone: timedelta | None = None
        self._make_locks()
        weakref.finalize(self, _close_all, self._idle)
        _alive.add(self)

    @classmethod
    def shared(cls, endpoint: Endpoint) -> ConnectionPool:
        """The pool of an endpoint; fsspec makes a filesystem for each thread."""
        with _pools_lock:
            pool = _pools.get(endpoint)
            if pool is None:
                pool = _pools[endpoint] = cls(endpoint)
            return pool

    def _make_locks(self) -> None:
        self._changed = threading.Condition()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._lent = 0

    def features(self) -> frozenset[str]:
        """What the server offers beyond RFC 959."""
        if self._features is None:
            self.run(lambda _: None)
        assert self._features is not None
        return self._features

    def run(self, exchange: Callable[[Connection], T], *, repeatable: bool = False) -> T:
        """Run an exchange of commands.

        Parameters
        ----------
        exchange : callable
            Sends commands and reads their replies on the connection that it is given.
        repeatable : bool
            Whether it may run again when its connection is lost. Otherwise it does so only if that
            had been idle, and the server had not answered at all.
        """
        with self._slots:
            connection, result = self._exchange(exchange, repeatable)
            self.give_back(connection, clean=True)
            return result

    def download(self, path: str, position: int) -> Download:
        """Start to read a file at a position."""
        connection, data = self._exchange(
            lambda c: c.transfer(f"RETR {path}", position), repeatable=True
        )
        return Download(self, connection, data, position)

    def upload(self, command: str) -> Upload:
        """Start to write; `command` is STOR or APPE and the path."""
        connection, data = self._exchange(lambda c: c.transfer(command), repeatable=True)
        return Upload(self, connection, data)

    def register(self, holder: Parkable) -> None:
        """Name a holder of a download that can be asked to give it up."""
        with self._changed:
            self._parkable.add(holder)

    def give_back(self, connection: Connection, *, clean: bool) -> None:
        """End a loan. A connection that is not clean is closed."""
        now = time.monotonic()
        with self._changed:
            self._lent = max(self._lent - 1, 0)
            surplus = [c for c in self._idle if now - c.idle_since > _KEPT_SECONDS]
            if clean and connection.sock is not None and len(self._idle) - len(surplus) < AT_ONCE:
                connection.idle_since = now
                self._idle.append(connection)
            else:
                surplus.append(connection)
            for each in surplus:
                if each in self._idle:
                    self._idle.remove(each)
            self._changed.notify()
        _close_all(surplus)

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        with self._changed:
            surplus = self._idle[:]
            self._idle.clear()
        _close_all(surplus)

    def forget(self) -> None:
        """In a forked child: the sockets are the parent's, and locks may be held by nobody."""
        self._make_locks()
        _close_all(self._idle)
        self._idle.clear()
        self._parkable = weakref.WeakSet()

    # ---- Lending -------------------------------------------------------------------------

    def _exchange(
        self, exchange: Callable[[Connection], T], repeatable: bool
    ) -> tuple[Connection, T]:
        crowded_since: float | None = None
        tries = 0
        while True:
            connection = self._borrow(probe=not repeatable)
            try:
                return connection, exchange(connection)
            except BaseException as error:
                died_idle = connection.reused and (repeatable or not connection.answered)
                self.give_back(connection, clean=_is_complete_reply(error))
                if died_idle and dropped(error):
                    continue  # with another; in the end with one that was never idle
                if repeatable and is_lost(error) and (tries := tries + 1) < _TRIES:
                    time.sleep(pause(_PAUSE, tries))
                    continue
                if not is_crowded(error):
                    raise
                # No data connection can be had: those that idle have to go, ours among them.
                self.close_idle()
                crowded_since = crowded_since or time.monotonic()
                if not self._make_room(crowded_since):
                    raise

    def _borrow(self, *, probe: bool) -> Connection:
        crowded_since: float | None = None
        tries = 0
        while True:
            connection = self._take_idle(probe=probe)
            if connection is not None:
                return connection
            try:
                return self._connect()
            except ftplib.Error as refusal:
                crowded_since = crowded_since or time.monotonic()
                if not is_crowded(refusal) or not self._make_room(crowded_since):
                    raise
            except Exception as error:
                tries += 1
                if tries == _TRIES or not is_lost(error):
                    raise
                time.sleep(pause(_PAUSE, tries))

    def _make_room(self, since: float) -> bool:
        """Wait for a session where the server has no more; whether it is worth another try."""
        with self._changed:
            holders = list(self._parkable)
            alone = self._lent == 0
        if any(holder.park() for holder in holders):
            return True
        # While others of this process have sessions, one of theirs will end. Those of other
        # processes may not, so they are waited for as long as a busy moment may take.
        limit = self.timeout or 60.0
        remaining = since + (min(limit, _PATIENCE_SECONDS) if alone else limit) - time.monotonic()
        if remaining <= 0:
            return False
        with self._changed:
            if not self._idle:
                self._changed.wait(min(remaining, 0.1))
        return True

    def _take_idle(self, *, probe: bool) -> Connection | None:
        while True:
            with self._changed:
                if not self._idle:
                    return None
                connection = self._idle.pop()
                self._lent += 1
            silence = time.monotonic() - connection.idle_since
            doubtful = silence > _TRUSTED_SECONDS or (probe and connection.uncertain)
            if connection.is_quiet() and (not doubtful or connection.is_alive()):
                connection.reused = True
                connection.answered = False
                connection.uncertain = connection.uncertain and not doubtful
                return connection
            self.give_back(connection, clean=False)
            if doubtful:
                self.close_idle()  # idle for longer, and as dead: each would be waited for

    def _connect(self) -> Connection:
        with self._changed:
            self._lent += 1
        try:
            connection = Connection(self.endpoint, self._context)
            try:
                if self._features is None:
                    self._features = connection.read_features()
                if "UTF8" in self._features and self.endpoint.encoding.lower() == "utf-8":
                    _suppress_refusal(connection, "OPTS UTF8 ON")
            except BaseException:
                connection.close()
                raise
        except BaseException:
            with self._changed:
                self._lent -= 1
            raise
        connection.answered = False
        return connection


class Parkable:
    """Holder of a download that it can give up and take up again."""

    def park(self) -> bool:
        """Give the connection back if it is not in use; whether it did."""
        raise NotImplementedError


def reply(error: BaseException) -> str:
    """The code of the server's reply that an error carries, or ``""``."""
    code = str(error)[:3]
    return code if isinstance(error, ftplib.Error) and code.isdigit() else ""


def dropped(error: BaseException) -> bool:
    """Whether an error says that the connection is gone, or out of step with its replies."""
    return (
        is_lost(error)
        or isinstance(error, ConnectionRefusedError)
        or reply(error) == "421"
        or isinstance(error, ftplib.error_reply | ftplib.error_proto)
    )


def is_lost(error: BaseException) -> bool:
    """Whether a connection that there was is gone."""
    lost = EOFError | ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError
    return is_cut_off(error) or (
        isinstance(error, lost) and not isinstance(error, ConnectionRefusedError)
    )


def is_cut_off(error: BaseException) -> bool:
    """Whether a connection was reset before it was asked who is there; no `ConnectionError`."""
    return isinstance(error, OSError) and error.errno == errno.ENOTCONN


def _is_complete_reply(error: BaseException) -> bool:
    """Whether an error is the server's one answer to a command, after which it waits."""
    return isinstance(error, ftplib.error_perm | ftplib.error_temp) and reply(error) != "421"


def is_crowded(error: BaseException) -> bool:
    """Whether a server refuses a session, or a data connection, because it has too many."""
    words = ("too many", "maximum", "limit")
    return reply(error) in {"421", "425", "530"} and any(w in str(error).lower() for w in words)


def _say_goodbye(data: socket.socket) -> None:
    """End TLS properly, as servers may require; not all of them answer to it."""
    if not isinstance(data, ssl.SSLSocket):
        return
    try:
        data.settimeout(_shorter(data.gettimeout()))
        data.unwrap()
    except (OSError, ValueError):
        pass


def _suppress_refusal(connection: Connection, command: str) -> None:
    with contextlib.suppress(ftplib.error_perm, ftplib.error_reply):
        connection.voidcmd(command)


def _shorter(timeout: float | None) -> float:
    return _PROBE_SECONDS if timeout is None else min(timeout, _PROBE_SECONDS)


def _drop(pool: ConnectionPool, connection: Connection, data: socket.socket) -> None:
    data.close()
    pool.give_back(connection, clean=False)


def _close_all(connections: Iterable[Connection]) -> None:
    for connection in connections:
        connection.close()


_pools: weakref.WeakValueDictionary[Endpoint, ConnectionPool] = weakref.WeakValueDictionary()
_pools_lock = threading.Lock()
_alive: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()


def _after_fork() -> None:
    global _pools_lock
    _pools_lock = threading.Lock()
    for pool in list(_alive):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
