"""A tracking server that answers badly, late, elsewhere, or asks who we are."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import hashlib
import http.server
import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import mlartifacts
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI, Unresolved
from mlartifacts.tracking import connection, plugins
from mlartifacts.tracking.connection import Connection, NotMLflow, Patience
from mlartifacts.tracking.login import Login
from mlartifacts.uri import parse
from tests.servers import certificates
from tests.servers.process import LOOPBACK

RUN = {"run": {"info": {"artifact_uri": "/artifacts/of/it", "experiment_id": "0"}, "data": {}}}


@dataclasses.dataclass
class Answer:
    status: int = 200
    body: bytes = json.dumps(RUN).encode()
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class Scripted:
    """A server that gives the answers it was told to, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[Answer | None] = [Answer()]
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                outer.requests.append((self.command, self.path, dict(self.headers)))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if answer is None:  # break off
                    self.connection.close()
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client has heard enough
                    self.wfile.write(answer.body)

            do_POST = do_PUT = do_GET  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://{LOOPBACK}:{self.port}"

    def use_tls(self, context: Any) -> None:
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"https://localhost:{self.port}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[Scripted]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()

    @property
    def logins(self) -> list[str | None]:
        return [headers.get("Authorization") for _, _, headers in self.requests]


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted().serving() as server:
        yield server


@pytest.fixture
def another() -> Iterator[Scripted]:
    with Scripted().serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


def resolved(server: Scripted, uri: str = "runs:/abc") -> str:
    return mlartifacts.resolve(uri, tracking_uri=server.url)


def basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


# ---- How often it is asked ---------------------------------------------------------------


def test_a_run_is_looked_up_once(server):
    for name in ("x", "y/z", "x"):
        assert resolved(server, f"runs:/abc/{name}") == f"/artifacts/of/it/{name}"
    fs = mlartifacts.filesystem("runs", tracking_uri=server.url)
    with pytest.raises(FileNotFoundError):
        fs.cat_file("abc/missing")
    asked = [path for _, path, _ in server.requests]
    assert asked.count("/api/2.0/mlflow/runs/get?run_id=abc") == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(server, status):
    server.answers = [Answer(status, b"later"), None, Answer(status), Answer()]
    assert resolved(server) == "/artifacts/of/it"
    assert len(server.requests) == 4


