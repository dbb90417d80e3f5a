"""FTP under this package's promises."""

from __future__ import annotations

import errno
import ftplib
import functools
import os
import socket
import ssl
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import isfilelike

from mlartifacts.errors import InvalidURI, of_store
from mlartifacts.promises import SyncArtifactFileSystem
from mlartifacts.stores.ftp import STORE, clean
from mlartifacts.stores.ftp.connections import is_cut_off, reply
from mlartifacts.stores.ftp.driver import FTPFileSystem, meaning, refuses_login
from mlartifacts.stores.ftp.files import COLLECTED, FTPWriteFile
from mlartifacts.uri import server_name
from mlartifacts.writing import WholeWrite, landing

__all__ = ["FTPArtifactFileSystem"]


class FTPArtifactFileSystem(SyncArtifactFileSystem, FTPFileSystem):
    """Artifacts on an FTP server."""

    store = STORE
    roots_by_login = True
    told_size = True

    @classmethod
    def _clean(cls, path: str) -> str:
        return clean(path)

    def servers(self) -> frozenset[str]:
        endpoint = self.pool.endpoint
        return frozenset({server_name(endpoint.host, endpoint.port, ftplib.FTP_PORT)})

    def has_directories(self, path: str) -> bool:
        return True

    def unfit(self, path: str) -> str | None:
        """A line's end; how long a name may be, no server says."""
        try:
            clean(path)
        except InvalidURI as error:
            return str(error).rstrip(".")
        return None

    def _open_whole(self, path: str, mode: str, **kwargs: Any) -> WholeWrite:
        file = self._drivers_own(path, mode, **kwargs)
        assert isinstance(file, FTPWriteFile)
        explaining = functools.partial(self._explaining, path)
        return WholeWrite(file, file.close, file.discard, explaining)

    def ranged(self, path: str) -> bool:
        """Never: each range is a transfer that has to be broken off."""
        return False

    def copies_within(self, path: str) -> bool:
        return False

    def links_in(self, path: str) -> frozenset[str]:
        with self._explaining(path):
            return FTPFileSystem.links_in(self, path)

    def link_targets(self, paths: list[str]) -> dict[str, str]:
        with self._explaining(paths[0]):
            return FTPFileSystem.link_targets(self, paths)

    def keeps_times(self, path: str) -> bool:
        """Where the server knows MFMT."""
        with self._explaining(path):
            return self.sets_times

    def set_modified(self, path: str, seconds: int) -> None:
        with self._explaining(path):
            FTPFileSystem.set_modified(self, path, seconds)

    def chunks(self, path: str) -> tuple[int | None, int | None]:
        return self.blocksize, COLLECTED

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        if isfilelike(lpath):
            self._get_into(rpath, lpath, callback)
            return
        try:
            callback.set_size(self._size_to_read(self._strip_protocol(rpath)))
        except IsADirectoryError:
            os.makedirs(lpath, exist_ok=True)
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        with landing(os.fspath(lpath)) as temporary, open(temporary, "wb") as file:
            self._get_into(rpath, file, callback)

    def _get_into(self, rpath: str, file: Any, callback: Any) -> None:
        self.download(rpath, lambda piece: callback.relative_update(file.write(piece)))

    def _translate(self, error: Exception, path: str) -> Exception | None:
        if isinstance(error, ftplib.Error):
            return _of_reply(error, path)
        if isinstance(error, EOFError) or is_cut_off(error):
            return OSError(errno.ECONNRESET, "the FTP server hung up", path)
        if isinstance(error, ssl.SSLCertVerificationError):
            return OSError(
                errno.ECONNABORTED,
                f"the certificate of {self.pool.endpoint.host} is not trusted"
                f" ({error.verify_message}); SSL_CERT_FILE can name its authority's",
                path,
            )
        if isinstance(error, socket.gaierror):
            return OSError(
                errno.ECONNREFUSED, f"no host {self.pool.endpoint.host!r}: {error.strerror}", path
            )
        return None


def _of_reply(error: ftplib.Error, path: str) -> OSError:
    number = meaning(error)
    if number is None and reply(error) in {"421", "425", "426"}:
        number = errno.ECONNABORTED  # a time of the server's that has run out, too: it hung up
    meant = OSError(number or errno.EIO, f"the FTP server says {str(error)!r}", path)
    return of_store(meant) if refuses_login(error) else meant
