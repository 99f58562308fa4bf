"""A bounded reader of binary headers: every length is checked against the file before anything is read."""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING, Any, Self

from bytebound.errors import DocumentError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class BoundedReader:
    """Reads the head of a file forwards, never past the file or past ``limit`` bytes.

    Args:
        path: the file.
        limit: bytes of header that are believed.
    """

    def __init__(self, path: Path, *, limit: int) -> None:
        self.path = path
        self.place = str(path)
        self.limit = limit
        self.position = 0
        self.little = True
        self._file, self.size = open_binary(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def error(self, message: str, mend: str = "the file is damaged; fetch it again") -> DocumentError:
        """Return the error about the bytes at the current position."""
        return DocumentError(message, place=f"{self.place}: byte {self.position}", mend=mend)

    def need(self, count: int, what: str) -> None:
        """Check that ``count`` more bytes exist and are within the limit.

        Raises:
            DocumentError: they are not.
        """
        if count > self.size - self.position:
            raise self.error(f"{what} needs {count} bytes and {self.size - self.position} are left in the file")
        if self.position + count > self.limit:
            raise self.error(f"{what} would make the header larger than {self.limit} bytes")

    def take(self, count: int, what: str) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            DocumentError: the file is too short, or cannot be read.
        """
        self.need(count, what)
        try:
            data = self._file.read(count)
        except OSError as error:
            raise self.error(f"{what} cannot be read: {error.strerror}", "check the disk") from None
        if len(data) != count:
            raise self.error(f"{what} ends after {len(data)} of {count} bytes")
        self.position += count
        return data

    def skip(self, count: int, what: str) -> None:
        """Go over ``count`` bytes without reading them."""
        self.need(count, what)
        self._file.seek(count, 1)
        self.position += count

    def value(self, code: str, what: str) -> Any:
        """Return one number of the ``struct`` code, in the file's byte order."""
        data = self.take(struct.calcsize(f"<{code}"), what)
        return struct.unpack(f"{'<' if self.little else '>'}{code}", data)[0]


def open_binary(path: Path) -> tuple[IO[bytes], int]:
    """Return an open regular file and its size in bytes.

    Raises:
        DocumentError: missing, not a regular file, or not readable.
    """
    try:
        if not path.is_file():
            reason = "it is a folder" if path.is_dir() else "there is no such file"
            raise DocumentError(f"the file cannot be read: {reason}", place=str(path), mend="check the path")
        file = path.open("rb")
        return file, path.stat().st_size
    except OSError as error:
        reason = error.strerror or "cannot be opened"
        raise DocumentError(f"the file cannot be read: {reason}", place=str(path), mend="check the path") from None
    except ValueError as error:
        raise DocumentError(f"not a path: {error}", place=repr(str(path))[:60], mend="check the path") from None
