"""What only SFTP has: SSH's settings, host keys, connections that are lost, servers that lack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import sshfs
from asyncssh.sftp import (
    FXP_CLOSE,
    FXP_FSTAT,
    FXP_OPEN,
    FXP_READ,
    FXP_WRITE,
    SFTPClientHandler,
    SFTPServerHandler,
)

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.promises import synced
from mlartifacts.stores.sftp import STORE
from mlartifacts.stores.sftp.files import PIECE
from tests.servers.asyncssh_server import AsyncsshServer
from tests.servers.process import (
    LOOPBACK,
    any_port,
    base_env,
    find_program,
    on_free_ports,
    running,
)
from tests.servers.silent import Hanging
from tests.servers.sshd import Sshd
from tests.servers.tcp_proxy import Proxy, proxied

TIMEOUT = "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT"


@pytest.fixture
def base(sshd: Sshd) -> str:
    """A fresh directory on sshd, for a user with a key and a known host."""
    sshd.set_up_home(Path.home())
    return sshd.new_root()


@pytest.fixture
def located(base: str) -> tuple[Any, str]:
    return mlartifacts.url_to_fs(base)


@pytest.fixture
def proxy(sshd: Sshd, base: str) -> Iterator[Proxy]:
    """A proxy before sshd, as known as sshd is."""
    with proxied(sshd.url) as proxy:
        known = Path.home() / ".ssh" / "known_hosts"
        key = known.read_text().split(" ", 1)[1]
        with known.open("a") as file:
            file.write(f"[{proxy.host}]:{proxy.port} {key}")
        yield proxy


@pytest.fixture
def through(sshd: Sshd, base: str, proxy: Proxy) -> tuple[Any, str]:
    """The directory through the proxy."""
    return mlartifacts.url_to_fs(base.replace(f":{sshd.port}", f":{proxy.port}"))


class Requests:
    """Counts what every SFTP client of this process sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        send = SFTPClientHandler._send_request

        def counting(handler: Any, *args: Any) -> Any:
            self.sent += 1
            return send(handler, *args)

        monkeypatch.setattr(SFTPClientHandler, "_send_request", counting)

    def of(self, call: Callable[[], object]) -> int:
        before = self.sent
        call()
        return self.sent - before


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


def lacking(monkeypatch: pytest.MonkeyPatch, *extensions: bytes) -> None:
    """Take extensions away from asyncssh's servers."""
    kept = [pair for pair in SFTPServerHandler._extensions if pair[0] not in extensions]
    monkeypatch.setattr(SFTPServerHandler, "_extensions", kept)


# ---- URIs --------------------------------------------------------------------------------


def test_grammar() -> None:
    """URI, host, port, user, password, path."""
    table: list[tuple[str, str, int | None, str | None, str | None, str]] = [
        ("sftp://u@h/a/b", "h", None, "u", None, "/a/b"),
        ("ssh://u@h/a/b", "h", None, "u", None, "/a/b"),
        ("SFTP://h:2222/a", "h", 2222, None, None, "/a"),
        ("sftp://Alias/a", "Alias", None, None, None, "/a"),
        ("sftp://h:/a", "h", None, None, None, "/a"),
        ("sftp://[::1]/a", "::1", None, None, None, "/a"),
        ("sftp://u@[fe80::1%eth0]:22/a", "fe80::1%eth0", 22, "u", None, "/a"),
        ("sftp://u:p%40s%3As%2Fw%2541@h/a", "h", None, "u", "p@s:s/w%41", "/a"),
        ("sftp://u:a@b@h/a", "h", None, "u", "a@b", "/a"),
        ("sftp://do%40main@h/a", "h", None, "do@main", None, "/a"),
        ("sftp://u:@h/a", "h", None, "u", "", "/a"),
        ("sftp://@h/a", "h", None, None, None, "/a"),
        ("sftp://h", "h", None, None, None, "/"),
        ("sftp://h/", "h", None, None, None, "/"),
        ("sftp://h/a/", "h", None, None, None, "/a"),
        ("sftp:///a", "localhost", None, None, None, "/a"),
        ("sftp:/a", "localhost", None, None, None, "/a"),
        ("sftp://h/a b#c?d%41+[1]*é", "h", None, None, None, "/a b#c?d%41+[1]*é"),
        ("sftp://h/~/a", "h", None, None, None, "/~/a"),
    ]
    for uri, host, port, user, password, path in table:
        place = mlartifacts.locate(uri)
        assert place.path == path, uri
        found = [place.options.get(name) for name in ("host", "port", "username", "password")]
        assert found == [host, port, user, password], uri
        assert place.options["known_hosts"] == (), uri
        assert "timeout" not in place.options


@pytest.mark.parametrize("uri", ["sftp://h:port/a", "sftp://h:0/a", "sftp://::1/a", "sftp:h/a"])
def test_bad_uri(uri: str) -> None:
    with pytest.raises(InvalidURI):
        mlartifacts.locate(uri)


def test_timeout_variable() -> None:
    root = mlartifacts.uri.parse("sftp://h")
    assert STORE.options(root, Environment({TIMEOUT: "7"}))["timeout"] == 7
    assert "timeout" not in STORE.options(root, Environment({TIMEOUT: "-1"}))


def test_explicit_options_win() -> None:
    place = mlartifacts.locate("sftp://u:p@h:1/a", username="v", port=2, known_hosts=None)
    assert [place.options[name] for name in ("username", "port")] == ["v", 2]
    assert place.options["known_hosts"] is None


def test_nothing_connects_until_it_is_used() -> None:
    assert mlartifacts.url_to_fs("sftp://nobody@host.invalid/a")[1] == "/a"


