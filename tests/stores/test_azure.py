"""Azure: which account and login a URI means, and what of adlfs' is mended."""

from __future__ import annotations

import asyncio
import datetime
import errno
import gc
import hashlib
import json
import pickle
import sys
import threading
import weakref

import fsspec
import pandas as pd
import pytest
from azure.storage.blob import (
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    ContentSettings,
    generate_container_sas,
)

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI, MissingDriver, TransferError
from mlartifacts.promises import stoppable
from mlartifacts.stores.azure import STORE
from mlartifacts.uri import parse
from tests.servers import reverse_proxy, tcp_proxy
from tests.servers.process import wait_until
from tests.servers.reverse_proxy import Answer

KEY = "bm90IHRoZSBrZXk="  # base64, as keys are; no server knows it
STRING = f"DefaultEndpointsProtocol=https;AccountName=account;AccountKey={KEY}"
URI = "wasbs://container@account.blob.core.windows.net/run/model"
ACCOUNT = {"account_name": "account", "account_host": "account.blob.core.windows.net"}


def located(uri, explicit=None, /, **variables):
    return STORE.locate(parse(uri), Environment(variables), explicit or {})


# ---- URIs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "path", "host"),
    [
        (URI, "container/run/model", "account.blob.core.windows.net"),
        (f"{URI}/", "container/run/model", "account.blob.core.windows.net"),
        (
            "wasb://c@account.blob.core.chinacloudapi.cn/a",
            "c/a",
            "account.blob.core.chinacloudapi.cn",
        ),
        (
            "wasbs://c@account.blob.core.usgovcloudapi.net",
            "c",
            "account.blob.core.usgovcloudapi.net",
        ),
        ("wasbs://c@Account.Blob.Core.Windows.Net/A", "c/A", "account.blob.core.windows.net"),
        ("abfss://c@account.dfs.core.windows.net/a", "c/a", "account.blob.core.windows.net"),
        ("abfs://c@account.blob.core.windows.net/a", "c/a", "account.blob.core.windows.net"),
        (
            "abfss://c@account.privatelink.dfs.core.windows.net/a",
            "c/a",
            "account.privatelink.blob.core.windows.net",
        ),
        (
            "abfss://c@account.z12.dfs.storage.azure.net/a",
            "c/a",
            "account.z12.blob.storage.azure.net",
        ),
        (
            "abfss://ws@onelake.dfs.fabric.microsoft.com/a",
            "ws/a",
            "onelake.blob.fabric.microsoft.com",
        ),
        ("wasbs://$web@account.blob.core.windows.net/a", "$web/a", "account.blob.core.windows.net"),
        ("az://container/a/b", "container/a/b", None),
        ("abfs://container/a", "container/a", None),
        ("abfss://container", "container", None),
        (
            "wasbs://c@account.blob.core.windows.net/a#b?versionid=1%41+[1]*",
            "c/a#b?versionid=1%41+[1]*",
            "account.blob.core.windows.net",
        ),
        ("az://c/ä b//c", "c/ä b//c", None),
    ],
)
def test_places(uri, path, host):
    location = located(uri)
    assert (location.path, location.options.get("account_host")) == (path, host)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("wasbs://account.blob.core.windows.net/path", "names no container"),
        ("wasbs://@account.blob.core.windows.net/path", "names no container"),
        ("az://", "names no container"),
        ("az:///path", "names no container"),
        ("az://localhost:10000/path", "names no container"),
        ("wasbs://container/path", "names no account's host"),
        ("wasbs://c@account.s3.amazonaws.com/path", "no storage account's"),
        ("wasbs://c@account.blob.core.windows.net.evil.example/path", "no storage account's"),
        ("wasbs://c@blob.core.windows.net/path", "no storage account's"),
        ("wasbs://c@localhost/path", "no storage account's"),
        ("wasbs://c:secret@account.blob.core.windows.net/path", "has a password"),
    ],
)
def test_what_is_no_place(uri, message):
    with pytest.raises(InvalidURI, match=message) as caught:
        located(uri)
    assert "@<account>.blob.core.windows.net/<path>" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "wasbs://c@account.blob.core.windows.net/a/b #?%41.txt",
        "wasb://c@account.blob.core.chinacloudapi.cn",
        "abfss://c@account.dfs.core.windows.net/a",
        "az://c/a",
        "abfs://c/a",
    ],
)
def test_the_uri_comes_back(uri):
    fs, path = mlartifacts.url_to_fs(uri, account_name="account", account_key=KEY)
    assert fs.unstrip_protocol(path) == uri
    assert fs.unstrip_protocol(uri) == uri
    again = fsspec.AbstractFileSystem.from_json(fs.to_json())
    assert again.unstrip_protocol(path) == uri


# ---- Logging in --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "login"),
    [
        ({}, {}),
        ({"AZURE_STORAGE_ACCESS_KEY": "k"}, {"account_key": "k"}),
        ({"AZURE_STORAGE_ACCOUNT_KEY": "k"}, {"account_key": "k"}),
        (
            {"AZURE_STORAGE_ACCOUNT_KEY": "adlfs", "AZURE_STORAGE_ACCESS_KEY": "mlflow"},
            {"account_key": "mlflow"},
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": STRING, "AZURE_STORAGE_ACCESS_KEY": "k"},
            {"connection_string": STRING},
        ),
        (
            {"AZURE_STORAGE_ACCESS_KEY": "k", "AZURE_STORAGE_SAS_TOKEN": "sig=s"},
            {"account_key": "k"},
        ),
        (
            {"AZURE_STORAGE_SAS_TOKEN": "sig=s", "AZURE_STORAGE_CLIENT_ID": "i"},
            {"sas_token": "sig=s"},
        ),
        (
            {
                "AZURE_STORAGE_CLIENT_ID": "i",
                "AZURE_STORAGE_CLIENT_SECRET": "s",
                "AZURE_STORAGE_TENANT_ID": "t",
            },
            {"client_id": "i", "client_secret": "s", "tenant_id": "t"},
        ),
        ({"AZURE_STORAGE_ANON": "true"}, {"anon": True}),
        ({"AZURE_STORAGE_ANON": "0"}, {}),
        ({"AZURE_STORAGE_ACCOUNT_NAME": "other"}, {}),  # the URI wins
    ],
)
def test_login_of_the_environment(variables, login):
    location = located(URI, **variables)
    assert location.options == {**ACCOUNT, **login, "timeout": 600}
    assert set(variables) <= set(STORE.variables)


