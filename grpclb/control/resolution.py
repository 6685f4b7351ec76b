"""Running a resolver: restarts, coalescing, the last good list, and which config counts.

Everything runs on the control loop; the resolver's `update` callback is guarded, since resolvers
are written by users: junk, calls from other threads and calls after close change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from grpclb.control.channel_spec import ChannelSpec, log_ignored
from grpclb.control.reporter import Reporter
from grpclb.core.address import Address, AddressError, Endpoint
from grpclb.core.backoff import Backoff
from grpclb.core.clock import Clock, Timer
from grpclb.core.resolver import Resolver, ResolverContext, ResolverState
from grpclb.core.service_config import ServiceConfig, ServiceConfigError
from grpclb.core.status import Status
from grpclb.core.subset import choose_subset

_LOG = logging.getLogger("grpclb.resolver")
_MOST_ENDPOINTS = 50_000
# Marks a failure that was logged where it was found, with its traceback.
_REPORTED = {"grpclb.reported": True}


class Resolution:
    """One channel's resolver at work. `apply` takes a usable state and the config in force."""

    def __init__(
        self,
        spec: ChannelSpec,
        random: Random,
        clock: Clock,
        apply: Callable[[ResolverState, ServiceConfig], bool],
    ) -> None:
        self.config: ServiceConfig = spec.default_config
        self._spec = spec
        self._random = random
        self._clock = clock
        self._apply = apply
        self._backoff = Backoff(random)
        self._seed = secrets.token_bytes(16)
        self._ranks: dict[Endpoint, bytes] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._task: asyncio.Task[None] | None = None
        self._resolver: Resolver | None = None
        self._current_run: object = None  # an update of any other run is too late
        self._vetted: set[Address] = set()  # addresses of the last list that passed `_check`
        self._taking = False
        self._config_source = "default"
        self._ignored = spec.default_config.ignored  # what was logged last
        self._good: ResolverState | None = None  # the last list in use
        self._good_at = 0.0
        self._error: Status | None = None  # what the last look-up failed with
        self._negative_since: float | None = None
        self._pending: ResolverState | None = None
        self._pending_failure: ResolverState | None = None  # of a look-up after `_pending`
        self._pending_timer: Timer | None = None
        self._applied_at = float("-inf")
        self._updates = 0
        self._report = Reporter(_LOG, str(spec.target), clock)

    # -- life --------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._task = loop.create_task(self._run(), name=f"grpclb resolver {self._spec.target}")
        # A user's loop may end before the channel is closed: no noise about it at exit.
        self._task._log_destroy_pending = False  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Cancel the resolver, which closes it; the list is forgotten."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self._pending_timer is not None:
            self._pending_timer.cancel()
        self._pending = self._pending_failure = self._pending_timer = None
        self._resolver = self._good = None
        self._current_run = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The running resolver, for those who wait for its end."""
        return self._task

    def resolve_now(self) -> None:
        if self._resolver is not None:
            try:
                self._resolver.resolve_now()
            except Exception:
                self._report.report("resolve_now", "resolve_now() raised", trace=True)

    async def _run(self) -> None:
        """Run the resolver until it returns; after an exception, again with backoff."""
        task = asyncio.current_task()
        while True:
            run = self._current_run = object()
            try:
                self._resolver = self._spec.make_resolver(
                    ResolverContext(self._random, self._spec.options.values)
                )
                await self._resolver.run(functools.partial(self._update, run))
                return
            except asyncio.CancelledError as error:
                if task is None or task.cancelling():
                    raise
                self._raised(error)  # something that the resolver waited for was cancelled
            except (Exception, SystemExit) as error:
                if task is not self._task:
                    _LOG.debug("%s: the closed resolver raised %r", self._spec.target, error)
                    return
                self._raised(error)
            await asyncio.sleep(self._backoff.next_delay())

    def _raised(self, error: BaseException) -> None:
        self._report.report("raised", f"the resolver raised {error!r}", trace=True)
        text = f"{self._spec.target}: the resolver raised {type(error).__name__}: {error}"
        self._coalesce(ResolverState(Status.unavailable(text), attributes=_REPORTED))

    # -- updates -----------------------------------------------------------------------------

    def _update(self, run: object, state: ResolverState) -> bool:
        """The resolver's callback, safe against everything that a resolver may do."""
        loop = self._loop
        if run is not self._current_run or loop is None:
            return False
        if threading.get_ident() != self._thread:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._update, run, state)
            return True
        try:
            self._vetted = _check(state, self._vetted)
        except (TypeError, ValueError) as error:
            text = f"the resolver returned an unusable state: {error}"
            self._report.report("junk", text)
            status = Status.unavailable(f"{self._spec.target}: {text}")
            state = ResolverState(status, attributes=_REPORTED)
        if not isinstance(state.endpoints, Status):
            self._backoff.reset()
        return self._coalesce(state)

    def _coalesce(self, state: ResolverState) -> bool:
        """The first update at once, later ones joined (SEMANTICS 2; a storm of 5,000 puts)."""
        pause = self._spec.options.knob("grpclb.update_coalescing_ms") / 1000
        due = self._applied_at + pause
        # A resolver may answer resolve_now() at once, from within the policy's own update.
        if self._pending_timer is None and not self._taking and self._clock.now() >= due:
            return self._take(state)
        # A failure that follows a list says nothing about the list: both are taken.
        self._pending_failure = state if isinstance(state.endpoints, Status) else None
        if self._pending_failure is None:
            self._pending = state
        if self._pending_timer is None:
            delay = max(0.0, due - self._clock.now())
            self._pending_timer = self._clock.call_later(delay, self._take_pending)
        return True

    def _take_pending(self) -> None:
        state, failure = self._pending, self._pending_failure
        self._pending = self._pending_failure = self._pending_timer = None
        if state is not None and self._task is not None and not self._take(state):
            self.resolve_now()  # it was told that all is well
        if failure is not None and self._task is not None:
            self._take(failure)

    def _take(self, state: ResolverState) -> bool:
        self._applied_at = self._clock.now()
        self._updates += 1
        self._taking = True
        try:
            return self._decide(state)
        finally:
            self._taking = False

    def _decide(self, state: ResolverState) -> bool:
        if isinstance(state.endpoints, Status):
            reported = state.attributes is _REPORTED
            return self._failed(state, state.endpoints.from_control_plane(), reported)
        config = self._choose_config(state.service_config)
        if isinstance(config, Status):
            return self._failed(state, config, reported=True)
        if self._error is not None:
            _LOG.info("%s: resolved again: %s", self._spec.target, state.note or "ok")
        if not state.endpoints and self._good is not None and self._good.endpoints:
            _LOG.warning("%s: the resolver says that there are no endpoints", self._spec.target)
        self._error = self._negative_since = None
        self._good, self._good_at, self.config = state, self._applied_at, config
        endpoints = self._bounded(state.endpoints, whole=state.config_selector is not None)
        return self._apply(replace(state, endpoints=endpoints), config)

    def _failed(self, state: ResolverState, status: Status, reported: bool) -> bool:
        """A failed look-up: a good list stays in use (P5), one whose name is gone does not."""
        if self._error != status and not reported:
            level = logging.WARNING if self._good is not None else logging.ERROR
            kept = "; the last good list stays in use" if self._good is not None else ""
            text = status.details.removeprefix(f"{self._spec.target}: ")
            self._report.report(f"failed: {status}", f"{text}{kept}", level=level)
        self._error = status
        if not state.attributes.get("dns.negative"):
            self._negative_since = None
        elif self._negative_since is None:
            self._negative_since = self._clock.now()
        if self._good is not None and self._gone_for_good():
            # Policies keep what they have when a look-up fails; these are to be let go.
            self._good = None
            self._apply(ResolverState(()), self.config)
        if self._good is None:
            self._apply(ResolverState(status), self.config)
        return False

    def _gone_for_good(self) -> bool:
        """FIGURES S3: an address whose name is gone may by now be somebody else's."""
        if self._negative_since is None:
            return False
        limit = self._spec.options.knob("grpclb.dns_negative_ttl_ms") / 1000
        return self._clock.now() - self._negative_since >= limit

    def _bounded(self, endpoints: tuple[Endpoint, ...], whole: bool) -> tuple[Endpoint, ...]:
        """`whole`: RPCs are routed to parts of the list, none of which may be missing."""
        if len(endpoints) > _MOST_ENDPOINTS:
            self._report.report("cap", f"{len(endpoints)} endpoints; {_MOST_ENDPOINTS} are used")
            endpoints = choose_subset(endpoints, _MOST_ENDPOINTS, self._seed, {})
        size = self._spec.options.knob("grpclb.subset_size")
        if whole or not size or len(endpoints) <= 2 * size:
            return endpoints
        return choose_subset(endpoints, size, self._seed, self._ranks)

    def _choose_config(self, given: object) -> ServiceConfig | Status:
        """gRFC A21: the resolver's config, else the default; a bad one keeps the last good."""
        if given is None:
            self._config_source = "default"
            return self._spec.default_config
        problem: str
        if isinstance(given, Status):
            problem = given.details
        elif isinstance(given, ServiceConfig):
            self._config_source = "resolver"
            return given
        else:
            try:
                config = self._spec.parse_config(given)  # type: ignore[arg-type]
                self._config_source = "resolver"
                if config.ignored != self._ignored:
                    self._ignored = config.ignored
                    log_ignored(self._spec.target, config)
                return self.config if config == self.config else config
            except ServiceConfigError as error:
                problem = str(error)
        self._report.report("config", f"the resolver's service config is not used: {problem}")
        if self._good is not None or self._spec.has_default_config:
            return self.config
        return Status.unavailable(f"{self._spec.target}: {problem}")

    # -- for people --------------------------------------------------------------------------

    def describe(self, now: float) -> str:
        """``dns:///api resolved 3 addresses 4.1 s ago`` and the last error. Any thread."""
        good, error = self._good, self._error
        parts = []
        if good is not None:
            count = len(good.endpoints)  # type: ignore[arg-type]
            noun = "endpoint" if count == 1 else "endpoints"
            note = good.note or f"{self._spec.target} resolved {count} {noun}"
            parts.append(f"{note} {now - self._good_at:.1f} s ago")
        if error is not None and good is not None:
            parts.append(f"since then: {error.details}")
        return "; ".join(parts)

    def snapshot(self, now: float) -> dict[str, Any]:
        good = self._good
        endpoints = () if good is None or isinstance(good.endpoints, Status) else good.endpoints
        return {
            "endpoints": [_endpoint(e) for e in endpoints],
            "note": "" if good is None else good.note,
            # What the source has and the resolver cannot use, by the source's own names.
            "skipped": {} if good is None else _plain(good.attributes.get("skipped", {})),
            "last_good_seconds_ago": None if good is None else round(now - self._good_at, 3),
            "last_error": None if self._error is None else str(self._error),
            "updates": self._updates,
            "service_config": _plain(self.config.raw),
            "service_config_source": self._config_source,
            "service_config_ignored": list(self.config.ignored),
            "details": self._details(),
        }

    def waiting_for(self) -> str:
        """What a resolver that has a method `waiting_for` still waits for; may be empty."""
        ask = getattr(self._resolver, "waiting_for", None)
        if not callable(ask):
            return ""
        try:
            return str(ask())
        except Exception:
            self._report.report("waiting_for", "waiting_for() raised", trace=True)
            return ""

    def _details(self) -> dict[str, Any]:
        """What a resolver that has a method `snapshot` says of itself."""
        snapshot = getattr(self._resolver, "snapshot", None)
        if not callable(snapshot):
            return {}
        try:
            found: dict[str, Any] = _plain(snapshot())
        except Exception:
            self._report.report("snapshot", "snapshot() raised", trace=True)
            return {}
        return found if isinstance(found, dict) else {}


