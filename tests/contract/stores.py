"""The stores of the contract: what each needs to be tested, and where each honestly differs.

Every test in this directory runs on every :class:`Harbour` of :data:`HARBOURS`: one store on one
real server through one driver. A store is a small class here. What it cannot do as the contract
says stands in its ``exceptions``, a test's name and the reason, and beside it a method of the
test's name says what happens instead: it runs in place of the test.

A key of ``exceptions`` is a test's name (``test_append``) or one case of it
(``test_name_is_literal[trailing space]``). A method takes the test's fixtures by their names.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import dataclasses
import errno
import gzip
import json
import os
import pickle
import time
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.tests.abstract import AbstractCopyTests, AbstractPutTests

import mlartifacts
from tests.contract import workers


@dataclasses.dataclass(frozen=True)
class Place:
    """A URI, and what must be set for it."""

    uri: str
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Harbour:
    """A store on its server.

    Parameters
    ----------
    server
        What the fixture `fixture` gives.
    home
        The test's own home directory.
    """

    #: What the test ids show.
    name: ClassVar[str]
    #: The fixture that gives the server.
    fixture: ClassVar[str]
    #: The scheme of its URIs.
    scheme: ClassVar[str]
    #: Whether it has a server at all.
    remote: ClassVar[bool] = True
    #: Whether it is asked over HTTP.
    over_http: ClassVar[bool] = False
    #: Whether it can be written to.
    writable: ClassVar[bool] = True
    #: Whether a directory can be empty: elsewhere it is there as long as a file is in it.
    directories: ClassVar[bool] = True
    #: Whether other harbours run the same code, up to the login or to the server behind it: then
    #: the tests of :data:`tests.contract.conftest.CORE` run on it, and no others.
    sibling: ClassVar[bool] = False
    #: Whether fsspec's cases of patterns run on it: the client alone decides what a pattern means,
    #: so one synchronous filesystem and one asynchronous do.
    patterns: ClassVar[bool] = False
    #: A name that a layer may cut where it takes it for a URL.
    cut: ClassVar[str] = "file #1"
    #: A test's name -> why this store differs; the method of that name says how.
    exceptions: ClassVar[Mapping[str, str]] = {}

    def __init__(self, server: Any, home: Path) -> None:
        self.server = server
        self.home = home
        self.base = self.new_base()
        #: Options that the caller must give explicitly; None is the rule.
        self.options: dict[str, Any] = {}

    # ---- Where it is ---------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """The variables that a user of MLflow has for this store."""
        return dict(self.server.env)

    def new_base(self) -> str:
        """The URI of a fresh, empty directory (or bucket)."""
        root: str = self.server.new_root()
        return root

    def uri(self, name: str = "") -> str:
        """The URI of a name below `base`."""
        return f"{self.base}/{name}" if name else self.base

    @property
    def missing_root(self) -> str:
        """A URI whose bucket, container or parent directory is not there."""
        return f"{self.base}/not-there" if self.directories else f"{self.base}-not-there"

    # ---- Behind our backs ----------------------------------------------------------------

    def seed(self, files: Mapping[str, bytes]) -> None:
        """Put files below `base` without our code."""
        raise NotImplementedError

    def stored(self) -> dict[str, bytes]:
        """All files below `base`, temporary and hidden ones too, without our code."""
        raise NotImplementedError

    def age(self) -> None:
        """Let what is stored pass for a minute old, where a store tells nothing but times."""

    def uploads(self) -> list[str]:
        """The ids of S3's uploads in parts that were neither ended nor aborted."""
        return []

    # ---- Trouble -------------------------------------------------------------------------

    def elsewhere(self, host: str, port: int) -> Place:
        """The same artifacts on another server, which hangs or refuses."""
        raise NotImplementedError

    def wrong_credentials(self) -> Place | None:
        """The same place with credentials that its server refuses; None where it checks none."""
        return None

    def at(self, port: int) -> str:
        """`base` on another port, where URIs name one."""
        return self.base.replace(f":{self.server.port}/", f":{port}/")

    @property
    def rescue(self) -> dict[str, Any]:
        """The options that say what `elsewhere` says wrong."""
        return {"port": self.server.port}

    #: Seconds that a server may be silent where no variable says so: MLflow's, or our choice.
    patience: ClassVar[float | None] = None

    def waits(self, fs: Any) -> float | None:
        """How long the driver, as it was made, waits for a silent server; None for ever."""
        raise NotImplementedError

    async def close(self, fs: Any) -> None:
        """End what an asynchronous filesystem holds in the caller's loop."""

    def signed(self, path: str) -> str:
        """A path, or a URI, with a secret in it, where it can have one."""
        return path

    #: What must not be shown: parts of `env` and of `base`, and of what `signed` gives.
    secrets: tuple[str, ...] = ()

    def more_secrets(self, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        """Set what else a user may have that is secret, and say how it must not be shown."""
        return ()


class Folder(Harbour):
    """A store whose server serves a directory of this machine."""

    folder: Path

    def seed(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            path = self.folder / name
            for parent in reversed(path.relative_to(self.folder).parents):
                (self.folder / parent).mkdir(exist_ok=True)
                # A server need not run as the user who runs the tests.
                (self.folder / parent).chmod(0o777)
            path.write_bytes(data)

    def age(self, seconds: int = 60) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file():
                os.utime(path, (time.time() - seconds,) * 2)

    def stored(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


class Localhost(Harbour):
    """A store where MLflow has a default for the host."""

    exceptions: ClassVar[Mapping[str, str]] = {
        "test_no_host": "MLflow connects to localhost where a URI names no host",
    }

    def test_no_host(self) -> None:
        for uri in (f"{self.scheme}://", f"{self.scheme}:///file"):
            assert mlartifacts.locate(uri).options["host"] == "localhost"
        with pytest.raises(mlartifacts.InvalidURI):
            mlartifacts.url_to_fs(f"{self.scheme}:file")


class Local(Folder):
    """Local files, by ``file:`` URIs, which are percent-encoded as MLflow has them."""

    name = "local"
    fixture = "tmp_path"
    scheme = "file"
    remote = False

    @property
    def env(self) -> dict[str, str]:
        return {}

    def new_base(self) -> str:
        self.folder = self.server / "local root"
        self.folder.mkdir()
        return f"file://{urllib.parse.quote(str(self.folder))}"

    def uri(self, name: str = "") -> str:
        return super().uri(urllib.parse.quote(name))


REPLACED = "test_a_file_that_is_replaced_while_it_is_read"


class Versionless(Harbour):
    """A store that does not say which version of a file it reads."""

    def test_a_file_that_is_replaced_while_it_is_read(self, fs: Any, root: str) -> None:
        old, new = b"o" * 3_000_000, b"n" * 3_000_000
        self.seed({"file": old})
        with fs.open(f"{root}/file") as file:
            assert file.read(1000) == old[:1000]
            fs.pipe_file(f"{root}/file", new)
            file.seek(2_500_000)
            assert file.read(1000) in {old[:1000], new[:1000]}
            fs.pipe_file(f"{root}/file", new[:-1])
            file.seek(2_999_000)
            with contextlib.suppress(OSError):  # where it reads on, or sees that it is shorter
                assert file.read(1000) in {old[:1000], new[:1000]}
        assert fs.cat_file(f"{root}/file") == new[:-1]


class Bucket(Harbour):
    """A store of keys and values: directories are how its keys are shown."""

    directories = False
    over_http = True
    _flat = "a key may be the beginning of another: there are no directories in the way"
    exceptions: ClassVar[Mapping[str, str]] = {
        "test_directory_written_as_a_file": _flat,
        "test_file_used_as_a_directory": _flat,
    }

    def test_directory_written_as_a_file(self, fs: Any, root: str) -> None:
        self.seed({"folder/file": b"x"})
        with fs.open(f"{root}/folder", "wb") as file:
            file.write(b"beside it")
        assert self.stored() == {"folder/file": b"x", "folder": b"beside it"}
        assert fs.cat_file(f"{root}/folder") == b"beside it"
        assert fs.cat_file(f"{root}/folder/file") == b"x"

    def test_file_used_as_a_directory(self, fs: Any, root: str) -> None:
        self.seed({"file": b"x"})
        with fs.open(f"{root}/file/below", "wb") as file:
            file.write(b"y")
        assert self.stored() == {"file": b"x", "file/below": b"y"}


class S3(Bucket):
    """S3 on moto, which verifies no credentials."""

    name = "s3"
    fixture = "moto_server"
    scheme = "s3"
    directories = False
    secrets = ("testing-secret",)
    over_http = True
    patience = 15  # s3fs'
    exceptions: ClassVar[Mapping[str, str]] = {
        **Bucket.exceptions,
        "test_rm_of_a_list_of_which_one_is_not_there": (
            "S3 does not tell, and to ask of each beside the one request took most of the time"
        ),
    }

    def test_rm_of_a_list_of_which_one_is_not_there(self, fs: Any, root: str) -> None:
        self.seed({"a": b"1", "b": b"2"})
        with contextlib.suppress(FileNotFoundError):  # of runs, which delete one by one
            fs.rm([f"{root}/a", f"{root}/missing"])
        assert set(self.stored()) == {"b"}

    def waits(self, fs: Any) -> float | None:
        limit: float | None = fs.s3.meta.config.read_timeout
        return limit

    def more_secrets(self, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        """A session's token, and a key that the store encrypts with."""
        token, key = "a/session+token==", "a key of thirty-two letters long"
        encryption = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", json.dumps(encryption))
        return (
            token,
            urllib.parse.quote(token, safe=""),
            key,
            base64.b64encode(key.encode()).decode(),
        )

    @property
    def _bucket(self) -> str:
        return urllib.parse.urlsplit(self.base).netloc

    @property
    def prefix(self) -> str:
        """What the keys of its files begin with."""
        return ""

    def seed(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            key = urllib.parse.quote(self.prefix + name)
            self.server.request("PUT", f"/{self._bucket}/{key}", data)

    def stored(self) -> dict[str, bytes]:
        query = f"list-type=2&encoding-type=url&prefix={urllib.parse.quote(self.prefix)}"
        listing = self.server.request("GET", f"/{self._bucket}?{query}")
        keys = [
            urllib.parse.unquote(element.text or "")
            for element in ElementTree.fromstring(listing).iter()
            if element.tag.endswith("}Key")
        ]
        return {
            key.removeprefix(self.prefix): self.server.request(
                "GET", f"/{self._bucket}/{urllib.parse.quote(key)}"
            )
            for key in keys
        }

    def uploads(self) -> list[str]:
        ids: list[str] = self.server.uploads(self._bucket)
        return ids

    def elsewhere(self, host: str, port: int) -> Place:
        return Place(
            self.uri("file"), {**self.env, "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}"}
        )

    @property
    def rescue(self) -> dict[str, Any]:
        return {"endpoint_url": self.server.url}

    async def close(self, fs: Any) -> None:
        await (await fs.set_session()).close()


class Azure(Bucket):
    """Azure Blob Storage on azurite."""

    fixture = "azurite"
    patience = 600

    def waits(self, fs: Any) -> float | None:
        limit: float | None = fs.service_client._pipeline._transport.connection_config.read_timeout
        return limit

    @property
    def secrets(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.server.key,)

    @property
    def _container(self) -> Any:
        from azure.storage.blob import ContainerClient

        return ContainerClient.from_connection_string(
            self.server.connection_string, self._container_name
        )

    @property
    def _container_name(self) -> str:
        parts = urllib.parse.urlsplit(self.base)
        return parts.username or parts.netloc

    def seed(self, files: Mapping[str, bytes]) -> None:
        with self._container as container:
            for name, data in files.items():
                container.upload_blob(name, data, overwrite=True)

    def stored(self) -> dict[str, bytes]:
        with self._container as container:
            return {
                blob.name: container.download_blob(blob.name).readall()
                for blob in container.list_blobs(include=["uncommittedblobs"])
                if not (blob.metadata or {}).get("hdi_isfolder")
            }

    def elsewhere(self, host: str, port: int) -> Place:
        string = self.server.connection_string.replace(self.server.url, f"http://{host}:{port}")
        return Place(self.uri("file"), {"AZURE_STORAGE_CONNECTION_STRING": string})

    @property
    def rescue(self) -> dict[str, Any]:
        return {"connection_string": self.server.connection_string}

    async def close(self, fs: Any) -> None:
        await fs.service_client.close()

    def wrong_credentials(self) -> Place:
        wrong = self.server.connection_string.replace(self.server.key, "bm90IHRoZSBrZXk=")
        return Place(self.uri("file"), {"AZURE_STORAGE_CONNECTION_STRING": wrong})


class AzureWasbs(Azure):
    """By MLflow's URIs."""

    name = "wasbs"
    scheme = "wasbs"

    @property
    def missing_root(self) -> str:
        return self.base.replace("wasbs://", "wasbs://not-there-")


class AzureAz(Azure):
    """By adlfs' URIs."""

    name = "az"
    sibling = True
    scheme = "az"

    def new_base(self) -> str:
        return f"az://{self.server.new_container()}"

    def more_secrets(self, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        """A signature, in place of the account's key."""
        from azure.storage.blob import generate_account_sas

        signed = generate_account_sas(
            self.server.account,
            self.server.key,
            resource_types="sco",
            permission="rwdlac",
            expiry="2099-01-01",
        )
        string = f"BlobEndpoint={self.server.endpoint};SharedAccessSignature={signed}"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", string)
        (signature,) = urllib.parse.parse_qs(signed)["sig"]
        return signature, urllib.parse.quote(signature, safe="")


class Gcs(Versionless, Bucket):
    """Google Cloud Storage on an emulator, which verifies no credentials."""

    exceptions: ClassVar[Mapping[str, str]] = {
        **Bucket.exceptions,
        REPLACED: "this emulator gives the present generation, whichever is asked for",
    }

    name = "gcs"
    patterns = True
    fixture = "gcs_emulator"
    scheme = "gs"
    patience = 60

    def waits(self, fs: Any) -> float | None:
        limit: float | None = fs.requests_timeout.sock_read
        return limit

    @property
    def _bucket(self) -> str:
        return urllib.parse.urlsplit(self.base).netloc

    def _ask(self, path: str, data: bytes | None = None, kind: str = "") -> bytes:
        request = urllib.request.Request(self.server.url + path, data, {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=30) as response:
            body: bytes = response.read()
            return body

    def seed(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self.server.put(self._bucket, name, data)

    def stored(self) -> dict[str, bytes]:
        items = json.loads(self._ask(f"/storage/v1/b/{self._bucket}/o")).get("items", [])
        return {
            item["name"]: self._ask(
                f"/storage/v1/b/{self._bucket}/o/{urllib.parse.quote(item['name'], safe='')}"
                "?alt=media"
            )
            for item in items
        }

    def elsewhere(self, host: str, port: int) -> Place:
        return Place(
            self.uri("file"), {**self.env, "STORAGE_EMULATOR_HOST": f"http://{host}:{port}"}
        )

    @property
    def rescue(self) -> dict[str, Any]:
        return {"endpoint_url": self.server.url}

    async def close(self, fs: Any) -> None:
        await (await fs._set_session()).close()


class OverSsh(Localhost, Folder):
    """What both servers of SFTP have."""

    # No limit to silence, but the connection asks whether the server is there: see test_sftp.py.

    def waits(self, fs: Any) -> float | None:
        limit: float | None = fs._timeout
        return limit


class Sftp(OverSsh):
    """SFTP on OpenSSH, with a key and a known host in ``~/.ssh``."""

    name = "sftp"
    fixture = "sshd"
    scheme = "sftp"

    def __init__(self, server: Any, home: Path) -> None:
        super().__init__(server, home)
        server.set_up_home(home)

    def new_base(self) -> str:
        base = super().new_base()
        self.folder = Path(urllib.parse.urlsplit(base).path)
        return base

    async def close(self, fs: Any) -> None:
        await fs.aclose()

    def elsewhere(self, host: str, port: int) -> Place:
        return Place(f"sftp://{self.server.user}@{host}:{port}/file")

    def wrong_credentials(self) -> Place:
        """Another key than the server knows."""
        import asyncssh

        key = self.home / ".ssh" / "id_ed25519"
        key.unlink()
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
        return Place(self.uri("file"))


class InUri(Localhost):
    """A store whose secret is in the URI: the password, as it is and as it is written."""

    _stays = "a password in a URI never leaves the process that was given it"
    exceptions: ClassVar[Mapping[str, str]] = {
        **Localhost.exceptions,
        "test_spawned_process": _stays,
        "test_dask_workers": _stays,
    }

    @property
    def secrets(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.server.password, urllib.parse.quote(self.server.password, safe="")

    def _with_password(self, password: str) -> str:
        return self.base.replace(self.secrets[1], password)

    def _explicit(self) -> Any:
        """The filesystem with the password as an option, which is the caller's to spread."""
        bare = self.base.replace(f":{self.secrets[1]}@", "@")
        return mlartifacts.filesystem(bare, password=self.server.password)

    def test_spawned_process(
        self, fs: Any, root: str, spawned: concurrent.futures.Executor
    ) -> None:
        self.seed({"file": b"data"})
        path = f"{root}/file"
        for kept in ((fs, path), mlartifacts.open(self.uri("file"))):
            pickled = pickle.dumps(kept)
            with pytest.raises(mlartifacts.InvalidConfig, match="password"):
                spawned.submit(workers.read_pickled, pickled).result()
        with pytest.raises(mlartifacts.InvalidConfig, match="password"):
            spawned.submit(workers.read_json, fs.to_json(), path).result()
        spread = pickle.dumps((self._explicit(), path))
        assert spawned.submit(workers.read_pickled, spread).result() == b"data"

    def test_dask_workers(self, fs: Any, root: str, dask_client: Any) -> None:
        self.seed({"file": b"data"})
        dask_client.run(workers.set_environment, dict(os.environ), ())
        kept = dask_client.submit(workers.read_pickled, pickle.dumps((fs, f"{root}/file")))
        with pytest.raises(mlartifacts.InvalidConfig, match="password"):
            kept.result()
        spread = pickle.dumps((self._explicit(), f"{root}/file"))
        assert dask_client.submit(workers.read_pickled, spread).result() == b"data"


class SftpPassword(InUri, OverSsh):
    """SFTP on asyncssh's server, with a password in the URI."""

    name = "sftp-password"
    sibling = True
    fixture = "asyncssh_server"
    scheme = "sftp"

    def __init__(self, server: Any, home: Path) -> None:
        super().__init__(server, home)
        server.set_up_home(home)

    def new_base(self) -> str:
        base = super().new_base()
        self.folder = self.server.root / base.rpartition("/")[2]
        return base

    async def close(self, fs: Any) -> None:
        await fs.aclose()

    def elsewhere(self, host: str, port: int) -> Place:
        return Place(f"sftp://{self.server.user}:{self.secrets[1]}@{host}:{port}/file")

    def wrong_credentials(self) -> Place:
        return Place(f"{self._with_password('wrong')}/file")


_VERSIONLESS = {REPLACED: "FTP says nothing of a file's version while it sends it"}


class Ftp(Versionless, InUri, Folder):
    """FTP on pyftpdlib, which knows MLSD, with a password in the URI."""

    exceptions: ClassVar[Mapping[str, str]] = {**InUri.exceptions, **_VERSIONLESS}
    patience = 60

    def waits(self, fs: Any) -> float | None:
        limit: float | None
        (limit,) = {connection.sock.gettimeout() for connection in fs.pool._idle}
        return limit

    name = "ftp"
    patterns = True
    fixture = "pyftpd"
    scheme = "ftp"

    def new_base(self) -> str:
        base = super().new_base()
        self.folder = self.server.root / base.rpartition("/")[2]
        return base

    def elsewhere(self, host: str, port: int) -> Place:
        return Place(f"{self.scheme}://{self.server.user}:{self.secrets[1]}@{host}:{port}/file")

    def wrong_credentials(self) -> Place:
        return Place(f"{self._with_password('wrong')}/file")


class Ftps(Ftp):
    """FTP over TLS."""

    name = "ftps"
    sibling = True
    fixture = "pyftpd_tls"
    scheme = "ftps"


class FtpAnonymous(Ftp):
    """FTP on vsftpd, which has no MLSD, without a password."""

    name = "vsftpd"
    patterns = False
    fixture = "vsftpd"
    secrets = ()  # type: ignore[assignment]
    exceptions: ClassVar[Mapping[str, str]] = {**Localhost.exceptions, **_VERSIONLESS}

    def elsewhere(self, host: str, port: int) -> Place:
        return Place(f"ftp://{host}:{port}/file")

    def wrong_credentials(self) -> Place:
        return Place(f"{self.base.replace('ftp://', 'ftp://someone:wrong@')}/file")


class Hdfs(Harbour):
    """HDFS, through pyarrow and libhdfs."""

    name = "hdfs"
    fixture = "hdfs"
    scheme = "hdfs"
    patience = 60

    def waits(self, fs: Any) -> float | None:
        limit: float | None = fs.driver._cluster.timeout
        return limit

    _no_colons = "HDFS itself refuses names with a colon"
    exceptions: ClassVar[Mapping[str, str]] = {
        "test_no_host": "a URI without a host is of the cluster that Hadoop's settings name",
        "test_name_is_literal[colons]": _no_colons,
        "test_name_is_read_as_it_is": _no_colons,
    }

    def test_name_is_literal(self, fs: Any, root: str, names: dict[str, list[str]]) -> None:
        for name in names:
            for write in (
                lambda name: fs.pipe_file(f"{root}/{name}", b"x"),
                lambda name: mlartifacts.open(self.uri(name), "wb", **self.options).open().close(),
            ):
                with pytest.raises(OSError, match="':' in a name") as caught:
                    write(name)
                assert caught.value.errno == errno.EINVAL
        assert self.stored() == {}

    def test_name_is_read_as_it_is(self, harbour: Harbour, fs: Any, root: str) -> None:
        from tests.contract.test_names import READABLE, read_names

        read_names(harbour, fs, root, [name for name in READABLE if ":" not in name])

    def test_no_host(self) -> None:
        for uri in ("hdfs:///file", "hdfs:/file"):
            assert mlartifacts.locate(uri).options["host"] == "default"

    def new_base(self) -> str:
        import hdfs_native

        self._client = hdfs_native.Client(self.server.url)
        base = super().new_base()
        self._client.mkdirs(urllib.parse.urlsplit(base).path)
        return base

    @property
    def _folder(self) -> str:
        return urllib.parse.urlsplit(self.base).path

    def seed(self, files: Mapping[str, bytes]) -> None:
        import hdfs_native

        def write(name: str, data: bytes) -> None:
            options = hdfs_native.WriteOptions(overwrite=True)
            with self._client.create(f"{self._folder}/{name}", options) as file:
                file.write(data)

        # The servers take their time for each, and not for all.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(write, files.keys(), files.values()))

    def age(self, seconds: int = 60) -> None:
        before = int(time.time() - seconds) * 1000
        for status in self._client.list_status(self._folder, recursive=True):
            if not status.isdir:
                self._client.set_times(status.path, before, before)

    def stored(self) -> dict[str, bytes]:
        found = {}
        for status in self._client.list_status(self._folder, recursive=True):
            if not status.isdir:
                with self._client.read(status.path) as file:
                    data = file.read()
                if data and status.path.endswith(".gz"):
                    data = gzip.decompress(data)  # as MLflow's client does, and pyarrow by default
                found[status.path.removeprefix(f"{self._folder}/")] = data
        return found

    def elsewhere(self, host: str, port: int) -> Place:
        return Place(f"hdfs://{host}:{port}/file")

    def wrong_credentials(self) -> Place:
        """Another user, who may not look into the directory."""
        self._client.set_permission(self._folder, 0o700)
        return Place(f"{self.base.replace('hdfs://', 'hdfs://stranger@')}/file")


class HdfsNative(Hdfs):
    """HDFS, through hdfs-native, which needs no JVM."""

    name = "hdfs-native"

    def __init__(self, server: Any, home: Path) -> None:
        super().__init__(server, home)
        self.options = {"driver": "hdfs-native"}

    def waits(self, fs: Any) -> float | None:
        limit: float | None = fs.driver._calls._timeout
        return limit

    def wrong_credentials(self) -> Place:
        """By the variable: the driver takes a user from nowhere else."""
        super().wrong_credentials()
        return Place(self.uri("file"), {"HADOOP_USER_NAME": "stranger"})


class Http(Folder):
    """A web server's files, which can be read alone."""

    name = "http"
    fixture = "static_http"
    scheme = "http"
    over_http = True
    writable = False
    patience = 60

    def waits(self, fs: Any) -> float | None:
        limit: float | None = fs._session.timeout.sock_read
        return limit

    _no_sizes = "a directory is a page of links, which tell no sizes: a file is asked for its own"
    exceptions: ClassVar[Mapping[str, str]] = {
        "test_ls_in_detail": _no_sizes,
        "test_info_agrees_with_ls": _no_sizes,
        "test_find": _no_sizes,
        "test_name_is_read_as_it_is": "a name is percent-encoded in a URL, and so in a listing",
    }

    def test_ls_in_detail(self, fs: Any, tree: str) -> None:
        listed = {entry.pop("name"): entry for entry in fs.ls(tree, detail=True)}
        assert listed == {
            f"{tree}/foo": {"type": "directory", "size": None},
            f"{tree}/foobar": {"type": "directory", "size": None},
            f"{tree}/foo.txt": {"type": "file", "size": None},
            f"{tree}/zero": {"type": "file", "size": None},
        }

    def test_info_agrees_with_ls(self, fs: Any, tree: str) -> None:
        from tests.contract.test_listing import DIRECTORIES, TREE

        sizes = {**{name: len(data) for name, data in TREE.items()}, **dict.fromkeys(DIRECTORIES)}
        for name, size in sizes.items():
            path = f"{tree}/{name}"
            info = fs.info(path)
            kind = "file" if name in TREE else "directory"
            assert (info["name"], info["type"], info["size"]) == (path, kind, size)
            listed = {entry["name"]: entry for entry in fs.ls(fs._parent(path), detail=True)}
            assert (listed[path]["type"], listed[path]["size"]) == (kind, None)
        for name in DIRECTORIES:
            assert fs.info(f"{tree}/{name}/") == fs.info(f"{tree}/{name}")

    def test_find(self, fs: Any, tree: str) -> None:
        from tests.contract.test_listing import TREE, below

        assert below(tree, fs.find(tree)) == sorted(TREE)
        inside = ["foo/a.txt", "foo/b.csv", "foo/deep/er/c.txt"]
        assert below(tree, fs.find(f"{tree}/foo")) == inside
        assert below(tree, fs.find(f"{tree}/foo", maxdepth=1)) == inside[:2]
        assert fs.find(f"{tree}/foo.txt") == [f"{tree}/foo.txt"]
        assert fs.find(f"{tree}/missing") == []
        detail = fs.find(f"{tree}/foo", detail=True)
        assert {name: entry["size"] for name, entry in detail.items()} == {
            f"{tree}/{name}": None for name in inside
        }
        with_directories = below(tree, fs.find(f"{tree}/foo", withdirs=True))
        assert with_directories == sorted(["foo", "foo/deep", "foo/deep/er", *inside])

    def test_name_is_read_as_it_is(self, fs: Any, root: str) -> None:
        from tests.contract.test_names import READABLE

        written = {name: f"content of {name}".encode() for name in READABLE}
        self.seed(written)
        for name, data in written.items():
            url = f"{root}/{urllib.parse.quote(name)}"
            with mlartifacts.open(url) as file:
                assert file.read() == data, name
            assert fs.cat_file(url) == data, name
            assert fs.info(url)["size"] == len(data), name
        listed = fs.ls(root, detail=False)
        # What is listed can be read, and is what any other program takes for a URL.
        assert {urllib.parse.unquote(url): fs.cat_file(url) for url in listed} == {
            f"{root}/{name}": data for name, data in written.items()
        }
        assert all(url.isascii() and " " not in url for url in listed)
        found = {urllib.parse.unquote(url) for url in fs.glob(f"{root}/a*")}
        assert found == {f"{root}/{name}" for name in written if name.startswith("a")}
        for name in ("a#b", "a?b", "%41"):  # URLs of "a", "a" and "A"
            assert not fs.exists(f"{root}/{name}")

    def new_base(self) -> str:
        base = super().new_base()
        self.folder = self.server.root / base.rpartition("/")[2]
        return base

    def uri(self, name: str = "") -> str:
        return super().uri(urllib.parse.quote(name))

    def more_secrets(self, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        """A login, which this server does not ask for."""
        self.base = self.base.replace("http://", "http://someone:pass%20word@")
        login = base64.b64encode(b"someone:pass word").decode()
        return "pass word", "pass%20word", login

    secrets = ("a-signature",)

    def signed(self, path: str) -> str:
        return f"{path}?X-Amz-Credential=of/me&X-Amz-Signature=a-signature"

    async def close(self, fs: Any) -> None:
        await (await fs.set_session()).close()

    def elsewhere(self, host: str, port: int) -> Place:
        return Place(self.signed(f"http://{host}:{port}/file"))

    @property
    def rescue(self) -> dict[str, Any]:
        """None: a URL alone says where it is."""
        return {}


@dataclasses.dataclass(frozen=True)
class Tracked:
    """A tracking server, and the store where its clients put artifacts themselves."""

    tracking: Any
    store: Any

    def new_run(self, location: str) -> tuple[str, str]:
        """Make a run with its artifacts below `location`; its id, and where they are."""
        info = self.tracking.new_run(self.tracking.new_experiment(location))
        return info["run_id"], info["artifact_uri"]


class _Logical(Harbour):
    """Common to what a tracking server must be asked about."""

    exceptions: ClassVar[Mapping[str, str]] = {
        "test_no_host": "there is none in its URIs: what stands there is a run or a model",
        "test_a_changed_variable_takes_effect_at_the_next_open": (
            "it makes the store's filesystem anew for each operation"
        ),
    }

    def test_no_host(self) -> None:
        for uri in (f"{self.scheme}://", f"{self.scheme}:/", f"{self.scheme}:"):
            with pytest.raises(mlartifacts.InvalidURI):
                mlartifacts.url_to_fs(uri)
        for uri in (f"{self.scheme}:///name", f"{self.scheme}:/name", f"{self.scheme}://name"):
            assert mlartifacts.url_to_fs(uri)[1] == "name"

    def test_a_changed_variable_takes_effect_at_the_next_open(
        self, fs: Any, root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = fs.places(root)[0].fs
        assert fs.places(root)[0].fs is before
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "77")
        assert (fs.places(root)[0].fs is before) is (before.protocol[0] == "file")
        again, _ = mlartifacts.url_to_fs(self.base)
        assert again is fs
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "another")
        again, _ = mlartifacts.url_to_fs(self.base)
        assert again is not fs

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, **self.tracking.env}

    def __init__(self, server: Tracked, home: Path) -> None:
        self.tracked, self.tracking = server, server.tracking
        super().__init__(server.store, home)

    def more_secrets(self, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        """The tracking server's token, and the store's own."""
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token-for-tracking")
        return "a-token-for-tracking", *super().more_secrets(monkeypatch)

    def elsewhere(self, host: str, port: int) -> Place:
        patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        tracking = {"MLFLOW_TRACKING_URI": f"http://{host}:{port}"}
        return Place(self.uri("file"), {**self.env, **patience, **tracking})

    @property
    def rescue(self) -> dict[str, Any]:
        return {"tracking_uri": self.tracking.url}

    def waits(self, fs: Any) -> float | None:
        return super().waits(fs.places(fs._strip_protocol(self.base))[0].fs)

    async def close(self, fs: Any) -> None:
        await super().close(fs.places(fs._strip_protocol(self.base))[0].fs)


class RunsLocal(_Logical, Local):
    """Runs whose artifacts lie in a local folder: a store that is asked on threads."""

    exceptions: ClassVar[Mapping[str, str]] = {
        **Local.exceptions,
        **_Logical.exceptions,
        "test_how_long_a_silent_server_is_waited_for": "a folder has no server",
    }

    name = "runs-local"
    fixture = "tracked_locally"
    scheme = "runs"
    remote = True

    def test_how_long_a_silent_server_is_waited_for(self) -> None:
        fs, root = mlartifacts.url_to_fs(self.base)
        assert fs.places(root)[0].fs.protocol[0] == "file"

    def new_base(self) -> str:
        super().new_base()
        run, uri = self.tracked.new_run(f"file://{urllib.parse.quote(str(self.folder))}")
        self.folder = Path(urllib.parse.unquote(urllib.parse.urlsplit(uri).path))
        self.folder.mkdir(parents=True)
        return f"runs://{run}"

    def uri(self, name: str = "") -> str:
        return Harbour.uri(self, name)


class RunsS3(_Logical, S3):
    """Runs whose artifacts lie on S3."""

    exceptions: ClassVar[Mapping[str, str]] = {**S3.exceptions, **_Logical.exceptions}
    name = "runs-s3"
    fixture = "tracked_on_s3"
    scheme = "runs"
    sibling = True

    def new_base(self) -> str:
        bucket = super().new_base()
        run, self._place = self.tracked.new_run(bucket)
        return f"runs://{run}"

    @property
    def _bucket(self) -> str:
        return urllib.parse.urlsplit(self._place).netloc

    @property
    def prefix(self) -> str:
        return urllib.parse.urlsplit(self._place).path.strip("/") + "/"


class ModelsS3(RunsS3):
    """Versions of a registered model, whose files lie on S3."""

    name = "models-s3"
    scheme = "models"
    writable = False

    def new_base(self) -> str:
        run = super().new_base().removeprefix("runs://")
        api = self.tracking.api
        api("POST", "registered-models/create", name=f"model {run}")
        api("POST", "model-versions/create", name=f"model {run}", source=self._place)
        api("POST", "registered-models/alias", name=f"model {run}", alias="best", version="1")
        return f"models://model {run}@best"


class _Proxied(Harbour):
    """Common to what goes through MLflow's server: a directory is there if a file is in it."""

    scheme = "mlflow-artifacts"
    directories = False
    over_http = True
    cut = "file ?1"
    #: Of MLflow's requests to its server.
    patience = 120
    secrets = ("testing-token",)

    def waits(self, fs: Any) -> float | None:
        seconds: float | None = fs.client._timeout.sock_read
        return seconds

    _decoded = "MLflow's server decodes '%41', and refuses '#': another file could be meant"
    _decoy = "one of the decoys is such a name"
    _anywhere = "the server makes whatever is above a file that is written"
    exceptions: ClassVar[Mapping[str, str]] = {
        "test_no_host": "the tracking URI says the host where a URI names none",
        "test_copy_a_tree_to_a_root_that_is_not_there": _anywhere,
        "test_write_to_a_root_that_is_not_there": _anywhere,
        "test_name_is_read_as_it_is": _decoded,
        "test_name_is_literal[spaces and dots]": _decoy,
        "test_name_is_literal[characters of URLs]": _decoded,
        "test_directory_name_is_literal[a#b]": _decoded,
        "test_directory_name_is_literal[%41]": _decoded,
    }

    @property
    def env(self) -> dict[str, str]:
        patience = {"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"}
        return {**super().env, **patience, "MLFLOW_TRACKING_TOKEN": self.secrets[0]}

    def elsewhere(self, host: str, port: int) -> Place:
        tracking = {"MLFLOW_TRACKING_URI": f"http://{host}:{port}"}
        return Place(self.uri("file"), {**self.env, **tracking})

    @property
    def rescue(self) -> dict[str, Any]:
        return {"tracking_uri": self.tracking.url}

    @property
    def tracking(self) -> Any:
        return self.server

    async def close(self, fs: Any) -> None:
        await (await fs.set_session()).close()

    def test_no_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for uri in ("mlflow-artifacts:/a/b", "mlflow-artifacts:///a/b", "mlflowartifacts:/a/b/"):
            fs, path = mlartifacts.url_to_fs(uri)
            assert (fs.client.url, path) == (self.tracking.url, "a/b")
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        with pytest.raises(mlartifacts.InvalidConfig, match="MLFLOW_TRACKING_URI"):
            mlartifacts.url_to_fs("mlflow-artifacts:/a/b")

    def test_copy_a_tree_to_a_root_that_is_not_there(self, fs: Any, root: str) -> None:
        self.seed({"tree/one": b"1", "tree/deep/two": b"2"})
        elsewhere = fs._strip_protocol(self.missing_root)
        fs.copy(f"{root}/tree", f"{elsewhere}/copy", recursive=True)
        assert fs.cat_file(f"{elsewhere}/copy/deep/two") == b"2"
        fs.rm(elsewhere, recursive=True)

    def test_write_to_a_root_that_is_not_there(self) -> None:
        fs, root = mlartifacts.url_to_fs(self.missing_root)
        fs.pipe_file(f"{root}/file", b"x")
        assert fs.cat_file(f"{root}/file") == b"x"
        fs.rm(root, recursive=True)

    def test_name_is_literal(
        self, fs: Any, root: str, names: dict[str, list[str]], tmp_path: Path
    ) -> None:
        from tests.contract.test_names import test_name_is_literal

        carried = {
            name: [decoy for decoy in decoys if not self._is_decoded(decoy)]
            for name, decoys in names.items()
            if not self._is_decoded(name)
        }
        test_name_is_literal(self, fs, root, carried, tmp_path)
        for name, decoys in names.items():
            if self._is_decoded(name):
                self.base = self.new_base()
                self._refused(fs, fs._strip_protocol(self.base), name, decoys[:1])

    def test_directory_name_is_literal(self, fs: Any, root: str, name: str) -> None:
        self._refused(fs, root, f"{name}/file", ["A/file", "a/file"])

    @staticmethod
    def _is_decoded(name: str) -> bool:
        """Whether MLflow's server takes a name for another."""
        return "#" in name or urllib.parse.unquote(name) != name

    def _refused(self, fs: Any, root: str, name: str, decoys: list[str]) -> None:
        seeded = {name: b"x"} | dict.fromkeys(decoys, b"decoy")
        self.seed(seeded)
        path = f"{root}/{name}"
        for act in (
            lambda: fs.cat_file(path),
            lambda: fs.open(path),
            lambda: fs.open(path, "wb"),
            lambda: fs.pipe_file(path, b"y"),
            lambda: fs.rm(path),
            lambda: fs.cp_file(path, f"{root}/copy"),
        ):
            with pytest.raises(OSError, match="takes this name for another") as caught:
                act()
            assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, path)
        assert self.stored() == seeded
        if "/" not in name:  # it is shown what is there
            assert path in fs.ls(root, detail=False)

    def test_name_is_read_as_it_is(self, harbour: Harbour, fs: Any, root: str) -> None:
        from tests.contract.test_names import READABLE, read_names

        carried = [name for name in READABLE if not self._is_decoded(name)]
        read_names(harbour, fs, root, carried)


class ProxiedLocal(_Proxied, Folder):
    """MLflow's server on a local directory, which answers with ranges."""

    name = "mlflow-artifacts"
    fixture = "mlflow_server"
    _stays = "a directory of the server's disk stays when what was in it is gone"
    exceptions: ClassVar[Mapping[str, str]] = {
        **_Proxied.exceptions,
        "test_copy_directory_to_new_directory": _stays,
        "test_put_directory_to_new_directory": _stays,
        "test_copy_directory_without_files_with_same_name_prefix": _stays,
        "test_put_directory_without_files_with_same_name_prefix": _stays,
    }

    # The same tests, as on stores that have directories: this one's must be there before.

    def test_copy_directory_to_new_directory(
        self, fs: Any, fs_join: Any, fs_bulk_operations_scenario_0: str, fs_target: str
    ) -> None:
        (self.folder / "target").mkdir()
        AbstractCopyTests().test_copy_directory_to_new_directory(
            fs, fs_join, fs_bulk_operations_scenario_0, fs_target, True
        )

    def test_put_directory_to_new_directory(
        self, fs: Any, fs_join: Any, fs_target: str, local_bulk_operations_scenario_0: str
    ) -> None:
        (self.folder / "target").mkdir()
        AbstractPutTests().test_put_directory_to_new_directory(
            fs, fs_join, fs_target, local_bulk_operations_scenario_0, True
        )

    def test_copy_directory_without_files_with_same_name_prefix(
        self, fs: Any, fs_join: Any, fs_target: str, fs_dir_and_file_with_same_name_prefix: str
    ) -> None:
        AbstractCopyTests().test_copy_directory_without_files_with_same_name_prefix(
            fs, fs_join, fs_target, fs_dir_and_file_with_same_name_prefix, True
        )

    def test_put_directory_without_files_with_same_name_prefix(
        self,
        fs: Any,
        fs_join: Any,
        fs_target: str,
        local_join: Any,
        local_dir_and_file_with_same_name_prefix: str,
    ) -> None:
        AbstractPutTests().test_put_directory_without_files_with_same_name_prefix(
            fs, fs_join, fs_target, local_join, local_dir_and_file_with_same_name_prefix, True
        )

    def new_base(self) -> str:
        path = super().new_base().removeprefix("mlflow-artifacts:")
        self.folder = Path(self.server.artifacts) / path.strip("/")
        self.folder.mkdir(parents=True)
        return f"mlflow-artifacts://{path}"


class ProxiedS3(_Proxied, S3):
    """MLflow's server on S3, which is read from by presigned URLs, and written to in parts."""

    exceptions: ClassVar[Mapping[str, str]] = {**Bucket.exceptions, **_Proxied.exceptions}
    name = "mlflow-artifacts-s3"
    fixture = "proxy_on_s3"
    sibling = True
    secrets = ("testing-token", "X-Amz-Signature", "X-Amz-Credential")

    def __init__(self, server: tuple[Any, Any], home: Path) -> None:
        self._tracking, store = server
        super().__init__(store, home)

    @property
    def tracking(self) -> Any:
        return self._tracking

    @property
    def env(self) -> dict[str, str]:
        in_parts = {
            "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "5500000",
            "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": "5300000",
            "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": "2000000",
        }
        return {**_Proxied.env.fget(self), **self.tracking.env, **in_parts}  # type: ignore[attr-defined]

    def new_base(self) -> str:
        path = self.tracking.new_root().removeprefix("mlflow-artifacts:").strip("/")
        store = urllib.parse.urlsplit(self.tracking.artifacts)
        self._place = store.netloc, f"{store.path.strip('/')}/{path}/".lstrip("/")
        return f"mlflow-artifacts://{self.tracking.url.partition('://')[2]}/{path}"

    def elsewhere(self, host: str, port: int) -> Place:
        path = urllib.parse.urlsplit(self.base).path
        return Place(f"mlflow-artifacts://{host}:{port}{path}/file")

    @property
    def rescue(self) -> dict[str, Any]:
        """None: the URI names the server."""
        return {}

    @property
    def _bucket(self) -> str:
        return self._place[0]

    @property
    def prefix(self) -> str:
        return self._place[1]


class ServedLocal(ProxiedLocal):
    """Our own server on a local directory, as MLflow's."""

    name = "artifact-server"
    fixture = "artifact_server"
    sibling = True


HARBOURS: tuple[type[Harbour], ...] = (
    Local,
    S3,
    AzureWasbs,
    AzureAz,
    Gcs,
    Sftp,
    SftpPassword,
    Ftp,
    FtpAnonymous,
    Ftps,
    Hdfs,
    HdfsNative,
    Http,
    RunsLocal,
    RunsS3,
    ModelsS3,
    ProxiedLocal,
    ProxiedS3,
    ServedLocal,
)


@contextlib.contextmanager
def set_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Set a place's variables, and give its options."""
    with monkeypatch.context() as patch:
        for name, value in place.env.items():
            patch.setenv(name, value)
        yield dict(place.options)