def test_account_of_the_environment():
    assert located("az://c/a", AZURE_STORAGE_ACCOUNT_NAME="account").options == {
        "account_name": "account",
        "timeout": 600,
    }


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("-1", None), ("", 600)])
def test_timeout(value, seconds):
    location = located(URI, MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT=value)
    assert location.options["timeout"] == seconds


@pytest.mark.parametrize("value", ["0", "-2", "soon"])
def test_timeout_that_is_none(value):
    with pytest.raises(InvalidConfig, match="MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT"):
        located(URI, MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT=value)


@pytest.mark.parametrize(
    "explicit",
    [
        {"account_key": "mine"},
        {"sas_token": "sig=mine"},
        {"credential": object()},
        {"anon": True},
        {"anon": False},
        {"connection_string": STRING.replace(KEY, "mine")},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize(
    "variables",
    [
        {"AZURE_STORAGE_CONNECTION_STRING": STRING},
        {"AZURE_STORAGE_ACCESS_KEY": KEY},
        {"AZURE_STORAGE_CONNECTION_STRING": STRING.replace("=account;", "=other;")},
    ],
)
def test_a_login_given_sets_aside_the_environments(explicit, variables):
    location = located(URI, explicit, **variables)
    assert location.options == {**ACCOUNT, **explicit, "timeout": 600}


@pytest.mark.parametrize(
    "variable", ["AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY"]
)
def test_a_login_given_is_the_one_that_is_used(monkeypatch, variable):
    monkeypatch.setenv(variable, STRING if "STRING" in variable else KEY)
    theirs, _ = mlartifacts.url_to_fs(URI)
    assert theirs.service_client.credential.account_key == KEY
    mine, _ = mlartifacts.url_to_fs(URI, account_key="bWluZQ==")
    assert mine.service_client.credential.account_key == "bWluZQ=="
    nobody, _ = mlartifacts.url_to_fs(URI, anon=True)
    assert nobody.service_client.credential is None
    signed, _ = mlartifacts.url_to_fs(URI, sas_token="?sv=1&sig=mine")
    assert signed.service_client.get_blob_client("c", "b").url.endswith("/c/b?sv=1&sig=mine")
    assert signed.service_client.primary_hostname == "account.blob.core.windows.net"


@pytest.mark.parametrize(
    ("string", "name"),
    [
        (STRING.replace("=account;", "=other;"), "other"),
        ("BlobEndpoint=https://other.blob.core.windows.net/;SharedAccessSignature=sig=a", "other"),
        ("UseDevelopmentStorage=true;AccountName=devstoreaccount1", "devstoreaccount1"),
    ],
)
def test_connection_string_of_another_account(monkeypatch, string, name):
    with pytest.raises(InvalidConfig, match=f"'account'.*{name!r}") as caught:
        located(URI, AZURE_STORAGE_CONNECTION_STRING=string)
    assert KEY not in str(caught.value)
    assert "sig" not in str(caught.value)
    with pytest.raises(InvalidConfig):
        mlartifacts.url_to_fs(URI, connection_string=string)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", string)
    with pytest.raises(InvalidConfig):
        mlartifacts.open(URI)
    assert located("az://c/a", AZURE_STORAGE_CONNECTION_STRING=string).path == "c/a"


def test_account_name_of_another_account():
    with pytest.raises(InvalidConfig, match="'account'.*'other'"):
        mlartifacts.url_to_fs(URI, account_name="other", account_key=KEY)


@pytest.mark.parametrize("string", [KEY, "AccountKey=secret", "a;b", "secret"])
def test_what_is_no_connection_string(string):
    with pytest.raises(InvalidConfig, match="AZURE_STORAGE_CONNECTION_STRING") as caught:
        located(URI, AZURE_STORAGE_CONNECTION_STRING=string)
    assert string not in str(caught.value)


def test_no_account():
    with pytest.raises(InvalidConfig, match="AZURE_STORAGE_ACCOUNT_NAME"):
        mlartifacts.url_to_fs("az://container/path")


def test_default_credential():
    from azure.identity.aio import ClientSecretCredential, DefaultAzureCredential

    fs, _ = mlartifacts.url_to_fs(URI)
    assert isinstance(fs.service_client.credential, DefaultAzureCredential)
    fs, _ = mlartifacts.url_to_fs(URI, client_id="i", client_secret="s", tenant_id="t")
    assert isinstance(fs.service_client.credential, ClientSecretCredential)


def test_default_credential_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.identity.aio", None)
    with pytest.raises(MissingDriver, match=r"azure-identity.*mlartifacts\[azure\]"):
        mlartifacts.url_to_fs(URI)


def test_no_login_is_found(monkeypatch):
    # Of the many ways that it tries, the one that asks nothing outside this process.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    fs, path = mlartifacts.url_to_fs(URI)
    credential, asked = fs.service_client.credential, []
    ask = credential.get_token_info

    async def get_token_info(*args, **kwargs):
        asked.append(args)
        return await ask(*args, **kwargs)

    monkeypatch.setattr(credential, "get_token_info", get_token_info)
    with pytest.raises(PermissionError, match="AZURE_STORAGE_ACCESS_KEY") as caught:
        fs.exists(path)
    assert caught.value.filename == path
    assert len(asked) == 1  # and not again after a wait, and another


def test_secrets_stay_here(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", KEY)
    fs, _ = mlartifacts.url_to_fs(URI)
    shown = [repr(fs), str(fs), fs.to_json(), repr(fs.storage_options), repr(located(URI))]
    assert not [text for text in shown if KEY in text]
    assert KEY.encode() not in pickle.dumps(fs)
    assert json.loads(fs.to_json())["uri"] == "wasbs://account.blob.core.windows.net"
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "bmV3")
    again = pickle.loads(pickle.dumps(fs))
    assert again.service_client.credential.account_key == "bmV3"


# ---- On a server -------------------------------------------------------------------------


@pytest.fixture
def root(azurite, monkeypatch):
    for name, value in azurite.env.items():
        monkeypatch.setenv(name, value)
    return azurite.new_root()


@pytest.fixture
def fs(root):
    return mlartifacts.url_to_fs(root)[0]


@pytest.fixture
def container(root):
    return parse(root).username


@pytest.fixture
def raw(azurite, container):
    """The container, by Azure's own client."""
    with ContainerClient.from_connection_string(azurite.connection_string, container) as client:
        yield client


@pytest.fixture
def through(azurite, monkeypatch, root):
    """Have Azure's server reached by another URL."""

    def put(url):
        there = azurite.connection_string.replace(azurite.url, url)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", there)

    return put


@pytest.fixture
def proxy(azurite, through):
    with tcp_proxy.proxied(azurite.url) as proxy:
        through(proxy.url)
        yield proxy


@pytest.fixture
def front(azurite, through):
    """A server that may answer in the place of Azure's."""
    with reverse_proxy.serve(azurite.url) as front:
        through(front.url)
        yield front


@pytest.fixture
def quick(monkeypatch):
    """Wait less between two tries."""
    monkeypatch.setattr("mlartifacts.stores.azure.filesystem._WAIT", 0.01)


def test_sas_token(azurite, root, container, raw, monkeypatch):
    signature = generate_container_sas(
        azurite.account,
        container,
        azurite.key,
        permission=ContainerSasPermissions(
            read=True, write=True, delete=True, list=True, create=True
        ),
        expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1),
    )
    string = f"BlobEndpoint={azurite.endpoint};SharedAccessSignature={signature}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", string)
    fs, path = mlartifacts.url_to_fs(f"{root}/tree")
    fs.makedirs(path, exist_ok=True)  # asking for the container is not allowed
    fs.pipe_file(f"{path}/one", b"1")
    fs.cp(f"{path}/one", f"{path}/two")
    assert fs.find(path) == [f"{path}/one", f"{path}/two"]
    fs.rm(path, recursive=True)
    assert not list(raw.list_blobs())


