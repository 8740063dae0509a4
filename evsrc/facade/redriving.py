"""Give events from the dead letters to their subscribers again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..core.errors import (
    AppendOutcomeUnknownError,
    CheckpointError,
    LeaseLostError,
    SubscriptionError,
    SubscriptionStateError,
)
from ..core.event import Recorded
from ..ports import START, Also, Fence, SaveCheckpoint
from ..ports import EventStore as Record
from ..runtime.taking import taken
from ..stores.rows import micros
from .database import DatabaseProjection
from .delivering import Delivering
from .dlq import DLQEntry, DLQRepository
from .events import DomainEvent
from .subscription import Subscription

_MAY_BE_DONE: Final = (AppendOutcomeUnknownError, CheckpointError, LeaseLostError)


async def redrive(
    dlq_id: int,
    letters: DLQRepository,
    delivering: Delivering,
    subscriptions: Mapping[str, Subscription],
    record: Record[DomainEvent],
) -> bool:
    """Handle an entry's event again; see `SubscriptionManager.redrive`."""
    entry = await _entry(dlq_id, letters)
    subscription, recorded = await _found(entry, subscriptions, record)
    async with taken(record.leases, subscription.name, recorded.id) as fence:
        entry = await _take(dlq_id, letters)
        also = await _also(subscription, entry, fence)
        if also is not None:
            error = await _tried(delivering, subscription, recorded, entry, also)
            if error is not None:
                await record.append(also=(fence,))  # or somebody else may have done it
                await delivering.put_aside(
                    subscription, recorded, error, entry.retry_count + 1
                )
                return False
        return await letters.mark_resolved(dlq_id, f"re-drive of {subscription.name}")


async def _entry(dlq_id: int, letters: DLQRepository) -> DLQEntry:
    entry = await letters.get_failed_event_by_id(dlq_id)
    if entry is None:
        raise SubscriptionError(f"there is no dead letter {dlq_id!r}")
    return entry


async def _take(dlq_id: int, letters: DLQRepository) -> DLQEntry:
    """Mark an entry whose lease we have; whoever marked it before has died."""
    entry = await _entry(dlq_id, letters)
    if entry.status != "retrying" and not await letters.mark_retrying(dlq_id):
        raise SubscriptionStateError(
            f"dead letter {dlq_id} is not to be taken: it is {entry.status}, or was "
            "changed meanwhile"
        )
    return entry


async def _also(
    subscription: Subscription, entry: DLQEntry, fence: Fence
) -> tuple[Also, ...] | None:
    """Give what is to commit with the read model; None: it has, before a crash.

    That is a checkpoint under the lease's name, which says at which failure of the
    event it was handled after all.
    """
    if not isinstance(subscription.subscriber, DatabaseProjection):
        return ()
    failure = micros(entry.last_failed_at)
    found = await subscription.record.checkpoints.load(fence.name)
    before = START if found is None else found.position
    if before == failure:
        return None
    return (fence, SaveCheckpoint(fence.name, failure, after=before))


async def _tried(
    delivering: Delivering,
    subscription: Subscription,
    recorded: Recorded[DomainEvent],
    entry: DLQEntry,
    also: tuple[Also, ...],
) -> Exception | None:
    """Handle the event; give the handler's error, or None."""
    try:
        return await subscription.core.handle_again(recorded, also)
    except _MAY_BE_DONE:
        raise
    except Exception as unknown:  # it is not known to be handled: give it back
        await delivering.put_aside(subscription, recorded, unknown, entry.retry_count)
        raise


async def _found(
    entry: DLQEntry,
    subscriptions: Mapping[str, Subscription],
    record: Record[DomainEvent],
) -> tuple[Subscription, Recorded[DomainEvent]]:
    subscription = subscriptions.get(entry.projection_name)
    if subscription is None:
        raise SubscriptionError(
            f"dead letter {entry.id} is of subscription {entry.projection_name!r}, "
            "which this manager does not have"
        )
    recorded = await record.find(entry.event_id)
    if recorded is None:
        raise SubscriptionError(
            f"event {entry.event_id} of dead letter {entry.id} is not in the log"
        )
    return subscription, recorded
