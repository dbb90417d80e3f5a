"""SSH connections: made as ``ssh`` makes them, checked, and made again when they were lost."""

from __future__ import annotations

import array
import asyncio
import concurrent.futures
import contextlib
import contextvars
import errno
import math
import os
import random
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import asyncssh
from asyncssh.public_key import get_default_public_key_algs
from sshfs.pools import SFTPSoftChannelPool

from mlartifacts.errors import ArtifactError, InvalidConfig
from mlartifacts.stores.sftp import host_of
from mlartifacts.uri import parse

__all__ = ["LOST", "Channels", "Connections", "alone", "explanation", "seen"]

#: What an operation raises when the connection beneath it is gone.
LOST = (
    asyncssh.ConnectionLost,
    asyncssh.DisconnectError,
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    BrokenPipeError,
    ConnectionResetError,
)

# Where ssh_config sets neither ConnectTimeout nor ServerAliveInterval. A peer that went silent
# is noticed after four intervals.
_CONNECT_SECONDS = 30
_KEEPALIVE_SECONDS = 15

# How long an operation that is given up may take to end.
_CANCELLING_SECONDS = 1

# sshd drops fresh connections at random when many arrive at once (MaxStartups), as they do when
# a cluster's workers begin.
_ATTEMPTS = 4
_PAUSE_SECONDS = 0.2

_USER_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


#: How many operations use a channel before another one is opened.
_shared_by: contextvars.ContextVar[int] = contextvars.ContextVar("_shared_by", default=16)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Have this task's reads take a channel each, which is worth it for long ones.

    Of one channel, a server sends no more than its window in a round trip: 2 MiB.
    """
    before = _shared_by.set(1)
    try:
        yield
    finally:
        _shared_by.reset(before)


class Channels(SFTPSoftChannelPool):  # type: ignore[misc]
    """The SFTP channels of one connection, each used by many operations at once.

    sshfs opens another for every four, one after the other. That takes four round trips and a
    process of the server, and whatever is asked at once of one channel is on its way at once, too.
    """

    @property
    def _THRESHOLD(self) -> int:  # noqa: N802  (sshfs's name)
        return _shared_by.get()

    #: When the server last answered, by the loop's clock.
    heard = 0.0

    async def _maybe_new_channel(self) -> Any:
        channel, operations = self._least_used()
        if channel is not None and operations < self._THRESHOLD:
            return None  # another one opened it, for which this one waited
        channel = await super()._maybe_new_channel()
        if channel is not None:
            self._listen(channel._handler)
        return channel

    def _listen(self, handler: Any) -> None:
        """Take the time of every answer; asyncssh gives each to its log."""
        loop, log = asyncio.get_running_loop(), handler.log_received_packet

        def heard(*packet: Any) -> None:
            self.heard = loop.time()
            log(*packet)

        handler.log_received_packet = heard
        handler.read, handler.write = _noted(handler.read), _noted(handler.write)


def _noted(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Take note of how a task ends that asks: asyncssh's own, which cut a read or a write in parts.

    It loses them where that is cancelled.
    """

    async def noted(*args: Any) -> Any:
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(seen)
        return await ask(*args)

    return noted


class _Session(NamedTuple):
    client: Any
    pool: Any


