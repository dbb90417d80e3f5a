"""Whether one end of a transfer lies in the other, however each was named and opened."""

from __future__ import annotations

import functools
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from mlartifacts.errors import InvalidURI, TransferError
from mlartifacts.stores.azure import account
from mlartifacts.transfer import operations
from mlartifacts.transfer.trees import End
from mlartifacts.uri import server_name, server_name_of
from mlartifacts.writing import is_temporary
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.servers.artifact_server import ArtifactServer
from tests.servers.reverse_proxy import Answer, Request, Reverse
from tests.servers.static_http import StaticHttp
from tests.transfer.trees import found, plant

Opened = Callable[[str], Harbour]
Way = tuple[str, dict[str, Any]]

TREE = {"a/b/c": b"1", "a/b/d/e": b"22", "a/f": b"333"}


def ways(store: Any, name: str) -> list[Way]:
    """Ways to a path of a store: URIs, with the options that they take."""
    plain = store.uri(name)
    parts = urllib.parse.urlsplit(plain)
    host = f"127.0.0.1:{parts.port}"
    if store.name == "s3":
        port = store.server.url.rpartition(":")[2]
        endpoints = [store.server.url + "/", f"http://LOCALHOST.:{port}"]
        return [(plain.replace("s3:", "s3a:"), {"endpoint_url": url}) for url in endpoints]
    if store.name == "wasbs":
        there = plain.replace(".blob.", ".dfs.").replace("devstoreaccount1", "DevStoreAccount1")
        string = store.server.connection_string
        return [
            (there.replace("wasbs:", "abfss:"), {}),
            (plain, {"connection_string": string.replace("127.0.0.1", "localhost")}),
        ]
    if store.name == "gcs":
        return [(plain, {"endpoint_url": store.server.url.replace("127.0.0.1", "localhost")})]
    if store.name == "sftp":
        config = Path.home() / ".ssh" / "config"
        config.write_text(f"Host alias\n HostName {parts.hostname}\n Port {parts.port}\n")
        if not (store.folder / "link").is_symlink():
            (store.folder / "link").symlink_to(store.folder)
        return [
            (f"ssh://alias{parts.path}", {}),
            (f"sftp://somebody@{host}{parts.path}", {}),
            (store.uri(f"link/{name}"), {}),
        ]
    if store.name == "ftp":
        return [
            (f"ftp://anonymous@LOCALHOST:{parts.port}{parts.path}", {}),
            (f"ftps://{parts.netloc.replace('127.0.0.1', '[::1]')}{parts.path}", {}),
        ]
    if store.name == "hdfs":
        return [
            (plain.replace(parts.hostname or "", "LocalHost"), {}),
            (plain, {"driver": "hdfs-native"}),
            (f"hdfs:{parts.path}", {"extra_conf": {"fs.defaultFS": store.server.url}}),
            (f"viewfs://views{parts.path}", {}),
        ]
    if store.name == "mlflow-artifacts":
        server = store.tracking.url
        return [
            (
                f"{server.replace('127.0.0.1', 'LOCALHOST')}/api/2.0/mlflow-artifacts/artifacts"
                f"{parts.path}",
                {},
            ),
            (f"mlflowartifacts://{server.partition('://')[2]}{parts.path}", {}),
        ]
    assert store.name in {"runs-s3", "runs-local"}
    return [(mlartifacts.resolve(plain), {})]


@pytest.mark.parametrize(
    "name",
    ["s3", "wasbs", "gcs", "sftp", "ftp", "hdfs", "mlflow-artifacts", "runs-s3", "runs-local"],
)
def test_sync_does_not_delete_its_source(name: str, opened: Opened) -> None:
    store = opened(name)
    store.seed(TREE)
    for above in ("a", "") if name.startswith("runs") else ("a",):
        for other, options in ways(store, above):
            with pytest.raises(InvalidURI, match="lies in"):
                mlartifacts.sync(store.uri("a/b"), other, delete=True, target_options=options)
        for other, options in ways(store, "a/b"):
            with pytest.raises(InvalidURI, match="lies in"):
                mlartifacts.sync(other, store.uri(above), delete=True, source_options=options)
    assert store.stored() == TREE


def test_a_copy_into_itself_by_a_link_of_a_server(opened: Opened) -> None:
    store: Any = opened("sftp")
    store.seed(TREE)
    (store.folder / "link").symlink_to("a")
    for target in ("link/new/deep", "link/b", "a/b", "a"):
        with pytest.raises(InvalidURI, match="itself"):
            mlartifacts.copy(store.uri("link"), store.uri(target))
    for target in ("link/new/deep", "link/b"):
        with pytest.raises(InvalidURI, match="itself"):
            mlartifacts.copy(store.uri("a"), store.uri(target))
    (store.folder / "link").unlink()
    assert store.stored() == TREE