def _check(state: object, vetted: set[Address]) -> set[Address]:
    """The addresses of a state, all dialable. Raises TypeError or ValueError: it is junk."""
    if not isinstance(state, ResolverState):
        raise TypeError(f"expected a ResolverState, got {type(state).__name__}")
    if not isinstance(state.attributes, Mapping):
        raise TypeError(f"attributes must be a mapping, got {type(state.attributes).__name__}")
    if isinstance(state.endpoints, Status):
        return vetted
    if not isinstance(state.endpoints, tuple):
        raise TypeError(f"endpoints must be a tuple, got {type(state.endpoints).__name__}")
    addresses: set[Address] = set()
    for index, endpoint in enumerate(state.endpoints):
        if not isinstance(endpoint, Endpoint) or not isinstance(endpoint.attributes, Mapping):
            raise TypeError(f"endpoints[{index}] must be an Endpoint, got {endpoint!r}")
        for address in endpoint.addresses:
            if address not in vetted:
                _check_address(address, f"endpoints[{index}]")
            addresses.add(address)
    return addresses


def _check_address(address: object, where: str) -> None:
    """A resolver may have made an Address without the constructors that look at it."""
    if not isinstance(address, Address) or not isinstance(address.target, str):
        raise TypeError(f"{where}: expected an Address, got {address!r}")
    if not isinstance(address.server_name, (str, type(None))):
        raise TypeError(f"{where}: server_name must be str, got {address.server_name!r}")
    kind, _, name = address.target.partition(":")
    if kind == "unix":
        canonical = Address.unix(name)
    elif kind == "unix-abstract":
        canonical = Address.unix_abstract(name)
    else:
        canonical = Address.parse(address.target)
    if canonical.target != address.target:
        raise AddressError(f"{where}: address {address.target!r} must be {canonical.target!r}")


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "addresses": [a.target for a in endpoint.addresses],
        "attributes": {k: _plain(v) for k, v in endpoint.attributes.items()},
    }


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
