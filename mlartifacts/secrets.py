"""Passwords in URIs, kept out of everything that is shown, pickled or logged.

A filesystem remembers the URI that it was opened with (it is how a copy in another process
finds the same server), so the password inside that URI is replaced by a handle. The value
stays in this process, in :data:`_values`; the handle alone travels. It is a keyed hash under
a key that no other process has, so equal passwords give equal handles here (one cached
filesystem for both) and the handle tells nothing anywhere.
"""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["fingerprint", "hide", "reveal"]

_PREFIX = "hidden-"
_key = secrets.token_bytes(32)
_values: dict[str, str] = {}


def fingerprint(*parts: str | None) -> str:
    """Hash values that must be told apart but not shown, the same way all through a process."""
    digest = hashlib.blake2b(key=_key, digest_size=12)
    for part in parts:
        # Each part goes in with a mark of its end, so that ("ab", "c") is not ("a", "bc").
        digest.update(b"-" if part is None else b"+" + part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()


def hide(value: str) -> str:
    """Keep a secret in this process and give the handle that stands for it in a URI."""
    if value in _values:  # already a handle: hiding twice must not lose the value
        return value
    handle = _PREFIX + fingerprint(value)
    _values[handle] = value
    return handle


def reveal(value: str) -> str | None:
    """Give the secret behind a handle.

    Returns
    -------
    str or None
        The secret; `value` itself where it is no handle; ``None`` for a handle that another
        process made, whose secret did not travel with it.
    """
    if value in _values:
        return _values[value]
    foreign = value.startswith(_PREFIX) and len(value) == len(_PREFIX) + 24
    return None if foreign else value