def test_retries_end(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    server.answers = [Answer(503, b'{"error_code": "X", "message": "down for good"}')]
    with pytest.raises(OSError, match="503: down for good") as caught:
        resolved(server)
    assert caught.value.filename == server.url
    assert len(server.requests) == 3


def test_the_server_says_how_long_to_wait(server, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append((seconds, len(server.requests)))

    monkeypatch.setattr(connection, "time", SimpleNamespace(sleep=sleep))
    server.answers = [Answer(429, headers={"Retry-After": "77"}), Answer()]
    resolved(server)
    assert waits == [(77, 1)]  # between the first request and the second
    assert len(server.requests) == 2


def test_waits_grow_and_are_bounded():
    patience = Patience(Environment({"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2"}))
    for tries, longest in ((1, 2), (2, 4), (5, 32), (30, 120)):
        assert longest / 2 <= patience.wait(tries, None) <= longest
    assert patience.wait(1, "7") == 7
    assert patience.wait(1, "100000") == 120
    assert patience.wait(1, "Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert patience.wait(1, "soon") <= 2
    assert 60 <= patience.wait(100_000, None) <= 120
    assert (patience.retries, patience.timeout) == (7, 120)


@pytest.mark.parametrize("variable", ["MAX_RETRIES", "BACKOFF_FACTOR", "TIMEOUT"])
@pytest.mark.parametrize("value", ["many", "-2", "9" * 30, "9" * 400])
def test_bad_patience(variable, value):
    with pytest.raises(InvalidConfig, match=f"MLFLOW_HTTP_REQUEST_{variable}"):
        Patience(Environment({f"MLFLOW_HTTP_REQUEST_{variable}": value}))


@pytest.mark.parametrize("seconds", ["-1", "2147483"])
def test_no_limit(server, monkeypatch, seconds):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", seconds)
    assert resolved(server) == "/artifacts/of/it"
    server.answers = [Answer(body=b'{"files": [{"path": "x", "file_size": 1}]}')]
    fs = mlartifacts.filesystem("mlflow-artifacts", tracking_uri=server.url)
    assert fs.exists("x")


@pytest.mark.parametrize("opened", ["runs:/abc/x", "mlflow-artifacts:/x"])
@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("http://", InvalidURI, "no host"),
        ("http://:5000", InvalidURI, "no host"),
        ("http://user:secret@h:notaport", InvalidURI, "port 'notaport'"),
        ("http://user:secret@h/#/experiments/1", InvalidURI, "a '#': write http://h[.]"),
        ("http://h?x=1", InvalidURI, "a '[?]': write http://h[.]"),
        ("http://h/a?x", InvalidURI, "a '[?]': write http://h/a[.]"),
        ("http://a b", InvalidURI, "space"),
        ("http://h/a b", InvalidURI, "space"),
        ("http://h ", InvalidURI, "space"),
        ("http://h/ü", InvalidURI, "encoded"),
        (f"http://{'x' * 70}.com", InvalidURI, "host"),
        ("localhost:5000", InvalidConfig, "write http://localhost:5000"),
        ("127.0.0.1:5000/prefix", InvalidConfig, "write http://127.0.0.1:5000/prefix"),
        ("[::1]:5000", InvalidConfig, "write http://"),
        ("ftp://user:secret@x/y", InvalidConfig, "MLFLOW_TRACKING_URI"),
    ],
)
def test_tracking_uris_that_are_none(monkeypatch, opened, uri, error, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(error, match=said) as caught:
        mlartifacts.open(opened).open()
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown


def test_a_redirect_to_no_url(server, monkeypatch):
    for target in ("http://h:port/", "http://a b/", f"http://{'x' * 70}.com/"):
        server.answers = [Answer(302, headers={"Location": target}), Answer()]
        with pytest.raises(OSError, match="no URL") as caught:
            resolved(server, f"runs:/{len(target)}/x")
        assert caught.value.filename == server.url


# ---- What it says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (Answer(200, b"<html>Sign in</html>"), OSError, "no MLflow server.*Sign in"),
        (Answer(200, b"[]"), OSError, "no MLflow server"),
        (Answer(200, b""), OSError, "no MLflow server"),
        (Answer(404, b"<html>not found</html>"), OSError, "no MLflow server: 404"),
        (Answer(401, b"who?"), PermissionError, "MLFLOW_TRACKING_USERNAME"),
        (Answer(403, b"no"), PermissionError, "without a login .403."),
        (
            Answer(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no abc"}'),
            Unresolved,
            "knows no runs:/abc .no abc.",
        ),
    ],
)
def test_errors(server, answer, kind, said):
    server.answers = [answer]
    with pytest.raises(kind, match=said) as caught:
        resolved(server)
    assert caught.value.filename
    assert len(server.requests) == 1


#: An error's body, and what is said of it.
BODIES = {
    "a page": (
        b"<html>\r\n<head><title>\n502 Bad\tGateway &amp; more</title><style>x {}</style></head>"
        b"<body>\r\n<center>no</center></body></html>",
        "'502 Bad Gateway & more'",
    ),
    "a page without a title": (b"<!DOCTYPE html><h1>It</h1>\n<p>broke", "'It broke'"),
    "lines": (b"Traceback:\n  File 'x'\n\x1b[31mred", 'red"'),
    "much": (b"<p>" + b"word " * 10**5, "...'"),
    "nothing": (b"", "No data available"),
    "MLflow's words": (b'{"error_code": "X", "message": "one\\ntwo"}', "one two"),
    "many of them": (json.dumps({"error_code": "X", "message": "a\n" * 9999}).encode(), "..."),
    "a page of theirs": (b'{"error_code": "X", "message": "<html><b>no</b>"}', ": no"),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("of", ["runs", "artifacts"])
def test_an_error_is_said_in_one_line_of_text(server, monkeypatch, of, body):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    data, said = BODIES[body]
    server.answers = [Answer(502, data)]
    fs, path = mlartifacts.url_to_fs("mlflow-artifacts:/run", tracking_uri=server.url)
    with pytest.raises(OSError, match="says 502: ") as caught:
        resolved(server) if of == "runs" else fs.ls(path)
    shown = caught.value.strerror
    assert shown.endswith(said)
    assert shown.isprintable()
    assert "<" not in shown
    assert len(shown) < 400


@pytest.mark.parametrize(
    ("uri", "body"),
    [
        ("runs:/abc", {}),
        ("runs:/abc", {"run": None}),
        ("runs:/abc", {"run": {"info": {"artifact_uri": "", "experiment_id": "0"}}}),
        ("models:/churn/1", {"artifact_uri": None}),
        ("models:/churn@best", {}),
        ("models:/churn@best", {"model_version": {"version": "../3"}}),
        ("models:/churn/latest", {"model_versions": [{"version": "x"}]}),
        ("models:/m-" + "0" * 32, {"model": {"info": "x"}}),
    ],
)
def test_json_of_something_else(server, uri, body):
    """It is no answer that the run or the model is not there."""
    server.answers = [Answer(body=json.dumps(body).encode())]
    with pytest.raises(OSError, match="no MLflow server") as caught:
        resolved(server, uri)
    assert not isinstance(caught.value, FileNotFoundError)
    assert caught.value.filename == server.url


def test_models_of_something_else(server):
    """The same for the models of a run, which a server before MLflow 3 does not have."""
    run = {"info": {"artifact_uri": "/a", "experiment_id": "0"}, "outputs": {"model_outputs": [1]}}
    for said, found in ((Answer(404, b"<html>"), "/a/model"), (Answer(body=b'{"models": 1}'), "")):
        server.answers = [Answer(body=json.dumps({"run": run}).encode()), said]
        run_id = "old" if found else "other"
        with contextlib.nullcontext() if found else pytest.raises(OSError, match="no MLflow"):
            assert resolved(server, f"runs:/{run_id}/model") == found


def test_server_down(refused_port, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{refused_port}")
    with pytest.raises(ConnectionRefusedError, match="tracking server cannot be reached") as caught:
        mlartifacts.resolve("runs:/abc")
    assert "secret" not in str(caught.value)


def test_server_that_hangs(hanging_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with pytest.raises(TimeoutError, match="MLFLOW_HTTP_REQUEST_TIMEOUT"):
        mlartifacts.resolve("runs:/abc", f"http://127.0.0.1:{hanging_server.port}")


def test_no_tracking_uri():
    with pytest.raises(InvalidConfig, match="MLFLOW_TRACKING_URI"):
        mlartifacts.resolve("runs:/abc")
    with pytest.raises(InvalidConfig, match="MLFLOW_TRACKING_URI"):
        mlartifacts.open("runs:/abc/x").open()


def test_a_place_that_no_store_serves(server):
    run = {"run": {"info": {"artifact_uri": "dbfs:/x", "experiment_id": "0"}}}
    server.answers = [Answer(body=json.dumps(run).encode())]
    fs = mlartifacts.filesystem("runs", tracking_uri=server.url)
    with pytest.raises(InvalidURI, match="runs:/abc lies at dbfs:/x.*Schemes: "):
        fs.cat_file("abc/x")
    server.answers = [Answer(body=b'{"artifact_uri": "nope:/x"}')]
    fs = mlartifacts.filesystem("models", tracking_uri=server.url)
    with pytest.raises(InvalidURI, match="models:/churn/1 lies at nope:/x.*Schemes: "):
        fs.cat_file("churn/1/x")


def test_a_server_under_a_prefix(server):
    assert mlartifacts.resolve("runs:/abc", f"{server.url}/mlflow/") == "/artifacts/of/it"
    assert server.requests[0][1] == "/mlflow/api/2.0/mlflow/runs/get?run_id=abc"


# ---- What a proxy of artifacts says ------------------------------------------------------


@pytest.fixture
def proxied(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The filesystem of ``mlflow-artifacts:`` on a server that says what it is told to."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return mlartifacts.filesystem("mlflow-artifacts")


LOOKING: dict[str, Callable[[Any], object]] = {
    "ls": lambda fs: fs.ls("1/run"),
    "find": lambda fs: fs.find("1/run"),
    "walk": lambda fs: list(fs.walk("1/run", on_error="raise")),
    "info": lambda fs: fs.info("1/run/x"),
    "exists": lambda fs: fs.exists("1/run/x"),
    "rm": lambda fs: fs.rm("1/run/x", recursive=True),
    "get": lambda fs: fs.get("1/run", "got", recursive=True),
}


@pytest.mark.parametrize("look", LOOKING)
@pytest.mark.parametrize("name", ["../x", "..", ".", "", "a/b", "/etc/passwd", None, 3])
def test_listings_that_lead_elsewhere(
    server: Scripted, proxied: Any, name: Any, look: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    bad = {"files": [{"path": "x", "file_size": 1}, {"path": name, "file_size": 1}]}
    server.answers = [Answer(body=json.dumps(bad).encode())]
    with pytest.raises(OSError, match="no name of a file") as caught:
        LOOKING[look](proxied)
    assert caught.value.errno == errno.EPROTO
    assert caught.value.filename
    assert {method for method, _, _ in server.requests} == {"GET"}
    assert all("/artifacts?path=1" in path for _, path, _ in server.requests)
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.parametrize("look", ["ls", "exists", "get"])
@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (Answer(200, b"<html>Sign in</html>"), OSError, "no MLflow server.*Sign in"),
        (Answer(200, b"[]"), OSError, "no MLflow server"),
        (Answer(200, b'{"files": 3}'), OSError, "no MLflow server"),
        (
            Answer(200, b'{"files": [{"path": "run"}, {"path": "x", "file_size": "much"}]}'),
            OSError,
            "no MLflow server",
        ),
        (Answer(404, b"<html>not found</html>"), OSError, "no artifacts to hand on"),
        (Answer(401, b"who?"), PermissionError, "401.*MLFLOW_TRACKING_USERNAME"),
        (Answer(403, b"no"), PermissionError, "without a login .403."),
        (Answer(503, b"later"), OSError, "503"),
    ],
)
def test_bad_answers_of_a_proxy(
    server: Scripted,
    proxied: Any,
    answer: Answer,
    kind: type[Exception],
    said: str,
    look: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    server.answers = [answer]
    with pytest.raises(kind, match=said) as caught:
        LOOKING[look](proxied)
    assert not isinstance(caught.value, FileNotFoundError)
    assert caught.value.filename


def test_readers_at_once_ask_once_what_a_proxy_offers(server, proxied):
    server.answers = [Answer(body=b"{}")]
    names = [f"1/run/{number}" for number in range(20)]
    assert proxied.cat(names) == dict.fromkeys(names, b"{}")
    assert [path for _, path, _ in server.requests].count("/api/3.0/mlflow/server-info") == 1


BAD_PLACES = {
    "no host": "http:///b?X-Amz-Signature=secret",
    "a port that is none": "http://127.0.0.1:99999/b?X-Amz-Signature=secret",
    "no name of a host": "http://a b/b?X-Amz-Signature=secret",
    "a name that is too long": f"http://{'x' * 70}.com/b?X-Amz-Signature=secret",
    "another scheme": "ftp://h/b?X-Amz-Signature=secret",
    "nobody there": "http://127.0.0.1:{refused}/b?X-Amz-Signature=secret",
    "no answer": "http://127.0.0.1:{hanging}/b?X-Amz-Signature=secret",
    "no HTTP": "http://127.0.0.1:{noise}/b?X-Amz-Signature=secret",
    "a redirect to no URL": "{url}/redirect?X-Amz-Signature=secret",
}


@pytest.mark.parametrize("kind", BAD_PLACES)
def test_presigned_urls_are_not_shown(
    server, monkeypatch, hanging_server, refused_port, noise, kind, tmp_path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    place = BAD_PLACES[kind].format(
        refused=refused_port, hanging=hanging_server.port, noise=noise, url=server.url
    )
    given = Answer(body=json.dumps({"url": place, "file_size": 5}).encode())
    lost = Answer(302, headers={"Location": "http://h:99999/?X-Amz-Signature=secret"})
    fs = mlartifacts.filesystem("mlflow-artifacts")
    for read in (
        lambda: fs.cat_file("1/run/x"),
        lambda: fs.open("1/run/x").read(),
        lambda: fs.get_file("1/run/x", str(tmp_path / "got")),
    ):
        server.answers = [given, lost] if "redirect" in kind else [given]
        with pytest.raises(OSError, match="1/run/x") as caught:
            read()
        assert caught.value.filename == "1/run/x"
        shown = "".join(traceback.format_exception(caught.value))
        assert "secret" not in shown, shown


@pytest.fixture
def noise() -> Iterator[int]:
    """The port of a server that speaks no HTTP."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(10_000)
                        connection.sendall(b"220 ftp.example ready\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_proxy_that_is_down(refused_port, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{refused_port}")
    for look in LOOKING.values():
        with pytest.raises(ConnectionRefusedError, match="no connection") as caught:
            look(mlartifacts.filesystem("mlflow-artifacts"))
        assert "secret" not in str(caught.value)


# ---- Who we are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "userinfo", "login"),
    [
        ({}, "", None),
        ({"USERNAME": "u", "PASSWORD": "p:ü"}, "", basic("u:p:ü")),
        ({"USERNAME": "u"}, "", None),
        ({"TOKEN": "t"}, "", "Bearer t"),
        ({"TOKEN": " t\n"}, "", "Bearer t"),
        ({"TOKEN": "\n"}, "", None),
        ({"USERNAME": "u", "PASSWORD": "p", "TOKEN": "t"}, "", basic("u:p")),
        ({"USERNAME": "u", "TOKEN": "t"}, "", "Bearer t"),
        ({"USERNAME": "u", "PASSWORD": "p"}, "a:b%40c@", basic("a:b@c")),
    ],
)
def test_logins(server, monkeypatch, variables, userinfo, login):
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    mlartifacts.resolve("runs:/abc", server.url.replace("//", f"//{userinfo}"))
    assert server.logins == [login]


@pytest.mark.parametrize("name", ["runs", "mlflow-artifacts"])
@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"TOKEN": "secret\nsecret"}, "MLFLOW_TRACKING_TOKEN"),
        ({"TOKEN": "secret☃"}, "MLFLOW_TRACKING_TOKEN"),
        ({"TOKEN": "secret\udcff"}, "MLFLOW_TRACKING_TOKEN"),
        ({"USERNAME": "u", "PASSWORD": "secret\udcff"}, "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_logins_that_no_header_can_have(server, monkeypatch, variables, named, name):
    for variable, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{variable}", value)
    with pytest.raises(InvalidConfig, match=named) as caught:
        mlartifacts.filesystem(name, tracking_uri=server.url).exists("abc/x")
    assert "secret" not in "".join(traceback.format_exception(caught.value)).replace('"secret', "")
    assert server.requests == []


def test_the_credentials_file(server, monkeypatch):
    folder = Path.home() / ".mlflow"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = filed\nmlflow_tracking_password = 100%\n"
    )
    resolved(server)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other")
    resolved(server, "runs:/def")
    assert server.logins == [basic("filed:100%"), basic("filed:other")]
    (folder / "credentials").write_text("password = secret\n")
    with pytest.raises(InvalidConfig, match="credentials") as caught:
        Login.of(parse(server.url), Environment({}))
    assert "secret" not in str(caught.value)


def test_a_changed_credentials_file_takes_effect_at_the_next_open(server, monkeypatch):
    file = Path.home() / ".mlflow" / "credentials"
    file.parent.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    server.answers = [Answer(401)]
    for password in (None, "one", "two"):
        if password is not None:
            login = f"mlflow_tracking_username=u\nmlflow_tracking_password={password}\n"
            file.write_text(f"[mlflow]\n{login}")
        for uri in ("runs:/abc/x", "mlflow-artifacts:/x"):
            server.requests.clear()
            with pytest.raises(PermissionError):
                mlartifacts.open(uri).open()
            assert set(server.logins) == {password and basic(f"u:{password}")}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_tell_another_host_nothing(server, another, monkeypatch, status):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    server.answers = [Answer(status, headers={"Location": f"{another.url}/elsewhere"})]
    resolved(server)
    assert server.logins == ["Bearer t"]
    assert another.logins == [None]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(500, b"broken"), OSError),
        (Answer(403, b"no"), PermissionError),
        (Answer(404, b"<html>"), NotMLflow),
        (Answer(200, b"<html>log in"), NotMLflow),
    ],
)
def test_who_it_is_that_refuses_after_a_redirect(server, another, answer, kind, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.answers = [Answer(302, headers={"Location": f"{another.url}/there?signature=secret"})]
    another.answers = [answer]
    with pytest.raises(kind, match=re.escape(f"({another.url}, to which it redirects)")) as caught:
        resolved(server)
    assert "secret" not in str(caught.value)
    assert "MLFLOW_TRACKING" not in str(caught.value)


def test_redirects_on_the_same_host_keep_the_login(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    server.answers = [Answer(302, headers={"Location": "/elsewhere"}), Answer()]
    resolved(server)
    assert server.logins == ["Bearer t", "Bearer t"]


HEADERS_PLUGIN = """
class Provider:
    def in_context(self):
        return CONTEXT
    def request_headers(self):
        return {"X-Team": "NAME", "User-Agent": "NAME"}
"""
LOGIN_PLUGIN = """
class Login:
    def get_name(self):
        return "by-plugin"
    def get_auth(self):
        def auth(request):
            request.headers["Authorization"] = f"Signed {request.method} {request.path_url}"
            return request
        return auth
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with an entry point."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(name, group, source, of):
        (site / f"{name}.py").write_text(source)
        about = site / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}:{of}\n")

    plugins._plugins.cache_clear()
    yield install
    plugins._plugins.cache_clear()


def asked(server):
    """What a tracking server was told of who asks, and the proxy of its artifacts."""
    server.requests.clear()
    resolved(server)
    fs = mlartifacts.filesystem(
        "mlflow-artifacts", tracking_uri=server.url, skip_instance_cache=True
    )
    with contextlib.suppress(OSError):
        fs.ls("dir")
    return [(path, headers) for _, path, headers in server.requests]


def test_plugins_give_headers(server, install):
    source = HEADERS_PLUGIN.replace("CONTEXT", "True").replace("NAME", "one")
    install("plugin_one", "mlflow.request_header_provider", source, "Provider")
    install("plugin_two", "mlflow.request_header_provider", source.replace("one", "2"), "Provider")
    off = HEADERS_PLUGIN.replace("CONTEXT", "False")
    install("plugin_off", "mlflow.request_header_provider", off, "Provider")
    broken = HEADERS_PLUGIN.replace("CONTEXT", "1 / 0")
    install("plugin_broken", "mlflow.request_header_provider", broken, "Provider")
    told = asked(server)
    assert len(told) == 3
    for _, headers in told:
        assert sorted(headers["X-Team" if "X-Team" in headers else "X-team"].split()) == [
            "2",
            "one",
        ]
        assert sorted(headers["User-Agent"].split()) == ["2", "mlartifacts", "one"]


def test_a_plugin_that_cannot_be_loaded(server, install):
    install("plugin_bad", "mlflow.request_header_provider", "", "Provider")
    with pytest.warns(UserWarning, match=r"plugin_bad .* cannot be loaded"):
        asked(server)


def test_plugins_log_in(server, install, monkeypatch):
    install("plugin_login", "mlflow.request_auth_provider", LOGIN_PLUGIN, "Login")
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "by-plugin")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "another")
    told = asked(server)
    assert len(told) == 3
    for path, headers in told:
        assert headers["Authorization"] == f"Signed GET {path}"


def test_kubernetes_logs_in_in_the_place_of_a_password(server, install, monkeypatch):
    """Its plugin adds a token where there is none."""
    source = LOGIN_PLUGIN.replace("by-plugin", "kubernetes")
    source = source.replace('["Authorization"] = ', '.setdefault("Authorization", ')
    source = source.replace('{request.path_url}"', '{request.path_url}")')
    install("plugin_kubernetes", "mlflow.request_auth_provider", source, "Login")
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "kubernetes")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p")
    assert all(headers["Authorization"] == f"Signed GET {path}" for path, headers in asked(server))
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    assert all(headers["Authorization"] == "Bearer t" for _, headers in asked(server))


def test_a_login_plugin_that_is_not_there(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "nobody")
    with pytest.warns(UserWarning, match="nobody"):
        told = asked(server)
    assert [headers.get("Authorization") for _, headers in told] == [None] * 3


@pytest.fixture
def signing(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_AWS_SIGV4", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")


def test_requests_are_signed(server, signing, monkeypatch):
    """The signature is of what arrives; botocore makes it again."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the session")
    fs = mlartifacts.filesystem("mlflow-artifacts", tracking_uri=server.url)
    resolved(server)
    for act in (
        lambda: fs.ls("a b/ü"),
        lambda: fs.pipe_file("dir/a b%.bin", b"12345"),
        lambda: Connection(parse(server.url), Environment()).post("mlflow/x", {"a": 1}),
    ):
        with contextlib.suppress(OSError):
            act()
    assert {method for method, _, _ in server.requests} == {"GET", "PUT", "POST"}
    for (method, path, headers), body in zip(server.requests, server.bodies, strict=True):
        told = {name.lower(): value for name, value in headers.items()}
        names = re.search("SignedHeaders=([^,]*)", told["authorization"])[1].split(";")
        assert {"host", "x-amz-security-token"} <= {*names}
        assert ("x-amz-content-sha256" in names) is (method == "PUT")
        request = AWSRequest(method, server.url + path, {n: told[n] for n in names}, body)
        request.context["timestamp"] = told["x-amz-date"]
        signer = SigV4Auth(
            Credentials("key", "secret", "of the session"), "execute-api", "eu-west-1"
        )
        text = signer.string_to_sign(request, signer.canonical_request(request))
        assert told["authorization"].endswith(f"Signature={signer.signature(text, request)}")
        if method == "PUT":
            assert told["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    ("variable", "said"),
    [("AWS_DEFAULT_REGION", "no region"), ("AWS_SECRET_ACCESS_KEY", "no AWS credentials")],
)
def test_what_a_signature_needs(server, signing, monkeypatch, variable, said):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv(variable)
    if variable == "AWS_SECRET_ACCESS_KEY":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(InvalidConfig, match=f"MLFLOW_TRACKING_AWS_SIGV4: {said}"):
        resolved(server)
    assert server.requests == []


def test_another_host_is_told_the_workspace_alone(server, another, install, monkeypatch):
    install("plugin_login", "mlflow.request_auth_provider", LOGIN_PLUGIN, "Login")
    source = HEADERS_PLUGIN.replace("CONTEXT", "True").replace("NAME", "one")
    install("plugin_one", "mlflow.request_header_provider", source, "Provider")
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "by-plugin")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-a")
    answer = Answer(302, headers={"Location": f"{another.url}/elsewhere"})
    info = Answer(body=b'{"workspaces_enabled": true}')
    server.answers = [info, answer]
    asked(server)
    assert len(another.requests) == 3
    for _, _, headers in another.requests:
        told = {name.lower(): value for name, value in headers.items()}
        assert told["x-mlflow-workspace"] == "team-a"
        assert "authorization" not in told
        assert "x-team" not in told
        assert told["user-agent"] == "mlartifacts"


def test_no_secret_is_shown(server, monkeypatch):
    import pickle

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "env-secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url.replace("//", "//user:uri-secret@"))
    fs = mlartifacts.filesystem("runs")
    fs.exists("abc/x")
    connection = Connection(parse(server.url), Environment())
    shown = [repr(fs), fs.to_json(), str(pickle.dumps(fs)), repr(fs.storage_options)]
    shown += [repr(connection._login), repr(mlartifacts.locate("runs:/abc/x"))]
    server.answers = [Answer(401, b"no")]
    with pytest.raises(PermissionError) as caught:
        fs.cat_file("def/x")
    shown.append(repr(caught.value))
    assert not any("secret" in text for text in shown)


# ---- TLS ---------------------------------------------------------------------------------


@pytest.fixture
def issued(tmp_path: Path) -> Any:
    return certificates.issue(tmp_path / "certificates")


@pytest.fixture
def tls_server(issued: Any) -> Iterator[Scripted]:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.pem)
    server = Scripted()
    server.use_tls(context)
    with server.serving():
        yield server


def test_certificates_are_checked(tls_server, issued, monkeypatch):
    with pytest.raises(ConnectionError, match=r"(?i)certificate"):
        resolved(tls_server)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(issued.ca))
    assert resolved(tls_server) == "/artifacts/of/it"


def test_certificates_are_not_checked_on_demand(tls_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert resolved(tls_server) == "/artifacts/of/it"


def test_client_certificates(tmp_path, issued, monkeypatch):
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.pem)
    context.load_verify_locations(issued.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    server = Scripted()
    server.use_tls(context)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(issued.ca))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server.serving():
        with pytest.raises(ConnectionError):
            resolved(server)
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(issued.pem))
        assert resolved(server) == "/artifacts/of/it"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"INSECURE_TLS": "true", "SERVER_CERT_PATH": "/x"}, "one of the two"),
        ({"SERVER_CERT_PATH": "/not/there"}, "SERVER_CERT_PATH.*no such file"),
        ({"CLIENT_CERT_PATH": "/not/there"}, "CLIENT_CERT_PATH.*no such file"),
        ({"INSECURE_TLS": "perhaps"}, "INSECURE_TLS"),
    ],
)
def test_bad_tls_settings(variables, named):
    environment = Environment({f"MLFLOW_TRACKING_{name}": v for name, v in variables.items()})
    with pytest.raises(InvalidConfig, match=named):
        Login.of(parse("https://h"), environment)


def test_a_file_that_is_no_certificate(tmp_path):
    (tmp_path / "x").write_text("nothing")
    for name in ("SERVER_CERT_PATH", "CLIENT_CERT_PATH"):
        environment = Environment({f"MLFLOW_TRACKING_{name}": str(tmp_path / "x")})
        with pytest.raises(InvalidConfig, match=name):
            Login.of(parse("https://h"), environment).context()


def test_threads_share_one_lookup(server):
    import concurrent.futures

    fs = mlartifacts.filesystem("runs", tracking_uri=server.url)
    act: Callable[[int], bool] = lambda n: fs.exists(f"abc/{n}")  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert not any(pool.map(act, range(20)))
    asked = [path for _, path, _ in server.requests if "runs/get" in path]
    assert len(asked) == 1
