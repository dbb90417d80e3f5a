"""The README's snippets are run, as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.registry import store_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def snippets(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_every_block_is_of_a_kind_that_is_run():
    assert set(re.findall(r"^```(\w+)$", README, re.MULTILINE)) == {"python", "sh"}


def test_python(moto_server, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "weights").write_bytes(b"weights")
    (tmp_path / "trained" / "train.log").write_text("a log")
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    moto_server.request("PUT", "/my-bucket")
    names: dict[str, object] = {}
    for snippet in snippets("python"):
        exec(compile(snippet, "README.md", "exec"), names)
    assert list(names["two"].columns) == ["x", "y"]
    assert names["table"].column_names == ["z"]
    assert names["frame"].shape == (2, 3)
    assert names["report"].moved == ("weights",)
    assert re.fullmatch(r"Report\(1 file uploaded, 7 B in \d+\.\d s\)", repr(names["report"]))
    assert [path.name for path in names["folder"].iterdir()] == ["weights"]
    fs, path = mlartifacts.url_to_fs(names["run"])
    there = {"as of today/weights", "trained/train.log", "trained/weights"}
    assert {f"{path}/{name}" for name in there} <= set(fs.find(path))


def lines(program):
    """What is to be typed that begins with a program's name."""
    found = [line for text in snippets("sh") for line in text.splitlines()]
    assert {line.split()[0] for line in found} == {"make", "mlartifacts"}
    return [line for line in found if line.startswith(f"{program} ")]


def test_commands_of_the_package(tmp_path):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "weights").write_bytes(b"weights")
    card = tmp_path / "run" / "model" / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    env = {"PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}
    env |= {"RUN": (tmp_path / "run").as_uri(), "HOME": str(tmp_path)}
    script = "\n".join(["set -e", *lines("mlartifacts")])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    )
    said = done.stdout.splitlines()
    assert said[0].split() == ["model/"]
    assert said[1:] == ["{}model/card.json"]
    assert not (tmp_path / "back").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]


def test_commands_are_targets_of_make():
    commands = [line.split("#")[0].split() for line in lines("make")]
    for _, target in commands:
        env = {"PATH": os.environ["PATH"]}
        subprocess.run(["make", "-n", target], cwd=ROOT, env=env, check=True, capture_output=True)


def test_demo(tmp_path):
    """What `make demo` runs."""
    env = {"PATH": os.environ["PATH"], "ARTIFACT_ROOT": str(tmp_path / "root")}
    done = subprocess.run(
        [sys.executable, ROOT / "examples/demo.py"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Done" in done.stdout
    found = {str(p.relative_to(tmp_path / "root")) for p in (tmp_path / "root").rglob("*.*")}
    assert {name.rpartition("/")[2] for name in found} == {
        "penguins.csv",
        "penguins.parquet",
        "card.json",
    }


@pytest.mark.parametrize("scheme", mlartifacts.schemes())
def test_the_tables_name_every_scheme_and_variable(scheme):
    assert re.search(rf"`{scheme}[:`]", README) or scheme == "local"
    for variable in store_of(scheme).variables:
        if variable.startswith("MLFLOW_"):
            assert f"`{variable}`" in README
