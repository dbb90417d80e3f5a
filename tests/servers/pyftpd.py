"""FTP with MLSD: pyftpdlib in this process, plain or with explicit TLS."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import socket
import threading
import urllib.parse
import warnings
from collections.abc import Iterator
from pathlib import Path

from tests.servers import certificates
from tests.servers.process import LOOPBACK, wait_until

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Ftp:
    """A running FTP server."""

    host: str
    port: int
    #: The directory that clients see as ``/``.
    root: Path
    #: An account that may write; the password needs percent-encoding in a URI.
    user: str = "someone"
    password: str = "p@ss:w/rd%41"
    #: The authority to trust, on a server with TLS.
    ca: Path | None = None
    #: ``anonymous`` is the only user.
    anonymous_only: bool = False

    @property
    def scheme(self) -> str:
        return "ftps" if self.ca else "ftp"

    @property
    def url(self) -> str:
        """The server's root, with user and password."""
        if self.anonymous_only:
            return f"{self.scheme}://{self.host}:{self.port}"
        quoted = urllib.parse.quote(self.password, safe="")
        return f"{self.scheme}://{self.user}:{quoted}@{self.host}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """Nothing but the authority to trust: MLflow has no variables for FTP."""
        return {"SSL_CERT_FILE": str(self.ca)} if self.ca else {}

    def new_root(self) -> str:
        """Return the URI of a fresh directory."""
        folder = self.root / f"root-{next(_numbers)}"
        folder.mkdir()
        folder.chmod(0o777)
        return f"{self.url}/{folder.name}"


def answers(port: int) -> bool:
    """Tell whether an FTP server greets."""
    with socket.create_connection((LOOPBACK, port), timeout=5) as connection:
        greeting = connection.recv(200)
        connection.sendall(b"QUIT\r\n")
        return greeting.startswith(b"220")


def _as_named(root: Path, path: str) -> str:
    """The path of a file below a directory, as what is there already is named."""
    found = root
    for step in Path(path).relative_to(root).parts:
        names = os.listdir(found) if found.is_dir() else []
        found /= next((name for name in names if name.casefold() == step.casefold()), step)
    return str(found)


@contextlib.contextmanager
def serve(
    directory: Path,
    *,
    tls: bool = False,
    idle_timeout: int = 300,
    mlsd: bool = True,
    max_connections: int = 512,
    folding: bool = False,
    zone: int = 0,
) -> Iterator[Ftp]:
    """Run a server in a thread.

    Parameters
    ----------
    directory
        Where its files lie; ``directory / "ftp"`` is what clients see.
    tls
        Take no command before ``AUTH TLS``, and no transfer in the clear.
    idle_timeout
        After how many seconds without a command the server says 421 and hangs up.
    mlsd
        Know MLSD and MLST.
    max_connections
        How many connections, of all clients together, it accepts before it says 421.
    folding
        Take upper and lower case for one, and keep what a file was first named by: as on a share
        of Windows.
    zone
        By how many seconds the times of LIST are ahead of UTC, which MDTM and MFMT have.
    """
    with warnings.catch_warnings():
        # pyftpdlib stands on asyncore, which Python 3.11 deprecates at each import.
        warnings.simplefilter("ignore", DeprecationWarning)
        from pyftpdlib.authorizers import DummyAuthorizer
        from pyftpdlib.filesystems import AbstractedFS
        from pyftpdlib.handlers import FTPHandler
        from pyftpdlib.ioloop import IOLoop
        from pyftpdlib.servers import ThreadedFTPServer

    root = directory / "ftp"
    root.mkdir(parents=True)
    issued = certificates.issue(directory / "certificates") if tls else None
    users = DummyAuthorizer()
    users.add_user(Ftp.user, Ftp.password, str(root), perm="elradfmwMT")
    users.add_anonymous(str(root))

    class Files(AbstractedFS):  # type: ignore[misc]
        """Changes no directory of this process, which threads do under each other's feet."""

        def chdir(self, path: str) -> None:
            os.scandir(path).close()
            self.cwd = self.fs2ftp(path)

        def ftp2fs(self, ftppath: str) -> str:
            path: str = super().ftp2fs(ftppath)
            return _as_named(root, path) if folding else path

        def getmtime(self, path: str) -> float:
            seconds: float = super().getmtime(path)
            return seconds - zone

        def utime(self, path: str, timeval: float) -> None:
            super().utime(path, timeval + zone)

    # pyftpdlib is configured by class attributes: a class for each server keeps them apart.
    base: type[FTPHandler] = FTPHandler
    settings: dict[str, object] = {
        "authorizer": users,
        "abstracted_fs": Files,
        "timeout": idle_timeout,
        "banner": "ready",
        "encoding": "utf-8",
        # A wrong password is otherwise answered 3 s late.
        "auth_failed_timeout": 0,
    }
    if issued:
        from pyftpdlib.handlers import TLS_FTPHandler

        base = TLS_FTPHandler
        settings |= {
            "certfile": str(issued.pem),
            "tls_control_required": True,
            "tls_data_required": True,
        }
    if not mlsd:
        settings["proto_cmds"] = {
            name: value for name, value in base.proto_cmds.items() if name not in {"MLSD", "MLST"}
        }

    class Closing(base):  # type: ignore[misc,valid-type]
        """Closes the file of a transfer whose client was gone when it was answered."""

        def process_command(self, *args: object, **kwargs: object) -> None:
            super().process_command(*args, **kwargs)
            if self._closed:
                for name in ("_in_dtp_queue", "_out_dtp_queue"):
                    for each in getattr(self, name, None) or ():
                        if isinstance(each, io.IOBase):
                            each.close()

    handler = type("Handler", (Closing,), settings)

    # A loop and an end of its own: servers share both otherwise, and the first that ends takes
    # the others with it.
    ftpd = ThreadedFTPServer((LOOPBACK, 0), handler, ioloop=IOLoop())
    server = Ftp(LOOPBACK, ftpd.socket.getsockname()[1], root, ca=issued.ca if issued else None)
    ftpd._exit = threading.Event()
    ftpd.max_cons = max_connections
    ended = threading.Event()

    def serve_until_ended() -> None:
        while not ended.is_set():
            ftpd.serve_forever(timeout=0.05, blocking=False, handle_exit=False)
        ftpd.close_all()  # not by another thread: this one may be polling what that closes

    thread = threading.Thread(target=serve_until_ended, daemon=True)
    thread.start()
    try:
        wait_until(lambda: answers(server.port), "pyftpdlib")
        yield server
    finally:
        ended.set()
        thread.join(10)
