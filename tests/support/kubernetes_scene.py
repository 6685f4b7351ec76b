"""A resolver at a `KubernetesApi` in memory, on virtual time: what it tells, and what it asks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from grpclb.core.address import Endpoint
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.core.target import parse_target
from grpclb.resolvers.kubernetes.api import Timeouts
from grpclb.resolvers.kubernetes.credentials import Access, Grant
from grpclb.resolvers.kubernetes.http import Origin
from grpclb.resolvers.kubernetes.resolver import KubernetesResolver, Plan
from grpclb.resolvers.kubernetes.target import ServiceTarget
from tests.support.kubernetes_api import KubernetesApi
from tests.support.virtual_loop import run_virtual


class StubCredentials:
    """core Credentials that read the scene's token."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.rejections = 0
        self.stuck = False
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # in memory nobody asks for it

    async def grant(self) -> Grant:
        if self.stuck:
            await asyncio.Event().wait()
        return Grant(Origin("10.96.0.1", 443, self._tls), self._scene.token, "/token")

    def reject(self) -> None:
        self.rejections += 1

    async def namespace(self) -> str:
        return "shop"


class Scene:
    """`told` are the states in their order, `lists` those that are lists, as sets of addresses."""

    def __init__(self, target: str = "kubernetes:///api.shop", **plan: Any) -> None:
        self.api = KubernetesApi()
        self.token = "token"
        self.told: list[ResolverState] = []
        self.told_at: list[float] = []
        self.credentials = StubCredentials(self)
        self.plan = Plan(
            target,
            ServiceTarget.of(parse_target(target, ["kubernetes"])),
            plan.pop("access", Access(api_server="https://10.96.0.1")),
            lambda access: self.credentials,
            lambda: "shop",
            timeouts=plan.pop("timeouts", Timeouts()),
            opener=self.api.opener,
            **plan,
        )

    @property
    def lists(self) -> list[set[str]]:
        return [addresses(s.endpoints) for s in self.told if not isinstance(s.endpoints, Status)]

    @property
    def errors(self) -> list[str]:
        return [s.endpoints.details for s in self.told if isinstance(s.endpoints, Status)]

    @property
    def now(self) -> set[str] | str:
        """What the channel was told last: addresses, or an error."""
        last = self.told[-1].endpoints
        return last.details if isinstance(last, Status) else addresses(last)

    def take(self, state: ResolverState) -> bool:
        self.told.append(state)
        self.told_at.append(asyncio.get_running_loop().time())
        return True

    def told_more_than(self, count: int) -> bool:
        return len(self.told) > count

    def resolver(self) -> KubernetesResolver:
        return KubernetesResolver(self.plan)

    async def until(self, condition: Callable[[], object], within: float) -> float:
        """Seconds until `condition` holds; fails if it does not `within` so many."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            assert loop.time() - began < within, (
                f"not within {within} s; last: {self.told[-1:]!s:.500}"
            )
            await asyncio.sleep(max(0.001, (loop.time() - began) / 50))
        return loop.time() - began


def play(scene: Scene, script: Callable[[], Coroutine[Any, Any, None]], resolvers: int = 1) -> None:
    """Run `script` beside the resolvers on virtual time; afterwards nothing is left."""

    async def main() -> None:
        tasks = [asyncio.create_task(scene.resolver().run(scene.take)) for _ in range(resolvers)]
        try:
            await script()
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await scene.api.close()
        assert scene.api.bugs == []
        assert scene.api.watching == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


def addresses(endpoints: Iterable[Endpoint]) -> set[str]:
    """Each endpoint as ``ip:port``, or several joined by ``+``; the port 50051 left out."""
    return {str(endpoint).replace(":50051", "") for endpoint in endpoints}
