"""Small files that a configuration names: read whole, bounded, and never hanging."""

from __future__ import annotations

import os
import stat

MAX_BYTES = 1024 * 1024


class FileError(ValueError):
    """A file that cannot be used; the message names it and says why."""


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file of at most 1 MB. Raises FileError.

    Not of a pipe or a device, which might never answer; and not half of the old and half of the
    new content, if somebody writes to it meanwhile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FileError(f"{os.fspath(path)}: {reason}") from None
    try:
        return _read(descriptor, os.fspath(path))
    finally:
        os.close(descriptor)


def _read(descriptor: int, path: str) -> bytes:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        kind = "a directory" if stat.S_ISDIR(before.st_mode) else "not a regular file"
        raise FileError(f"{path}: {kind}")
    if before.st_size > MAX_BYTES:
        raise FileError(f"{path}: larger than {MAX_BYTES} bytes")
    data = b""
    while chunk := os.read(descriptor, MAX_BYTES + 1 - len(data)):
        data += chunk
        if len(data) > MAX_BYTES:
            raise FileError(f"{path}: larger than {MAX_BYTES} bytes")
    after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FileError(f"{path}: changed while it was read")
    if not data:
        raise FileError(f"{path}: empty")
    return data
