"""Reading C-core's failures, one log line a minute, and methods as stubs name them."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest
from grpc import StatusCode

from grpclb.control.failures import (
    connection_error,
    never_left,
    picker_raised,
    with_health_service,
)
from grpclb.control.method import MethodHandle, MethodTable
from grpclb.control.reporter import Reporter
from grpclb.core.service_config import EMPTY, parse_service_config
from grpclb.core.status import Status
from grpclb.testing import FakeClock

REFUSED = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:80: "
    "Failed to connect to remote host: Connection refused"
)


@pytest.mark.parametrize(
    ("code", "details", "answer"),
    [
        (StatusCode.UNAVAILABLE, REFUSED, True),
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses", True),
        (StatusCode.UNAVAILABLE, "connections to all backends failing; last error: x", True),
        (StatusCode.UNAVAILABLE, "Socket closed", False),
        (StatusCode.UNAVAILABLE, "app says: failed to connect to all addresses", False),
        (StatusCode.UNAVAILABLE, "", False),
        (StatusCode.UNAVAILABLE, None, False),
        (StatusCode.INTERNAL, REFUSED, False),
        (StatusCode.DEADLINE_EXCEEDED, REFUSED, False),
        (None, REFUSED, False),
    ],
)
def test_what_never_left_the_client(code: Any, details: Any, answer: bool) -> None:
    assert never_left(code, details) is answer


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (StatusCode.UNAVAILABLE, REFUSED, "Failed to connect to remote host: Connection refused"),
        (
            StatusCode.UNAVAILABLE,
            (
                "connections to all backends failing; last error: UNAVAILABLE: ipv4:10.0.0.1:80: "
                "backend unhealthy"
            ),
            "backend unhealthy",
        ),
        (StatusCode.UNAVAILABLE, "Socket closed", "Socket closed"),
        (StatusCode.UNAVAILABLE, "", None),
        (StatusCode.UNAVAILABLE, None, None),
        (StatusCode.DEADLINE_EXCEEDED, REFUSED, None),
    ],
)
def test_why_a_connection_failed(code: Any, details: Any, reason: str | None) -> None:
    assert connection_error(code, details, "ipv4:10.0.0.1:80") == reason


@pytest.mark.parametrize(
    ("args", "added"),
    [
        (None, ""),
        ({"methodConfig": []}, ""),
        (
            {"healthCheckConfig": {"serviceName": "shop.Api"}},
            ": its health check does not say SERVING of service 'shop.Api'",
        ),
        (
            {"healthCheckConfig": {"serviceName": ""}},
            ": its health check does not say SERVING of the server as a whole (service '')",
        ),
    ],
)
def test_a_failed_health_check_names_the_service(args: Any, added: str) -> None:
    text = None if args is None else json.dumps(args)
    unhealthy = Status.unavailable("10.0.0.1:80: backend unhealthy")
    assert with_health_service(unhealthy, text).details == unhealthy.details + added
    refused = Status.unavailable("10.0.0.1:80: Connection refused")
    assert with_health_service(refused, text) is refused


def test_a_picker_s_mistake_is_named() -> None:
    status = picker_raised(KeyError("zone")).status
    assert str(status) == "INTERNAL: the load-balancing policy's picker raised KeyError: 'zone'"


# -- the reporter ----------------------------------------------------------------------------------


@pytest.mark.expect_log("again|other|cause")
def test_one_line_per_cause_and_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    reporter = Reporter(logging.getLogger("grpclb.test"), "dns:///api", clock)
    for _ in range(3):
        reporter.report("cause", "again")
    reporter.report("other", "other")
    clock.advance(59.9)
    reporter.report("cause", "again")
    clock.advance(0.1)
    reporter.report("cause", "again")
    assert [r.getMessage() for r in caplog.records] == [
        "dns:///api: again",
        "dns:///api: other",
        "dns:///api: again",
    ]


@pytest.mark.expect_log("cause")
def test_causes_without_number_cost_no_memory_without_bound() -> None:
    reporter = Reporter(logging.getLogger("grpclb.test"), "x", FakeClock())
    for number in range(1_000):
        reporter.report(f"cause {number}", f"cause {number}")
    assert len(reporter._last) <= 256


# -- methods ---------------------------------------------------------------------------------------


class Recorder:
    """Stands for a grpcio channel."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def unary_unary(self, *args: Any, **kwargs: Any) -> str:
        self.asked.append((args, kwargs))
        return "multicallable"


def test_equal_methods_share_a_handle() -> None:
    table = MethodTable()
    one = table.handle("unary_unary", "/a/b", bytes, None, False)
    assert table.handle("unary_unary", b"/a/b", bytes, None, None) is one
    for other in (
        table.handle("unary_stream", "/a/b", bytes, None, False),
        table.handle("unary_unary", "/a/c", bytes, None, False),
        table.handle("unary_unary", "/a/b", None, None, False),
        table.handle("unary_unary", "/a/b", bytes, bytes, False),
        table.handle("unary_unary", "/a/b", bytes, None, True),
    ):
        assert other is not one


def test_a_table_is_bounded() -> None:
    table = MethodTable()
    for number in range(10_000):
        table.handle("unary_unary", f"/a/{number}", None, None, False)
    assert len(table._handles) <= 4096


def test_after_a_fork_the_lock_is_a_new_one() -> None:
    table = MethodTable()
    table._lock.acquire()
    table.reset_lock()
    assert table.handle("unary_unary", "/a/b", None, None, False) is not None


@pytest.mark.parametrize(
    ("registered", "keywords"), [(True, {"_registered_method": True}), (False, {})]
)
def test_binding_passes_the_stub_s_private_keyword(registered: bool, keywords: Any) -> None:
    channel = Recorder()
    handle = MethodHandle("unary_unary", "/a/b", bytes, str, registered)
    assert handle.bind(channel) == "multicallable"
    assert channel.asked == [(("/a/b", bytes, str), keywords)]


def test_a_serialized_request_is_not_serialized_again() -> None:
    handle = MethodHandle("unary_unary", "/a/b", bytes, str, True).with_bytes()
    assert (handle.serializer, handle.deserializer, handle.registered) == (None, str, True)


def test_a_method_s_config_follows_the_channel_s() -> None:
    handle = MethodHandle("unary_unary", "/a/b", None, None, False)
    config = parse_service_config(
        {"methodConfig": [{"name": [{"service": "a"}], "timeout": "2s"}]},
        find_policy=lambda name: None,
    )
    assert handle.config(EMPTY).applied(None, None) == (None, None)
    assert handle.config(config).applied(None, None)[0] == 2
    assert handle.config(config) is handle.config(config)
    assert handle.config(EMPTY).applied(9, True) == (9, True)


def test_a_handle_made_by_many_threads_is_one() -> None:
    table = MethodTable()
    made: list[MethodHandle] = []

    def make() -> None:
        paths = [f"/a/{number}" for number in range(100)]
        made.extend(table.handle("unary_unary", path, None, None, False) for path in paths)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, made))) == 100
