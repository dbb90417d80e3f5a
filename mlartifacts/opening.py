"""fsspec's ``OpenFile``, which tells the file beneath it why it is closed."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from fsspec.core import OpenFile
from fsspec.implementations.cached import LocalTempFile

from mlartifacts.errors import hide_query, queries_hidden
from mlartifacts.writing import WholeWrite

__all__ = ["ArtifactFile"]


class ArtifactFile(OpenFile):  # type: ignore[misc]
    """An artifact to be opened; a block that an exception ends publishes nothing.

    fsspec's own closes its files likewise after an exception and after a good end.
    """

    def __repr__(self) -> str:
        return f"<OpenFile {hide_query(self.path)!r}>"

    @queries_hidden()
    def __enter__(self) -> Any:
        try:
            return super().__enter__()
        except FileNotFoundError as error:
            # fsspec takes a name for a pattern that was not expanded, and says so instead.
            own = error.__cause__
            if isinstance(own, FileNotFoundError) and error.filename is None:
                raise own from own.__cause__
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        caches = []
        for file in self.fobjects if kind is not None else ():
            if isinstance(file, WholeWrite):
                file.abandon()
            elif isinstance(file, LocalTempFile):  # what a cache uploads when it is closed
                file.autocommit = False
                caches.append(file)
        self.close()
        for file in caches:
            file.discard()

    def __reduce__(self) -> tuple[object, ...]:
        settings = (self.compression, self.encoding, self.errors, self.newline)
        return type(self), (self.fs, self.path, self.mode, *settings)
