"""A small class-based domain for the facade's tests."""

from __future__ import annotations

from uuid import UUID, uuid4

from msgspec import Struct
from pydantic import BaseModel

from evsrc import (
    AggregateRoot,
    DeclarativeAggregate,
    DomainEvent,
    EventRegistry,
    handles,
)

REGISTRY = EventRegistry()


@REGISTRY.register
class Opened(DomainEvent):
    """An account was opened."""

    aggregate_type: str = "Account"
    owner: str


@REGISTRY.register
class Paid(DomainEvent):
    """Money came or went."""

    aggregate_type: str = "Account"
    amount: int


@REGISTRY.register
class Closed(DomainEvent):
    """An account was closed."""

    event_type = "AccountClosed"
    aggregate_type: str = "Account"


class State(BaseModel):
    """What an account is now."""

    owner: str = ""
    balance: int = 0


class Account(AggregateRoot[State]):
    """An account in the guide's style."""

    aggregate_type = "Account"

    def _get_initial_state(self) -> State:
        return State()

    def _apply(self, event: DomainEvent) -> None:
        if isinstance(event, Opened):
            self._state = State(owner=event.owner)
        elif isinstance(event, Paid):
            assert self._state is not None
            if event.amount == 666:
                raise RuntimeError("the fold fails")
            balance = self._state.balance + event.amount
            self._state = self._state.model_copy(update={"balance": balance})

    def open(self, owner: str) -> None:
        self.apply_event(
            Opened(
                aggregate_id=self.aggregate_id,
                owner=owner,
                aggregate_version=self.get_next_version(),
            )
        )

    def pay(self, amount: int) -> None:
        assert self.state is not None
        if self.state.balance + amount < 0:
            raise ValueError("too little")
        self.apply_event(
            Paid(
                aggregate_id=self.aggregate_id,
                amount=amount,
                aggregate_version=self.get_next_version(),
            )
        )


class Held(Struct, frozen=True):
    """The state of the declarative account, as a msgspec struct."""

    balance: int = 0


class DeclarativeAccount(DeclarativeAggregate[Held]):
    """An account whose events have a handler each."""

    aggregate_type = "Account"
    unregistered_event_handling = "error"

    def _get_initial_state(self) -> Held:
        return Held()

    @handles(Opened)
    def _opened(self, _: Opened) -> None:
        self._state = Held()

    @handles(Paid)
    def _paid(self, event: Paid) -> None:
        assert self._state is not None
        self._state = Held(self._state.balance + event.amount)


def opened(aggregate_id: UUID | None = None, version: int = 1) -> Opened:
    return Opened(
        aggregate_id=aggregate_id or uuid4(), owner="ann", aggregate_version=version
    )


def paid(aggregate_id: UUID, amount: int, version: int = 1) -> Paid:
    return Paid(aggregate_id=aggregate_id, amount=amount, aggregate_version=version)
