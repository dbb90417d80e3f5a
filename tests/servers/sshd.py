"""SFTP: OpenSSH's own server, with a host key, a user key and an account of this machine.

It knows no passwords (``UsePAM no``): for those there is :mod:`tests.servers.asyncssh_server`.
It runs as the user who runs the tests, so it is not chrooted: tests write below
:meth:`Sshd.new_root`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import (
    LOOPBACK,
    Process,
    any_port,
    base_env,
    find_program,
    on_free_ports,
    running,
)

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Sshd:
    """A running OpenSSH server."""

    host: str
    port: int
    user: str
    #: The user's private key.
    identity: Path
    #: A ``known_hosts`` file that knows this server.
    known_hosts: Path
    #: A directory that only the tests write in.
    root: Path
    process: Process

    @property
    def url(self) -> str:
        return f"sftp://{self.user}@{self.host}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """Nothing: SFTP is configured by files, see `set_up_home`."""
        return {}

    def set_up_home(self, home: Path, *, alias: str | None = None, trust: bool = True) -> Path:
        """Write ``~/.ssh`` as a user of this server has it, and return that directory.

        Parameters
        ----------
        home
            The home directory.
        alias
            Also write an ``ssh_config`` where this name stands for the server, its port, user
            and key. Without it the key has the name of a default key.
        trust
            Know the server's host key.
        """
        folder = home / ".ssh"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = folder / ("key-of-alias" if alias else "id_ed25519")
        key.write_bytes(self.identity.read_bytes())
        key.chmod(0o600)
        if trust:
            (folder / "known_hosts").write_bytes(self.known_hosts.read_bytes())
        if alias:
            (folder / "config").write_text(
                f"Host {alias}\n  HostName {self.host}\n  Port {self.port}\n"
                f"  User {self.user}\n  IdentityFile {key}\n"
            )
        return folder

    def set_up_home_for_pysftp(self, home: Path) -> None:
        """Write ``~/.ssh`` as MLflow's client needs it.

        pysftp reads RSA keys alone, those that the configuration names, and looks a host up by
        its name alone, whatever its port.
        """
        self.set_up_home(home)
        key = home / ".ssh" / "id_rsa"
        _generate_key(key, "rsa")
        with (self.root.parent / "authorized_keys").open("ab") as file:
            file.write(key.with_suffix(".pub").read_bytes())
        (home / ".ssh" / "config").write_text(f"Host {self.host}\n  IdentityFile {key}\n")
        with (home / ".ssh" / "known_hosts").open("a") as file:
            file.write(
                self.known_hosts.read_text().replace(f"[{self.host}]:{self.port}", self.host)
            )

    def new_root(self) -> str:
        """Return the URI of a fresh directory."""
        folder = self.root / f"root-{next(_numbers)}"
        folder.mkdir()
        return f"{self.url}{folder}"


def _generate_key(path: Path, kind: str = "ed25519") -> None:
    keygen = find_program("ssh-keygen")
    # As PEM, which pysftp's paramiko can read.
    subprocess.run([keygen, "-q", "-t", kind, "-m", "PEM", "-N", "", "-f", path], check=True)


@on_free_ports
@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Sshd]:
    """Run sshd in the foreground, with every file of its own below `directory`."""
    program = find_program("sshd")
    sftp_root = directory / "sftp"
    sftp_root.mkdir(parents=True)
    host_key, identity = directory / "host_key", directory / "identity"
    _generate_key(host_key)
    _generate_key(identity)
    (directory / "authorized_keys").write_bytes(identity.with_suffix(".pub").read_bytes())
    if os.geteuid() == 0:
        # Debian's sshd wants its separation directory, which only its service script makes.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = any_port()
    config = directory / "sshd_config"
    config.write_text(
        f"""\
Port {port}
ListenAddress {LOOPBACK}
HostKey {host_key}
AuthorizedKeysFile {directory / "authorized_keys"}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
UseDNS no
Subsystem sftp internal-sftp
# Enough for a test with many threads that all connect at once.
MaxStartups 100:30:200
MaxSessions 100
"""
    )
    # sshd re-executes itself, so it insists on an absolute path.
    command = [program.resolve(), "-D", "-e", "-f", config.resolve()]
    with running(command, directory / "sshd.log", env=base_env()) as process:
        process.wait_for_port(port, lambda: _greets(port))
        known = directory / "known_hosts"
        kind, key = host_key.with_suffix(".pub").read_text().split()[:2]
        known.write_text(f"[{LOOPBACK}]:{port} {kind} {key}\n")
        yield Sshd(LOOPBACK, port, getpass.getuser(), identity, known, sftp_root, process)


def _greets(port: int) -> bool:
    with socket.create_connection((LOOPBACK, port), timeout=5) as connection:
        return connection.recv(4) == b"SSH-"
