"""Choose which events a subscriber gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from uuid import UUID

from ..core.event import Recorded
from ..core.expectation import ALL, AnyQuery, Query
from .config import SubscriptionConfig
from .events import DomainEvent, EventRegistry


@dataclass(frozen=True)
class EventFilter:
    """What events have to be; each condition that is given has to be met.

    Args:
        event_types: exactly one of these classes.
        event_type_patterns: a name that fits one of these patterns: today's, or the
            one it was stored by.
        aggregate_types: an aggregate of one of these types.
        tenant_id: this tenant's.
        tags: they have all of these (the store goes by those that were recorded).
    """

    event_types: tuple[type[DomainEvent], ...] | None = None
    event_type_patterns: tuple[str, ...] | None = None
    aggregate_types: tuple[str, ...] | None = None
    tenant_id: UUID | None = None
    tags: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: SubscriptionConfig) -> EventFilter:
        """Give what a configuration says."""
        return cls(
            config.event_types,
            config.event_type_patterns,
            config.aggregate_types,
            config.tenant_id,
            config.tags,
        )

    @classmethod
    def from_subscriber(cls, subscriber: object) -> EventFilter:
        """Give what a subscriber says itself."""
        return cls(event_types=tuple(get_subscribed_event_types(subscriber)) or None)

    @classmethod
    def from_config_and_subscriber(
        cls, config: SubscriptionConfig, subscriber: object
    ) -> EventFilter:
        """Give what a configuration says; classes it does not name, the subscriber."""
        named = cls.from_config(config)
        if named.event_types:
            return named
        classes = cls.from_subscriber(subscriber).event_types
        return replace(named, event_types=classes)

    @classmethod
    def from_patterns(cls, *patterns: str) -> EventFilter:
        """Give the filter of these patterns."""
        return cls(event_type_patterns=patterns)

    def matches(self, event: DomainEvent) -> bool:
        """Tell whether an event is one of those."""
        return (
            matches_event_type(event, self.event_types)
            and self._fits(event.event_type)
            and (
                not self.aggregate_types or event.aggregate_type in self.aggregate_types
            )
            and (self.tenant_id is None or event.tenant_id == self.tenant_id)
            and (not self.tags or {*self.tags} <= {*event.event_tags()})
        )

    def query(self, registry: EventRegistry) -> AnyQuery:
        """Give what the store can choose by."""
        classes = self.event_types or ()
        types = [name for cls in classes for name in registry.names_of(cls)]
        categories = self.aggregate_types or ()
        if not types and not categories and not self.tags:
            return ALL
        return Query.of(categories=categories, types=types, tags=self.tags)

    def admits(self, recorded: Recorded[DomainEvent]) -> bool:
        """Tell whether what the store has chosen meets the other conditions too."""
        tenant = self.tenant_id
        names = {recorded.type, recorded.event.event_type}  # then, and today
        return any(map(self._fits, names)) and (
            tenant is None or recorded.event.tenant_id == tenant
        )

    def _fits(self, name: str) -> bool:
        patterns = self.event_type_patterns
        return not patterns or any(matches_pattern(name, p) for p in patterns)


def matches_event_type(
    event: DomainEvent, event_types: Sequence[type[DomainEvent]] | None
) -> bool:
    """Tell whether an event is of exactly one of the classes; none given: of any."""
    return not event_types or type(event) in event_types


def matches_pattern(event_type_name: str, pattern: str) -> bool:
    """Tell whether a name fits a pattern: `*`, `?` and `[...]` as in file names."""
    return fnmatchcase(event_type_name, pattern)


def get_subscribed_event_types(subscriber: object) -> list[type[DomainEvent]]:
    """Give the classes that a subscriber names; none: it gets all."""
    named: Callable[[], Sequence[type[DomainEvent]]] | None = getattr(
        subscriber, "subscribed_to", None
    )
    return [] if named is None else list(named())
