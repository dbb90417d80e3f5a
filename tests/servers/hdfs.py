"""HDFS 3.3.6: a NameNode and a DataNode, with a private Kerberos realm if asked.

`Hdfs.env` is what a client of pyarrow needs. libhdfs starts a Java machine in the process that uses
it first, with the ``CLASSPATH`` of that moment; it cannot be ended, and later changes of the
environment do not reach it. So

- the fixture ``hdfs`` calls :func:`load_libhdfs` once a worker: after it, tests in the process use
  this server whatever their environment says;
- what needs another class path, another Kerberos cache or no libhdfs at all belongs in a child
  process: ``subprocess.run([sys.executable, ...], env=os.environ | server.env)``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from tests.servers import kerberos
from tests.servers.cache import CACHE
from tests.servers.process import (
    LOOPBACK,
    Process,
    ServerUnavailable,
    any_port,
    base_env,
    on_free_ports,
    running,
)

_numbers = itertools.count(1)

#: Where a client that asks for names (``dfs.client.use.datanode.hostname``) looks for the DataNode;
#: others use its address. Nobody listens there, unless a test stands in between.
BY_NAME = "127.0.0.2"

_JAVA_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

# The DataNode logs to "clienttrace" after it has queued "block received" for the NameNode and
# before it answers the client. On loopback the client's "complete" else overtakes that report, and
# the client sleeps 0.4 s: so the log line takes 5 ms (lab.Nap).
_LOG4J = """\
log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
log4j.logger.org.apache.hadoop.util.NativeCodeLoader=ERROR
log4j.appender.nap=lab.Nap
log4j.logger.org.apache.hadoop.hdfs.server.datanode.DataNode.clienttrace=INFO,nap
"""

# Clients get the class path too; they log what is worth an error.
_CLIENT_LOG4J = """\
log4j.rootLogger=ERROR,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
"""


@dataclasses.dataclass(frozen=True)
class Hdfs:
    """A running HDFS."""

    host: str
    port: int
    #: The directory of ``core-site.xml`` and ``hdfs-site.xml`` for clients.
    conf: Path
    #: The user whom the NameNode started as: its superuser.
    user: str
    namenode: Process
    datanode: Process
    #: Where the DataNode listens, on `LOOPBACK`.
    datanode_port: int
    #: The realm, its users and their ticket caches, on a server with Kerberos.
    realm: kerberos.Realm | None = None

    @property
    def url(self) -> str:
        return f"hdfs://{self.host}:{self.port}"

    @property
    def class_path(self) -> str:
        """The class path of a client; libhdfs expands no wildcards."""
        jars = sorted(map(str, (CACHE / "hdfs" / "lib").glob("*.jar")))
        return os.pathsep.join([str(self.conf), str(CACHE / "hdfs" / "stub"), *jars])

    @property
    def env(self) -> dict[str, str]:
        options = ["-Xmx256m", "-XX:+UseSerialGC"]
        if self.realm:
            options.append(f"-Djava.security.krb5.conf={self.realm.conf}")
        env = {
            "JAVA_HOME": _java_home(),
            "ARROW_LIBHDFS_DIR": str(CACHE / "hdfs" / "native"),
            "CLASSPATH": self.class_path,
            "HADOOP_CONF_DIR": str(self.conf),
            "LIBHDFS_OPTS": " ".join(options),
        }
        return env | (self.realm.env if self.realm else {})

    def new_root(self) -> str:
        """Return the URI of a directory that does not exist yet; its parent is ``/``."""
        return f"{self.url}/root-{next(_numbers)}"


def load_libhdfs(server: Hdfs) -> None:
    """Start this process's Java machine with the server's class path; the environment stays."""
    import pyarrow.fs

    before = dict(os.environ)
    # As the library starts it: a test may send its process a signal.
    os.environ.update(server.env)
    os.environ["LIBHDFS_OPTS"] += " -Xrs"
    try:
        pyarrow.fs.HadoopFileSystem(server.host, server.port).get_file_info("/")
    except OSError as exc:
        raise ServerUnavailable(f"libhdfs cannot be loaded: {exc}") from exc
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def serve_here(directory: Path) -> Iterator[Hdfs]:
    """Run HDFS, with libhdfs loaded into this process for it."""
    with serve(directory) as server:
        load_libhdfs(server)
        yield server


def _java_home() -> str:
    try:
        stamp = (CACHE / "hdfs" / "stamp").read_text()
    except FileNotFoundError:
        raise ServerUnavailable("HDFS is not built") from None
    home = dict(line.split("=", 1) for line in stamp.splitlines())["JAVA_HOME"]
    if not Path(home, "bin", "java").exists():
        raise ServerUnavailable(f"HDFS was built for a JDK that is gone: {home}")
    return home


def _write_xml(path: Path, settings: dict[str, object]) -> None:
    properties = "\n".join(
        f"<property><name>{name}</name><value>{escape(str(value))}</value></property>"
        for name, value in settings.items()
    )
    path.write_text(f"<configuration>\n{properties}\n</configuration>\n")


@on_free_ports
@contextlib.contextmanager
def serve(directory: Path, *, with_kerberos: bool = False) -> Iterator[Hdfs]:
    """Format and start a NameNode and a DataNode.

    Parameters
    ----------
    directory
        Where their data, configuration and logs lie.
    with_kerberos
        Also run a KDC, and let nobody in without a ticket.
    """
    java = Path(_java_home(), "bin", "java")
    with contextlib.ExitStack() as stack:
        realm = None
        if with_kerberos:
            realm = stack.enter_context(kerberos.serve(directory / "kerberos"))
        # A Kerberos principal names its host, and loopback's name is this.
        host = "localhost" if realm else LOOPBACK
        port, datanode_port = any_port(), any_port()
        conf = directory / "conf"
        conf.mkdir(parents=True)
        server_conf = directory / "server-conf"
        server_conf.mkdir()
        core: dict[str, object] = {
            "fs.defaultFS": f"hdfs://{host}:{port}",
            "hadoop.tmp.dir": directory / "data" / "tmp",
        }
        hdfs: dict[str, object] = {
            "dfs.replication": 1,
            "dfs.namenode.name.dir": f"file://{directory}/data/name",
            "dfs.datanode.data.dir": f"file://{directory}/data/blocks",
            "dfs.namenode.http-address": f"{LOOPBACK}:{any_port()}",
            "dfs.namenode.safemode.extension": 0,
            "dfs.datanode.address": f"{LOOPBACK}:{datanode_port}",
            "dfs.datanode.ipc.address": f"{LOOPBACK}:{any_port()}",
            "dfs.datanode.http.address": f"{LOOPBACK}:{any_port()}",
            "dfs.datanode.hostname": host if realm else BY_NAME,
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.namenode.redundancy.considerLoad": "false",
            # There is one DataNode: without it nobody could append to a file of replication 3.
            "dfs.client.block.write.replace-datanode-on-failure.policy": "NEVER",
            # The client must not wait 0.4 s in each close().
            "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": 5,
            "dfs.client.block.write.locateFollowingBlock.retries": 12,
            # The tests may run on a nearly full disk.
            "dfs.datanode.du.reserved": 0,
            "dfs.namenode.resource.du.reserved": 0,
        }
        options = [*_JAVA_OPTIONS, f"-Djava.io.tmpdir={directory}"]
        if realm:
            core |= {
                "hadoop.security.authentication": "kerberos",
                "hadoop.security.authorization": "true",
            }
            hdfs |= {
                "dfs.block.access.token.enable": "true",
                "ignore.secure.ports.for.testing": "true",
                "dfs.namenode.kerberos.principal": realm.service,
                "dfs.namenode.keytab.file": realm.service_keytab,
                "dfs.datanode.kerberos.principal": realm.service,
                "dfs.datanode.keytab.file": realm.service_keytab,
                "dfs.web.authentication.kerberos.principal": realm.web_service,
                "dfs.web.authentication.kerberos.keytab": realm.service_keytab,
            }
            options.append(f"-Djava.security.krb5.conf={realm.conf}")
        for folder, log4j in ((conf, _CLIENT_LOG4J), (server_conf, _LOG4J)):
            _write_xml(folder / "core-site.xml", core)
            _write_xml(folder / "hdfs-site.xml", hdfs)
            (folder / "log4j.properties").write_text(log4j)

        cache = CACHE / "hdfs"
        class_path = os.pathsep.join(
            map(str, (server_conf, cache / "stub", cache / "webapps", cache / "lib" / "*"))
        )
        command = [str(java), *options, "-cp", class_path]
        package = "org.apache.hadoop.hdfs.server"
        env = base_env()
        formatted = subprocess.run(
            [*command, f"{package}.namenode.NameNode", "-format", "-nonInteractive"],
            capture_output=True,
            text=True,
            env=env,
            stdin=subprocess.DEVNULL,
        )
        if formatted.returncode:
            raise ServerUnavailable(f"NameNode -format failed\n{formatted.stderr[-2000:]}")
        processes = [
            stack.enter_context(running([*command, main], directory / log, env=env))
            for main, log in (
                (f"{package}.namenode.NameNode", "namenode.log"),
                (f"{package}.datanode.DataNode", "datanode.log"),
            )
        ]
        namenode, datanode = processes
        # The DataNode says so when the NameNode has answered its report: from then on the
        # NameNode, which left safe mode before, knows where to put a block.
        datanode.wait_until(
            lambda: (
                namenode.popen.poll() is not None
                or "Successfully sent block report" in datanode.log.read_text(errors="replace")
            ),
            timeout=90,
        )
        # Fails, with the NameNode's log, where it was the NameNode that ended the wait.
        namenode.wait_until(lambda: True)
        user = realm.superuser if realm else getpass.getuser()
        yield Hdfs(host, port, conf, user, namenode, datanode, datanode_port, realm)
