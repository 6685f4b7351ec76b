"""Asking the config selector that was published with a picker (gRFC A31). Both stacks."""

from __future__ import annotations

from grpc import StatusCode

from grpclb.control.picker_slot import PickerSlot, Published
from grpclb.core.balancer import Fail, PickInfo
from grpclb.core.config_selector import Outdated, Selected, Selection
from grpclb.core.status import Status


def select(slot: PickerSlot, published: Published, info: PickInfo) -> Selection | Status | None:
    """The settings of one RPC, or the status that ends it (gRFC A54). Any thread.

    None: nothing can be said by what was `published`; read the slot again, or wait for news.
    """
    selector = published.selector
    if selector is None:
        return None
    try:
        result = selector.select(info)
    except Exception as error:
        details = f"the resolver's config selector raised {type(error).__name__}: {error}"
        return Status(StatusCode.INTERNAL, details)
    if isinstance(result, Selected):
        return Selection(result)
    if isinstance(result, Fail):
        return result.status.from_control_plane()
    if isinstance(result, Outdated) and slot.current.selector is not selector:
        return None
    details = f"the resolver's config selector returned {type(result).__name__}"
    return Status(StatusCode.INTERNAL, details)
