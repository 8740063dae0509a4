"""Small domains with one bug each, as they get written on a bad day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct
from msgspec.structs import replace
from pyrsistent import PMap, pmap

from evsrc import Decider, Recorded, Snapshotting, View, chain, json_codec, run
from evsrc.core.upcast import Body

Amount = Annotated[int, Meta(gt=0)]


class Deposit(Struct, frozen=True):
    amount: Amount


class Withdraw(Struct, frozen=True):
    amount: Amount


class Close(Struct, frozen=True):
    pass


class Batch(Struct, frozen=True):
    withdrawals: tuple[Withdraw, ...]


class Deposited(Struct, frozen=True):
    amount: int


class Withdrawn(Struct, frozen=True):
    amount: int


class Closed(Struct, frozen=True):
    pass


class Account(Struct, frozen=True):
    balance: int = 0
    closed: bool = False


class RefusedError(Exception):
    """The account says no."""


AccountCommand: TypeAlias = Deposit | Withdraw | Close
AccountEvent: TypeAlias = Deposited | Withdrawn | Closed


def decide(state: Account, command: AccountCommand) -> Sequence[AccountEvent]:
    match command:
        case _ if state.closed:
            raise RefusedError("closed")
        case Deposit(amount):
            return [Deposited(amount)]
        case Withdraw(amount):
            if amount > state.balance:
                raise RefusedError(f"only {state.balance}")
            return [Withdrawn(amount)]
        case Close():
            return [Closed()]


def evolve(state: Account, event: AccountEvent) -> Account:
    match event:
        case Deposited(amount):
            return replace(state, balance=state.balance + amount)
        case Withdrawn(amount):
            return replace(state, balance=state.balance - amount)
        case Closed():
            return replace(state, closed=True)


account = Decider(decide, evolve, Account(), is_terminal=lambda state: state.closed)
account_codec = json_codec(
    {"deposited": Deposited, "withdrawn": Withdrawn, "closed": Closed}
)


def never_negative(state: Account, _: object) -> bool:
    return state.balance >= 0


# 1. overdraft: the limit is checked against the amount, not the balance


def overdrawing(state: Account, command: AccountCommand) -> Sequence[AccountEvent]:
    match command:
        case Withdraw(amount) if amount <= 1000:
            return [Withdrawn(amount)]
        case _:
            return decide(state, command)


overdraft = Decider(overdrawing, evolve, Account())

# 2. lost refund: only the last payment of an order is paid back


class Pay(Struct, frozen=True):
    amount: Amount


class Cancel(Struct, frozen=True):
    pass


class Paid(Struct, frozen=True):
    amount: int


class Refunded(Struct, frozen=True):
    amount: int


class Cancelled(Struct, frozen=True):
    pass


class Order(Struct, frozen=True):
    paid: int = 0
    cancelled: bool = False


OrderEvent: TypeAlias = Paid | Refunded | Cancelled


def decide_order(state: Order, command: Pay | Cancel) -> Sequence[OrderEvent]:
    match command:
        case _ if state.cancelled:
            return []
        case Pay(amount):
            return [Paid(amount)]
        case Cancel():
            refund = [Refunded(state.paid)] if state.paid else []
            return [*refund, Cancelled()]


def evolve_order(state: Order, event: OrderEvent) -> Order:
    match event:
        case Paid(amount):
            return replace(state, paid=amount)
        case Refunded():
            return replace(state, paid=0)
        case Cancelled():
            return replace(state, cancelled=True)


lost_refund = Decider(decide_order, evolve_order, Order())


def all_is_paid_back(state: Order, events: tuple[OrderEvent, ...]) -> bool:
    paid = sum(event.amount for event in events if isinstance(event, Paid))
    back = sum(event.amount for event in events if isinstance(event, Refunded))
    return not state.cancelled or paid == back


# 3. double booking: a stay around another one is not seen to overlap it


class Book(Struct, frozen=True):
    first: Annotated[int, Meta(ge=1, le=31)]
    nights: Annotated[int, Meta(ge=1, le=14)]


class Booked(Struct, frozen=True):
    first: int
    nights: int


def nights_of(stay: Book | Booked) -> range:
    return range(stay.first, stay.first + stay.nights)


def decide_stay(stays: tuple[Booked, ...], command: Book) -> Sequence[Booked]:
    wanted = nights_of(command)
    for stay in stays:
        if wanted[0] in nights_of(stay) or wanted[-1] in nights_of(stay):
            raise RefusedError(f"taken: {stay}")
    return [Booked(command.first, command.nights)]


double_booking: Decider[tuple[Booked, ...], Book, Booked] = Decider(
    decide_stay, lambda stays, event: (*stays, event), ()
)


def no_night_twice(stays: tuple[Booked, ...], _: object) -> bool:
    nights = [night for stay in stays for night in nights_of(stay)]
    return len(nights) == len(set(nights))


# 4. off by one: there is a fourth seat at a table for three


class Join(Struct, frozen=True):
    guest: str


class Joined(Struct, frozen=True):
    guest: str


def decide_table(guests: frozenset[str], command: Join) -> Sequence[Joined]:
    if command.guest in guests:
        return []
    if len(guests) > 3:
        raise RefusedError("full")
    return [Joined(command.guest)]


off_by_one: Decider[frozenset[str], Join, Joined] = Decider(
    decide_table, lambda guests, event: guests | {event.guest}, frozenset()
)


def at_most_three(guests: frozenset[str], _: object) -> bool:
    return len(guests) <= 3


# 5. impure decide: a number comes from outside


class Issue(Struct, frozen=True):
    pass


class Issued(Struct, frozen=True):
    number: int


_numbers = count(1)


def decide_ticket(_: int, __: Issue) -> Sequence[Issued]:
    return [Issued(next(_numbers) % 10)]


impure: Decider[int, Issue, Issued] = Decider(decide_ticket, lambda n, _: n + 1, 0)

# 6. evolve is not total: it takes out what is not always there


class Put(Struct, frozen=True):
    item: str


class Take(Struct, frozen=True):
    item: str


class PutIn(Struct, frozen=True):
    item: str


class TakenOut(Struct, frozen=True):
    item: str


def decide_cart(
    items: PMap[str, int], command: Put | Take
) -> Sequence[PutIn | TakenOut]:
    match command:
        case Put(item):
            return [PutIn(item)]
        case Take(item):
            return [TakenOut(item)] * items.get(item, 0)


def evolve_cart(items: PMap[str, int], event: PutIn | TakenOut) -> PMap[str, int]:
    match event:
        case PutIn(item):
            return items.set(item, items.get(item, 0) + 1)
        case TakenOut(item):
            return items.remove(item)


not_total: Decider[PMap[str, int], Put | Take, PutIn | TakenOut] = Decider(
    decide_cart, evolve_cart, pmap()
)

# 7. a wrong upcaster: a price in cents is cut off instead of rounded


class PricedInEuros(Struct, frozen=True):
    euros: Annotated[float, Meta(ge=0, le=1000)]


class Priced(Struct, frozen=True):
    cents: int
    currency: str


def in_cents(body: Body) -> Body:
    return {"cents": int(body["euros"] * 100)}


def with_currency(body: Body) -> Body:
    return {**body, "currency": "EUR"}


wrong_upcaster = chain(in_cents, with_currency)


def same_price(old: PricedInEuros, new: Priced) -> bool:
    return new.cents == round(old.euros * 100)


# 8. a torn snapshot: it forgets that the account is closed

torn: Snapshotting[Account] = Snapshotting(
    dump=lambda state: str(state.balance).encode(),
    load=lambda stored: Account(balance=int(stored)),
)

# 9. a stale decision: all of a batch is decided on the state before it


def decide_batch(
    state: Account, command: Deposit | Withdraw | Batch
) -> Sequence[AccountEvent]:
    match command:
        case Batch(withdrawals):
            return [e for each in withdrawals for e in decide(state, each)]
        case _:
            return decide(state, command)


def decide_batch_right(
    state: Account, command: Deposit | Withdraw | Batch
) -> Sequence[AccountEvent]:
    match command:
        case Batch(withdrawals):
            return run(account, state, withdrawals)[1]
        case _:
            return decide(state, command)


stale = Decider(decide_batch, evolve, Account())
not_stale = Decider(decide_batch_right, evolve, Account())

# 10. a projection that counts twice: it knows only the very last event again


class Counted(Struct, frozen=True):
    events: int = 0
    last: int = 0


def counts(state: Counted, recorded: Recorded[Any]) -> Counted:
    if recorded.position == state.last:
        return state
    return Counted(state.events + 1, recorded.position)


def counts_once(state: Counted, recorded: Recorded[Any]) -> Counted:
    if recorded.position <= state.last:
        return state
    return Counted(state.events + 1, recorded.position)


twice: View[Counted, Recorded[Any]] = View(Counted(), counts)
once: View[Counted, Recorded[Any]] = View(Counted(), counts_once)

Test: TypeAlias = Callable[[], None]
