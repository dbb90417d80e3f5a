"""Hadoop's own settings, as far as errors and defaults depend on them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit
from xml.etree import ElementTree

__all__ = [
    "LONGEST_STEP",
    "class_path",
    "conf_dir",
    "is_secure",
    "longest_step",
    "namenodes",
    "read",
]

#: The setting of the longest name in a directory.
LONGEST_STEP = "dfs.namenode.fs-limits.max-component-length"

_FILES = ("core-site.xml", "hdfs-site.xml")
_DEFAULT_PORT = 8020


def class_path() -> list[str]:
    """The directories where the JVM of libhdfs finds its site files."""
    return [part for part in os.environ.get("CLASSPATH", "").split(os.pathsep) if part]


def conf_dir() -> list[str]:
    """The directory where hdfs-native finds its site files."""
    if found := os.environ.get("HADOOP_CONF_DIR"):
        return [found]
    home = os.environ.get("HADOOP_HOME")
    return [os.path.join(home, "etc", "hadoop")] if home else []


def read(directories: Iterable[str], extra: Mapping[str, str]) -> dict[str, str]:
    """Read the site files of some directories, the first of a kind winning, under `extra`.

    A file that cannot be read counts as absent: the driver, which needs it, says what is wrong.
    """
    settings: dict[str, str] = {}
    for name in _FILES:
        for directory in directories:
            try:
                # Hadoop's own configuration: whoever writes it already decides what runs.
                tree = ElementTree.parse(os.path.join(directory, name))  # noqa: S314
            except (OSError, ElementTree.ParseError):
                continue
            for entry in tree.iter("property"):
                settings[(entry.findtext("name") or "").strip()] = entry.findtext("value") or ""
            break
    return {**settings, **extra}


def is_secure(settings: Mapping[str, str]) -> bool:
    """Whether the cluster asks for Kerberos."""
    return settings.get("hadoop.security.authentication", "simple").strip().lower() == "kerberos"


def longest_step(settings: Mapping[str, str]) -> int:
    """How many bytes a name in a directory may have; 0 for any number."""
    text = settings.get(LONGEST_STEP, "").strip()
    return int(text) if text.isdecimal() else 255  # Hadoop's default


def namenodes(authority: str, settings: Mapping[str, str]) -> list[tuple[str, int]]:
    """The addresses behind ``hdfs://host[:port]``; none for a ``viewfs``, which has many.

    Raises
    ------
    ValueError
        A port in the site files is no number.
    """
    parts = urlsplit(authority)
    if parts.scheme != "hdfs" or not parts.hostname:
        return []
    service = parts.hostname
    members = settings.get(f"dfs.ha.namenodes.{service}")
    if members is None or parts.port is not None:
        return [(service, parts.port or _DEFAULT_PORT)]
    addresses = []
    for member in members.split(","):
        address = settings.get(f"dfs.namenode.rpc-address.{service}.{member.strip()}")
        if address:
            each = urlsplit(f"//{address.strip()}")
            addresses.append((each.hostname or "", each.port or _DEFAULT_PORT))
    return addresses
