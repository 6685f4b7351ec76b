"""Reading the small files that credentials are in, whatever stands in their place."""

from __future__ import annotations

import os
import ssl
import stat

_MOST_BYTES = 1 << 20
_READS = 3  # a file that changes while it is read is read again
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class FileError(Exception):
    """A file that cannot be used; the text names it, says why, and shows nothing of it."""


def read_file(path: str) -> bytes:
    """All of a regular file of 1 byte to 1 MiB. Never waits for a FIFO. Raises FileError."""
    try:
        for _ in range(_READS):
            # Without O_NONBLOCK opening a FIFO waits for its other end.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
            try:
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    raise FileError(f"{path}: not a regular file")
                if before.st_size > _MOST_BYTES:
                    raise FileError(f"{path}: {before.st_size} bytes, more than {_MOST_BYTES}")
                data = _read(descriptor, _MOST_BYTES + 1)
                if (
                    _signature(os.fstat(descriptor))
                    == _signature(before)
                    == (
                        len(data),
                        before.st_mtime_ns,
                    )
                ):
                    break
            finally:
                os.close(descriptor)
        else:
            raise FileError(f"{path}: changes all the time")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FileError(f"{path}: {reason}") from None
    if not data.strip():
        raise FileError(f"{path}: empty")
    return data


def read_text(path: str) -> str:
    """One word of printable ASCII, as tokens and names are. Raises FileError."""
    text = read_file(path).strip()
    if not text.isascii() or not text.decode("ascii").isprintable() or b" " in text:
        raise FileError(f"{path}: expected one word of printable ASCII")
    return text.decode("ascii")


def trust(context: ssl.SSLContext, path: str) -> None:
    """Have `context` trust all certificates of a PEM file, or none of them. Raises FileError."""
    text = read_file(path).decode("latin-1")
    blocks = text.split(_BEGIN)[1:]
    if not blocks:
        raise FileError(f"{path}: no certificate in PEM form")
    certificates = []
    for number, block in enumerate(blocks, 1):
        body, end, _ = block.partition(_END)
        try:
            if not end:
                raise ValueError("it has no end")
            certificates.append(ssl.PEM_cert_to_DER_cert(_BEGIN + body + _END))
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates[-1])
        except (ValueError, ssl.SSLError):
            raise FileError(
                f"{path}: certificate {number} of {len(blocks)} cannot be read"
            ) from None
    context.load_verify_locations(cadata=b"".join(certificates))


def changed(path: str) -> tuple[int, int, int] | None:
    """What differs when the file was written or replaced; None while there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(descriptor: int, most: int) -> bytes:
    parts = []
    while most > 0 and (part := os.read(descriptor, most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _signature(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns
