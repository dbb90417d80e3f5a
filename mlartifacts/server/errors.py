"""What is wrong with a request."""

from __future__ import annotations

__all__ = ["BadRequest"]


class BadRequest(ValueError):
    """A request that cannot be meant; the message, which the client is shown, says why."""