def test_relative_path_is_below_the_login_directory(located: tuple[Any, str]) -> None:
    fs, _ = located
    home = asyncio.run(_home(fs))
    assert {Path(name).name for name in fs.ls("", detail=False)} == set(os.listdir(home))
    assert fs._parent("a/b") == "a"
    assert fs._parent("/a") == "/"
    assert fs._parent("a") == ""


async def _home(fs: Any) -> str:
    async def ask(channel: Any) -> Any:
        return await channel.realpath(".")

    future = asyncio.run_coroutine_threadsafe(fs._run(ask), fs.loop)
    home: str = await asyncio.wrap_future(future)
    return home


def test_root_is_listed(located: tuple[Any, str]) -> None:
    assert "/tmp" in located[0].ls("/", detail=False)
    assert located[0].info("/")["name"] == "/"


def test_url_of_a_path(sshd: Sshd, located: tuple[Any, str]) -> None:
    fs, root = located
    assert fs.unstrip_protocol(f"{root}/a#b") == f"{sshd.url}{root}/a#b"
    assert mlartifacts.url_to_fs(fs.unstrip_protocol(root)) == (fs, root)


# ---- ssh_config, keys, agent -------------------------------------------------------------


def test_alias(sshd: Sshd) -> None:
    sshd.set_up_home(Path.home(), alias="Artifacts")
    root = sshd.new_root().removeprefix(sshd.url)
    with mlartifacts.open(f"sftp://Artifacts{root}/a", "wb") as file:
        file.write(b"data")
    assert Path(root, "a").read_bytes() == b"data"


def test_uri_wins_over_ssh_config(sshd: Sshd) -> None:
    config = sshd.set_up_home(Path.home(), alias="artifacts") / "config"
    text = config.read_text()
    config.write_text(
        text.replace(f"Port {sshd.port}", "Port 1").replace(f"User {sshd.user}", "User nobody")
    )
    fs, root = mlartifacts.url_to_fs(sshd.new_root().replace(sshd.host, "artifacts"))
    assert fs.isdir(root)


def test_identity_file_that_is_not_there(sshd: Sshd) -> None:
    """As ssh: the next one is tried, and no artifact is said to be missing."""
    config = sshd.set_up_home(Path.home(), alias="artifacts") / "config"
    config.write_text(f"IdentityFile ~/.ssh/absent\n{config.read_text()}")
    fs, root = mlartifacts.url_to_fs(sshd.new_root().replace(sshd.host, "artifacts"))
    assert fs.isdir(root)


def test_key_given_explicitly(sshd: Sshd, base: str) -> None:
    (Path.home() / ".ssh" / "id_ed25519").unlink()
    fs, root = mlartifacts.url_to_fs(base, client_keys=[str(sshd.identity)])
    assert fs.isdir(root)
    with pytest.raises(InvalidConfig, match="absent"):
        mlartifacts.filesystem(base, client_keys=["/absent"]).exists(root)


def test_ssh_config_that_cannot_be_read(base: str) -> None:
    (Path.home() / ".ssh" / "config").write_text("Port many\n")
    fs, root = mlartifacts.url_to_fs(base)
    with pytest.raises(InvalidConfig, match="Port"):
        fs.exists(root)


def test_agent(sshd: Sshd, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path.home() / ".ssh" / "id_ed25519").unlink()
    fs, root = mlartifacts.url_to_fs(base)
    with pytest.raises(PermissionError, match="refused the login"):
        fs.exists(root)
    with contextlib.ExitStack() as stack:
        # A socket's path is short.
        folder = Path(stack.enter_context(_short_folder()))
        program = find_program("ssh-agent")
        command = [program, "-D", "-a", str(folder / "agent")]
        agent = stack.enter_context(running(command, tmp_path / "agent.log", env=base_env()))
        agent.wait_until(lambda: (folder / "agent").is_socket())
        monkeypatch.setenv("SSH_AUTH_SOCK", str(folder / "agent"))
        subprocess.run(["ssh-add", "-q", sshd.identity], check=True)
        # Another environment: another filesystem.
        fs, root = mlartifacts.url_to_fs(base)
        assert fs.isdir(root)


@contextlib.contextmanager
def _short_folder() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield folder


def own_sshd(
    sshd: Sshd, folder: Path, extra: str = "", address: str = LOOPBACK
) -> contextlib.AbstractContextManager[int]:
    """Another OpenSSH server, with a host key of its own, for the same user."""
    folder.mkdir()
    key = folder / "host_key"
    keygen = find_program("ssh-keygen")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    keys = sshd.known_hosts.parent / "authorized_keys"

    @on_free_ports
    @contextlib.contextmanager
    def serve(directory: Path) -> Iterator[int]:
        directory.mkdir(exist_ok=True)
        port = any_port()
        config = directory / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress {address}\nHostKey {key}\nAuthorizedKeysFile {keys}\n"
            f"PidFile none\nStrictModes no\nUsePAM no\nUseDNS no\n{extra}\n"
        )
        command = [find_program("sshd").resolve(), "-D", "-e", "-f", config]
        with running(command, directory / "sshd.log", env=base_env()) as process:
            process.wait_for_port(port)
            yield port

    return serve(folder)


def _know(port: int, folder: Path, address: str = LOOPBACK) -> None:
    key = (folder / "host_key.pub").read_text()
    with (Path.home() / ".ssh" / "known_hosts").open("a") as file:
        file.write(f"[{address}]:{port} {key}")


