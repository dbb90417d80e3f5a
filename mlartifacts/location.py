"""Where an artifact lies, in fsspec's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlartifacts.errors import hide_query
from mlartifacts.uri import redact

__all__ = ["Location", "may_be_shown"]

# Options that may be shown. Everything else is hidden: a driver's new secret must not need
# an entry here before it is safe.
_SHOWN = frozenset(
    "account_host account_name anon auto_mkdir block_size cache_type connect_timeout container"
    " default_block_size default_cache_type driver endpoint_url host kerb_ticket known_hosts"
    " port project requester_pays timeout tls user username".split()
)


@dataclass(frozen=True, slots=True)
class Location:
    """An artifact's place: a protocol, a path in it, and the driver's options.

    Attributes
    ----------
    protocol : str
        The scheme of the store's filesystem.
    path : str
        The path that the filesystem's methods take.
    options : mapping
        What the driver is constructed with: from the caller, else the URI, else the
        environment. It can hold credentials, which the repr hides.
    """

    protocol: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={value!r}" if may_be_shown(name, value) else f"{name}=<hidden>"
            for name, value in self.options.items()
        )
        return f"Location({self.protocol!r}, {hide_query(self.path)!r}, {{{shown}}})"

    def __hash__(self) -> int:
        # Options can hold what has no hash; equal locations agree in these two.
        return hash((self.protocol, self.path))

    def __reduce__(self) -> tuple[object, ...]:
        # A pickle is shown to whoever holds it.
        options = {name: value for name, value in self.options.items() if may_be_shown(name, value)}
        return type(self), (self.protocol, self.path, options)


def may_be_shown(name: str, value: object) -> bool:
    """Whether an option is known to be no secret."""
    # A URL of an endpoint can hold a password.
    return name in _SHOWN and redact(str(value)) == str(value)
