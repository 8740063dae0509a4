"""The one workload all contenders run: an account, with events of four fields.

Every event holds two strings, a UUID and a Decimal. The state is counted and summed in
each event, and is immutable where a contender lets it be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import count, cycle
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from msgspec import Struct

from evsrc.core.decider import Decider

Fields: TypeAlias = tuple[str, str, UUID, Decimal]

_serial = count()


def fresh_values() -> Fields:
    """Make the fields of one more event; no two are alike."""
    number = next(_serial)
    return (
        f"payer {number}",
        f"note about payment {number}",
        uuid4(),
        Decimal(number % 10_000).scaleb(-2),
    )


values: Callable[[], Fields] = cycle([fresh_values() for _ in range(10_000)]).__next__
"""Give the fields of one more event, made beforehand: making them is not measured."""


class Opened(Struct, frozen=True):
    """The account exists."""

    owner: str
    note: str
    reference: UUID
    amount: Decimal


class Deposited(Struct, frozen=True):
    """Money came in."""

    owner: str
    note: str
    reference: UUID
    amount: Decimal


class Open(Struct, frozen=True):
    """Open the account."""

    owner: str
    note: str
    reference: UUID
    amount: Decimal


class Deposit(Struct, frozen=True):
    """Pay money in."""

    owner: str
    note: str
    reference: UUID
    amount: Decimal


Event = Opened | Deposited
Command = Open | Deposit
TYPES: dict[str, type[Any]] = {"opened": Opened, "deposited": Deposited}


class Account(Struct, frozen=True):
    """What is known about one account."""

    owner: str = ""
    events: int = 0
    balance: Decimal = Decimal()


class NotOpenError(Exception):
    """Nothing can be paid into an account that does not exist."""


def decide(state: Account, command: Command) -> Sequence[Event]:
    """Give the one event of a command."""
    if isinstance(command, Deposit):  # first: most are, and a match is the fast answer
        if not state.events:
            raise NotOpenError
        return (
            Deposited(command.owner, command.note, command.reference, command.amount),
        )
    return (Opened(command.owner, command.note, command.reference, command.amount),)


def evolve(state: Account, event: Event) -> Account:
    """Count and sum."""
    return Account(event.owner, state.events + 1, state.balance + event.amount)


account: Decider[Account, Command, Event] = Decider(decide, evolve, Account())
