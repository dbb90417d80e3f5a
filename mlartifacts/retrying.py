"""How long to wait before a server is asked again."""

from __future__ import annotations

import contextlib
import email.utils
import math
import random
import time

__all__ = ["FAILING", "asked_for", "pause"]

#: Statuses of a server that is busy, or fails for the moment.
FAILING = frozenset({429, 500, 502, 503, 504})

# How often a wait is doubled: no longer one is meant, and none is too large for a number.
_MOST_DOUBLED = 20


def pause(first: float, tries: int, longest: float = math.inf) -> float:
    """Seconds to wait before another try: by chance, so that not all who failed come at once.

    Parameters
    ----------
    first : float
        The most after the first try, in seconds; twice as much after each further one.
    tries : int
        How many there were.
    longest : float, default infinity
        The most after any.
    """
    most = min(first * 2.0 ** min(tries - 1, _MOST_DOUBLED), longest)
    return most * random.uniform(0.5, 1)  # noqa: S311  (no secret hangs on it)


def asked_for(retry_after: str | None) -> float | None:
    """Seconds that a ``Retry-After`` asks for, as a number or a date; ``None``: it says none."""
    if retry_after is None:
        return None
    with contextlib.suppress(TypeError, ValueError):
        if retry_after.strip().isdigit():
            return float(retry_after)
        when = email.utils.parsedate_to_datetime(retry_after).timestamp()
        return max(when - time.time(), 0.0)
    return None