def test_jump_host(sshd: Sshd, tmp_path: Path) -> None:
    """The target is reached through another sshd, and the host key of that one is verified too."""
    ssh = sshd.set_up_home(Path.home(), alias="inner")
    with own_sshd(sshd, tmp_path / "jump", "AllowTcpForwarding yes") as port:
        config = (ssh / "config").read_text()
        (ssh / "config").write_text(
            f"{config}  ProxyJump jump\n"
            f"Host jump\n  HostName {LOOPBACK}\n  Port {port}\n  User {sshd.user}\n"
            f"  IdentityFile {ssh / 'key-of-alias'}\n"
        )
        base = sshd.new_root().replace(f"{sshd.user}@{sshd.host}:{sshd.port}", "inner")
        fs, root = mlartifacts.url_to_fs(base)
        with pytest.raises(PermissionError, match=f"ssh-keyscan -p {port} {LOOPBACK}"):
            fs.exists(root)
        _know(port, tmp_path / "jump")
        fs.pipe_file(f"{root}/a", b"through")
        assert fs.cat_file(f"{root}/a") == b"through"
        log = (tmp_path / "jump" / "sshd.log").read_text()
        assert f"Accepted publickey for {sshd.user}" in log


def test_jump_host_that_is_down(sshd: Sshd, refused_port: int) -> None:
    config = sshd.set_up_home(Path.home(), alias="inner") / "config"
    config.write_text(f"{config.read_text()}  ProxyJump {LOOPBACK}:{refused_port}\n")
    fs = mlartifacts.filesystem("sftp://inner/")
    with pytest.raises(ConnectionRefusedError, match=str(refused_port)):
        fs.exists("/tmp")


def test_ipv6(sshd: Sshd, base: str, tmp_path: Path) -> None:
    try:
        with own_sshd(sshd, tmp_path / "six", "Subsystem sftp internal-sftp", "::1") as port:
            _know(port, tmp_path / "six", "::1")
            path = base.removeprefix(sshd.url)
            assert mlartifacts.filesystem(f"sftp://[::1]:{port}/").isdir(path)
    except OSError as error:  # pragma: no cover
        pytest.skip(f"no IPv6 here: {error}")


# ---- Host keys ---------------------------------------------------------------------------


def test_unknown_host(sshd: Sshd) -> None:
    """The message is a cure: what it says makes the host known."""
    sshd.set_up_home(Path.home(), trust=False)
    fs, root = mlartifacts.url_to_fs(sshd.new_root())
    with pytest.raises(PermissionError) as caught:
        fs.exists(root)
    text = str(caught.value)
    assert caught.value.filename == root
    assert isinstance(caught.value.__cause__, asyncssh.HostKeyNotVerifiable)
    assert "SHA256:" in text
    command = text.split("`")[1]
    assert command == f"ssh-keyscan -p {sshd.port} {sshd.host} >> ~/.ssh/known_hosts"
    home = {**os.environ, "HOME": str(Path.home())}
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, env=home)
    assert fs.isdir(root)


def test_changed_host_key(sshd: Sshd) -> None:
    known = sshd.set_up_home(Path.home()) / "known_hosts"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known.write_text(f"[{sshd.host}]:{sshd.port} {other}")
    fs, root = mlartifacts.url_to_fs(sshd.new_root())
    with pytest.raises(PermissionError, match="THE HOST KEY HAS CHANGED") as caught:
        fs.exists(root)
    assert f"ssh-keygen -R '[{sshd.host}]:{sshd.port}'" in str(caught.value)


def test_changed_kind_of_host_key(sshd: Sshd) -> None:
    known = sshd.set_up_home(Path.home()) / "known_hosts"
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    known.write_text(f"[{sshd.host}]:{sshd.port} {other}")
    fs, root = mlartifacts.url_to_fs(sshd.new_root())
    with pytest.raises(PermissionError, match="THE HOST KEY HAS CHANGED"):
        fs.exists(root)


def test_key_of_another_port_is_not_a_change(sshd: Sshd) -> None:
    known = sshd.set_up_home(Path.home()) / "known_hosts"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known.write_text(f"{sshd.host} {other}")
    fs, root = mlartifacts.url_to_fs(sshd.new_root())
    with pytest.raises(PermissionError, match="in no known_hosts file"):
        fs.exists(root)


def test_revoked_host_key(sshd: Sshd) -> None:
    known = sshd.set_up_home(Path.home()) / "known_hosts"
    known.write_text("@revoked " + known.read_text())
    fs, root = mlartifacts.url_to_fs(sshd.new_root())
    with pytest.raises(PermissionError, match="revoked"):
        fs.exists(root)


@pytest.mark.parametrize("absent", ["", " ~/.ssh/absent"])
def test_known_hosts_file_of_ssh_config(sshd: Sshd, absent: str) -> None:
    ssh = sshd.set_up_home(Path.home(), alias="artifacts", trust=False)
    shutil.copy(sshd.known_hosts, ssh / "elsewhere")
    with (ssh / "config").open("a") as file:
        file.write(f"  UserKnownHostsFile ~/.ssh/elsewhere{absent}\n")
    fs, root = mlartifacts.url_to_fs(sshd.new_root().replace(sshd.host, "artifacts"))
    assert fs.isdir(root)


@pytest.mark.parametrize("nothing", ["none", "/dev/null"])
def test_no_known_hosts_file_knows_nobody(sshd: Sshd, nothing: str) -> None:
    """asyncssh takes "none" for leave to verify nothing."""
    ssh = sshd.set_up_home(Path.home(), alias="artifacts")
    with (ssh / "config").open("a") as file:
        file.write(f"  UserKnownHostsFile {nothing}\n  StrictHostKeyChecking no\n")
    fs, root = mlartifacts.url_to_fs(sshd.new_root().replace(sshd.host, "artifacts"))
    with pytest.raises(PermissionError, match="known_hosts"):
        fs.exists(root)


