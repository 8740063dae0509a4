"""Fix, when a subscription gets its first worker, what all its workers must share.

The number of partitions is kept as the checkpoint `name#partitions`, beside those of
the partitions: `name#0`, `name#1` and so on; if there is only one, it is that of the
subscription itself.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from ..core.errors import CheckpointError, SubscriptionConfigError
from ..core.event import E
from ..ports import START, EventStore, SaveCheckpoint
from .delivery import Delivery, StartFrom


def checkpoint_name(name: str, number: int, partitions: int) -> str:
    """Give the name of a partition's checkpoint."""
    return name if partitions == 1 else f"{name}#{number}"


def check_arguments(
    name: str, owner: str, partitions: int, lease: timedelta, delivery: Delivery[E]
) -> None:
    """Refuse what makes no sense.

    Raises:
        SubscriptionConfigError: it makes none.
    """
    if not name or "#" in name:
        raise SubscriptionConfigError(
            f"the name of a shared subscription is not empty and has no '#': {name!r}"
        )
    if not owner:
        raise SubscriptionConfigError("a worker has an owner: its own name")
    if partitions < 1:
        raise SubscriptionConfigError(f"there is at least 1 partition: {partitions!r}")
    if lease <= timedelta(0):
        raise SubscriptionConfigError(f"a lease lasts longer than {lease!r}")
    if delivery.checkpoints is not None:
        raise SubscriptionConfigError(
            "workers keep their checkpoints in the store itself: `checkpoints` kept "
            "elsewhere could be moved by a worker that has lost its lease"
        )


async def agree(
    store: EventStore[E], name: str, partitions: int, start: StartFrom
) -> None:
    """Fix the number of partitions and where they start, or see that it is the same.

    Raises:
        SubscriptionConfigError: it is fixed at another number.
        StoreError: the store could not be asked.
    """
    fixed = await store.checkpoints.load(f"{name}#partitions")
    if fixed is None:
        number = SaveCheckpoint(f"{name}#partitions", partitions, after=START)
        starts = await _starts(store, name, partitions, start)
        with suppress(CheckpointError):  # another worker was faster
            await store.append(also=(number, *starts))
        fixed = await store.checkpoints.load(f"{name}#partitions")
    if fixed is not None and fixed.position != partitions:
        raise SubscriptionConfigError(
            f"subscription {name!r} has {fixed.position} partitions, not {partitions}: "
            "with another number streams would change partitions; choose another name, "
            "and give it a `start`"
        )


async def _starts(
    store: EventStore[E], name: str, partitions: int, start: StartFrom
) -> list[SaveCheckpoint]:
    match start:
        case "checkpoint":
            saved = await store.checkpoints.load(name)
            if saved is None or partitions == 1:
                return []
            first = saved.position
        case "beginning":
            first = START
        case "end":
            first = await store.head()
        case position:
            first = position
    return [
        SaveCheckpoint(checkpoint_name(name, number, partitions), first)
        for number in range(partitions)
    ]
