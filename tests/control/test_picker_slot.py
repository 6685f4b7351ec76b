"""Nobody who waits for a picker is forgotten."""

from __future__ import annotations

import random
import threading

import pytest

from grpclb.control.picker_slot import PickerSlot
from grpclb.core.balancer import QUEUE_PICKER, Drop, FixedPicker, Queue
from grpclb.core.connectivity import CONNECTING, IDLE, READY, SHUTDOWN
from grpclb.core.service_config import EMPTY
from grpclb.core.status import Status

PICKER = FixedPicker(Queue())


def published(slot: PickerSlot) -> None:
    slot.publish(READY, PICKER, EMPTY)


def test_a_new_slot_is_idle_and_queues() -> None:
    current = PickerSlot().current
    assert (current.generation, current.state, current.picker) == (0, IDLE, QUEUE_PICKER)


def test_publish_raises_the_generation_and_swaps_all_at_once() -> None:
    slot = PickerSlot()
    before = slot.current
    other = FixedPicker(Drop(Status.unavailable("x")))
    slot.publish(CONNECTING, other, EMPTY)
    assert slot.current.generation == before.generation + 1
    assert (slot.current.state, slot.current.picker) == (CONNECTING, other)
    assert before.state is IDLE


def test_a_waiter_is_woken_once() -> None:
    slot, woken = PickerSlot(), []
    slot.wait(0, lambda: woken.append(1))
    assert slot.waiting == 1
    assert woken == []
    published(slot)
    published(slot)
    assert woken == [1]
    assert slot.waiting == 0


def test_who_comes_too_late_does_not_wait() -> None:
    slot, woken = PickerSlot(), []
    generation = slot.current.generation
    published(slot)  # between the caller's look and its wait
    slot.wait(generation, lambda: woken.append(1))
    assert woken == [1]
    assert slot.waiting == 0


def test_a_forgotten_waiter_is_not_woken() -> None:
    slot, woken = PickerSlot(), []
    token = slot.wait(0, lambda: woken.append("a"))
    slot.wait(0, lambda: woken.append("b"))
    slot.forget(token)
    slot.forget(token)
    slot.forget(12345)
    assert slot.waiting == 1
    published(slot)
    assert woken == ["b"]


def test_nobody_waits_for_a_closed_slot() -> None:
    slot, woken = PickerSlot(), []
    slot.wait(0, lambda: woken.append("before"))
    slot.publish(SHUTDOWN, QUEUE_PICKER, EMPTY)
    slot.wait(slot.current.generation, lambda: woken.append("after"))
    assert woken == ["before", "after"]


def test_nothing_follows_a_shutdown() -> None:
    slot = PickerSlot()
    slot.publish(SHUTDOWN, QUEUE_PICKER, EMPTY)
    last = slot.current
    published(slot)
    assert slot.current is last


def test_a_wake_up_may_wait_again_at_once() -> None:
    slot, woken = PickerSlot(), []

    def again() -> None:
        woken.append(slot.current.generation)
        slot.wait(slot.current.generation, again)

    slot.wait(0, again)
    for _ in range(3):
        published(slot)
    assert woken == [1, 2, 3]


@pytest.mark.expect_log("could not be woken")
def test_a_waiter_that_cannot_be_woken_does_not_hold_up_the_others() -> None:
    slot, woken = PickerSlot(), []

    def broken() -> None:
        raise RuntimeError("can't start new thread")

    slot.wait(0, broken)
    slot.wait(0, lambda: woken.append(1))
    published(slot)
    assert woken == [1]


def test_reset_forgets_the_parent_s_waiters() -> None:
    """In a forked child: its lock may be held, its waiters belong to threads that are not there."""
    slot, woken = PickerSlot(), []
    published(slot)
    slot.wait(1, lambda: woken.append(1))
    slot._lock.acquire()
    slot.reset()
    assert (slot.current.state, slot.current.picker) == (IDLE, QUEUE_PICKER)
    assert slot.current.generation == 2
    published(slot)
    assert woken == []


def test_reset_leaves_a_closed_slot_closed() -> None:
    slot = PickerSlot()
    slot.publish(SHUTDOWN, QUEUE_PICKER, EMPTY)
    slot.reset()
    assert slot.current.state is SHUTDOWN


def test_no_wake_up_is_lost_between_threads() -> None:
    """Each waiter sees every generation move on, however looks, waits and publishes interleave."""
    slot, last = PickerSlot(), 400
    slow: list[int] = []

    def follow() -> None:
        while (generation := slot.current.generation) < last:
            event = threading.Event()
            token = slot.wait(generation, event.set)
            if random.random() < 0.2:
                slot.forget(token)  # as a caller whose deadline was near, who then looks again
            elif not event.wait(10):
                slow.append(generation)
                return

    threads = [threading.Thread(target=follow) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(last):
        published(slot)
    for thread in threads:
        thread.join(20)
    assert slow == []
    assert not any(thread.is_alive() for thread in threads)
    assert slot.waiting == 0