def test_hashed_known_hosts(sshd: Sshd) -> None:
    known = sshd.set_up_home(Path.home()) / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert "|1|" in known.read_text()
    fs, root = mlartifacts.url_to_fs(sshd.new_root())
    assert fs.isdir(root)


def test_verification_is_turned_off_explicitly(sshd: Sshd) -> None:
    sshd.set_up_home(Path.home(), trust=False)
    fs, root = mlartifacts.url_to_fs(sshd.new_root(), known_hosts=None)
    assert fs.isdir(root)


# ---- Passwords ---------------------------------------------------------------------------


@pytest.fixture
def guarded(asyncssh_server: AsyncsshServer) -> tuple[Any, str]:
    """A directory behind a password."""
    asyncssh_server.set_up_home(Path.home())
    return mlartifacts.url_to_fs(asyncssh_server.new_root())


def test_password_is_not_shown(guarded: tuple[Any, str], asyncssh_server: AsyncsshServer) -> None:
    fs, root = guarded
    assert fs.isdir(root)
    for text in (repr(fs), str(fs.storage_options), fs.to_json(), str(pickle.dumps(fs))):
        assert asyncssh_server.password not in text
        assert "p%40ss" not in text


def test_wrong_password(asyncssh_server: AsyncsshServer) -> None:
    asyncssh_server.set_up_home(Path.home())
    url = asyncssh_server.new_root().replace("p%40ss", "wrong")
    fs, root = mlartifacts.url_to_fs(url)
    with pytest.raises(PermissionError, match="refused the login of 'someone'") as caught:
        fs.ls(root)
    assert "wrong" not in str(caught.value)
    assert isinstance(caught.value.__cause__, asyncssh.PermissionDenied)


# ---- Connections that are lost -----------------------------------------------------------


def _sessions(sshd: Sshd) -> list[int]:
    """The processes of sshd that serve a connection each."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            status = (entry / "status").read_text()
            if f"\nPPid:\t{sshd.process.pid}\n" in status and status.startswith("Name:\tsshd"):
                found.append(int(entry.name))
    return found


def _end_sessions(sshd: Sshd) -> None:
    ended = _sessions(sshd)
    assert ended
    for pid in ended:
        os.kill(pid, signal.SIGKILL)


def test_session_that_the_server_ended(sshd: Sshd, located: tuple[Any, str]) -> None:
    fs, root = located
    operations: list[Callable[[], object]] = [
        lambda: fs.pipe_file(f"{root}/a", b"data"),
        lambda: fs.info(f"{root}/a"),
        lambda: fs.ls(root),
        lambda: fs.cat_file(f"{root}/a", 1, 2),
        lambda: fs.cp_file(f"{root}/a", f"{root}/b"),
        lambda: fs.mv(f"{root}/b", f"{root}/c"),
        lambda: fs.makedirs(f"{root}/x/y"),
        lambda: fs.rm(f"{root}/x", recursive=True),
        lambda: fs.rm(f"{root}/c"),
    ]
    fs.ls(root)
    for operation in operations:
        _end_sessions(sshd)
        operation()
    assert os.listdir(root) == ["a"]


def test_session_that_ended_while_a_file_lay_open(sshd: Sshd, located: tuple[Any, str]) -> None:
    fs, root = located
    data = os.urandom(3 * 2**20)
    fs.pipe_file(f"{root}/a", data)
    with fs.open(f"{root}/a") as file:
        assert file.read(1000) == data[:1000]
        _end_sessions(sshd)
        file.seek(2**20)
        assert file.read(1000) == data[2**20 : 2**20 + 1000]
        _end_sessions(sshd)
        Path(root, "a").write_bytes(data[::-1] + b"!")
        file.seek(2 * 2**20)
        with pytest.raises(OSError, match="changed") as caught:
            file.read(1000)
        assert caught.value.filename == f"{root}/a"
    with fs.open(f"{root}/b", "wb") as file:
        file.write(b"data")
        _end_sessions(sshd)
    assert Path(root, "b").read_bytes() == b"data"


def test_connection_lost_amid_a_write(sshd: Sshd, located: tuple[Any, str]) -> None:
    fs, root = located
    fs.pipe_file(f"{root}/a", b"old")
    with pytest.raises(ConnectionError) as caught:
        with fs.open(f"{root}/a", "wb") as file:
            file.write(bytes(2 * PIECE))
            file.write(bytes(10))
            file._file._settle()  # the first pieces have arrived
            _end_sessions(sshd)
    assert caught.value.filename == f"{root}/a"
    assert os.listdir(root) == ["a"]
    assert Path(root, "a").read_bytes() == b"old"


def test_broken_network(through: tuple[Any, str], proxy: Proxy) -> None:
    fs, root = through
    data = os.urandom(2**20)
    fs.pipe_file(f"{root}/a", data)
    proxy.cut()
    assert fs.cat_file(f"{root}/a") == data
    proxy.cut_after = 2**19
    assert fs.cat_file(f"{root}/a") == data  # cut in the middle, and on a new connection
    assert proxy.connections == 3


def test_answer_to_a_removal_that_is_lost(
    located: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try finds nothing to do, and says so to nobody."""
    fs, root = located
    Path(root, "a").touch()
    remove = asyncssh.SFTPClient.remove

    async def losing(channel: Any, path: str) -> None:
        monkeypatch.setattr(asyncssh.SFTPClient, "remove", remove)
        await remove(channel, path)
        raise asyncssh.SFTPConnectionLost("Connection closed")

    monkeypatch.setattr(asyncssh.SFTPClient, "remove", losing)
    fs.rm(f"{root}/a")
    assert os.listdir(root) == []


