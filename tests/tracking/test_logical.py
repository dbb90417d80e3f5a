"""What `runs:` and `models:` URIs name."""

from __future__ import annotations

import pytest

import mlartifacts
from mlartifacts.errors import InvalidURI
from mlartifacts.filesystems.models import STORE as MODELS
from mlartifacts.filesystems.runs import STORE as RUNS
from mlartifacts.tracking.logical import LoggedModel, Run, Version, split_model, split_run
from mlartifacts.uri import parse

ID = "m-" + "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("uri", "path", "run", "rest"),
    [
        ("runs:/8f2c1d/model", "8f2c1d/model", "8f2c1d", "model"),
        ("runs://8f2c1d/model", "8f2c1d/model", "8f2c1d", "model"),
        ("runs:///8f2c1d/model/", "8f2c1d/model", "8f2c1d", "model"),
        ("runs:/8f2c1d", "8f2c1d", "8f2c1d", ""),
        ("runs:/8f2c1d/", "8f2c1d", "8f2c1d", ""),
        ("runs:/8f/a b/c#d?e%41/[1]*", "8f/a b/c#d?e%41/[1]*", "8f", "a b/c#d?e%41/[1]*"),
        ("runs:/8f/über/%2e%2e", "8f/über/%2e%2e", "8f", "über/%2e%2e"),
        ("runs://profile@databricks/8f/x", "8f/x", "8f", "x"),
        ("runs://databricks/8f/x", "8f/x", "8f", "x"),
        ("mlartifacts+runs://8f/x", "8f/x", "8f", "x"),
    ],
)
def test_runs(uri, path, run, rest):
    assert RUNS.path(parse(uri)) == path
    assert split_run(path) == (Run(run), rest)


@pytest.mark.parametrize(
    ("uri", "path", "model", "rest"),
    [
        ("models:/churn/1/MLmodel", "churn/1/MLmodel", Version("churn", "1"), "MLmodel"),
        ("models://churn/1/MLmodel", "churn/1/MLmodel", Version("churn", "1"), "MLmodel"),
        ("models:/churn/latest", "churn/latest", Version("churn", "latest"), ""),
        (
            "models:/churn/Production/a/b",
            "churn/Production/a/b",
            Version("churn", "Production"),
            "a/b",
        ),
        ("models:/churn@best/a", "churn@best/a", Version("churn", "best", True), "a"),
        ("models://churn@best/a", "churn@best/a", Version("churn", "best", True), "a"),
        ("models:/a@b@best", "a@b@best", Version("a@b", "best", True), ""),
        ("models:/my model/1", "my model/1", Version("my model", "1"), ""),
        ("models:/my%20model/1", "my%20model/1", Version("my%20model", "1"), ""),
        (f"models:/{ID}/MLmodel", f"{ID}/MLmodel", LoggedModel(ID), "MLmodel"),
        (f"models://{ID}", ID, LoggedModel(ID), ""),
        ("models:/word", "word", LoggedModel("word"), ""),
        ("models://p@databricks/churn/1/x", "churn/1/x", Version("churn", "1"), "x"),
    ],
)
def test_models(uri, path, model, rest):
    assert MODELS.path(parse(uri)) == path
    assert split_model(path) == (model, rest)


def test_what_a_version_is_selected_by():
    kinds = {text: Version("n", text) for text in ("7", "latest", "LATEST", "Staging")}
    assert {text: (v.number, v.stage) for text, v in kinds.items()} == {
        "7": ("7", None),
        "latest": (None, None),
        "LATEST": (None, None),
        "Staging": (None, "Staging"),
    }
    assert (Version("n", "7", True).number, Version("n", "7", True).stage) == (None, None)


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("runs:/", "no run"),
        ("runs://", "no run"),
        ("runs:/a:b/x", "a:b"),
        ("runs:/.hidden/x", "hidden"),
        ("runs:/8f/../other/x", "'..'"),
        ("runs:/8f/a/../../b", "'..'"),
        ("models:/", "no model"),
        ("models:/@best", "no model or no alias"),
        ("models:/churn@/x", "no model or no alias"),
        ("models:/a:b/1", "':'"),
        ("models:/churn/1/../2/x", "'..'"),
        ("models:/churn@best/../x", "'..'"),
    ],
)
def test_bad_uris(uri, named):
    with pytest.raises(InvalidURI, match=named):
        mlartifacts.locate(uri)
    with pytest.raises(InvalidURI, match=named):
        mlartifacts.resolve(uri)


def test_urls_for_others():
    assert mlartifacts.to_url("runs:/8f/data/x.parquet") == "runs://8f/data/x.parquet"
    assert mlartifacts.to_url("models:/churn@best/MLmodel") == "models://churn@best/MLmodel"
    assert mlartifacts.to_url("models:/churn/1/MLmodel") == "models://churn/1/MLmodel"
    assert mlartifacts.to_url("mlflow-artifacts:/1/8f/x") == "mlflow-artifacts:///1/8f/x"
    assert mlartifacts.to_url("mlflowartifacts://h:5/1/x") == "mlflowartifacts://h:5/1/x"


def test_urls_of_the_web():
    url = "https://h/prefix/api/2.0/mlflow-artifacts/artifacts/1/8f"
    fs, path = mlartifacts.url_to_fs(f"{url}/a%20b/%C3%BC")
    assert path == "1/8f/a b/ü"
    assert fs.unstrip_protocol(path) == f"{url}/a%20b/%C3%BC"
    assert mlartifacts.url_to_fs(fs.unstrip_protocol(path)) == (fs, path)


def test_physical_uris_are_their_own_place():
    for uri in ("s3://bucket/key", "/a/b", "wasbs://c@a.blob.core.windows.net/x"):
        assert mlartifacts.resolve(uri) == uri
    with pytest.raises(mlartifacts.UnknownScheme):
        mlartifacts.resolve("nope://x")