def test_wrong_key(azurite, root, monkeypatch):
    for key in ("bm90IHRoZSBrZXk=", "no base64!"):
        wrong = azurite.connection_string.replace(azurite.key, key)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", wrong)
        fs, path = mlartifacts.url_to_fs(f"{root}/file")
        for act in (fs.exists, fs.cat_file, fs.ls, fs.isdir):
            with pytest.raises(PermissionError, match="AZURE_STORAGE_ACCESS_KEY") as caught:
                act(path)
            assert caught.value.filename == path
            assert key not in str(caught.value)


def test_missing_container_is_named(fs, container):
    with pytest.raises(FileNotFoundError, match="no such container: 'not-there'"):
        fs.pipe_file("not-there/file", b"x")
    with pytest.raises(FileNotFoundError, match="not-there"):
        fs.info("not-there")
    fs.pipe_file(f"{container}/file", b"x")
    for source, target in [
        (container, "not-there"),
        ("not-there", container),
        ("not-there", "away"),
    ]:
        with pytest.raises(FileNotFoundError, match="no such container: 'not-there'") as caught:
            fs.cp_file(f"{source}/file", f"{target}/copy")
        assert caught.value.filename.startswith("not-there/")
    with pytest.raises(OSError, match="InvalidResourceName"):
        fs.ls("No_Container!")


def test_the_networks_own_proxy(azurite, root, through, monkeypatch):
    through("http://azure.invalid")
    fs, path = mlartifacts.url_to_fs(root)
    with reverse_proxy.serve(azurite.url) as network:
        network.whole_urls = True
        monkeypatch.setenv("HTTP_PROXY", network.url)
        fs.pipe_file(f"{path}/file", b"data")
        assert fs.cat_file(f"{path}/file") == b"data"
        assert network.requests


def test_nobody_listens(azurite, root, refused_port, monkeypatch):
    waits = []

    async def sleep(retry, settings, transport):
        waits.append(retry.get_backoff_time(settings))

    monkeypatch.setattr("mlartifacts.stores.azure.filesystem._Retry.sleep", sleep)
    down = azurite.connection_string.replace(azurite.url, f"http://127.0.0.1:{refused_port}")
    fs, path = mlartifacts.url_to_fs(f"{root}/file", connection_string=down)
    for act in (fs.exists, fs.cat_file):
        with pytest.raises(ConnectionRefusedError) as caught:
            act(path)
        assert caught.value.filename == path
    # Azure's own are 15 seconds and more each.
    assert len(waits) == 6
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, [0.5, 1, 2] * 2, strict=True))


@pytest.fixture
def busy(front, monkeypatch):
    """A server that answers 503 to so many requests about ``busy``, and how long we wait then."""
    asked, waits = [], []

    async def sleep(retry, settings, transport):
        waits.append(retry.get_backoff_time(settings))

    monkeypatch.setattr("mlartifacts.stores.azure.filesystem._Retry.sleep", sleep)
    monkeypatch.setattr("mlartifacts.transfer.engine._pause", lambda tries: waits.append(9) or 0)
    said = {"x-ms-error-code": "ServerBusy", "Content-Type": "application/xml"}
    answer = Answer(503, b"<Error><Code>ServerBusy</Code></Error>", said)

    def refuse(times):
        def refusing(request):
            if "/busy" not in request.path or request.method != "PUT":
                return None
            asked.append(request.path)
            return answer if len(asked) <= times else None

        front.answer = refusing
        return asked, waits

    return refuse