def lies_in(one: Way, other: Way, perhaps: bool = False) -> bool:
    ends = (End(*mlartifacts.url_to_fs(uri, **options)) for uri, options in (one, other))
    return next(ends).lies_in(next(ends), perhaps)


@pytest.mark.parametrize(
    ("one", "other", "surely", "perhaps"),
    [
        # Amazon's endpoints are one; of other servers, each has its own buckets.
        ({}, {"endpoint_url": "https://s3.eu-west-1.amazonaws.com"}, True, True),
        ({}, {"endpoint_url": "https://s3.cn-north-1.amazonaws.com.cn"}, False, False),
        ({}, {"endpoint_url": "http://minio:9000"}, False, False),
        ({"endpoint_url": "http://a:9000"}, {"endpoint_url": "http://b:9000"}, False, False),
        ({"endpoint_url": "http://a:9000"}, {"endpoint_url": "http://a:9001"}, False, False),
        (
            {"endpoint_url": "http://localhost:9000"},
            {"endpoint_url": "http://127.0.0.1:9000"},
            True,
            True,
        ),
        (
            {"endpoint_url": "http://127.0.0.1:9000"},
            {"endpoint_url": "http://127.0.0.2:9000"},
            False,
            False,
        ),
        ({"endpoint_url": "http://a:80/s3/"}, {"endpoint_url": "https://A./s3"}, True, True),
    ],
)
def test_buckets(
    one: Any, other: Any, surely: bool, perhaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    for source, target in ((one, other), (other, one)):
        ends = ("s3://bucket/a/b", source), ("s3://bucket/a", target)
        assert lies_in(*ends) is surely
        assert lies_in(*ends, perhaps=True) is perhaps
    assert not lies_in(("s3://bucket/ab", one), ("s3://bucket/a", other), perhaps=True)


@pytest.mark.parametrize(
    ("one", "other", "surely", "perhaps"),
    [
        # Each may be shown a root of their own: then these are two places, which copies may join.
        ("sftp://anna@host/a/b", "sftp://berta@HOST:22/a", False, True),
        ("sftp://anna@host/a/b", "sftp://anna@host:2222/a", False, False),
        ("sftp://anna@host/a/b", "sftp://anna@other/a", False, False),
        ("ftp://anna@host/a/b", "ftps://berta@host/a", False, True),
        ("ftp://host/a/b", "ftp://host:2121/a", False, False),
        # A name service is its name nodes.
        ("hdfs://service/a/b", "hdfs://two/a", True, True),
        ("hdfs://two:8020/a/b", "hdfs://service/a", True, True),
        ("hdfs://service/a/b", "hdfs://three/a", False, False),
        ("hdfs:/a/b", "hdfs://one/a", True, True),
        ("hdfs://one/a/b", "viewfs://views/a", False, True),
    ],
)
def test_servers(one: str, other: str, surely: bool, perhaps: bool) -> None:
    settings = {
        "fs.defaultFS": "hdfs://service",
        "dfs.ha.namenodes.service": "nn1,nn2",
        "dfs.namenode.rpc-address.service.nn1": "one:8020",
        "dfs.namenode.rpc-address.service.nn2": "two:8020",
    }
    options = {"driver": "hdfs-native", "extra_conf": settings} if "hdfs" in one else {}
    for perhaps_, expected in ((False, surely), (True, perhaps)):
        assert lies_in((one, options), (other, options), perhaps_) is expected


def test_local_paths(tmp_path: Path) -> None:
    plant(tmp_path / "here", {"b/c": b"1"})
    (tmp_path / "link").symlink_to("here")
    (tmp_path / "hereafter").mkdir()
    here = str(tmp_path / "here")
    assert lies_in((f"{tmp_path}/link/b", {}), (here, {}))
    assert lies_in((f"{tmp_path}/link/new/x", {}), (here, {}))
    assert not lies_in((f"{tmp_path}/hereafter", {}), (here, {}))
    assert not lies_in((here, {}), (f"{here}/b", {}))


def test_names_of_servers() -> None:
    assert server_name("Host.", 22, 22) == "host"
    assert server_name("127.0.0.1", 9000) == server_name("0::1", 9000) == "localhost:9000"
    assert server_name("127.0.0.2", 9000) == "127.0.0.2:9000"
    assert server_name("", None) == "localhost"
    assert server_name("FE80:0::1") == "fe80::1"
    assert server_name_of("https://Host:443/s3/") == server_name_of("http://host/s3") == "host/s3"
    blob, dfs = "https://acct.blob.core.windows.net/", "https://ACCT.dfs.core.windows.net"
    assert account(blob) == account(dfs) == "acct.core.windows.net"
    assert account(blob.replace(".blob", ".z10.blob")) == account(blob)
    assert account("http://localhost:10000/acct?sig=x") == "localhost:10000/acct"


# ---- What no name tells ------------------------------------------------------------------


def marks(store: Any) -> list[Path]:
    return [path for path in store.folder.rglob("*") if is_temporary(path.name)]


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two paths of this disk that no call tells to be one, as a mount of a part of it is."""
    monkeypatch.setattr(End, "lies_in", lambda *_, **__: False)


@pytest.mark.parametrize("name", ["sftp", "vsftpd", "mlflow-artifacts", "local"])
@pytest.mark.usefixtures("nameless")
def test_a_source_that_is_seen_another_way(name: str, opened: Opened) -> None:
    """A server may serve this disk, and show of it whatever times and links it likes."""
    store: Any = opened(name)
    for number, (source, target) in enumerate([("a/b", "a"), ("a", "a/b")] * 2):
        store.seed({f"{number}/{name}": data for name, data in TREE.items()})
        folder = store.folder / str(number)
        (folder / "a" / "b" / "link").symlink_to("c")
        os.utime(folder / "a" / "b" / "d" / "e", (1, 1))
        ends = folder / source, store.uri(f"{number}/{target}")
        if number > 1:
            ends = store.uri(f"{number}/{source}"), folder / target
        with pytest.raises(InvalidURI, match="though no name says so"):
            mlartifacts.sync(*ends, delete=True)
        assert TREE.items() <= found(folder).items()
    assert marks(store) == []


def test_a_source_of_which_patterns_leave_out_some(opened: Opened) -> None:
    store: Any = opened("sftp")
    store.seed({**TREE, "a/b/f": b"4"})
    for include in (["c", "**/e"], "b/*"):  # the latter are no names of the source's
        with pytest.raises(InvalidURI, match="though no name says so"):
            mlartifacts.sync(store.folder / "a" / "b", store.uri("a"), delete=True, include=include)
    assert {**TREE, "a/b/f": b"4"}.items() <= store.stored().items()
    assert marks(store) == []


@pytest.mark.parametrize("target", ["a", "a/b"])
def test_a_source_that_is_written_meanwhile(
    target: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is new in it was not copied, and is none of the target's alone."""
    store: Any = opened("sftp")
    store.seed(TREE)
    compare = operations.compare

    def meanwhile(*args: Any) -> Any:
        store.seed({"a/b/c": b"more", "a/b/new": b"new"})
        return compare(*args)

    monkeypatch.setattr(operations, "compare", meanwhile)
    with pytest.raises(InvalidURI, match="though no name says so"):
        mlartifacts.sync(store.folder / "a" / "b", store.uri(target), delete=True)
    left = store.stored()
    assert left["a/b/new"] == b"new"
    assert TREE.keys() <= left.keys()
    assert marks(store) == []


def test_what_is_like_the_source_and_is_not(opened: Opened, tmp_path: Path) -> None:
    """A copy of it, of its sizes and times, that lies below the target."""
    store: Any = opened("mlflow-artifacts")
    here = plant(tmp_path / "here", {"c": b"1", "d/e": b"22"})
    store.seed({"a/old/c": b"2", "a/old/d/e": b"33", "a/d/old/d/e": b"44"})
    mlartifacts.sync(here, store.uri("a"), delete=True)
    assert store.stored() == {"a/c": b"1", "a/d/e": b"22"}


@pytest.fixture
def web(static_http: StaticHttp) -> Iterator[tuple[Path, str, Reverse]]:
    """A folder of this disk, its URL at a web server, and what lies before that."""
    with reverse_proxy.serve(static_http.url) as front:
        folder = static_http.new_folder()
        yield folder, f"{front.url}/{folder.name}", front


def index(folder: str, *names: str) -> Answer:
    body = "".join(f'<a href="{name}">{name}</a>' for name in names)
    page = f"<title>Index of /{folder}/</title>{body}</html>"
    return Answer(200, page.encode(), {"Content-Type": "text/html"})


@pytest.mark.parametrize("name", ["my model.bin", "é.bin", "a%41.bin", "no_dot", "x/y.tar.gz"])
@pytest.mark.parametrize("is_above", [True, False])
def test_a_web_server_spells_names_as_urls(
    name: str, is_above: bool, web: tuple[Path, str, Reverse]
) -> None:
    folder, url, _ = web
    plant(folder, {f"sub/{name}": b"1"})
    with pytest.raises(InvalidURI, match="though no name says so"):
        if is_above:
            mlartifacts.sync(f"{url}/sub/", folder, delete=True)
        else:
            mlartifacts.sync(url, folder / "sub", delete=True)
    assert (folder / "sub" / name).read_bytes() == b"1"
    assert not [path for path in folder.rglob("*") if is_temporary(path.name)]


def test_a_web_server_of_a_folder_of_sftps(opened: Opened, static_http: StaticHttp) -> None:
    store: Any = opened("sftp")
    store.seed({"t/sub/my model.bin": b"1"})
    (static_http.new_folder() / "link").symlink_to(store.folder)
    link = next(path for path in static_http.root.rglob("link") if path.samefile(store.folder))
    url = f"{static_http.url}/{link.relative_to(static_http.root)}"
    with pytest.raises(InvalidURI, match="though no name says so"):
        mlartifacts.sync(f"{url}/t/sub/", store.uri("t"), delete=True)
    assert store.stored()["t/sub/my model.bin"] == b"1"


@pytest.mark.parametrize(
    ("shown", "exclude"),
    [("by request", "README.md"), ("by request", "model.bin"), ("in its index", "README.md")],
)
def test_a_web_server_that_shows_some_files_alone(
    shown: str, exclude: str, web: tuple[Path, str, Reverse]
) -> None:
    """Files of a kind that it knows, or those of its index, which may be an hour old."""
    folder, url, front = web
    plant(folder, {"sub/README.md": b"1", "sub/model.bin": b"2"})

    def answer(request: Request) -> Answer | None:
        if request.path.endswith("/"):
            old = index(f"{folder.name}/sub", "model.bin")
            return old if shown == "by request" else None
        is_known = request.path.endswith("/model.bin") or (
            shown == "by request" and request.path.endswith(".bin")
        )
        return None if is_known else Answer(404)

    front.answer = answer
    with pytest.raises(InvalidURI, match="though no name says so"):
        mlartifacts.sync(f"{url}/sub/", folder, delete=True, exclude=exclude)
    assert {"sub/README.md": b"1", "sub/model.bin": b"2"}.items() <= found(folder).items()


@pytest.mark.parametrize("listed", [(), ("odd.h5~",), ("gone.bin",)])
def test_a_web_server_that_may_not_show_what_is_put_there(
    listed: tuple[str, ...], web: tuple[Path, str, Reverse]
) -> None:
    """It lists no file, or none of a kind that it surely shows."""
    folder, url, front = web
    plant(folder, {"sub/README": b"1", "sub/odd.h5~": b"2"})
    page = index(f"{folder.name}/sub", *listed)
    front.answer = lambda request: page if request.path.endswith("/sub/") else None
    with pytest.raises(TransferError, match="nothing was deleted, as it may be of http"):
        mlartifacts.sync(f"{url}/sub/", folder, delete=True, exclude="gone.bin")
    assert {"sub/README": b"1", "sub/odd.h5~": b"2"}.items() <= found(folder).items()


@pytest.mark.parametrize("name", ["sftp", "ftp", "vsftpd", "mlflow-artifacts", "local"])
def test_a_target_with_a_link_into_itself(name: str, opened: Opened, tmp_path: Path) -> None:
    """What was copied through a link is not deleted under the name that the link leads to."""
    store: Any = opened(name)
    store.seed({"t/other/old": b"old", "t/other/sub/x": b"old"})
    (store.folder / "t" / "link").symlink_to("other")
    here = plant(tmp_path / "here", {"link/a": b"AAA", "link/sub/c": b"C", "b": b"B"})
    for _ in range(2):
        mlartifacts.sync(here, store.uri("t"), delete=True)
        assert found(store.folder / "t" / "other") == {"a": b"AAA", "sub/c": b"C"}
        assert (store.folder / "t" / "link").is_symlink()
    assert (store.folder / "t" / "b").read_bytes() == b"B"
    assert marks(store) == []


def put_a_link(path: Path, target: str) -> None:
    """Put a link that is as old as what it leads to: some listings say that of the link."""
    path.symlink_to(target)
    os.utime(path, (path.stat().st_mtime,) * 2, follow_symlinks=False)


@pytest.mark.parametrize("name", ["local", "sftp", "ftp", "vsftpd"])
def test_a_target_with_links_to_files(name: str, opened: Opened, tmp_path: Path) -> None:
    """What they lead to is not deleted, as the names that are kept would be lost with it."""
    store: Any = opened(name)
    here = plant(tmp_path / "here", {"x": b"1", "sub/x": b"1", "new": b"2"})
    for name in found(here):
        os.utime(here / name, (1.5e9, 1.5e9))
    there = store.folder / "t"
    (there / "sub").mkdir(parents=True)
    there.chmod(0o777)
    (there / "sub").chmod(0o777)
    mlartifacts.sync(here, store.uri("t"))
    (there / "x").rename(there / "y")
    (there / "sub/x").rename(there / "sub/z")
    for link, target in {"link": "sub/z", "x": "y", "sub/x": "../link"}.items():
        put_a_link(there / link, target)
    kept = dict.fromkeys(("x", "y", "sub/x", "link", "sub/z"), b"1")
    store.seed({"t/other": b"1", "t/sub/w": b"1"})
    for other in ("other", "sub/w"):
        os.utime(there / other, ((there / "x").stat().st_mtime,) * 2)
    others = {"other": b"1", "sub/w": b"1"}
    for dry_run, deleted in ((True, others), (False, others), (False, {})):
        report = mlartifacts.sync(here, store.uri("t"), delete=True, dry_run=dry_run)
        assert report.deleted == (*deleted,)
        assert found(there) == {**kept, "new": b"2", **(others if dry_run else {})}
        assert (there / "x").is_symlink()
    mlartifacts.sync(plant(tmp_path / "one", {"y": b"1"}), store.uri("t"), delete=True)
    assert found(there) == {"y": b"1"}


@pytest.mark.parametrize("name", ["local", "sftp", "ftp", "vsftpd"])
def test_what_stands_in_the_way_and_a_link_leads_to(
    name: str, opened: Opened, tmp_path: Path
) -> None:
    store: Any = opened(name)
    here = plant(tmp_path / "here", {"x": b"1"})
    mlartifacts.sync(here, store.uri("t"))
    there = store.folder / "t"
    there.chmod(0o777)
    (there / "x").rename(there / "d")
    put_a_link(there / "x", "d")
    plant(here, {"d/new": b"2", "d/newer": b"2"})
    said = r"not copied: a file is there, where a directory must be: 'd' \(d/new, d/newer\)"
    with pytest.raises(TransferError, match=said) as caught:
        mlartifacts.sync(here, store.uri("t"), delete=True)
    assert caught.value.failures.keys() == {"d/new", "d/newer"}
    assert found(there) == {"x": b"1", "d": b"1"}


@pytest.mark.parametrize("name", ["sftp", "ftp", "vsftpd", "mlflow-artifacts"])
def test_a_link_to_a_file_that_is_replaced(name: str, opened: Opened, tmp_path: Path) -> None:
    store: Any = opened(name)
    store.seed({"t/y": b"old"})
    (store.folder / "t" / "x").symlink_to("y")
    here = plant(tmp_path / "here", {"x": b"new"})
    assert mlartifacts.sync(here, store.uri("t"), delete=True).deleted == ("y",)
    assert found(store.folder / "t") == {"x": b"new"}


# ---- Two names for one file --------------------------------------------------------------

#: What a target has, its links, and what a source has that one of them takes for one file.
LINKED = {
    "a directory": ({"v1/m": b"one"}, {"latest": "v1"}, {"v1/m": b"one", "latest/m": b"two"}),
    "a file": ({"v1.pt": b"one"}, {"latest.pt": "v1.pt"}, {"v1.pt": b"one", "latest.pt": b"two"}),
    "nothing yet": ({"d/x": b"0"}, {"d/l": "new"}, {"d/l": b"1", "d/new": b"22"}),
    "a link": ({"e/x": b"0"}, {"d": "e", "deep/l": "../d"}, {"deep/l/y": b"1", "e/y": b"22"}),
    "itself": ({"x": b"0"}, {"here": "."}, {"here/x": b"1", "x": b"2"}),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name in ("local", "sftp", "ftp", "vsftpd", "runs-local")
        for case in LINKED
        # pyftpdlib lists no link that leads nowhere.
        if (name, case) != ("ftp", "nothing yet")
    ],
)
def test_two_names_for_one_file(name: str, case: str, opened: Opened, tmp_path: Path) -> None:
    """Nothing is moved: neither was to be lost, and each next sync would bring the other one."""
    store: Any = opened(name)
    there, links, files = LINKED[case]
    store.seed({f"t/{each}": data for each, data in there.items()})
    for link, target in links.items():
        path = store.folder / "t" / link
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)
    before = found(store.folder)
    here = plant(tmp_path / "here", files)
    for act in (
        mlartifacts.upload,
        mlartifacts.copy,
        functools.partial(mlartifacts.sync, delete=True),
        functools.partial(mlartifacts.sync, dry_run=True),
    ):
        with pytest.raises(InvalidURI, match="for one file, as '.*' is a link there") as caught:
            act(here, store.uri("t"))
        assert all(repr(each) in str(caught.value) for each in files)
        assert any(repr(link) in str(caught.value) for link in links)
    assert found(store.folder) == before


