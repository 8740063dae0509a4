"""Give events from the dead letters to their subscribers again."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.errors import SubscriptionError, SubscriptionStateError
from ..core.event import Recorded
from ..ports import EventStore as Record
from .delivering import Delivering
from .dlq import DLQEntry, DLQRepository
from .events import DomainEvent
from .subscription import Subscription


async def redrive(
    dlq_id: int,
    letters: DLQRepository,
    delivering: Delivering,
    subscriptions: Mapping[str, Subscription],
    record: Record[DomainEvent],
) -> bool:
    """Handle an entry's event again; see `SubscriptionManager.redrive`."""
    entry = await letters.get_failed_event_by_id(dlq_id)
    if entry is None:
        raise SubscriptionError(f"there is no dead letter {dlq_id!r}")
    subscription, recorded = await _found(entry, subscriptions, record)
    if not await letters.mark_retrying(dlq_id):
        raise SubscriptionStateError(
            f"dead letter {dlq_id} is not to be taken: it is {entry.status}, or "
            "somebody else tries it"
        )
    try:
        error = await subscription.core.handle_again(recorded)
    except Exception as unknown:  # it is not known to be handled: give it back
        await delivering.put_aside(subscription, recorded, unknown, entry.retry_count)
        raise
    if error is None:
        return await letters.mark_resolved(dlq_id, f"re-drive of {subscription.name}")
    await delivering.put_aside(subscription, recorded, error, entry.retry_count + 1)
    return False


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
