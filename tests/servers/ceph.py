"""S3: Ceph's RADOS gateway over one monitor and one object store in memory.

Slower to install than moto (Debian's radosgw ceph-mon ceph-osd ceph-common) and closer to what
users have: real signatures, ranges, multipart uploads and copies. The benchmarks use it, because
moto copies the whole object at every ranged read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import (
    LOOPBACK,
    Process,
    ServerUnavailable,
    any_port,
    base_env,
    find_program,
    on_free_ports,
    running,
)

# `ms mon client mode = crc`: without it radosgw never comes up. `tcp_nodelay`: without it every
# small ranged read takes 44 ms.
_CONFIGURATION = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = [v2:{host}:{mon_port}]
public addr = {host}
cluster addr = {host}
ms bind ipv6 = false
ms bind msgr1 = false
ms mon client mode = crc
ms client mode = crc
ms service mode = crc
ms cluster mode = crc
auth cluster required = none
auth service required = none
auth client required = none
run dir = {directory}/run
log file = {directory}/$name.log
admin socket = {directory}/run/$name.asok
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
osd pg stat report interval max = 5
paxos propose interval = 0.05
paxos min wait = 0.01
[mon]
mon data = {directory}/mon
[osd]
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
[client.rgw]
rgw data = {directory}/rgw
rgw frontends = beast endpoint={host}:{port} tcp_nodelay=1
rgw enable usage log = false
rgw enable ops log = false
rgw enable apis = s3, admin
"""


@dataclasses.dataclass(frozen=True)
class Ceph:
    """A running gateway."""

    url: str
    process: Process
    #: The configuration that its programs are called with.
    configuration: Path
    key: str = "testkey"
    secret: str = "testsecret"
    region: str = "us-east-1"

    @property
    def env(self) -> dict[str, str]:
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def collect(self) -> None:
        """Free what deleted objects took, which the gateway keeps for hours."""
        subprocess.run(
            [find_program("radosgw-admin"), "gc", "process", "--include-all"],
            env=base_env(CEPH_CONF=str(self.configuration)),
            check=True,
            capture_output=True,
            timeout=60,
        )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code in {403, 404}


@on_free_ports
@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Ceph]:
    """Run the gateway, its object store and its monitor."""
    programs = {
        name: str(find_program(name))
        for name in ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    }
    for name in ("mon", "osd", "rgw", "run"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    port, mon_port, fsid = any_port(), any_port(), str(uuid.uuid4())
    configuration = directory / "ceph.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            fsid=fsid, host=LOOPBACK, port=port, mon_port=mon_port, directory=directory
        )
    )
    env = base_env(CEPH_CONF=str(configuration))

    def run(name: str, *arguments: str) -> str:
        command = [programs[name], *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise ServerUnavailable(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    monmap = str(directory / "monmap")
    address = f"[v2:{LOOPBACK}:{mon_port}]"
    run("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, monmap)
    run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)

    def daemon(name: str, *arguments: str) -> contextlib.AbstractContextManager[Process]:
        return running([programs[name], "-f", *arguments], directory / f"{name}.out", env=env)

    with contextlib.ExitStack() as stack:
        stack.enter_context(daemon("ceph-mon", "-i", "a"))
        run("ceph", "--connect-timeout", "20", "osd", "new", str(uuid.uuid4()))
        osd = json.loads(run("ceph", "osd", "dump", "-f", "json"))["osds"][0]["uuid"]
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        run("ceph", "osd", "crush", "add", "osd.0", "1.0", "host=localhost", "root=default")
        storing = stack.enter_context(daemon("ceph-osd", "-i", "0"))
        storing.wait_until(lambda: "1 up" in run("ceph", "osd", "stat"))
        user = ("user", "create", "--uid=test", "--display-name=test")
        run("radosgw-admin", *user, f"--access-key={Ceph.key}", f"--secret-key={Ceph.secret}")
        gateway = stack.enter_context(daemon("radosgw", "-n", "client.rgw"))
        url = f"http://{LOOPBACK}:{port}"
        gateway.wait_for_port(port, lambda: _answers(url), timeout=60)
        yield Ceph(url, gateway, configuration)
