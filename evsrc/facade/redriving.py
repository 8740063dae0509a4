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
        if also is None or await _tried(
            delivering, subscription, recorded, entry.retry_count, record, also
        ):
            by = f"re-drive of {subscription.name}"
            return await letters.mark_resolved(dlq_id, by)
    return False


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
    retries: int,
    record: Record[DomainEvent],
    also: tuple[Also, ...],
) -> bool:
    """Handle the event; put it back if that fails, unless it may be done."""
    try:
        error = await subscription.core.handle_again(recorded, also)
    except _MAY_BE_DONE:
        raise
    except Exception as unknown:  # it is not known to be handled: give it back
        await delivering.put_aside(subscription, recorded, unknown, retries)
        raise
    if error is not None:
        await record.append(also=[each for each in also if isinstance(each, Fence)])
        await delivering.put_aside(subscription, recorded, error, retries + 1)
    return error is None


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
