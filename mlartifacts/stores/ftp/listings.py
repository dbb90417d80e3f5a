"""What FTP servers say of files: the facts of MLSD, and the lines of LIST.

LIST was made for people to read, and its form is the server's affair. These are the two that
there are: that of ``ls -l`` (nearly every server) and that of ``DIR`` (IIS).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["Entry", "UnknownLine", "parse_facts", "parse_line", "parse_time"]

_UNIX = re.compile(
    r"(?P<kind>[a-zA-Z-])[rwxsStTlL-]{9}\S*\s.*?(?P<size>\d+)\s+"
    r"(?P<date>[A-Za-z]{3}\s+\d{1,2}\s+(?:\d{4}|\d{1,2}:\d{2})) (?P<name>.+)",
    re.DOTALL,
)
_DOS = re.compile(
    r"(?P<date>\d\d-\d\d-\d{2,4}\s+\d\d:\d\d\s*(?:[AP]M)?)\s+(?:(?P<dir><DIR>)|(?P<size>\d+))\s+?"
    r"(?P<name>\S.*)",
    re.DOTALL,
)
_DOS_DATE = re.compile(r"(\d\d)-(\d\d)-(\d{2,4})\s+(\d\d):(\d\d)\s*([AP]M)?")
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\.\d+)?")
_MONTHS = {
    name: number
    for number, name in enumerate(
        "jan feb mar apr may jun jul aug sep oct nov dec".split(), start=1
    )
}
_KINDS = {"-": "file", "d": "directory", "l": "link"}
_FACT_KINDS = {"file": "file", "dir": "directory"}


class UnknownLine(ValueError):
    """A line of a listing that cannot be read."""


@dataclass(frozen=True)
class Entry:
    """One name in a directory.

    Attributes
    ----------
    kind : str
        ``"file"``, ``"directory"``, ``"link"`` or ``"other"``.
    size : int or None
        ``None`` where the server does not say.
    unit : int
        What `modified` is told in, in seconds: LIST has minutes, and of old files days.
    """

    name: str
    kind: str
    size: int | None = None
    modified: datetime | None = None
    created: datetime | None = None
    target: str | None = None
    unit: int = 1


def parse_facts(line: str) -> Entry | None:
    """Read a line of MLSD or MLST; ``None`` for the directory itself and its parent."""
    facts_text, _, name = line.partition(" ")
    facts = {}
    for fact in facts_text.split(";"):
        key, _, value = fact.partition("=")
        facts[key.lower()] = value
    kind = facts.get("type", "file")
    if kind.lower() in {"cdir", "pdir"} and name in {".", "..", ""}:
        return None
    target = None
    if kind.lower().startswith(("os.unix=slink", "os.unix=symlink")):
        target = kind.partition(":")[2] or None
        kind = "link"
    elif kind.lower() in {"cdir", "pdir"}:
        kind = "directory"
    else:
        kind = _FACT_KINDS.get(kind.lower(), "other")
    size = facts.get("size", "")
    return Entry(
        name,
        kind,
        int(size) if size.isdigit() else None,
        parse_time(facts.get("modify", "")),
        parse_time(facts.get("create", "")),
        target,
    )


def parse_line(line: str, now: datetime | None = None) -> Entry | None:
    """Read a line of LIST; ``None`` for one that is no entry.

    Raises
    ------
    UnknownLine
        It has neither form. To leave it out would be to hide a file.
    """
    if match := _UNIX.fullmatch(line):
        kind = _KINDS.get(match["kind"], "other")
        name, target = match["name"], None
        if kind == "link" and " -> " in name:
            name, _, target = name.partition(" -> ")
        modified = _unix_date(match["date"], now or datetime.now(UTC))
    elif match := _DOS.fullmatch(line):
        kind, name, target = "directory" if match["dir"] else "file", match["name"], None
        modified = _dos_date(match["date"])
    elif re.fullmatch(r"total\s+\d+", line.strip(), re.IGNORECASE):
        return None
    else:
        raise UnknownLine(f"a line of the server's listing has no known form: {line!r}")
    if name in {".", ".."}:
        return None
    size = int(match["size"]) if match["size"] else None
    unit = 60 if ":" in match["date"] else 86400
    return Entry(name, kind, size, modified, None, target, unit)


def parse_time(text: str) -> datetime | None:
    """The time of MDTM and of facts, which is UTC."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    *parts, fraction = match.groups()
    time = _utc(*map(int, parts))
    return time + timedelta(seconds=float(fraction)) if time and fraction else time


def _unix_date(text: str, now: datetime) -> datetime | None:
    name, day_text, when = text.split()
    month, day = _MONTHS.get(name.lower()), int(day_text)
    if month is None:  # in another language
        return None
    hour, colon, minute = when.partition(":")
    if not colon:
        return _utc(int(when), month, day)
    # Without a year it is the last such date, give or take a clock that is ahead.
    for year in (now.year, now.year - 1):
        time = _utc(year, month, day, int(hour), int(minute))
        if time is not None and time <= now + timedelta(days=1):
            return time
    return None


def _dos_date(text: str) -> datetime | None:
    month, day, year, hour, minute, half = _DOS_DATE.fullmatch(text).groups()  # type: ignore[union-attr]
    hours = int(hour) % 12 + 12 * (half == "PM") if half else int(hour)
    return _utc(
        int(year) + (2000 if len(year) == 2 else 0), int(month), int(day), hours, int(minute)
    )


def _utc(*parts: int) -> datetime | None:
    """A time, or ``None`` for a 30th of February."""
    try:
        return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        return None