def test_channel_that_ended_alone(located: tuple[Any, str]) -> None:
    fs, root = located
    fs.ls(root)
    channels = list(fs._pool._session.pool._channels)
    fs.loop.call_soon_threadsafe(channels[0].exit)
    for _ in range(20):
        assert fs.ls(root) == []


def test_refused(refused_port: int) -> None:
    fs = mlartifacts.filesystem(f"sftp://u@{LOOPBACK}:{refused_port}/")
    for attempt in (fs.exists, fs.isfile, fs.isdir, fs.ls, fs.cat_file):
        with pytest.raises(ConnectionRefusedError) as caught:
            attempt("/a")
        assert caught.value.filename == "/a"


def test_unknown_name() -> None:
    fs = mlartifacts.filesystem("sftp://u@host.invalid/")
    with pytest.raises(ConnectionError, match=r"host\.invalid"):
        fs.exists("/a")


def test_hanging_server(hanging_server: Hanging) -> None:
    uri = f"sftp://u@{hanging_server.host}:{hanging_server.port}/"
    fs = mlartifacts.filesystem(uri, connect_timeout=0.2)
    for attempt in (fs.exists, fs.ls, fs.cat_file):
        with pytest.raises(TimeoutError) as caught:
            attempt("/a")
        assert caught.value.filename == "/a"


def test_hanging_server_under_the_variable(
    hanging_server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT, "1")
    fs = mlartifacts.filesystem(f"sftp://u@{hanging_server.host}:{hanging_server.port}/")
    with pytest.raises(TimeoutError, match="1 s"):
        fs.open("/a")