class Connections:
    """The connection of one filesystem, open from its first use on, and its SFTP channels.

    It stands in the place of sshfs's pool, which is bound to one connection for good.

    Parameters
    ----------
    host : str
        A name, an address or an alias of ssh_config.
    arguments : mapping
        asyncssh's options.
    pool_of : callable
        Makes sshfs's pool of channels for a connection.
    timeout : float or None
        Seconds that the server may be silent.
    """

    def __init__(
        self,
        host: str,
        arguments: Mapping[str, Any],
        pool_of: Callable[[Any], Any],
        timeout: float | None,
    ) -> None:
        self.host = host
        self._arguments = dict(arguments)
        self._pool_of = pool_of
        self._timeout = timeout
        self._timed_out = self._heard_before = -math.inf
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: _Session | None = None
        self._connecting: asyncio.Task[_Session] | None = None

    async def run(
        self, operation: Callable[[Any], Awaitable[Any]], done: tuple[type[Exception], ...] = ()
    ) -> Any:
        """Call `operation` with a channel, and once more on a new connection if this one is lost.

        Parameters
        ----------
        operation : callable
            Something that may be done twice.
        done : tuple of exception types
            What the second call raises if the first was carried out and only its answer lost.
        """
        session = await self._connected()
        try:
            async with _channel(session.pool) as channel:
                return await operation(channel)
        except LOST:
            self._forget(session)
            self.refuse_silence()
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError from None
        session = await self._connected()
        try:
            async with _channel(session.pool) as channel:
                return await operation(channel)
        except done:
            return None
        except LOST:
            self._forget(session)
            raise

    async def limited(self, work: Awaitable[Any]) -> Any:
        """Wait for `work` until the server has been silent for as long as it may be.

        Raises
        ------
        TimeoutError
        """
        if self._timeout is None:
            return await work
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        begun = loop.time()
        try:
            while not task.done():
                left = max(begun, self._heard) + self._timeout - loop.time()
                if left <= 0:
                    self._timed_out = loop.time()
                    if self._session is not None:
                        # Its answers may be lost; what comes next gets another connection.
                        loop.call_soon(self._forget, self._session)
                    raise TimeoutError
                await asyncio.wait([task], timeout=left)
            return task.result()
        finally:
            if not task.done():
                await _cancelled(task)

    @property
    def is_silent(self) -> bool:
        """Whether a wait was in vain since the server last answered."""
        return self._timed_out > self._heard

    def refuse_silence(self) -> None:
        """Wait for no server that another operation has waited for in vain.

        Raises
        ------
        TimeoutError
        """
        if self.is_silent:
            raise TimeoutError from None

    @property
    def _heard(self) -> float:
        """When the server last answered, whether or not that connection is still there."""
        session = self._session
        return max(self._heard_before, getattr(session and session.pool, "heard", -math.inf))

    @contextlib.asynccontextmanager
    async def get(self) -> AsyncIterator[Any]:
        """Give a channel, as sshfs's pools do."""
        async with _channel((await self._connected()).pool) as channel:
            yield channel

    async def client(self) -> Any:
        """The SSH connection, for what is not SFTP."""
        return (await self._connected()).client

    async def address(self) -> tuple[str, int]:
        """The host and the port that are meant, by ssh_config; nothing connects."""
        options = await _configured(self.host, self._arguments, None)
        return options.host, options.port

    async def unless_cancelled(self, work: Awaitable[Any]) -> Any:
        """Wait for a write; where that is cancelled, nothing that waits here is sent any more.

        A request cannot be taken back, so that the connection goes where there is one. What others
        do by it is done again on the next one, as after any loss.
        """
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._drop_queued()
            await _cancelled(task)
            raise

    def _drop_queued(self) -> None:
        session = self._session
        if session is None or not _queued(session.client):
            return
        if (own := session.client.get_extra_info("socket")) is not None:
            # What the system has is dropped, too.
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._heard_before, self._session = self._heard, None
        session.client.abort()

    def close(self) -> None:
        """Hang up; to be called from any thread, and never waits."""
        loop = self._loop
        if os.getpid() != self._pid or loop is None or loop.is_closed():
            return  # in a forked child, the sockets are the parent's
        session, self._session = self._session, None
        with contextlib.suppress(RuntimeError):  # closed in between
            if self._connecting is not None:
                loop.call_soon_threadsafe(self._connecting.cancel)
            if session is not None:
                loop.call_soon_threadsafe(session.client.close)

    async def aclose(self) -> None:
        """Hang up, and wait until that is done."""
        session, self._session = self._session, None
        if session is not None:
            session.client.close()
            await session.client.wait_closed()

    async def _connected(self) -> _Session:
        session = self._session
        if session is not None and not session.client.is_closed():
            return session
        if self._connecting is None or self._connecting.done():
            self._loop = asyncio.get_running_loop()
            self._connecting = self._loop.create_task(self._connect())
            # All who waited may be gone when it fails.
            self._connecting.add_done_callback(seen)
        # Everybody waits for one attempt, and nobody's cancelling ends it for the others.
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Session:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                client = await _open(self.host, self._arguments, most=self._timeout)
                break
            except (asyncssh.ConnectionLost, ConnectionResetError):
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(attempt * _PAUSE_SECONDS * (0.5 + random.random()))  # noqa: S311
        self._heard_before = asyncio.get_running_loop().time()
        self._session = _Session(client, self._pool_of(client))
        return self._session

    def _forget(self, session: _Session) -> None:
        if self._session is session:
            self._heard_before, self._session = self._heard, None
        session.client.close()


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait a moment for its end."""
    task.cancel()
    task.add_done_callback(seen)
    await asyncio.wait([task], timeout=_CANCELLING_SECONDS)


def seen(task: asyncio.Future[Any] | concurrent.futures.Future[Any]) -> None:
    """Take note of how something ended for which nobody waits: else asyncio complains."""
    if not task.cancelled():
        task.exception()


def _queued(client: Any) -> bool:
    """Whether there is something to be sent that did not leave this machine."""
    transport = client._transport
    if transport is None:
        return False
    waiting = transport, *client._channels.values()
    if any(each.get_write_buffer_size() for each in waiting):
        return True
    own = transport.get_extra_info("socket")
    if own is None or sys.platform == "win32":
        return False
    import fcntl
    import termios

    size = array.array("i", [0])
    fcntl.ioctl(own.fileno(), termios.TIOCOUTQ, size)
    return size[0] > 0


@contextlib.asynccontextmanager
async def _channel(pool: Any) -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:
        try:
            channel = await stack.enter_async_context(pool.get())
        except ValueError as error:  # sshfs's word for no channel at all
            if pool.client.is_closed():
                raise asyncssh.SFTPConnectionLost("Connection closed") from error
            message = "the server takes the login and offers no SFTP"
            raise _explained(error, ConnectionError, errno.EPROTONOSUPPORT, message) from None
        yield channel


async def _open(
    host: str, arguments: Mapping[str, Any], via: Any = None, most: float | None = None
) -> Any:
    """Connect as ``ssh`` would: through its jump hosts, each verified like the last.

    It takes at most so many seconds.

    Errors carry what they mean, for :func:`explanation`.
    """
    arguments = dict(arguments)
    options = await _configured(host, arguments, via)
    name = f"{options.host}:{options.port}"
    tunnel = via
    if isinstance(options.tunnel, str):
        tunnel = await _jump(options.tunnel, arguments)
    if (keys := _identities(options.config)) is not None and not arguments.get("client_keys"):
        # asyncssh ends on an IdentityFile that is not there, or is encrypted; ssh goes on.
        arguments["client_keys"] = keys
        arguments.setdefault("ignore_encrypted", True)
    patience = min(options.connect_timeout or _CONNECT_SECONDS, most or math.inf)
    arguments.setdefault("connect_timeout", patience)
    if options.config.get("ServerAliveInterval") is None:
        arguments.setdefault("keepalive_interval", _KEEPALIVE_SECONDS)
    witness = _Witness()
    arguments.setdefault("client_factory", lambda: witness)
    if tunnel is not None:
        arguments["tunnel"] = tunnel
    try:
        if arguments.get("known_hosts", ()) == ():
            arguments["known_hosts"] = await asyncio.to_thread(_known_hosts, options.config)
        if (kinds := _kinds(arguments["known_hosts"], options)) is not None:
            arguments.setdefault("server_host_key_algs", kinds)
        client = await asyncssh.connect(host, **arguments)
    except BaseException as error:
        if tunnel is not via:
            tunnel.close()
        if isinstance(error, _MALFORMED):
            raise _unusable(error) from error
        if isinstance(error, Exception):
            _explain(error, name, options, arguments, witness, patience)
        raise
    if tunnel is not None:
        client.set_tunnel(tunnel)  # closed together
    _send_while_open(client)
    return client


def _send_while_open(client: Any) -> None:
    """Send nothing on what is closed: asyncssh hears of it later, and asyncio would complain."""
    send = client._send

    def send_if_open(data: bytes) -> None:
        if client._transport is not None and not client._transport.is_closing():
            send(data)

    client._send = send_if_open


async def _jump(hops: str, arguments: Mapping[str, Any]) -> Any:
    """Connect to ssh_config's ProxyJump, one host after the other."""
    # What was given for the last host (its user, its password) is not the jump hosts'.
    shared = {k: v for k, v in arguments.items() if k in {"config", "passphrase", "known_hosts"}}
    via = None
    for hop in hops.split(","):
        uri = parse("ssh://" + hop.strip().removeprefix("ssh://"))
        own = {"username": uri.username or None, "port": uri.port}
        given = {name: value for name, value in own.items() if value is not None}
        try:
            via = await _open(host_of(uri), {**shared, **given}, via)
        except BaseException:
            if via is not None:
                via.close()
            raise
    return via


