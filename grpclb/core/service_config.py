"""Service config (doc/service_config.md, gRFCs A2, A6, A17, A21, A24): values and strict parsing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """A parsed service config."""
