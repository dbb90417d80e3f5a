"""A server's workspaces: whose runs and models are meant is said with each request."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.errors import InvalidConfig, Unresolved
from tests.servers.mlflow_server import MlflowServer
from tests.servers.reverse_proxy import serve

pytestmark = pytest.mark.xdist_group("mlflow")

_number = itertools.count()


@pytest.fixture
def teams(mlflow_server_with_workspaces: MlflowServer) -> list[MlflowServer]:
    """Two workspaces, which have a model ``churn`` each, of their own bytes."""
    number = next(_number)
    teams = [mlflow_server_with_workspaces.within(f"team-{name}-{number}") for name in "ab"]
    for team in teams:
        run = team.new_run()
        team.api("POST", "registered-models/create", name="churn")
        made = team.api(
            "POST",
            "model-versions/create",
            name="churn",
            source=run["artifact_uri"],
            run_id=run["run_id"],
        )
        version = made["model_version"]["version"]
        team.api("POST", "registered-models/alias", name="churn", alias="best", version=version)
        with pytest.MonkeyPatch.context() as patch:
            use(team, patch)
            mlartifacts.open(f"runs:/{run['run_id']}/x", "w").open().close()
            with mlartifacts.open(f"runs:/{run['run_id']}/x", "w") as file:
                file.write(name_of(team))
    return teams


def name_of(team: MlflowServer) -> str:
    return team.env["MLFLOW_WORKSPACE"]


def use(team: MlflowServer, patch: pytest.MonkeyPatch) -> None:
    for name, value in team.env.items():
        patch.setenv(name, value)


def read(uri: str) -> str:
    with mlartifacts.open(uri, "r") as file:
        text: str = file.read()
    return text


def test_the_model_of_ones_own_workspace(
    teams: list[MlflowServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / "cache"))
    for team in [*teams, *teams]:
        use(team, monkeypatch)
        assert read("models:/churn@best/x") == name_of(team)
        assert (mlartifacts.cached("models:/churn@best") / "x").read_text() == name_of(team)
        mlartifacts.download("models:/churn/1/x", tmp_path / "got", overwrite="always")
        assert (tmp_path / "got").read_text() == name_of(team)


def test_one_path_in_two_workspaces(
    teams: list[MlflowServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server finds the same path of ``mlflow-artifacts:`` in the workspace of who asks."""
    monkeypatch.setenv("MLARTIFACTS_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "of").mkdir()
    for team in teams:
        use(team, monkeypatch)
        (tmp_path / "of" / "x").write_text(name_of(team))
        mlartifacts.sync(tmp_path / "of", "mlflow-artifacts:/same")
    for team in [*teams, *teams]:
        use(team, monkeypatch)
        assert read("mlflow-artifacts:/same/x") == name_of(team)
        assert mlartifacts.cached("mlflow-artifacts:/same/x").read_text() == name_of(team)


def test_what_another_workspace_has(
    teams: list[MlflowServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = teams[0].new_run()["run_id"]
    use(teams[1], monkeypatch)
    with pytest.raises(Unresolved, match="knows no runs:/"):
        mlartifacts.resolve(f"runs:/{run}")


def test_a_server_that_has_none(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would give what it has, whoever's that is."""
    run = mlflow_server.new_run()["run_id"]
    use(mlflow_server, monkeypatch)
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-a")
    with pytest.raises(InvalidConfig, match="MLFLOW_WORKSPACE='team-a': http.*no workspaces"):
        mlartifacts.resolve(f"runs:/{run}")


def test_what_mlflow_sets(teams: list[MlflowServer], monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", teams[0].url)
    for team in [*teams, *teams]:
        mlflow.set_workspace(name_of(team))
        assert read("models:/churn@best/x") == name_of(team)
    mlflow.set_workspace(None)


def test_each_request_says_it(
    teams: list[MlflowServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serve(teams[0].url) as front:
        use(teams[0], monkeypatch)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        mlartifacts.download("models:/churn@best", tmp_path / "got")
        fs, path = mlartifacts.url_to_fs("mlflow-artifacts:/1/of/us")
        fs.pipe_file(path, b"x")
        fs.find(path)
        fs.rm(path)
        told = {
            request.headers.get("X-MLFLOW-WORKSPACE") or request.headers.get("X-Mlflow-Workspace")
            for request in front.requests
        }
    assert told == {name_of(teams[0])}