def test_server_that_falls_silent(
    through: tuple[Any, str], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSH's own keepalive notices, also where nobody set a timeout."""
    fs, root = through
    fs = mlartifacts.filesystem(f"{fs.unstrip_protocol('/')}", keepalive_interval=0.1)
    fs.ls(root)
    proxy.swallow = True
    fs._pool._arguments["connect_timeout"] = 0.3
    with pytest.raises((ConnectionError, TimeoutError)):
        fs.ls(root)
    proxy.swallow = False
    assert fs.ls(root) == []


def test_connection_lost_after_a_silence_that_is_over(
    through: tuple[Any, str], proxy: Proxy
) -> None:
    """It is made again, and nobody is told that the server is silent."""
    fs, root = through
    fs = mlartifacts.filesystem(f"{fs.unstrip_protocol('/')}", timeout=0.5)
    data = os.urandom(2**20)
    fs.pipe_file(f"{root}/a", data)
    proxy.swallow = True
    with pytest.raises(TimeoutError):
        fs.ls(root)
    proxy.swallow = False
    assert fs.cat_file(f"{root}/a") == data
    proxy.cut_after = 2**19
    assert fs.cat_file(f"{root}/a") == data
    proxy.most = 2**19
    with pytest.raises(ConnectionError):
        fs.cat_file(f"{root}/a")


def test_servers_are_asked_whether_they_are_there(through: tuple[Any, str]) -> None:
    """By default: OpenSSH's clients do not, and wait for ever."""
    fs, root = through
    fs.ls(root)
    client = synced(fs.loop, fs._pool.client)
    assert (client._keepalive_interval, client._keepalive_count_max) == (15, 3)


def test_limits_of_ssh_config(sshd: Sshd, hanging_server: Hanging) -> None:
    config = sshd.set_up_home(Path.home()) / "config"
    config.write_text("ConnectTimeout 1\n")
    fs = mlartifacts.filesystem(f"sftp://u@{hanging_server.host}:{hanging_server.port}/")
    with pytest.raises(TimeoutError, match="after 1 s"):
        fs.exists("/a")


def test_server_that_drops_fresh_connections(sshd: Sshd, base: str) -> None:
    """sshd does at random when many arrive at once (MaxStartups)."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        dropped = []

        def serve() -> None:
            for _ in range(2):
                client, _address = listener.accept()
                dropped.append(client.recv(1))
                client.close()
            client, _address = listener.accept()
            with client, socket.create_connection((sshd.host, sshd.port)) as server:
                _relay(client, server)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        fs = mlartifacts.filesystem(f"sftp://{sshd.user}@{LOOPBACK}:{port}/", known_hosts=None)
        assert fs.isdir(base.removeprefix(sshd.url))
        assert len(dropped) == 2
        fs._pool.close()
        thread.join(10)


def _relay(one: socket.socket, other: socket.socket) -> None:
    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=pass_on, args=(other, one), daemon=True)
    back.start()
    pass_on(one, other)
    back.join(10)


def test_server_without_sftp(sshd: Sshd, base: str, tmp_path: Path) -> None:
    with own_sshd(sshd, tmp_path / "shell") as port:
        _know(port, tmp_path / "shell")
        fs = mlartifacts.filesystem(f"sftp://{sshd.user}@{LOOPBACK}:{port}/")
        with pytest.raises(ConnectionError, match="no SFTP"):
            fs.ls("/tmp")


def test_forked_child_leaves_the_parents_connection_alone(located: tuple[Any, str]) -> None:
    fs, root = located
    fs.ls(root)
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        fs._pool.close()
        os._exit(0)
    os.waitpid(pid, 0)
    session = fs._pool._session
    assert fs.ls(root) == []
    assert fs._pool._session is session


def test_filesystem_that_is_dropped_hangs_up(sshd: Sshd, located: tuple[Any, str]) -> None:
    fs, root = located
    fs.ls(root)
    client = fs._pool._session.client
    type(fs).clear_instance_cache()
    fs._pool.close()
    future = asyncio.run_coroutine_threadsafe(client.wait_closed(), fs.loop)
    future.result(10)


# ---- Reading -----------------------------------------------------------------------------


@pytest.mark.parametrize("start", [None, 0, 1, 5, 10, 12, -1, -4, -12])
@pytest.mark.parametrize("end", [None, 0, 3, 10, 12, -1, -4, -12])
def test_ranges(located: tuple[Any, str], start: int | None, end: int | None) -> None:
    fs, root = located
    Path(root, "a").write_bytes(b"0123456789")
    assert fs.cat_file(f"{root}/a", start, end) == b"0123456789"[start:end]


@pytest.mark.parametrize("size", [0, 1, 4096, 261_120, 261_121, 1_000_000, PIECE + 1])
def test_sizes(located: tuple[Any, str], size: int) -> None:
    """Of none, one and several requests."""
    fs, root = located
    data = os.urandom(size)
    fs.pipe_file(f"{root}/a", data)
    assert Path(root, "a").read_bytes() == data
    assert fs.cat_file(f"{root}/a") == data
    assert fs.cat_file(f"{root}/a", 1) == data[1:]
    assert fs.cat_file(f"{root}/a", 0, size) == data
    assert os.listdir(root) == ["a"]


def test_requests_of_a_small_file(
    located: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file: open, write and close at once, rename; and open, its size and bytes at once."""
    fs, root = located
    fs.pipe_file(f"{root}/a", b"1")  # connects
    waves: list[list[Any]] = []
    under_way = 0
    send, take = SFTPClientHandler._send_request, SFTPClientHandler._process_packet

    def sending(self: Any, kind: Any, *args: Any) -> None:
        nonlocal under_way
        if not under_way:
            waves.append([])
        under_way += 1
        waves[-1].append(kind)
        send(self, kind, *args)

    async def taking(self: Any, *args: Any) -> None:
        nonlocal under_way
        under_way -= 1
        await take(self, *args)

    monkeypatch.setattr(SFTPClientHandler, "_send_request", sending)
    monkeypatch.setattr(SFTPClientHandler, "_process_packet", taking)
    fs.pipe_file(f"{root}/b", b"x" * 4096)
    renames = b"posix-rename@openssh.com"
    assert waves == [[FXP_OPEN], [FXP_WRITE, FXP_CLOSE], [renames]]
    waves.clear()
    assert fs.cat_file(f"{root}/b") == b"x" * 4096
    assert waves[:2] == [[FXP_OPEN], [FXP_FSTAT, FXP_READ]]


def test_directory_is_no_file(located: tuple[Any, str]) -> None:
    fs, root = located
    attempts: list[Callable[[], object]] = [
        lambda: fs.cat_file(root),
        lambda: fs.open(root),
        lambda: fs.pipe_file(root, b"data"),
        lambda: fs.rm_file(root),
        lambda: fs.rm(root),
    ]
    for attempt in attempts:
        with pytest.raises(IsADirectoryError) as caught:
            attempt()
        assert caught.value.filename == root
    assert os.listdir(root) == []


def test_links(located: tuple[Any, str]) -> None:
    """A link is what it points to, except to rm."""
    fs, root = located
    os.mkdir(f"{root}/kept")
    Path(root, "kept", "a").write_bytes(b"data")
    os.symlink("kept", f"{root}/directory")
    os.symlink("kept/a", f"{root}/file")
    os.symlink("nowhere", f"{root}/broken")
    kinds = {Path(info["name"]).name: info["type"] for info in fs.ls(root)}
    assert kinds == {
        "kept": "directory",
        "directory": "directory",
        "file": "file",
        "broken": "link",
    }
    assert fs.cat_file(f"{root}/file") == b"data"
    assert fs.info(f"{root}/file")["size"] == 4
    assert not fs.exists(f"{root}/broken")
    for name in ("directory", "file", "broken"):
        fs.rm(f"{root}/{name}", recursive=True)
    assert fs.find(root) == [f"{root}/kept/a"]


def test_names_that_are_not_utf_8(located: tuple[Any, str]) -> None:
    fs, root = located
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_bytes(b"data")
    [name] = fs.ls(root, detail=False)
    assert fs.cat_file(name) == b"data"


def test_listing_of_a_file(located: tuple[Any, str]) -> None:
    fs, root = located
    Path(root, "a").write_bytes(b"data")
    [info] = fs.ls(f"{root}/a")
    assert (info["name"], info["size"], info["type"]) == (f"{root}/a", 4, "file")
    assert fs.ls(f"{root}/a", detail=False) == [f"{root}/a"]
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{root}/b")


def test_get_tree(located: tuple[Any, str], tmp_path: Path) -> None:
    fs, root = located
    fs.makedirs(f"{root}/t/empty")
    fs.pipe({f"{root}/t/a": b"1", f"{root}/t/sub/b": b"2"})
    fs.get(f"{root}/t", str(tmp_path / "got"), recursive=True)
    assert (tmp_path / "got" / "a").read_bytes() == b"1"
    assert (tmp_path / "got" / "sub" / "b").read_bytes() == b"2"
    assert (tmp_path / "got" / "empty").is_dir()


# ---- Writing -----------------------------------------------------------------------------


def test_hole_at_the_end_of_a_file(located: tuple[Any, str], tmp_path: Path) -> None:
    """asyncssh leaves it out of the sparse copies that it makes by default."""
    fs, root = located
    local = tmp_path / "sparse"
    with local.open("wb") as file:
        file.write(b"data")
        file.truncate(2**20)
    fs.put_file(str(local), f"{root}/a")
    fs.cp_file(f"{root}/a", f"{root}/b")
    fs.get_file(f"{root}/b", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == local.read_bytes()


def test_exclusive(located: tuple[Any, str]) -> None:
    fs, root = located
    with fs.open(f"{root}/a", "xb") as file:
        file.write(b"first")
    with pytest.raises(FileExistsError) as caught:
        fs.open(f"{root}/a", "xb")
    assert caught.value.filename == f"{root}/a"
    with pytest.raises(FileExistsError):
        with fs.open(f"{root}/b", "xb") as file:
            Path(root, "b").write_bytes(b"second")  # meanwhile
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{root}/a", b"third", mode="create")
    assert [Path(root, name).read_bytes() for name in ("a", "b")] == [b"first", b"second"]
    assert sorted(os.listdir(root)) == ["a", "b"]


def test_append_is_whole_or_not_at_all(located: tuple[Any, str]) -> None:
    fs, root = located
    Path(root, "a").write_bytes(b"old")
    with pytest.raises(KeyError):
        with fs.open(f"{root}/a", "ab") as file:
            file.write(b"more")
            raise KeyError
    assert Path(root, "a").read_bytes() == b"old"
    with fs.open(f"{root}/a", "ab") as file:
        assert file.tell() == 3
        file.write(b"more")
    assert Path(root, "a").read_bytes() == b"oldmore"
    with fs.open(f"{root}/new", "ab") as file:
        file.write(b"begun")
    assert Path(root, "new").read_bytes() == b"begun"
    assert sorted(os.listdir(root)) == ["a", "new"]


def test_mode_that_is_none(located: tuple[Any, str]) -> None:
    fs, root = located
    Path(root, "a").touch()
    for mode in ("r+b", "w+b"):
        with pytest.raises((ValueError, NotImplementedError)):
            fs.open(f"{root}/a", mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_full_disk(located: tuple[Any, str]) -> None:
    """OpenSSH says no more than "Failure"."""
    fs, root = located
    full = f"{root}/full"
    os.mkdir(full)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", full])
    if mounted.returncode:
        pytest.skip("no mounts here")
    try:
        fs.pipe_file(f"{full}/a", b"old")
        for write in (fs.pipe_file, _by_open(fs)):
            with pytest.raises(OSError, match="No space left") as caught:
                write(f"{full}/a", bytes(2 * 2**20))
            assert caught.value.filename == f"{full}/a"
            assert os.listdir(full) == ["a"]
            assert Path(full, "a").read_bytes() == b"old"
        # Another file system: a move is a copy.
        fs.mv(f"{full}/a", f"{root}/moved")
        assert Path(root, "moved").read_bytes() == b"old"
        fs.pipe_file(f"{root}/large", bytes(2 * 2**20))
        with pytest.raises(OSError, match="No space left"):
            fs.mv(f"{root}/large", f"{full}/large")
        assert Path(root, "large").stat().st_size == 2 * 2**20
        assert os.listdir(full) == []
    finally:
        subprocess.run(["umount", full], check=True)


def _by_open(fs: Any) -> Callable[[str, bytes], None]:
    def write(path: str, data: bytes) -> None:
        with fs.open(path, "wb") as file:
            file.write(data)

    return write


def test_permission_denied(guarded: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    fs, root = guarded

    def deny(*args: Any) -> Any:
        raise asyncssh.SFTPPermissionDenied("Permission denied")

    monkeypatch.setattr(asyncssh.SFTPServer, "open", deny)
    for attempt in (lambda: fs.cat_file(f"{root}/a"), lambda: fs.pipe_file(f"{root}/a", b"")):
        with pytest.raises(PermissionError) as caught:
            attempt()
        assert caught.value.filename == f"{root}/a"
        assert isinstance(caught.value.__cause__, asyncssh.SFTPPermissionDenied)


def test_server_without_posix_rename(
    guarded: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, b"posix-rename@openssh.com")
    fs, root = guarded
    for data in (b"old", b"new"):
        fs.pipe_file(f"{root}/a", data)
        assert fs.cat_file(f"{root}/a") == data
    fs.pipe_file(f"{root}/b", b"other")
    fs.mv(f"{root}/a", f"{root}/b")
    assert fs.cat_file(f"{root}/b") == b"new"
    assert fs.ls(root, detail=False) == [f"{root}/b"]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE + 3])
def test_copy_without_a_shell(
    guarded: tuple[Any, str], monkeypatch: pytest.MonkeyPatch, kept: bool, size: int
) -> None:
    """By the server (copy-data), or a piece at a time through here."""
    if not kept:
        lacking(monkeypatch, b"copy-data")
    fs, root = guarded
    data = os.urandom(size)
    fs.pipe_file(f"{root}/a", data)
    fs.cp_file(f"{root}/a", f"{root}/new/b")
    assert fs.cat_file(f"{root}/new/b") == data


def test_server_that_tells_no_limits(
    guarded: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, b"limits@openssh.com")
    fs, root = guarded
    data = os.urandom(PIECE + 1)
    fs.pipe_file(f"{root}/a", data)
    assert fs.cat_file(f"{root}/a") == data


def test_move(located: tuple[Any, str]) -> None:
    fs, root = located
    fs.pipe({f"{root}/t/a": b"1", f"{root}/d/b": b"2", f"{root}/c": b"3"})
    fs.mv(f"{root}/t", f"{root}/moved/there", recursive=True)
    fs.mv(f"{root}/d", f"{root}/moved", recursive=True)  # into what is there
    fs.mv(f"{root}/c", f"{root}/moved/there")
    assert fs.find(root) == [
        f"{root}/moved/d/b",
        f"{root}/moved/there/a",
        f"{root}/moved/there/c",
    ]
    with pytest.raises(FileNotFoundError) as caught:
        fs.mv(f"{root}/missing", f"{root}/new/place")
    assert caught.value.filename == f"{root}/missing"
    assert os.listdir(root) == ["moved"]
    fs.mv(f"{root}/moved", f"{root}/moved")
    assert fs.exists(f"{root}/moved/d/b")


def test_a_tree_with_backslashes_is_deleted(located: tuple[Any, str]) -> None:
    fs, root = located
    fs.pipe({f"{root}/t/a\\b": b"1", f"{root}/t/c\\/d": b"2"})
    fs.rm(f"{root}/t", recursive=True)
    assert os.listdir(root) == []


def test_what_somebody_else_deletes_of_a_tree(
    located: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the connection is lost: what is gone by the second try does not end it."""
    fs, root = located
    fs.pipe({f"{root}/t/{name}": b"x" for name in ("a", "b", "in/c", "in/d")})
    remove, lost = asyncssh.SFTPClient.remove, []

    async def losing(channel: Any, path: str) -> None:
        if not lost:
            lost.append(path)
            raise asyncssh.SFTPConnectionLost("Connection closed")
        if path.endswith(("/a", "/c")):
            os.unlink(path)
        await remove(channel, path)

    monkeypatch.setattr(asyncssh.SFTPClient, "remove", losing)
    fs.rm(f"{root}/t", recursive=True)
    assert os.listdir(root) == []


def test_directories(located: tuple[Any, str]) -> None:
    fs, root = located
    fs.mkdir(f"{root}/a/b")
    for make in (fs.mkdir, fs.makedirs):
        with pytest.raises(FileExistsError) as caught:
            make(f"{root}/a/b")
        assert caught.value.filename == f"{root}/a/b"
    fs.makedirs(f"{root}/a/b", exist_ok=True)
    with pytest.raises(FileNotFoundError):
        fs.mkdir(f"{root}/x/y", create_parents=False)
    fs.touch(f"{root}/file")
    with pytest.raises(NotADirectoryError):
        fs.makedirs(f"{root}/file", exist_ok=True)
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(f"{root}/a")
    fs.rmdir(f"{root}/a/b")
    with pytest.raises(NotADirectoryError):
        fs.rmdir(f"{root}/file")
    with pytest.raises(FileNotFoundError):
        fs.rmdir(f"{root}/missing")
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{root}/missing", recursive=True)
    assert stat.S_ISDIR(os.stat(f"{root}/a").st_mode)


def test_write_below_a_file(located: tuple[Any, str]) -> None:
    fs, root = located
    fs.touch(f"{root}/file")
    with pytest.raises(OSError, match="directory"):
        fs.pipe_file(f"{root}/file/below", b"data")


# ---- Economy -----------------------------------------------------------------------------


def test_never_more_requests_than_the_driver(
    sshd: Sshd, base: str, requests: Requests, tmp_path: Path
) -> None:
    fs, root = mlartifacts.url_to_fs(base)
    raw = sshfs.SSHFileSystem(
        sshd.host, port=sshd.port, username=sshd.user, known_hosts=(), skip_instance_cache=True
    )
    Path(root, "big").write_bytes(bytes(8 * 2**20))
    os.mkdir(f"{root}/many")
    for number in range(1000):
        Path(root, "many", str(number)).touch()
    local = tmp_path / "local"

    def read(one: Any, size: int) -> None:
        with one.open(f"{root}/big", "rb") as file:
            while file.read(size):
                pass

    operations: dict[str, Callable[[Any], object]] = {
        "info": lambda one: one.info(f"{root}/big"),
        "exists": lambda one: one.exists(f"{root}/absent"),
        "ls": lambda one: one.ls(f"{root}/many"),
        "cat": lambda one: one.cat_file(f"{root}/big"),
        "read": lambda one: read(one, -1),
        "read by pieces": lambda one: read(one, 2**16),
        "pipe": lambda one: one.pipe_file(f"{root}/out", bytes(2**20)),
        "get": lambda one: one.get_file(f"{root}/big", str(local)),
        "put": lambda one: one.put_file(str(local), f"{root}/out"),
        "rm": lambda one: (Path(root, "gone").touch(), one.rm(f"{root}/gone")),
        "makedirs": lambda one: one.makedirs(f"{root}/many", exist_ok=True),
    }
    for one in (fs, raw):
        one.ls(root)
    for name, operation in operations.items():
        counts = [requests.of(lambda: operation(one)) for one in (fs, raw)]  # noqa: B023
        assert counts[0] <= counts[1], name
    raw._finalize(raw.loop, raw._pool, raw._stack)


def test_small_reads_fetch_little(located: tuple[Any, str], proxy: Proxy, sshd: Sshd) -> None:
    fs, root = located
    Path(root, "big").write_bytes(bytes(8 * 2**20))
    fs = mlartifacts.filesystem(f"sftp://{sshd.user}@{proxy.host}:{proxy.port}/")
    with fs.open(f"{root}/big") as file:
        before = proxy.bytes_to_client
        for number in range(50):
            file.seek(number * 1_000_003 % (8 * 2**20 - 1024))
            assert len(file.read(1024)) == 1024
        assert proxy.bytes_to_client - before < 50 * 10_000
