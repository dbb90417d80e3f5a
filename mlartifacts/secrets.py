"""Passwords in URIs, kept out of everything that is shown, pickled or logged.

A filesystem remembers the URI that it was opened with (it is how a copy in another process
finds the same server), so the password inside that URI is replaced by a handle. The value
stays in this process, in :data:`_values`; the handle alone travels. It is a keyed hash under
a key that no other process has, so equal passwords give equal handles here (one cached
filesystem for both) and the handle tells nothing anywhere.
"""

from __future__ import annotations

import hashlib
import re
import secrets

__all__ = ["fingerprint", "hide", "reveal"]

_PREFIX = "hidden-"
_HANDLE = re.compile(_PREFIX + "[0-9a-f]{24}")
_key = secrets.token_bytes(32)
_values: dict[str, str] = {}


def fingerprint(value: bytes) -> str:
    """Hash what must be told apart but not shown, the same way all through a process."""
    return hashlib.blake2b(value, key=_key, digest_size=12).hexdigest()


def hide(value: str) -> str:
    """Keep a secret in this process and give the handle that stands for it in a URI."""
    if _HANDLE.fullmatch(value):  # hiding twice must not lose the value
        return value
    handle = _PREFIX + fingerprint(value.encode("utf-8", "surrogatepass"))
    _values[handle] = value
    return handle


def reveal(handle: str) -> str | None:
    """Give the secret behind a handle; ``None`` where another process made it.

    A secret does not travel with its handle.
    """
    return _values.get(handle)
