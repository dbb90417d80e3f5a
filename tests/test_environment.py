"""Environment variables: typed, and named in every error."""

from __future__ import annotations

import pytest

from mlartifacts.environment import Environment, values
from mlartifacts.errors import InvalidConfig


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("TRUE", True), ("1", True), ("false", False), ("0", False), ("", None)],
)
def test_boolean(text, value):
    assert Environment({"X": text}).boolean("X") is value


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        ("boolean", "yes"),
        ("boolean", "maybe"),
        ("integer", "ten"),
        ("integer", "1.5"),
        ("timeout", "0"),
        ("timeout", "-2"),
        ("timeout", "soon"),
        ("json_object", "{"),
        ("json_object", "[1]"),
        ("json_object", '"text"'),
    ],
)
def test_errors_name_the_variable(reader, text):
    with pytest.raises(InvalidConfig, match="SOME_VARIABLE"):
        getattr(Environment({"SOME_VARIABLE": text}), reader)("SOME_VARIABLE")


def test_bad_json_is_not_echoed():
    with pytest.raises(InvalidConfig) as caught:
        Environment({"X": '{"SSECustomerKey": "hunter2"'}).json_object("X")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_unset_is_none():
    environment = Environment({})
    assert environment.text("X") is None
    assert environment.boolean("X") is None
    assert environment.integer("X") is None
    assert environment.json_object("X") is None
    assert environment.transfer_timeout() is None


def test_the_transfer_timeout_is_seconds_or_none():
    name = "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT"
    assert Environment({name: "90"}).transfer_timeout() == 90
    assert Environment({name: "-1"}).transfer_timeout() == -1


def test_the_process_is_read_when_asked(monkeypatch):
    environment = Environment()
    monkeypatch.setenv("MLARTIFACTS_TEST", "one")
    assert environment.text("MLARTIFACTS_TEST") == "one"
    monkeypatch.setenv("MLARTIFACTS_TEST", "two")
    assert environment.text("MLARTIFACTS_TEST") == "two"


def test_values_tell_a_change(monkeypatch):
    names = ("MLARTIFACTS_ONE", "MLARTIFACTS_TWO")
    seen = [values(names)]
    for name, value in (("MLARTIFACTS_ONE", "x"), ("MLARTIFACTS_TWO", "x"), (names[0], "é")):
        monkeypatch.setenv(name, value)
        seen.append(values(names))
    monkeypatch.delenv("MLARTIFACTS_ONE")
    seen.append(values(names))
    assert len(set(seen)) == len(seen)
    monkeypatch.delenv("MLARTIFACTS_TWO")
    assert values(names) == seen[0]