@pytest.mark.parametrize("size", [1, 20_000_000])
def test_a_server_that_is_busy_twice(busy, root, container, raw, tmp_path, size):
    (tmp_path / "busy").write_bytes(bytes(size))
    asked, waits = busy(2)
    mlartifacts.upload(tmp_path / "busy", f"{root}/")
    assert len(raw.download_blob("busy").readall()) == size
    assert len(asked) == 2 + (1 if size == 1 else 4)  # three blocks and their commit
    assert len(waits) == 2
    assert all(0.25 <= wait <= 1 for wait in waits)


def test_a_server_that_stays_busy(busy, root, tmp_path):
    """It is asked six times, and not six times by each of those who would ask again."""
    (tmp_path / "busy").write_bytes(b"x")
    asked, waits = busy(100)
    with pytest.raises(TransferError, match=" 503 "):
        mlartifacts.upload(tmp_path / "busy", f"{root}/")
    assert len(asked) == 6
    longest = [0.5, 1, 2, 4, 8]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))


@pytest.mark.parametrize("waits", [7, 9000])
def test_a_server_that_asks_for_a_wait(front, root, raw, tmp_path, monkeypatch, waits):
    """By 429, once to each request; it is waited for as long as a silent server, at most."""
    (tmp_path / "file").write_bytes(bytes(9_000_000))
    asked, waited = set(), []

    def answer(request):
        if request.path in asked:
            return None
        asked.add(request.path)
        return Answer(429, b"<html>Slowly!</html>", {"Retry-After": str(waits)})

    async def sleep(retry, settings, transport):
        waited.append(retry.get_backoff_time(settings))

    monkeypatch.setattr("mlartifacts.stores.azure.filesystem._Retry.sleep", sleep)
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "60")
    front.answer = answer
    mlartifacts.upload(tmp_path / "file", f"{root}/")
    assert raw.download_blob("file").readall() == bytes(9_000_000)
    asked.clear()
    mlartifacts.download(f"{root}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == bytes(9_000_000)
    assert {*waited} == {min(waits, 60)}


def test_a_server_that_asks_for_waits_without_end(busy, front, root, tmp_path):
    (tmp_path / "busy").write_bytes(b"x")
    asked, waits = [], busy(0)[1]
    front.answer = lambda request: asked.append(request) or Answer(429, b"", {"Retry-After": "x"})
    with pytest.raises(OSError, match=" 429 "):
        mlartifacts.upload(tmp_path / "busy", f"{root}/")
    assert len(asked) == 6
    assert max(waits) <= 8


def test_steps_that_are_dots(fs, container, raw):
    raw.upload_blob("b", b"not this")
    for path in ("a/../b", "./b", "a/../../other/b", "a/."):
        with pytest.raises(InvalidURI, match="step"):
            fs.cat_file(f"{container}/{path}")


@pytest.mark.parametrize(
    "act",
    [
        lambda fs, path: fs.pipe_file(path, b"new"),
        lambda fs, path: fs.open(path, "wb").close(),
        lambda fs, path: fs.put_file(__file__, path),
        lambda fs, path: fs.cp_file(path.replace("\\", "/"), path),
        lambda fs, path: fs.mv(path.replace("\\", "/"), path),
        lambda fs, path: fs.rm_file(path),
        lambda fs, path: fs.rm([path]),
        lambda fs, path: fs.rm(path, recursive=True),
        lambda fs, path: fs.cat_file(path),
        lambda fs, path: fs.info(path),
        lambda fs, path: fs.open(path),
        lambda fs, path: fs.touch(path),
        lambda fs, path: fs.exists(path),
    ],
)
def test_a_backslash_is_no_slash(fs, container, raw, act):
    raw.upload_blob("k/a/b", b"old")
    with pytest.raises(InvalidURI, match="backslash"):
        act(fs, f"{container}/k/a\\b")
    assert raw.download_blob("k/a/b").readall() == b"old"
    assert len(list(raw.list_blobs())) == 1


def test_version_is_a_name_unless_asked_for(fs, container, raw):
    raw.upload_blob("a", b"not this")
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{container}/a?versionid=1")
    fs.pipe_file(f"{container}/a?versionid=1", b"this")
    assert raw.download_blob("a").readall() == b"not this"
    assert fs.cat_file(f"{container}/a?versionid=1") == b"this"
    aware = mlartifacts.filesystem("az", version_aware=True)
    assert aware.split_path("c/a?versionid=1") == ("c", "a", "1")


# ---- Answers that are none of Azure's ----------------------------------------------------

PAGE = Answer(200, b"<html><body>Log in, please.</body></html>", {"Content-Type": "text/html"})
MISSING = Answer(404, PAGE.body, PAGE.headers)
EMPTY = [Answer(201), Answer(202)]


@pytest.fixture
def acts(fs, container, raw, tmp_path):
    """What asks a server, each with the path that its error is about."""
    for name in ("file", "tree/one", "tree/two"):
        raw.upload_blob(name, b"stored")
    (tmp_path / "local").write_bytes(b"5 long")
    file, tree, new = f"{container}/file", f"{container}/tree", f"{container}/new"

    def made():
        fs, _ = mlartifacts.url_to_fs(f"az://{container}")
        return fs

    def write(size):
        with made().open(file, "wb", block_size=2**20) as opened:
            opened.write(bytes(size))

    return {
        "ls": (tree, lambda: made().ls(tree)),
        "find": (tree, lambda: made().find(tree)),
        "walk": (tree, lambda: list(made().walk(tree))),
        "du": (tree, lambda: made().du(tree)),
        "info": (file, lambda: made().info(file)),
        "exists": (file, lambda: made().exists(file)),
        "isdir": (tree, lambda: made().isdir(tree)),
        "cat": (file, lambda: made().cat(file)),
        "open": (file, lambda: made().open(file)),
        "get": (file, lambda: made().get(file, str(tmp_path / "got"))),
        "cp": (file, lambda: made().cp(file, new)),
        "rm": (file, lambda: made().rm(file)),
        "rm -r": (tree, lambda: made().rm(tree, recursive=True)),
        "pipe": (file, lambda: made().pipe(file, b"5 long")),
        "put": (file, lambda: made().put(str(tmp_path / "local"), file)),
        "write": (file, lambda: write(6)),
        "write blocks": (file, lambda: write(3 * 2**20)),
    }


@pytest.mark.parametrize("answer", [PAGE, MISSING, *EMPTY], ids=lambda answer: answer.status)
def test_what_something_else_answers(front, acts, raw, answer):
    front.answer = lambda request: answer
    for name, (path, act) in acts.items():
        with pytest.raises(OSError, match=f"{answer.status} .* no answer of Azure's") as caught:
            act()
        assert not isinstance(caught.value, FileNotFoundError), name
        assert caught.value.filename == path, name
    assert {raw.download_blob(each.name).readall() for each in raw.list_blobs()} == {b"stored"}


@pytest.mark.parametrize("answer", [PAGE, MISSING, *EMPTY], ids=lambda answer: answer.status)
@pytest.mark.parametrize("act", ["delete", "sync", "rm", "rm of a list"])
def test_deletions_that_something_else_answers(front, root, raw, tmp_path, answer, act):
    names = {f"tree/{number}" for number in range(20 if act == "rm of a list" else 3)}
    for name in names:
        raw.upload_blob(name, b"")
    (tmp_path / "empty").mkdir()
    front.answer = lambda request: answer if request.method in {"DELETE", "POST"} else None
    fs, path = mlartifacts.url_to_fs(f"{root}/tree")
    with pytest.raises(OSError, match="no answer of Azure's") as caught:
        if act == "delete":
            mlartifacts.delete(f"{root}/tree", exclude=["other"])
        elif act == "sync":
            mlartifacts.sync(tmp_path / "empty", f"{root}/tree", delete=True)
        elif act == "rm":
            fs.rm(path, recursive=True)
        else:
            fs.rm([f"{path}/{number}" for number in range(20)])
    if act in {"delete", "sync"}:
        assert caught.value.failures.keys() == {name.removeprefix("tree/") for name in names}
    assert {blob.name for blob in raw.list_blobs()} == names


def test_many_files_are_deleted_together(front, fs, container, raw):
    names = [f"many/{number}" for number in range(300)]
    for name in names:
        raw.upload_blob(name, b"")
    front.requests.clear()
    fs.rm([f"{container}/{name}" for name in names])
    assert [request.method for request in front.requests] == ["POST", "POST"]
    assert not list(raw.list_blobs())


@pytest.mark.parametrize("count", [3, 20])
def test_files_of_which_one_is_not_there_are_deleted(fs, container, raw, count):
    raw.upload_blob("other", b"")
    names = [f"{number:02}" for number in range(count)]
    for name in names[1:]:
        raw.upload_blob(name, b"")
    with pytest.raises(FileNotFoundError) as caught:
        fs.rm([f"{container}/{name}" for name in names])
    assert caught.value.filename == f"{container}/00"
    assert [blob.name for blob in raw.list_blobs()] == ["other"]


def test_files_that_are_deleted_one_by_one_where_no_batches_are_taken(front, fs, container, raw):
    names = [f"{number:02}" for number in range(20)]
    for name in names:
        raw.upload_blob(name, b"")
    headers = {"x-ms-version": "1", "x-ms-error-code": "UnsupportedHttpVerb"}
    front.answer = lambda each: Answer(405, b"", headers) if each.method == "POST" else None
    fs.rm([f"{container}/{name}" for name in names[1:]])
    assert [blob.name for blob in raw.list_blobs()] == ["00"]


@pytest.mark.parametrize("part", ["comp=block&", "comp=blocklist"])
def test_a_part_of_an_upload_that_something_else_answers(front, root, raw, tmp_path, part):
    old, new = bytes(9_000_000), b"n" * 9_000_000
    raw.upload_blob("file", old)
    (tmp_path / "file").write_bytes(new)
    front.answer = lambda request: Answer(201) if part in request.path else None
    with pytest.raises(TransferError, match="no answer of Azure's"):
        mlartifacts.upload(tmp_path / "file", f"{root}/")
    assert raw.download_blob("file").readall() == old


def test_a_copy_of_which_something_else_tells(front, root, container, raw):
    raw.upload_blob("old", b"new")
    raw.upload_blob("new", b"old")
    begun = {"x-ms-version": "1", "x-ms-copy-id": "an-id", "x-ms-copy-status": "pending"}

    def answer(request):
        if "x-ms-copy-source" in {name.lower() for name in request.headers}:
            return Answer(202, b"", {**begun, "ETag": '"1"'})
        return PAGE if request.method == "HEAD" else None

    front.answer = answer
    fs, _ = mlartifacts.url_to_fs(root)
    with pytest.raises(OSError, match="no answer of Azure's") as caught:
        fs.cp_file(f"{container}/old", f"{container}/new")
    assert caught.value.filename == f"{container}/old"


def test_a_range_that_is_answered_without_one(front, acts):
    front.answer = lambda request: (
        Answer(200, b"other", {"x-ms-version": "1"}) if request.method == "GET" else None
    )
    for name in ("cat", "get"):
        path, act = acts[name]
        with pytest.raises(OSError, match="no answer of Azure's") as caught:
            act()
        assert caught.value.filename == path


def test_an_answer_that_cannot_be_read(front, acts, quick):
    front.answer = lambda request: Answer(
        200, b"<?xml version='1.0'?><Enum", {"x-ms-version": "1", "Content-Type": "application/xml"}
    )
    for name in ("ls", "find", "rm -r"):
        path, act = acts[name]
        with pytest.raises(OSError, match="cannot be read") as caught:
            act()
        assert caught.value.filename == path


@pytest.mark.parametrize("kind", [ConnectionResetError, TimeoutError])
def test_an_answer_that_breaks_off(proxy, root, raw, quick, monkeypatch, kind):
    """A lost connection is tried again, and a silence is not."""
    for number in range(30):
        raw.upload_blob(f"tree/{number}", b"")
    fs, path = mlartifacts.url_to_fs(f"{root}/tree", read_timeout=0.2)
    for act in (fs.ls, fs.find, fs.du, lambda path: fs.rm(path, recursive=True)):
        proxy.reset()
        proxy.cut()
        if kind is TimeoutError:
            proxy.swallow_after = 3000
        else:
            proxy.most = 3000
        with pytest.raises(kind) as caught:
            act(path)
        assert caught.value.filename == path
        assert len(proxy.requests) == (1 if kind is TimeoutError else 6)


# ---- Redirects ---------------------------------------------------------------------------


def test_redirects_without_end(front, acts):
    front.answer = lambda request: Answer(307, b"", {"Location": request.path})
    for name in ("ls", "find", "exists", "cat", "cp", "rm -r", "pipe"):
        path, act = acts[name]
        with pytest.raises(OSError, match="redirects without end") as caught:
            act()
        assert caught.value.filename == path
        assert caught.value.errno == errno.ELOOP


def test_a_redirect_to_nobody(front, root, refused_port, quick):
    there = f"127.0.0.1:{refused_port}"
    front.answer = lambda request: Answer(302, b"", {"Location": f"http://{there}/file?sig=s"})
    fs, path = mlartifacts.url_to_fs(f"{root}/file")
    for act in (fs.exists, fs.cat_file):
        with pytest.raises(ConnectionRefusedError, match=rf"{there} \(to which .* redirects\)"):
            act(path)


def test_a_redirect_to_who_refuses(front, root):
    with reverse_proxy.serve("http://127.0.0.1:1") as other:
        other.answer = lambda request: Answer(403)
        there = other.url.removeprefix("http://")
        moved = f"http://user:secret@{there}/file?sig=secret"
        front.answer = lambda request: Answer(307, b"", {"Location": moved})
        fs, path = mlartifacts.url_to_fs(f"{root}/file")
        acts = (fs.exists, fs.cat_file, lambda path: fs.pipe_file(path, b"x"))
        for act in acts:
            said = rf" {there} \(to which .* redirects\) refused \(403\): '"
            with pytest.raises(PermissionError, match=said) as caught:
                act(path)
            assert "secret" not in str(caught.value)
        assert other.requests


# ---- Directories that are blobs ----------------------------------------------------------


@pytest.fixture
def marked(container, raw):
    """Directories as portals and hierarchical accounts leave them."""
    raw.upload_blob("tree/", b"")
    raw.upload_blob("tree/empty/", b"")
    raw.upload_blob("tree/folder", b"", metadata={"hdi_isfolder": "true"})
    raw.upload_blob("tree/folder/file", b"1")
    raw.upload_blob("treetop", b"2")
    return f"{container}/tree"


def test_markers_are_directories(fs, marked):
    assert fs.ls(marked, detail=False) == [f"{marked}/empty", f"{marked}/folder"]
    assert [entry["type"] for entry in fs.ls(marked)] == ["directory"] * 2
    assert fs.ls(f"{marked}/empty", detail=False) == []
    assert fs.find(marked) == [f"{marked}/folder/file"]
    assert fs.isdir(f"{marked}/empty")
    assert fs.isdir(f"{marked}/folder")
    with pytest.raises(IsADirectoryError):
        fs.open(f"{marked}/folder")
    assert list(fs.walk(marked)) == [
        (marked, ["empty", "folder"], []),
        (f"{marked}/empty", [], []),
        (f"{marked}/folder", [], ["file"]),
    ]


def test_markers_are_fetched_as_directories(fs, marked, tmp_path):
    fs.get(marked, str(tmp_path / "got"), recursive=True)
    found = {str(path.relative_to(tmp_path / "got")) for path in (tmp_path / "got").rglob("*")}
    assert found == {"empty", "folder", "folder/file"}
    with pytest.raises(FileNotFoundError):
        fs.get(f"{marked}/nothing", str(tmp_path / "none"))


def test_markers_are_deleted(fs, marked, raw):
    fs.rm(marked, recursive=True)
    assert [blob.name for blob in raw.list_blobs()] == ["treetop"]


def test_a_marker_that_has_bytes_is_a_file(fs, marked, raw, root, tmp_path):
    """By its whole name, as on S3: no disk can hold it, and who deletes it is told."""
    raw.upload_blob("tree/full/", b"bytes")
    raw.upload_blob("tree/full/file", b"2")
    names = ["folder/file", "full/", "full/file"]
    assert fs.find(marked) == [f"{marked}/{name}" for name in names]
    assert fs.ls(f"{marked}/full", detail=False) == [f"{marked}/full/", f"{marked}/full/file"]
    assert fs.cat_file(f"{marked}/full/") == b"bytes"
    assert fs.isdir(f"{marked}/full")
    assert fs.isdir(f"{marked}/empty/")
    with pytest.raises(InvalidURI, match="'full/'"):
        mlartifacts.download(f"{root}/tree", tmp_path / "there")
    assert sorted(mlartifacts.delete(f"{root}/tree").moved) == names
    assert [blob.name for blob in raw.list_blobs()] == ["treetop"]


def test_maxdepth(fs, container):
    fs.pipe({f"{container}/{name}": b"" for name in ("a", "d/b", "d/e/c", "d/e/f/g")})
    assert fs.find(container, maxdepth=1) == [f"{container}/a"]
    assert fs.find(container, maxdepth=2) == [f"{container}/a", f"{container}/d/b"]
    assert fs.find(f"{container}/d", maxdepth=1, withdirs=True) == [
        f"{container}/{name}" for name in ("d", "d/b", "d/e")
    ]
    assert fs.glob(f"{container}/*/*") == [f"{container}/d/b", f"{container}/d/e"]


# ---- Containers --------------------------------------------------------------------------


def test_containers(fs, container, azurite):
    name = f"made-by-{container}"
    fs.mkdir(name)
    assert fs.isdir(name)
    assert name in fs.ls("", detail=False)
    with pytest.raises(FileExistsError):
        fs.mkdir(name, exist_ok=False)
    with pytest.raises(FileNotFoundError):
        fs.mkdir(f"{name}-2/below", create_parents=False)
    fs.pipe_file(f"{name}/file", b"x")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(name)
    assert fs.cat_file(f"{name}/file") == b"x"
    fs.rm(f"{name}/file")
    fs.rmdir(name)
    assert not fs.exists(name)
    assert fs.exists(container)


def test_container_is_no_file(fs, container):
    for mode in ("rb", "wb", "xb"):
        with pytest.raises(OSError, match="directory|exists"):
            fs.open(container, mode)
    for act in (fs.cat_file, lambda path: fs.pipe_file(path, b"x")):
        with pytest.raises(IsADirectoryError):
            act(container)


# ---- Writing in blocks -------------------------------------------------------------------


def write(fs, path, letter, blocks=3, mode="wb"):
    file = fs.open(path, mode, block_size=2**20)
    for _ in range(blocks):
        file.write(letter * 2**20)
    return file


def test_blocks(fs, container, raw):
    path = f"{container}/file"
    file = write(fs, path, b"a")
    assert not fs.exists(path)
    file.write(b"end")
    file.close()
    assert raw.download_blob("file").readall() == b"a" * 3 * 2**20 + b"end"
    assert fs.info(path)["type"] == "file"


def test_blocks_of_a_broken_write(fs, container, raw):
    raw.upload_blob("file", b"old")
    with pytest.raises(KeyError), write(fs, f"{container}/file", b"a"):
        raise KeyError
    assert raw.download_blob("file").readall() == b"old"
    with pytest.raises(KeyError), write(fs, f"{container}/new", b"a"):
        raise KeyError
    assert fs.find(container) == [f"{container}/file"]


def test_blocks_of_two_writers(fs, container, raw):
    path = f"{container}/file"
    first, second = write(fs, path, b"a"), write(fs, path, b"b")
    second.close()
    with pytest.raises(OSError, match="another write") as caught:
        first.close()
    assert caught.value.filename == path
    assert raw.download_blob("file").readall() == b"b" * 3 * 2**20


@pytest.mark.parametrize("blocks", [0, 2])
def test_exclusive_to_the_end(fs, container, raw, blocks):
    path = f"{container}/file"
    file = write(fs, path, b"a", blocks, "xb")
    raw.upload_blob("file", b"theirs", overwrite=True)
    with pytest.raises(FileExistsError) as caught:
        file.close()
    assert caught.value.filename == path
    assert raw.download_blob("file").readall() == b"theirs"
    with pytest.raises(FileExistsError):
        fs.open(path, "xb")


def test_transaction_of_blocks(fs, container, raw):
    with fs.transaction:
        with fs.open(f"{container}/large", "wb", block_size=2**20) as file:
            file.write(b"a" * 3 * 2**20)
        with fs.open(f"{container}/small", "wb") as file:
            file.write(b"b")
        assert fs.find(container) == []
    assert raw.download_blob("large").readall() == b"a" * 3 * 2**20
    assert raw.download_blob("small").readall() == b"b"


def test_append_in_blocks(fs, container, raw):
    old = bytes(range(256)) * 2**13
    raw.upload_blob("file", old)
    with fs.open(f"{container}/file", "ab", block_size=2**20) as file:
        assert file.tell() == len(old)
        file.write(b"new")
    assert raw.download_blob("file").readall() == old + b"new"


def test_append_keeps_what_is_said_of_a_blob(fs, container, raw):
    settings = ContentSettings(content_type="text/x-test", cache_control="no-store")
    raw.upload_blob("file", b"1", content_settings=settings, metadata={"by": "me"})
    with fs.open(f"{container}/file", "ab") as file:
        file.write(b"2")
    there = raw.get_blob_client("file").get_blob_properties()
    assert there.content_settings.content_type == "text/x-test"
    assert there.content_settings.cache_control == "no-store"
    assert there.metadata["by"] == "me"
    assert bytes(there.content_settings.content_md5) == hashlib.md5(b"12").digest()


def test_settings_of_content(fs, container, raw):
    content = {"content_settings": {"content_type": "text/x-test"}}
    with fs.open(f"{container}/small", "wb", **content) as file:
        file.write(b"x")
    with fs.open(f"{container}/large", "wb", block_size=2**20, **content) as file:
        file.write(b"x" * 2**21)
    for blob in raw.list_blobs():
        assert blob.content_settings.content_type == "text/x-test"


@pytest.mark.parametrize("when", ["it begins", "it goes on"])
def test_a_copy_that_is_stopped_amid_it(azurite, container, raw, when):
    """Azure may take its time for a copy, and leaves an empty blob where that is ended."""
    raw.upload_blob("old", b"x")
    asked, is_stopped = threading.Event(), threading.Event()
    azures = {"x-ms-version": "1"}
    pending = {**azures, "x-ms-copy-id": "an-id", "x-ms-copy-status": "pending", "ETag": '"1"'}

    def answer(request):
        headers = {name.lower() for name in request.headers}
        if request.method == "PUT" and "x-ms-copy-source" in headers:
            if when == "it begins":
                asked.set()
                is_stopped.wait(20)
            return Answer(202, b"", pending)
        if request.method == "HEAD":
            asked.set()
            return Answer(200, b"", {**pending, "x-ms-blob-type": "BlockBlob"})
        return Answer(204 if request.method == "PUT" else 202, b"", azures)

    with reverse_proxy.serve(azurite.url) as front:
        string = azurite.connection_string.replace(azurite.url, front.url)
        fs = mlartifacts.filesystem("az", connection_string=string)
        front.answer = answer
        with pytest.raises(asyncio.CancelledError), stoppable() as stop:
            stopper = threading.Thread(target=lambda: asked.wait(20) and (stop(), is_stopped.set()))
            stopper.start()
            fs.cp_file(f"{container}/old", f"{container}/new")
        stopper.join(20)
        wait_until(lambda: front.asked("DELETE", "/new"), "the end of the copy")
        (ended,) = front.asked("PUT", "/new?comp=copy&copyid=an-id")
        (deleted,) = front.asked("DELETE", "/new")
        assert front.requests.index(ended) < front.requests.index(deleted)


# ---- Requests, connections and time ------------------------------------------------------


def test_requests(proxy, root, raw):
    for name in ("tree/one", "tree/two", "treetop/three", "new"):
        raw.upload_blob(name, b"0123456789")
    fs, path = mlartifacts.url_to_fs(root)

    def asked(act, *args, **kwargs):
        proxy.requests.clear()
        act(*args, **kwargs)
        return [(request.method, request.target.partition("?")[0]) for request in proxy.requests]

    base = f"/devstoreaccount1/{path}"
    assert asked(fs.ls, f"{path}/tree") == [("GET", base)]
    assert asked(fs.ls, path) == [("GET", base)]
    assert asked(fs.find, f"{path}/tree") == [("GET", base)]
    assert asked(fs.glob, f"{path}/tree/*") == [("GET", base)]
    assert asked(fs.info, f"{path}/new") == [("HEAD", f"{base}/new")]
    assert asked(fs.cat_file, f"{path}/new", 1, 3) == [("GET", f"{base}/new")]
    assert asked(fs.pipe_file, f"{path}/new", b"x") == [("PUT", f"{base}/new")]
    assert asked(fs.cp_file, f"{path}/new", f"{path}/copy") == [("PUT", f"{base}/copy")]
    assert asked(fs.rm, f"{path}/copy") == [("DELETE", f"{base}/copy")]

    def read():
        with fs.open(f"{path}/tree/one") as file:
            assert file.read() == b"0123456789"

    def write():
        with fs.open(f"{path}/new", "wb") as file:
            file.write(b"x")

    assert asked(read) == [("HEAD", f"{base}/tree/one"), ("GET", f"{base}/tree/one")]
    assert asked(write) == [("PUT", f"{base}/new")]
    raw.upload_blob("tree/0", b"")  # and nothing of this is remembered
    assert fs.ls(f"{path}/tree", detail=False) == [
        f"{path}/tree/{name}" for name in ("0", "one", "two")
    ]


def test_cut_while_reading(proxy, root, raw):
    data = bytes(range(256)) * 2**13
    raw.upload_blob("file", data)
    fs, path = mlartifacts.url_to_fs(f"{root}/file")
    assert fs.cat_file(path) == data
    proxy.cut()  # an idle connection
    assert fs.cat_file(path) == data
    proxy.cut_after = 100_000
    assert fs.cat_file(path) == data  # the rest came over another connection


def test_hang_while_reading(proxy, root, raw, monkeypatch):
    raw.upload_blob("file", b"x" * 2**21)
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    fs, path = mlartifacts.url_to_fs(f"{root}/file")
    assert fs.exists(path)
    proxy.reset()
    proxy.swallow_after = 100_000
    with pytest.raises(TimeoutError):
        fs.cat_file(path)
    assert proxy.swallow
    assert proxy.methods() == ["GET"]


def test_connections_are_closed(proxy, root):
    fs, path = mlartifacts.url_to_fs(root)
    assert fs.exists(path)
    client = weakref.ref(fs.service_client)
    session = client()._pipeline._transport.session
    assert not session.closed
    type(fs).clear_instance_cache()
    del fs
    gc.collect()
    wait_until(lambda: session.closed, "the end of the session")


# ---- With MLflow -------------------------------------------------------------------------


def test_mlflow_reads_and_writes_the_same(root, fs, container, tmp_path):
    from mlflow.store.artifact.azure_blob_artifact_repo import AzureBlobArtifactRepository

    repository = AzureBlobArtifactRepository(f"{root}/run/artifacts")
    (tmp_path / "theirs ü#1.txt").write_bytes(b"theirs")
    repository.log_artifact(str(tmp_path / "theirs ü#1.txt"), "deep")
    with mlartifacts.open(f"{root}/run/artifacts/deep/theirs ü#1.txt") as file:
        assert file.read() == b"theirs"
    with mlartifacts.open(f"{root}/run/artifacts/deep/ours %41.txt", "wb") as file:
        file.write(b"ours")
    listed = [(info.path, info.file_size) for info in repository.list_artifacts("deep")]
    assert listed == [("deep/ours %41.txt", 4), ("deep/theirs ü#1.txt", 6)]
    repository._download_file("deep/ours %41.txt", str(tmp_path / "ours"))
    assert (tmp_path / "ours").read_bytes() == b"ours"
    repository.client.close()


def test_by_entry_point(root, azurite):
    """With nothing of this package imported by name."""
    with fsspec.open(f"{root}/file", "wb") as file:
        file.write(b"x")
    with BlobServiceClient.from_connection_string(azurite.connection_string) as client:
        name = parse(root).username
        assert client.get_blob_client(name, "file").download_blob().readall() == b"x"
    frame = pd.DataFrame({"x": [1, 2], "y": ["a", "b"]})
    frame.to_parquet(f"{root}/table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(f"{root}/table.parquet"), frame)
