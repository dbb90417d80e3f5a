"""Each server really works, through the raw driver that our filesystems stand on."""

from __future__ import annotations

import ftplib
import os
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.servers.asyncssh_server import AsyncsshServer
from tests.servers.azurite import Azurite
from tests.servers.gcs import GcsEmulator
from tests.servers.hdfs import Hdfs
from tests.servers.mlflow_server import MlflowServer
from tests.servers.moto import Moto
from tests.servers.pyftpd import Ftp
from tests.servers.silent import Hanging
from tests.servers.sshd import Sshd
from tests.servers.static_http import StaticHttp
from tests.servers.vsftpd import Vsftpd

DATA = bytes(range(256)) * 40


def exercise(fs: object, root: str) -> None:
    """Write, read, list and delete."""
    name = f"{root}/folder/data.bin"
    fs.pipe_file(name, DATA)
    assert fs.cat_file(name) == DATA
    assert fs.info(name)["size"] == len(DATA)
    assert [Path(found).name for found in fs.find(root)] == ["data.bin"]
    fs.rm(f"{root}/folder", recursive=True)
    assert not fs.exists(name)


def test_s3(moto_server: Moto) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(
        key=moto_server.key, secret=moto_server.secret, endpoint_url=moto_server.url
    )
    exercise(fs, moto_server.new_bucket())


