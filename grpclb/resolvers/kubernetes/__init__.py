"""The ``kubernetes`` scheme. Importing this is cheap; ssl and asyncio come when a target needs it.

A resolver lists and watches the EndpointSlices of one Service by the API server's own protocol:
`target` says which Service, `credentials` how to get in, `http` and `api` speak, `events` and
`slices` understand, `reflector` keeps the list true, `shared` lets channels have it in common, and
`resolver` tells the channel.
"""

from __future__ import annotations

from grpclb.core.resolver import Resolver, ResolverContext
from grpclb.core.target import Target


def factory(target: Target, context: ResolverContext) -> Resolver:
    """The resolver of a ``kubernetes`` target, with the credentials that are found by themselves.

    Raises ValueError that names the part of the target that is wrong, and ImportError that names
    the extra to install where a kubeconfig is needed and cannot be read.
    """
    from grpclb.resolvers.kubernetes.build import build

    return build(target)