async def _configured(host: str, arguments: Mapping[str, Any], via: Any) -> Any:
    """The options of asyncssh with ssh_config's values; no key is loaded for it."""
    known = {"config": (), **arguments, "host": host, "client_keys": None, "client_certs": ()}
    if via is not None:
        known["tunnel"] = via
    try:
        return await asyncssh.SSHClientConnectionOptions.construct(**known)
    except _MALFORMED as error:
        raise _unusable(error) from error


# Of ssh_config, keys and known_hosts; asyncssh's own are ValueErrors.
_MALFORMED = (ValueError, FileNotFoundError)


def _unusable(error: BaseException) -> ArtifactError:
    # Not a FileNotFoundError: that would say of an artifact that it does not exist.
    return InvalidConfig(f"SSH's settings cannot be used: {error}")


def _known_hosts(config: Any) -> Any:
    """The host keys that ``ssh`` would trust."""
    user = config.get("UserKnownHostsFile")
    files = _USER_FILES if user is None else user  # [] is ssh_config's "none"
    files = [*files, *(config.get("GlobalKnownHostsFile") or _GLOBAL_FILES)]
    return asyncssh.read_known_hosts([f for f in map(os.path.expanduser, files) if _readable(f)])


def _kinds(known: Any, options: Any) -> list[str] | None:
    """The kinds of host key to ask for: those that are known, and then all others.

    asyncssh asks for the known ones alone. A server that has another kind now ends the
    connection, and nobody learns that its key has changed.
    """
    if known is None or options.config.get("HostKeyAlgorithms"):
        return None
    keys, authorities, *_ = asyncssh.match_known_hosts(known, _entry(options), "", None)
    if not keys or authorities:
        return None
    wanted = [kind for key in keys for kind in key.sig_algorithms]
    return list(dict.fromkeys(k.decode() for k in (*wanted, *get_default_public_key_algs())))


