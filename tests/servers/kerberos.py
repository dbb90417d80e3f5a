"""A private Kerberos realm on loopback: MIT's KDC, unpacked by ``install.sh kerberos``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers.cache import CACHE
from tests.servers.process import (
    LOOPBACK,
    ServerUnavailable,
    any_port,
    base_env,
    on_free_ports,
    running,
)

REALM = "LAB.TEST"


@dataclasses.dataclass(frozen=True)
class Realm:
    """A running realm with a service and two users."""

    #: ``krb5.conf``.
    conf: Path
    directory: Path
    #: Principals.
    service: str = f"hdfs/localhost@{REALM}"
    web_service: str = f"HTTP/localhost@{REALM}"
    superuser: str = "hdfs"

    @property
    def service_keytab(self) -> Path:
        return self.directory / "service.keytab"

    @property
    def env(self) -> dict[str, str]:
        """What every client of the realm needs; the ticket is the user's."""
        return {"KRB5_CONFIG": str(self.conf)}

    def ticket(self, user: str) -> Path:
        """Return the ticket cache of ``alice``, ``bob`` or the superuser ``hdfs``."""
        return self.directory / f"{user}.cc"


def _tool(name: str) -> Path:
    root = CACHE / "kerberos" / "root"
    for folder in ("usr/sbin", "usr/bin"):
        if (root / folder / name).exists():
            return root / folder / name
    raise ServerUnavailable(f"{name} is not unpacked")


def _libraries() -> list[Path]:
    """Return the folders of the unpacked libraries, whatever the machine's architecture."""
    root = CACHE / "kerberos" / "root"
    folders = {path.parent for path in root.glob("**/lib*.so.*")}
    return sorted(folders)


@on_free_ports
@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Realm]:
    """Make a realm, run its KDC and get a ticket for each user."""
    kdc = _tool("krb5kdc")
    directory.mkdir(parents=True)
    port = any_port()
    realm = Realm(directory / "krb5.conf", directory)
    plugins = next((CACHE / "kerberos" / "root").glob("usr/lib/*/krb5/plugins/kdb"))
    realm.conf.write_text(
        f"""\
[libdefaults]
 default_realm = {REALM}
 dns_lookup_realm = false
 dns_lookup_kdc = false
 rdns = false
 dns_canonicalize_hostname = false
 udp_preference_limit = 1
[realms]
 {REALM} = {{
  kdc = {LOOPBACK}:{port}
 }}
"""
    )
    (directory / "kdc.conf").write_text(
        f"""\
[kdcdefaults]
 kdc_listen = {LOOPBACK}:{port}
 kdc_tcp_listen = {LOOPBACK}:{port}
[realms]
 {REALM} = {{
  database_name = {directory}/principal
  key_stash_file = {directory}/stash
  supported_enctypes = aes256-cts:normal aes128-cts:normal
 }}
[dbmodules]
 db_module_dir = {plugins}
"""
    )
    env = base_env(
        KRB5_CONFIG=str(realm.conf),
        KRB5_KDC_PROFILE=str(directory / "kdc.conf"),
        LD_LIBRARY_PATH=os.pathsep.join(map(str, _libraries())),
    )

    def call(tool: str, *arguments: str) -> None:
        done = subprocess.run(
            [_tool(tool), *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        # kadmin.local exits with 0 whatever happened.
        if done.returncode or "while" in done.stderr:
            raise ServerUnavailable(f"{tool} {' '.join(arguments)}\n{done.stderr}")

    def kadmin(query: str) -> None:
        call("kadmin.local", "-q", query)

    call("kdb5_util", "create", "-s", "-r", REALM, "-P", "master")
    for principal in (realm.service, realm.web_service, "alice", "bob"):
        kadmin(f"addprinc -randkey {principal}")
    kadmin(f"ktadd -k {realm.service_keytab} {realm.service} {realm.web_service}")
    for user in ("alice", "bob"):
        kadmin(f"ktadd -k {directory}/{user}.keytab {user}")
    with running([kdc, "-n"], directory / "kdc.log", env=env) as process:
        process.wait_for_port(port)
        # The superuser is the service's own principal: Hadoop takes the part before the slash.
        for user, principal, keytab in (
            ("hdfs", realm.service, realm.service_keytab),
            ("alice", "alice", directory / "alice.keytab"),
            ("bob", "bob", directory / "bob.keytab"),
        ):
            cache = str(realm.ticket(user))
            call("kinit", "-k", "-t", str(keytab), "-c", cache, principal)
        yield realm
