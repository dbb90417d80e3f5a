"""Each real server as a session fixture: started when the first test asks, once a worker.

A server's module says how it starts; here stands what happens when it cannot (:func:`started`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TypeVar

import pytest

from tests.servers import artifact_server as artifact_server_module
from tests.servers import asyncssh_server as asyncssh_module
from tests.servers import azurite as azurite_module
from tests.servers import gcs, moto, silent
from tests.servers import hdfs as hdfs_module
from tests.servers import mlflow_server as mlflow_server_module
from tests.servers import pyftpd as pyftpd_module
from tests.servers import sshd as sshd_module
from tests.servers import static_http as static_http_module
from tests.servers import vsftpd as vsftpd_module
from tests.servers.process import ServerUnavailable

# gcsfs reads it at its import, and asks emulators over gRPC (60 s) unless it is off.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


T = TypeVar("T")


@contextlib.contextmanager
def started(server: contextlib.AbstractContextManager[T], package: str) -> Iterator[T]:
    """Start a server for the tests; the one place for the rule on servers that cannot start.

    In CI (``CI=true``) the tests fail. On a person's machine they are skipped, with the reason
    and the command that installs what is missing.
    """
    with contextlib.ExitStack() as stack:
        try:
            value = stack.enter_context(server)
        except (ServerUnavailable, ImportError) as exc:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"{exc}\nto install it: bash tests/servers/install.sh {package}")
        yield value


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[moto.Moto]:
    with started(moto.serve(tmp_path_factory.mktemp("moto_server")), "moto") as server:
        yield server


@pytest.fixture(scope="session")
def moto_server_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[moto.Moto]:
    with started(
        moto.serve(tmp_path_factory.mktemp("moto_server_tls"), tls=True), "moto"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[azurite_module.Azurite]:
    with started(azurite_module.serve(tmp_path_factory.mktemp("azurite")), "azurite") as server:
        yield server


@pytest.fixture(scope="session")
def gcs_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gcs.GcsEmulator]:
    with started(gcs.serve(tmp_path_factory.mktemp("gcs_emulator")), "gcs") as server:
        yield server


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd_module.Sshd]:
    with started(sshd_module.serve(tmp_path_factory.mktemp("sshd")), "sshd") as server:
        yield server


@pytest.fixture(scope="session")
def asyncssh_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[asyncssh_module.AsyncsshServer]:
    with started(
        asyncssh_module.serve(tmp_path_factory.mktemp("asyncssh_server")), "asyncssh"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def pyftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pyftpd_module.Ftp]:
    with started(pyftpd_module.serve(tmp_path_factory.mktemp("pyftpd")), "pyftpd") as server:
        yield server


@pytest.fixture(scope="session")
def pyftpd_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pyftpd_module.Ftp]:
    with started(
        pyftpd_module.serve(tmp_path_factory.mktemp("pyftpd_tls"), tls=True), "pyftpd"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def vsftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vsftpd_module.Vsftpd]:
    with started(vsftpd_module.serve(tmp_path_factory.mktemp("vsftpd")), "vsftpd") as server:
        yield server


@pytest.fixture(scope="session")
def static_http(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[static_http_module.StaticHttp]:
    with static_http_module.serve(tmp_path_factory.mktemp("static_http")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[mlflow_server_module.MlflowServer]:
    directory = tmp_path_factory.mktemp("mlflow_server")
    with started(mlflow_server_module.serve(directory), "mlflow") as server:
        yield server


@pytest.fixture(scope="session")
def artifact_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[artifact_server_module.ArtifactServer]:
    """Our own, on a local directory."""
    directory = tmp_path_factory.mktemp("artifact_server")
    with artifact_server_module.serve(directory, str(directory / "artifacts")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server_proxying_s3(
    tmp_path_factory: pytest.TempPathFactory, moto_server: moto.Moto
) -> Iterator[mlflow_server_module.MlflowServer]:
    """Artifacts go through it to S3, for which its clients have no credentials."""
    directory = tmp_path_factory.mktemp("mlflow_server_proxying_s3")
    serving = mlflow_server_module.serve(
        directory, artifacts=moto_server.new_root(), env=moto_server.env
    )
    with started(serving, "mlflow") as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server_beside_s3(
    tmp_path_factory: pytest.TempPathFactory, moto_server: moto.Moto
) -> Iterator[mlflow_server_module.MlflowServer]:
    """Its clients write artifacts to S3 themselves."""
    directory = tmp_path_factory.mktemp("mlflow_server_beside_s3")
    serving = mlflow_server_module.serve(
        directory, artifacts=moto_server.new_root(), proxied=False, env=moto_server.env
    )
    with started(serving, "mlflow") as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server_beside_a_folder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[mlflow_server_module.MlflowServer]:
    """Its clients write artifacts to a local folder themselves."""
    directory = tmp_path_factory.mktemp("mlflow_server_beside_a_folder")
    serving = mlflow_server_module.serve(
        directory, artifacts=str(directory / "root of artifacts"), proxied=False
    )
    with started(serving, "mlflow") as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server_with_login(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[mlflow_server_module.MlflowServer]:
    """MLflow's basic-auth app; artifacts go through it to a local folder."""
    directory = tmp_path_factory.mktemp("mlflow_server_with_login")
    with started(mlflow_server_module.serve(directory, auth=True), "mlflow") as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server_with_workspaces(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[mlflow_server_module.MlflowServer]:
    """Runs and models have a workspace each; artifacts go through it to a local folder."""
    directory = tmp_path_factory.mktemp("mlflow_server_with_workspaces")
    serving = mlflow_server_module.serve(directory, options=("--enable-workspaces",))
    with started(serving, "mlflow") as server:
        yield server


@pytest.fixture
def hanging_server() -> Iterator[silent.Hanging]:
    with silent.hanging() as server:
        yield server


@pytest.fixture
def refused_port() -> Iterator[int]:
    with silent.refusing() as port:
        yield port


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hdfs_module.Hdfs]:
    """HDFS, with libhdfs loaded into this process for it."""
    with started(hdfs_module.serve_here(tmp_path_factory.mktemp("hdfs")), "hdfs") as server:
        yield server


@pytest.fixture(scope="session")
def hdfs_kerberos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hdfs_module.Hdfs]:
    """HDFS behind Kerberos: only for child processes, see :mod:`tests.servers.hdfs`."""
    directory = tmp_path_factory.mktemp("hdfs_kerberos")
    with started(hdfs_module.serve(directory, with_kerberos=True), "hdfs kerberos") as server:
        yield server