def _identities(config: Any) -> list[str] | None:
    """ssh_config's IdentityFiles that are there; None where all are, or it names none."""
    named = [os.path.expanduser(name) for name in config.get("IdentityFile") or ()]
    there = [name for name in named if _readable(name)]
    return there if there != named else None


def _readable(name: str) -> bool:
    return os.path.isfile(name) and os.access(name, os.R_OK)


class _Witness(asyncssh.SSHClient):  # type: ignore[misc]
    """Remembers a host key that was not trusted."""

    seen: tuple[str, str, int, Any] | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
        self.seen = host, addr, port, key
        return False


# ---- What an error means -----------------------------------------------------------------


def explanation(error: BaseException) -> tuple[type[OSError], int, str] | None:
    """The builtin, number and text for an error that connecting has raised."""
    return getattr(error, "_mlartifacts_explanation", None)


def _explained(error: Any, kind: type[OSError], number: int, message: str) -> Any:
    error._mlartifacts_explanation = kind, number, message
    return error


def _explain(
    error: Exception,
    name: str,
    options: Any,
    arguments: Mapping[str, Any],
    witness: _Witness,
    patience: float,
) -> None:
    if explanation(error) is not None:
        return  # a jump host's
    what: tuple[type[OSError], int, str]
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        message = _untrusted(error, name, options, arguments["known_hosts"], witness)
        what = PermissionError, errno.EACCES, message
    elif isinstance(error, asyncssh.KeyExchangeFailed):
        message = (
            f"{name}: {error.reason}. If known_hosts has a key of this host, the server may have"
            f" another kind of key now: see `ssh-keygen -F '{_entry(options)}'`."
        )
        what = ConnectionError, errno.EPROTO, message
    elif isinstance(error, asyncssh.PermissionDenied):
        message = (
            f"{name} refused the login of {options.username!r}: {error.reason}."
            " It needs a key (ssh_config's IdentityFile, ~/.ssh/id_*, the SSH agent) or a"
            f" password that the server accepts; `ssh -v {options.host}` shows what is tried."
        )
        what = PermissionError, errno.EACCES, message
    elif isinstance(error, asyncssh.Error):
        what = ConnectionResetError, errno.ECONNRESET, f"{name}: {error.reason}"
    elif isinstance(error, TimeoutError):
        message = f"{name}: no SSH session after {patience:g} s"
        what = TimeoutError, errno.ETIMEDOUT, message
    elif isinstance(error, socket.gaierror):
        what = ConnectionError, errno.EHOSTUNREACH, f"{name}: {error.strerror}"
    elif isinstance(error, OSError) and not isinstance(error, ConnectionError):
        # asyncio joins the errors of a host's several addresses in one text.
        refused = str(error).count(f"[Errno {errno.ECONNREFUSED}]")
        kind = ConnectionRefusedError if refused else ConnectionError
        number = errno.ECONNREFUSED if refused else error.errno or errno.EHOSTUNREACH
        what = kind, number, f"{name}: {error.strerror or error}"
    elif isinstance(error, OSError):
        what = type(error), error.errno or errno.ECONNRESET, f"{name}: {error.strerror or error}"
    else:
        return
    _explained(error, *what)


