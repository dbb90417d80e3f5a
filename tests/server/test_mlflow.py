"""MLflow's own client, and its tracking server, with a server of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import mlartifacts
from tests.server.conftest import Client
from tests.servers import mlflow_server
from tests.servers.fixtures import started

# What MLflow warns of is not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.xdist_group("mlflow")]


def test_a_run_whose_artifacts_lie_here(
    serving: Callable[..., Client], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracking server that knows runs, and ours that has their artifacts."""
    import mlflow

    ours = serving(str(folder))
    tracking = mlflow_server.serve(
        tmp_path / "tracking", artifacts=f"mlflow-artifacts://{ours.netloc}/", proxied=False
    )
    with started(tracking, "mlflow") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        client = mlflow.MlflowClient(server.url)
        run = client.create_run(server.new_experiment()).info
        assert run.artifact_uri.startswith(f"mlflow-artifacts://{ours.netloc}/")
        client.log_text(run.run_id, "ünï", "notes/a note.txt")
        client.log_dict(run.run_id, {"a": 1}, "notes/deep/data.json")
        listed = [
            (e.path, e.is_dir, e.file_size) for e in client.list_artifacts(run.run_id, "notes")
        ]
        assert listed == [("notes/a note.txt", False, 5), ("notes/deep", True, None)]
        got = Path(client.download_artifacts(run.run_id, "notes", str(tmp_path)))
        assert (got / "a note.txt").read_text(encoding="utf-8") == "ünï"
        assert (got / "deep" / "data.json").is_file()
        with pytest.raises(Exception, match="nothing"):
            client.download_artifacts(run.run_id, "nothing", str(tmp_path))
        # The same by us.
        with mlartifacts.open(f"runs:/{run.run_id}/notes/a note.txt") as file:
            assert file.read().decode() == "ünï"
        mlartifacts.delete(f"runs:/{run.run_id}/notes/deep")
    below = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert [path.partition("/artifacts/")[2] for path in below] == ["notes/a note.txt"]
