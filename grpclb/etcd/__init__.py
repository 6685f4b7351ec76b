"""Services in etcd: finding them with settings of your own, and registering them.

A channel to ``etcd://etcd-0:2379,etcd-1:2379/service`` needs nothing from here, nor does one to
``etcd:///service`` with the environment's ``GRPCLB_ETCD_ENDPOINTS``. For settings from the program:

    import grpclb
    import grpclb.etcd

    target, way = "etcd:///service", {"endpoints": "https://etcd:2379", "ca": "ca.pem"}
    channel = grpclb.insecure_channel(target, resolver=grpclb.etcd.resolver(target, **way))

    # or for all such targets of the process, or for a scheme of its own
    grpclb.register_resolver("etcd", grpclb.etcd.factory(**way))

A service registers itself for as long as a block lasts (`SyncRegistration` without asyncio):

    async with grpclb.etcd.Registration("etcd:///service", "10.0.0.7:50051"):
        ...

Needs the extra: ``pip install 'grpclb-client[etcd]'``.
"""

from __future__ import annotations

from grpclb.etcd.registering import SyncRegistration
from grpclb.etcd.resolving import factory, resolver
from grpclb.resolvers.etcd.registrant import RegistrationError
from grpclb.resolvers.etcd.registrar import RegistrationState
from grpclb.resolvers.etcd.registration import Registration
from grpclb.resolvers.etcd.settings import EtcdSettings

__all__ = [
    "EtcdSettings",
    "Registration",
    "RegistrationError",
    "RegistrationState",
    "SyncRegistration",
    "factory",
    "resolver",
]