def test_s3_over_tls(moto_server_tls: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    server = moto_server_tls
    bucket = server.new_bucket()
    monkeypatch.setenv("AWS_CA_BUNDLE", server.env["AWS_CA_BUNDLE"])
    fs = s3fs.S3FileSystem(key=server.key, secret=server.secret, endpoint_url=server.url)
    exercise(fs, bucket)


def test_azure(azurite: Azurite) -> None:
    import adlfs

    fs = adlfs.AzureBlobFileSystem(connection_string=azurite.connection_string)
    exercise(fs, azurite.new_container())


def test_gcs(gcs_emulator: GcsEmulator) -> None:
    import gcsfs

    fs = gcsfs.GCSFileSystem(token="anon", endpoint_url=gcs_emulator.url)
    exercise(fs, gcs_emulator.new_bucket())


def test_sftp(sshd: Sshd) -> None:
    import sshfs

    fs = sshfs.SSHFileSystem(
        sshd.host,
        port=sshd.port,
        username=sshd.user,
        client_keys=[str(sshd.identity)],
        known_hosts=str(sshd.known_hosts),
    )
    root = sshd.new_root().removeprefix(sshd.url)
    fs.makedirs(f"{root}/folder")
    exercise(fs, root)


def test_sftp_with_a_home(sshd: Sshd) -> None:
    """The files of a user's ``~/.ssh`` are enough, and the host key is verified."""
    import asyncssh
    import sshfs

    sshd.set_up_home(Path.home(), alias="artifacts", trust=False)
    options = {"known_hosts": (), "config": [str(Path.home() / ".ssh" / "config")]}
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        sshfs.SSHFileSystem("artifacts", **options)
    sshd.set_up_home(Path.home(), alias="artifacts")
    assert sshfs.SSHFileSystem("artifacts", **options).exists(
        sshd.new_root().removeprefix(sshd.url)
    )


def test_sftp_with_a_password(asyncssh_server: AsyncsshServer) -> None:
    import sshfs

    server = asyncssh_server
    options = {"port": server.port, "username": server.user}
    options["known_hosts"] = str(server.known_hosts)
    fs = sshfs.SSHFileSystem(server.host, password=server.password, **options)
    root = server.new_root().removeprefix(server.url)
    fs.makedirs(f"{root}/folder")
    exercise(fs, root)
    with pytest.raises(PermissionError):
        sshfs.SSHFileSystem(server.host, password="wrong", **options)
    assert server.drop_connections() >= 1


def exercise_ftp(client: ftplib.FTP, root: str) -> None:
    """Write, read, list and delete, with names that are not ASCII."""
    client.encoding = "utf-8"
    client.cwd(root)
    client.mkd("földer")
    with client.transfercmd("STOR földer/a b.bin") as connection:
        connection.sendall(DATA)
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()
    client.voidresp()
    received = bytearray()
    client.retrbinary("RETR földer/a b.bin", received.extend)
    assert bytes(received) == DATA
    assert [Path(found).name for found in client.nlst("földer")] == ["a b.bin"]
    client.delete("földer/a b.bin")
    client.rmd("földer")


def test_ftp(pyftpd: Ftp) -> None:
    with ftplib.FTP() as client:
        client.connect(pyftpd.host, pyftpd.port, timeout=10)
        with pytest.raises(ftplib.error_perm, match="530"):
            client.login(pyftpd.user, "wrong")
        client.login(pyftpd.user, pyftpd.password)
        exercise_ftp(client, pyftpd.new_root().removeprefix(pyftpd.url))
        assert list(client.mlsd("/"))


def test_ftp_over_tls(pyftpd_tls: Ftp) -> None:
    context = ssl.create_default_context(cafile=str(pyftpd_tls.ca))
    with ftplib.FTP_TLS(context=context) as client:
        client.connect(pyftpd_tls.host, pyftpd_tls.port, timeout=10)
        client.login(pyftpd_tls.user, pyftpd_tls.password)
        client.prot_p()
        exercise_ftp(client, pyftpd_tls.new_root().removeprefix(pyftpd_tls.url))


def test_ftp_over_tls_refuses_the_clear(pyftpd_tls: Ftp) -> None:
    with ftplib.FTP() as client:
        client.connect(pyftpd_tls.host, pyftpd_tls.port, timeout=10)
        with pytest.raises(ftplib.error_perm, match="550"):
            client.login(pyftpd_tls.user, pyftpd_tls.password)


def test_ftp_without_mlsd(vsftpd: Vsftpd) -> None:
    with ftplib.FTP() as client:
        client.connect(vsftpd.host, vsftpd.port, timeout=10)
        client.login()
        exercise_ftp(client, vsftpd.new_root().removeprefix(vsftpd.url))
        with pytest.raises(ftplib.error_perm, match="500"):
            list(client.mlsd("/"))


def test_http(static_http: StaticHttp) -> None:
    import fsspec

    folder = static_http.new_folder()
    (folder / "a b#1?.bin").write_bytes(DATA)
    url = f"{static_http.url}/{folder.name}/a%20b%231%3F.bin"
    fs = fsspec.filesystem("http", encoded=True)
    assert fs.cat_file(url) == DATA
    assert fs.info(url)["size"] == len(DATA)
    static_http.requests.clear()
    assert fs.cat_file(url, start=10, end=20) == DATA[10:20]
    assert [(seen.status, seen.sent) for seen in static_http.requests] == [(206, 10)]
    assert fs.ls(f"{static_http.url}/{folder.name}/", detail=False) == [url]
    assert not fs.exists(f"{static_http.url}/{folder.name}/missing")


def ask(url: str, **headers: str) -> tuple[int, str, bytes]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers["Content-Range"], response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Range"], error.read()


def test_http_ranges(static_http: StaticHttp) -> None:
    folder = static_http.new_folder()
    (folder / "digits").write_bytes(b"0123456789")
    url = f"{static_http.url}/{folder.name}/digits"
    assert ask(url) == (200, None, b"0123456789")
    assert ask(url, Range="bytes=2-4") == (206, "bytes 2-4/10", b"234")
    assert ask(url, Range="bytes=7-") == (206, "bytes 7-9/10", b"789")
    assert ask(url, Range="bytes=7-99") == (206, "bytes 7-9/10", b"789")
    assert ask(url, Range="bytes=-3") == (206, "bytes 7-9/10", b"789")
    assert ask(url, Range="bytes=10-") == (416, "bytes */10", b"")


def test_mlflow(mlflow_server: MlflowServer) -> None:
    run = mlflow_server.new_run()
    assert run["artifact_uri"].startswith("mlflow-artifacts:/")
    path = f"/api/2.0/mlflow-artifacts/artifacts/{run['experiment_id']}/{run['run_id']}"
    url = f"{mlflow_server.url}{path}/artifacts/data.bin"
    request = urllib.request.Request(url, method="PUT", data=DATA)
    urllib.request.urlopen(request, timeout=10).close()
    assert ask(url)[2] == DATA
    listed = mlflow_server.api("GET", f"artifacts/list?run_id={run['run_id']}")
    assert [file["path"] for file in listed["files"]] == ["data.bin"]


def test_hanging(hanging_server: Hanging) -> None:
    with socket.create_connection((hanging_server.host, hanging_server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_refusing(refused_port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", refused_port))


def test_hdfs(hdfs: Hdfs) -> None:
    """libhdfs is loaded by the fixture: the test's own environment has no class path."""
    from fsspec.implementations.arrow import HadoopFileSystem

    assert "CLASSPATH" not in os.environ
    fs = HadoopFileSystem(hdfs.host, hdfs.port, replication=1)
    root = hdfs.new_root().removeprefix(hdfs.url)
    fs.makedirs(f"{root}/folder")
    exercise(fs, root)


def test_hdfs_without_a_jvm(hdfs: Hdfs) -> None:
    from hdfs_native.fsspec import HdfsFileSystem

    fs = HdfsFileSystem(hdfs.host, hdfs.port)
    root = hdfs.new_root().removeprefix(hdfs.url)
    fs.makedirs(f"{root}/folder")
    exercise(fs, root)
    fs.makedirs(root, exist_ok=True)
    assert fs.info(root)["owner"] == hdfs.user


#: Writes with each driver as alice and reads with the other; the superuser makes her directory.
KERBEROS = """
import os, sys
from fsspec.implementations.arrow import HadoopFileSystem
from hdfs_native import Client
from hdfs_native.fsspec import HdfsFileSystem

host, port, superuser, alice = sys.argv[1:]
os.environ["KRB5CCNAME"] = superuser
client = Client(f"hdfs://{host}:{port}")
client.mkdirs("/open", 0o777, True)
client.set_permission("/open", 0o777)
os.environ["KRB5CCNAME"] = alice
arrow = HadoopFileSystem(host, int(port), replication=1, kerb_ticket=alice)
native = HdfsFileSystem(host, int(port))
for writer, reader in ((arrow, native), (native, arrow)):
    name = f"/open/{type(writer).__name__}"
    with writer.open(name, "wb") as file:
        file.write(b"content")
    assert reader.cat_file(name) == b"content"
    assert native.info(name)["owner"] == "alice", native.info(name)
"""


def test_hdfs_with_kerberos(hdfs_kerberos: Hdfs) -> None:
    server, realm = hdfs_kerberos, hdfs_kerberos.realm
    assert realm is not None
    arguments = [
        server.host,
        str(server.port),
        str(realm.ticket("hdfs")),
        str(realm.ticket("alice")),
    ]
    done = subprocess.run(
        [sys.executable, "-c", KERBEROS, *arguments],
        env=os.environ | server.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