@pytest.mark.parametrize("name", ["local", "sftp", "ftp", "vsftpd"])
def test_a_source_that_has_the_same_link(name: str, opened: Opened, tmp_path: Path) -> None:
    """Whichever name brings the file, it is the same one."""
    store: Any = opened(name)
    here = plant(tmp_path / "here", {"v1/m": b"one"})
    (here / "latest").symlink_to("v1")
    store.seed({"t/v1/m": b"old", "t/v1/n": b"n"})
    (store.folder / "t/latest").symlink_to("v1")
    mlartifacts.sync(here, store.uri("t"))
    assert found(store.folder / "t") == {"v1/m": b"one", "v1/n": b"n"}
    assert (store.folder / "t/latest").is_symlink()
    # So it is from a store that has two copies of it, and lists their checksums.
    s3 = opened("s3")
    mlartifacts.upload(here, s3.uri("copies"))
    report = mlartifacts.copy(s3.uri("copies"), store.uri("t"), overwrite="always")
    assert report.moved == ("latest/m", "v1/m")
    s3.seed({"copies/latest/m": b"two"})
    with pytest.raises(InvalidURI, match="for one file"):
        mlartifacts.copy(s3.uri("copies"), store.uri("t"))


@pytest.mark.parametrize("many", [False, True])
def test_two_names_for_one_file_of_a_server_that_tells_no_links(
    many: bool, opened: Opened, tmp_path: Path
) -> None:
    """What is not what was brought, as another name's file was written there, is said to be so."""
    store: Any = opened("mlflow-artifacts")
    files = {"d/x": b"1", "e/x": b"22", **{f"f/{each}": b"" for each in range(4 * many)}}
    store.seed({"t/e/old": b"old"})
    (store.folder / "t" / "d").symlink_to("e")
    with pytest.raises(TransferError, match="a link there seems to lead") as caught:
        mlartifacts.upload(plant(tmp_path / "here", files), store.uri("t"))
    (name,) = caught.value.failures
    (other,) = {"d/x", "e/x"} - {name}
    assert (store.folder / "t" / other).read_bytes() == files[other]


