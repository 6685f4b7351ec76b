"""Names of attributes that resolvers write and policies read, of an endpoint or of an RPC."""

from __future__ import annotations

from typing import Final

# Of an endpoint: the path of children's names in a tree of policies, a tuple from the root down.
HIERARCHY: Final = "hierarchy"
# Of a list: what is wrong with the paths of endpoints that are no child's, as text.
STRAYS: Final = "strays"
# Of an endpoint: where it is, as text; endpoints with the same text are one locality.
LOCALITY: Final = "locality"
# Of an endpoint: the share of its whole locality, an int above 0.
LOCALITY_WEIGHT: Final = "locality_weight"
# Of an endpoint: its own share, a number above 0.
WEIGHT: Final = "weight"
# Of an RPC, from the config selector: the child of xds_cluster_manager that it goes to.
CLUSTER: Final = "xds.cluster"
