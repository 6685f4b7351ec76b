"""Target strings: what a user writes to name a service (gRPC naming)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target ``scheme:[//authority/]endpoint``.

    `endpoint` has no leading slash where an authority part was written (``dns:///api`` gives
    ``api``) and is percent-decoded; `text` is what the user wrote.
    """

    scheme: str
    authority: str
    endpoint: str
    text: str

    def __str__(self) -> str:
        return self.text