def _entry(options: Any) -> str:
    """The host's name in known_hosts."""
    host = options.host_key_alias or options.host
    return host if options.port == 22 else f"[{host}]:{options.port}"


def _untrusted(error: Any, name: str, options: Any, known: Any, witness: _Witness) -> str:
    if witness.seen is None:  # a certificate's
        return f"{name}: {error.reason}."
    host, address, port, key = witness.seen
    offered = f"{key.get_algorithm()} {key.get_fingerprint()}"
    file = (options.config.get("UserKnownHostsFile") or _USER_FILES)[0]
    scan = f"`ssh-keyscan -p {port} {options.host} >> {file}`"
    spelled = [n if port == 22 else f"[{n}]:{port}" for n in (host, address) if n]
    entries = [asyncssh.match_known_hosts(known, spelling, "", None) for spelling in spelled]
    if any(key in revoked for _, _, revoked, *_ in entries):
        return f"{name}: the host key ({offered}) is marked @revoked in known_hosts."
    if any(trusted for trusted, *_ in entries):
        return (
            f"{name}: THE HOST KEY HAS CHANGED: it is {offered} now, and known_hosts has another."
            " Somebody may be in between, or the server was set up anew. If its administrator"
            f" says that this key is right: `ssh-keygen -R '{_entry(options)}'`, then {scan}."
        )
    return (
        f"{name}: the host key ({offered}) is in no known_hosts file. If the server's"
        f" administrator says that this is its fingerprint, add it: {scan}. (known_hosts=None"
        " verifies nothing.)"
    )
