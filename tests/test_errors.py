"""The exception tree."""

from __future__ import annotations

import pickle

import pytest

from mlartifacts import errors


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (errors.InvalidURI("x"), (ValueError,)),
        (errors.UnknownScheme("x", ["s3"]), (errors.InvalidURI, ValueError)),
        (errors.InvalidConfig("x"), (ValueError,)),
        (errors.MissingDriver("s3", "s3fs"), (ImportError,)),
        (errors.Unresolved("x"), (FileNotFoundError,)),
        (errors.TransferError({"a": OSError("no")}), (OSError,)),
    ],
)
def test_tree(error, bases):
    assert isinstance(error, (errors.ArtifactError, *bases))
    assert all(isinstance(error, base) for base in bases)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_unknown_scheme_lists_what_there_is():
    assert str(errors.UnknownScheme("s4", ["s3", "gs"])) == (
        "No store serves the scheme 's4'. Schemes: gs, s3."
    )


def test_missing_driver_is_the_command():
    error = errors.MissingDriver("sftp", "sshfs")
    assert "pip install 'mlartifacts[sftp]'" in str(error)
    assert error.name == "sshfs"


def test_transfer_error_carries_each_failure():
    cause = PermissionError("denied")
    error = errors.TransferError({"a/b": cause})
    assert error.failures == {"a/b": cause}
    assert "a/b: denied" in str(error)
