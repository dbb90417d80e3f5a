"""FTP without MLSD: vsftpd, with ``anonymous`` as its only user, who may write and delete.

Named users would need PAM and an account of this machine: passwords are :mod:`~.pyftpd`'s part.
Started by root it serves as the user ``ftp`` (whom Debian's package makes), chrooted in its
directory. Started by anybody else it serves as that user and is not chrooted: then `prefix` is
the directory's full path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import (
    LOOPBACK,
    any_port,
    base_env,
    find_program,
    on_free_ports,
    running,
)
from tests.servers.pyftpd import Ftp, answers


@dataclasses.dataclass(frozen=True)
class Vsftpd(Ftp):
    """A running vsftpd."""

    user: str = "anonymous"
    password: str = ""
    anonymous_only: bool = True
    #: What clients see before each path.
    prefix: str = ""

    def new_root(self) -> str:
        folder = super().new_root().removeprefix(self.url)
        return f"{self.url}{self.prefix}{folder}"


@on_free_ports
@contextlib.contextmanager
def serve(
    directory: Path, *, idle_timeout: int = 300, passive: tuple[int, int] = (0, 0)
) -> Iterator[Vsftpd]:
    """Run vsftpd.

    Parameters
    ----------
    directory
        Where its files lie.
    idle_timeout
        After how many seconds without a command the server says 421 and hangs up.
    passive
        The first and last port of its transfers; 0 for any.
    """
    program = find_program("vsftpd")
    # vsftpd never chroots an anonymous user into a directory that this user can write in: the
    # root is ours, and the directories that `new_root` makes in it are everybody's.
    root, empty = directory / "ftp", directory / "empty"
    root.mkdir(parents=True, mode=0o755)
    empty.mkdir(mode=0o555)
    is_root = os.geteuid() == 0
    port = any_port()
    config = directory / "vsftpd.conf"
    config.write_text(
        f"""\
listen=YES
listen_address={LOOPBACK}
listen_port={port}
background=NO
run_as_launching_user={"NO" if is_root else "YES"}
secure_chroot_dir={empty}
# vsftpd's sandbox knows too few system calls for newer kernels.
seccomp_sandbox=NO
local_enable=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={root}
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
pasv_address={LOOPBACK}
pasv_min_port={passive[0]}
pasv_max_port={passive[1]}
utf8_filesystem=YES
idle_session_timeout={idle_timeout}
xferlog_enable=NO
"""
    )
    # vsftpd reads only what its user owns, and wants no other argument. It says why it cannot start
    # on its standard input, where a client would be.
    command = ["/bin/sh", "-c", 'exec "$@" 0>&1', "sh", program, config]
    with running(command, directory / "vsftpd.log", env=base_env()) as process:
        process.wait_for_port(port, lambda: answers(port))
        yield Vsftpd(LOOPBACK, port, root, prefix="" if is_root else str(root))
