"""Environment variables, typed: read when asked, and every error names the variable."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from mlartifacts.errors import InvalidConfig

if TYPE_CHECKING:
    import ssl

__all__ = ["Environment", "server", "values"]

# What a socket can be told: 24 days.
_MOST_SECONDS = (2**31 - 1) // 1000

_TIMEOUT = "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT"


@functools.lru_cache
def _encoded(
    names: tuple[str, ...],
) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[str, ...]]:
    """Variables, those that name files, and files."""
    key = os.environ.encodekey
    files = tuple(name for name in names if name.startswith("~/"))
    naming = tuple(key(name.removeprefix("@")) for name in names if name.startswith("@"))
    return tuple(key(n) for n in names if not n.startswith(("~/", "@"))), naming, files


def values(names: tuple[str, ...]) -> tuple[Any, ...]:
    """The process's values of variables, to be compared or hashed.

    A name that begins with ``~/`` is a file's, and its value changes when the file does. So it is
    with the file that a variable names, whose own name stands behind an ``@``.

    It is asked at every open, and ``os.environ.get`` takes a microsecond for each variable that
    is unset; the dictionary that it wraps takes a twentieth of that. What it holds is not copied:
    a long value (a ``CLASSPATH`` of Hadoop's) is hashed once, and then costs nothing.
    """
    data = getattr(os.environ, "_data", None)
    if not isinstance(data, dict):
        data = {os.environ.encodekey(name): value for name, value in os.environ.items()}
    variables, naming, files = _encoded(names)
    found = [data.get(name) for name in variables]
    named = [file for name in naming if (file := data.get(name))]
    return tuple([*found, *named, *map(_version, (*files, *named))] if files or named else found)


def _version(file: str | bytes) -> tuple[int, ...] | None:
    try:
        about = os.stat(os.path.expanduser(file))
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def server(name: str, url: str, hint: str = "") -> SplitResult:
    """The parts of a server's URL, which the variable `name` holds.

    Raises
    ------
    InvalidConfig
        It is none. The message does not show it, as it may hold a password.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")  # as whoever connects does
        valid = parts.scheme in {"http", "https"} and host and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not url.isprintable() or " " in url:
        raise InvalidConfig(f"{name} takes the URL of a server, such as http://1.2.3.4:9000.{hint}")
    return parts


class Environment:
    """A reader of environment variables.

    An empty variable counts as unset, as shells have no simple way to unset one for a command.

    Parameters
    ----------
    variables : mapping of str to str, optional
        ``os.environ``, live, unless given.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables

    def text(self, name: str) -> str | None:
        """The variable's text, or ``None`` where it is unset or empty."""
        return self._variables.get(name) or None

    def boolean(self, name: str) -> bool | None:
        """``true``, ``1``, ``false`` or ``0`` in any case, which is what MLflow accepts.

        Raises
        ------
        InvalidConfig
            Anything else.
        """
        value = self.text(name)
        if value is None:
            return None
        if value.lower() not in {"true", "1", "false", "0"}:
            raise InvalidConfig(f"{name}={value!r}: it takes true, false, 1 or 0.")
        return value.lower() in {"true", "1"}

    def integer(self, name: str) -> int | None:
        """A whole number.

        Raises
        ------
        InvalidConfig
            Anything else.
        """
        value = self.text(name)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError:
            raise InvalidConfig(f"{name}={value!r}: it takes a whole number.") from None

    def json_object(self, name: str) -> dict[str, object] | None:
        """A JSON object.

        Raises
        ------
        InvalidConfig
            The text is no JSON, or not an object. The message does not show the text, which
            may hold a key.
        """
        value = self.text(name)
        if value is None:
            return None
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError as error:
            raise InvalidConfig(
                f"{name} is no valid JSON ({error.msg} at character {error.pos}):"
                " it takes a JSON object of key/value pairs."
            ) from None
        except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists
            raise InvalidConfig(f"{name} is no JSON object of key/value pairs.") from None
        if not isinstance(parsed, dict):
            raise InvalidConfig(f"{name} takes a JSON object, not a {type(parsed).__name__}.")
        return parsed

    def authorities(self, name: str) -> ssl.SSLContext | None:
        """Who is trusted to issue certificates, by the file that the variable names.

        Raises
        ------
        InvalidConfig
            The file cannot be read, or holds no certificate.
        """
        file = self.text(name)
        if file is None:
            return None
        import ssl

        try:
            return ssl.create_default_context(cafile=file)
        except OSError as error:
            raise InvalidConfig(f"{name}={file!r}: {error}") from error

    def transfer_timeout(self) -> int | None:
        """Seconds that a server may be silent: ``MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT``.

        Returns
        -------
        int or None
            ``None`` where the variable is unset (each store then has its own default);
            -1 for no limit.

        Raises
        ------
        InvalidConfig
            It is neither -1 nor a positive number of seconds.
        """
        return self.timeout(_TIMEOUT)

    def timeout(self, name: str) -> int | None:
        """Seconds in the variable `name`: a positive number, or -1 for no limit."""
        seconds = self.integer(name)
        if seconds is not None and seconds != -1 and not 0 < seconds <= _MOST_SECONDS:
            raise InvalidConfig(
                f"{name}={seconds}: it takes seconds above 0, at most {_MOST_SECONDS}, or -1 for"
                " no limit."
            )
        return seconds
