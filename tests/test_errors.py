"""The exception tree."""

from __future__ import annotations

import errno
import pickle
from string import ascii_lowercase

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


def denied(path):
    return PermissionError(errno.EACCES, "Access Denied", path)


def test_transfer_error_carries_each_failure():
    cause = denied("bucket/a/b")
    error = errors.TransferError({"a/b": cause}, "uploaded")
    assert error.failures == {"a/b": cause}
    assert str(error) == "a/b was not uploaded: Access Denied"
    assert str(errors.TransferError({"": cause})) == "bucket/a/b was not transferred: Access Denied"
    assert str(errors.TransferError({"": KeyError("x")})) == (
        "the file was not transferred: KeyError: 'x'"
    )


def test_transfer_error_says_a_cause_once():
    alike = {f"f{n:02}": denied(f"bucket/f{n:02}") for n in range(30)}
    said = "Access Denied ({}f00, f01, f02, and 27 more)"
    assert str(errors.TransferError(alike, "deleted")) == (
        f"30 files were not deleted: {said.format('')}"
    )
    others = {"a": TimeoutError(), "b": OSError("no route"), "c": ValueError("no\n route")}
    assert str(errors.TransferError(others | alike)).splitlines() == [
        "33 files were not transferred:",
        f"  {said.format('30 files: ')}",
        "  TimeoutError (a)",
        "  no route (b)",
        "  ValueError: no route (c)",
    ]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"a": "no a here", "b/c d": "no b/c d here"}, " no ... here (a, b/c d)"),
        ({"a": "no s3://x/y/a", "b/c d": "no s3://x/y/b/c%20d"}, " no ... (a, b/c d)"),
        ({"a": "'/x/a' is bad", "b": "'/x/b' is bad"}, " '...' is bad (a, b)"),
        # A name that is only a part of a word, or one of it.
        ({"a": "a part is bad", "b": "a part is bad"}, " a part is bad (a, b)"),
        ({"a": "all of a is bad", "b": "all of b is bad"}, " all of ... is bad (a, b)"),
        ({"f1": "f1, f10", "f10": "f10, f10"}, "\n  f1, f10 (f1)\n  f10, f10 (f10)"),
    ],
)
def test_causes_that_differ_by_the_own_name_alone_are_one(texts, said):
    error = errors.TransferError({name: OSError(text) for name, text in texts.items()})
    assert str(error) == f"2 files were not transferred:{said}"


def test_transfer_error_is_short():
    names = [f"{one}{other}" for one in ascii_lowercase for other in ascii_lowercase]
    many = {f"{name}{'x' * 500}": OSError(f"{name}{'y' * 5000}") for name in names}
    said = str(errors.TransferError(many))
    assert len(said) < 3000
    assert said.endswith("\n  and 670 files for 670 other causes")
    seven = {str(n): OSError(f"cause {n}") for n in range(7)}
    assert "other causes" not in str(errors.TransferError(seven))


@pytest.mark.parametrize(
    "text",
    ["no answer to request {}", "10.0.0.{}:{} is down", "id {:08x}-f00d", "not {}: ask {:05X}Z"],
)
def test_many_causes_that_differ_by_an_id_alone_are_one(text):
    failures = {f"f{n:04}": OSError(text.format(n, n)) for n in range(5000)}
    failures |= {
        f"g{n:04}": PermissionError(errno.EACCES, text.format(n, n)) for n in range(6000, 6009)
    }
    assert str(errors.TransferError(failures)).splitlines() == [
        "5009 files were not transferred:",
        f"  {text.format(0, 0)} (5000 files: f0000, f0001, f0002, and 4997 more)",
        f"  {text.format(6000, 6000)} (9 files: g6000, g6001, g6002, and 6 more)",
    ]
    few = {f"f{n}": OSError(text.format(n, n)) for n in range(3)}
    assert len(str(errors.TransferError(few)).splitlines()) == 4


def test_what_a_cause_names_besides_the_file_is_said():
    failures = {
        f"{folder}/f": NotADirectoryError(errno.ENOTDIR, f"'x/{folder}' is a file", f"x/{folder}")
        for folder in ("d0", "d1")
    }
    assert str(errors.TransferError(failures)).splitlines() == [
        "2 files were not transferred:",
        "  'x/d0' is a file (d0/f)",
        "  'x/d1' is a file (d1/f)",
    ]


def test_transfer_error_commands_no_terminal():
    error = errors.TransferError({"\x1b[31mred\n\udcff": OSError("\x1b[2Jgone\n\n at last")})
    assert str(error) == r"\x1b[31mred\n\udcff was not transferred: \x1b[2Jgone at last"


def test_transfer_error_shows_no_signature():
    url = "https://host/a?X-Amz-Signature=secret"
    error = errors.TransferError({"": OSError(errno.EIO, f"no answer from '{url}' in time", url)})
    assert str(error) == (
        "https://host/a?... was not transferred: no answer from 'https://host/a?...' in time"
    )


def test_transfer_error_is_pickled_whole():
    error = errors.TransferError({"a": denied("x/a"), "b": errors.InvalidURI("no")}, "deleted")
    same = pickle.loads(pickle.dumps(error))
    assert str(same) == str(error)
    assert same.done == "deleted"
    assert [(name, repr(each)) for name, each in same.failures.items()] == [
        (name, repr(each)) for name, each in error.failures.items()
    ]
    assert same.failures["a"].filename == "x/a"
