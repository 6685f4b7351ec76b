"""Per-method settings of a service config, and which of them a method gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpclb.core.config_node import Node, brief, shown
from grpclb.core.retry_config import (
    HEDGING_FIELDS,
    RETRY_FIELDS,
    HedgingPolicy,
    RetryPolicy,
    parse_hedging_policy,
    parse_retry_policy,
)

_UINT32 = 2**32 - 1  # protobuf's UInt32Value, the type of the message limits
_FIELDS = (
    "name",
    "waitForReady",
    "timeout",
    "maxRequestMessageBytes",
    "maxResponseMessageBytes",
    "retryPolicy",
    "hedgingPolicy",
)


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """What a service config says of a method; None: nothing.

    `timeout` is in seconds, at most a century; the call takes the smaller of it and its
    own. The caller's `wait_for_ready` wins. The limits are in bytes of the serialized message.
    """

    timeout: float | None = None
    wait_for_ready: bool | None = None
    max_request_bytes: int | None = None
    max_response_bytes: int | None = None
    retry: RetryPolicy | None = None
    hedging: HedgingPolicy | None = None

    @property
    def attempt_timeout(self) -> float | None:
        """`perAttemptRecvTimeout` of the retry policy, in seconds."""
        return None if self.retry is None else self.retry.per_attempt_recv_timeout

    def applied(
        self, timeout: float | None, wait_for_ready: bool | None
    ) -> tuple[float | None, bool | None]:
        """The caller's timeout and wait_for_ready with this config's: the least, the caller's."""
        if self.timeout is not None and (timeout is None or timeout > self.timeout):
            timeout = self.timeout
        return timeout, self.wait_for_ready if wait_for_ready is None else wait_for_ready


NO_METHOD_CONFIG = MethodConfig()


def lookup(methods: Mapping[str, MethodConfig], path: str) -> MethodConfig:
    """The most specific entry for ``/pkg.Service/Method``; only one applies, none are merged.

    Keys are ``/pkg.Service/Method``, ``/pkg.Service/`` and, for all methods, the empty string.
    """
    return (
        methods.get(path)
        or methods.get(path[: path.rfind("/") + 1])
        or methods.get("")
        or NO_METHOD_CONFIG
    )


def parse_method_configs(
    node: Node, max_retry_attempts: int, ignored: list[str]
) -> dict[str, MethodConfig]:
    """`methodConfig` as a table for `lookup`; raises ServiceConfigError.

    The paths of fields that nothing read are added to `ignored`.
    """
    table: dict[str, MethodConfig] = {}
    for entry in node.items():
        config = _parse_entry(entry, max_retry_attempts, ignored)
        names = entry.get("name")
        for name in names.items() if names else ():
            key = _key(name)
            if key in table:
                raise name.fail(f"a second entry for {brief(key) or 'all methods'}")
            ignored += name.unread(("service", "method"))
            table[key] = config
    return table


def _key(name: Node) -> str:
    service = name.optional("service", Node.text) or ""
    method = name.optional("method", Node.text) or ""
    if method and not service:
        raise name.fail(f"method {shown(method)} without a service")
    return f"/{service}/{method}" if service else ""


def _parse_entry(entry: Node, max_retry_attempts: int, ignored: list[str]) -> MethodConfig:
    ignored += entry.unread(_FIELDS)
    retry = entry.get("retryPolicy")
    hedging = entry.get("hedgingPolicy")
    if retry and hedging:
        raise hedging.fail("a method is retried or hedged, not both; remove retryPolicy or this")
    ignored += retry.unread(RETRY_FIELDS) if retry else ()
    ignored += hedging.unread(HEDGING_FIELDS) if hedging else ()
    return MethodConfig(
        timeout=entry.optional("timeout", Node.seconds),
        wait_for_ready=entry.optional("waitForReady", Node.boolean),
        max_request_bytes=entry.optional("maxRequestMessageBytes", _bytes),
        max_response_bytes=entry.optional("maxResponseMessageBytes", _bytes),
        retry=parse_retry_policy(retry, max_retry_attempts) if retry else None,
        hedging=parse_hedging_policy(hedging, max_retry_attempts) if hedging else None,
    )


def _bytes(node: Node) -> int:
    return node.integer(0, _UINT32)


def message_limits(methods: Mapping[str, MethodConfig]) -> list[dict[str, Any]] | None:
    """A `methodConfig` list that says the message limits and nothing else; None without any.

    Entries without limits are in it too, as they hide the limits of less specific ones.
    """
    if not any(
        c.max_request_bytes is not None or c.max_response_bytes is not None
        for c in methods.values()
    ):
        return None
    return [_limits_entry(key, config) for key, config in methods.items()]


def _limits_entry(key: str, config: MethodConfig) -> dict[str, Any]:
    service, _, method = key[1:].rpartition("/")  # a service's name may hold a slash
    entry: dict[str, Any] = {"name": [{"service": service, "method": method} if key else {}]}
    if config.max_request_bytes is not None:
        entry["maxRequestMessageBytes"] = config.max_request_bytes
    if config.max_response_bytes is not None:
        entry["maxResponseMessageBytes"] = config.max_response_bytes
    return entry


def limits_json(methods: Mapping[str, MethodConfig]) -> str | None:
    """`message_limits` as the text of a service config of its own."""
    entries = message_limits(methods)
    return None if entries is None else json.dumps({"methodConfig": entries})