@pytest.fixture
def served(artifact_server: ArtifactServer, tmp_path: Path) -> tuple[Path, str]:
    """A folder of this disk, and where a server of ours serves it."""
    root = f"{artifact_server.url.replace('http:', 'mlflow-artifacts:')}/{tmp_path.name}"
    return Path(artifact_server.artifacts) / tmp_path.name, root


@pytest.mark.parametrize("is_source", [True, False])
def test_what_a_server_of_ours_serves_of_this_disk(
    is_source: bool, served: tuple[Path, str]
) -> None:
    """It takes the file that tells, though it shows no file that is being written."""
    root, url = served
    plant(root / "top", {"src/a": b"1", "src/b/c": b"2"})
    ends = (f"{url}/top/src", root / "top") if is_source else (root / "top/src", f"{url}/top")
    with pytest.raises(InvalidURI, match="though no name says so"):
        mlartifacts.sync(*ends, delete=True)
    assert {"src/a", "src/b/c"} <= found(root / "top").keys()


def test_a_sync_to_a_server_of_ours(served: tuple[Path, str], tmp_path: Path) -> None:
    """Also where names that are to be deleted end as those of the source do."""
    root, url = served
    plant(root, {"old/a": b"1", "a": b"2"})
    here = plant(tmp_path / "here", {"a": b"3"})
    assert mlartifacts.sync(here, url, delete=True).deleted == ("old/a",)
    assert found(root) == {"a": b"3"}
