"""Registration of a service in etcd, for asyncio: a key under a lease, kept as long as we live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from signal import SIGINT, SIGTERM
from types import TracebackType
from typing import Any, Self, Unpack

from grpclb.resolvers.etcd.plan import DEFAULT_TTL, EtcdOptions, Plan
from grpclb.resolvers.etcd.registrant import Registrant
from grpclb.resolvers.etcd.registrar import RegistrationState
from grpclb.resolvers.etcd.serving import AioServer, serve_aio

PATIENCE = 10.0  # seconds for the first registration
DRAIN, GRACE = 1.0, 30.0  # seconds, of `serve`


class Registration:
    """A service in etcd for as long as the block lasts, in an asyncio program.

        async with Registration("etcd:///shop/api", "10.0.0.7:50051", {"weight": 2}):
            await server.wait_for_termination()

    Entering registers `address` (``ip:port``, as clients dial it) below the service that `target`
    names, with `metadata` (JSON; clients read ``weight`` and ``zone``), in the format of Go's
    `endpoints` manager. It raises RegistrationError if that does not succeed within `patience`
    seconds, or at once if etcd refuses; with `keep_trying` it enters at once, and goes on trying.

    From then on nothing is raised. The lease lives `ttl` seconds and is kept alive at a third of
    that: a process that is killed is gone from etcd after at most `ttl` and a second. A key or
    lease that is lost comes back within 2 s, and while etcd is away it is asked with backoff.

    Leaving takes the key away, and takes 2 s at most. All on one loop; in a forked child it is
    the parent's, and does nothing. The other keywords say how to reach etcd, as for
    `grpclb.etcd.resolver`; without any the target and the environment do.
    """

    def __init__(
        self,
        target: str,
        address: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        ttl: int = DEFAULT_TTL,
        patience: float = PATIENCE,
        keep_trying: bool = False,
        **etcd: Unpack[EtcdOptions],
    ) -> None:
        self._registrant = Registrant(Plan.of(target, address, ttl, etcd), metadata)
        self._patience = patience
        self._keep_trying = keep_trying

    async def __aenter__(self) -> Self:
        await self._registrant.start(self._patience, keep_trying=self._keep_trying)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._registrant.close()

    async def close(self) -> None:
        """What leaving the block does. Repeating it is harmless."""
        await self._registrant.close()

    def update(self, metadata: Mapping[str, Any] | None) -> None:
        """Replace the metadata. Returns at once; `settled` waits until etcd has it.

        Raises TypeError or ValueError for metadata that no client would read.
        """
        self._registrant.update(self._registrant.plan.value(metadata))

    async def settled(self, timeout: float | None = None) -> bool:
        """Wait until etcd has what was last asked for; False if not within `timeout` seconds."""
        return await self._registrant.settled(timeout)

    async def serve(
        self,
        server: AioServer,
        *,
        drain: float = DRAIN,
        grace: float | None = GRACE,
        signals: Sequence[int] = (SIGTERM, SIGINT),
    ) -> None:
        """Start `server` (a grpc.aio.Server), register, and serve until one of `signals` comes.

        Then, or when this is cancelled or the server stopped: deregister, go on serving for
        `drain` seconds while clients hear of it, and stop the server, which gives RPCs under way
        `grace` seconds. A second signal does what it would do without us. Raises RegistrationError
        as entering does, with the server stopped.
        """
        await serve_aio(self, server, drain=drain, grace=grace, signals=signals)

    @property
    def state(self) -> RegistrationState:
        """Where it is now."""
        return self._registrant.state

    @property
    def error(self) -> str | None:
        """Why it is not registered now; None if it is."""
        return self._registrant.error

    @property
    def key(self) -> str:
        """The key in etcd."""
        return self._registrant.plan.key.decode()

    @property
    def lease(self) -> int | None:
        """The id of the lease that etcd has given last."""
        return self._registrant.lease

    def __repr__(self) -> str:
        return f"<Registration {self._registrant} {self.state.value}>"
