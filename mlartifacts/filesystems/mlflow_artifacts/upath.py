"""What universal_pathlib must be told of this scheme: that its URLs name a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsspec import get_filesystem_class
from upath import UPath

__all__ = ["ProxiedPath"]


class ProxiedPath(UPath):
    """A path behind MLflow's proxy; its ``mlflowartifacts://host:port`` is asked, no other."""

    @classmethod
    def _parse_storage_options(
        cls, urlpath: str, protocol: str, storage_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        # The default looks for options in the URLs of fsspec's own schemes alone.
        derived = get_filesystem_class(protocol)._get_kwargs_from_urls(urlpath)
        return {**derived, **storage_options}

    def __str__(self) -> str:
        """The URL; the default puts the path in the server's place."""
        text = super().__str__()
        if self._relative_base is not None:
            return text
        server = self.storage_options.get("uri") or f"{self.protocol}://"
        return f"{server}/{self.path}"
