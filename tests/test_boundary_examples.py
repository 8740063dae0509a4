"""The examples of dynamic boundaries: each sentence of their domains, and races."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evsrc import (
    EventStoreRecord,
    OptimisticLockError,
    QueryDecider,
    StreamName,
    query,
    transact,
)
from evsrc.testing import specs_of
from tests.conftest import OpenStore

FOLDER = Path(__file__).parent.parent / "docs" / "examples"
TEN = datetime(2025, 5, 1, 10, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


def example(name: str) -> ModuleType:
    """Load an example, which is a program and in no package."""
    spec = importlib.util.spec_from_file_location(
        f"example_{name}", FOLDER / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where structs look their annotations up
    spec.loader.exec_module(module)
    return module


courses, usernames, invoices, tokens, prices, orders = map(
    example, ("courses", "usernames", "invoices", "tokens", "prices", "orders")
)


# Courses.

course = specs_of(courses.enrolment, codec=courses.codec)
defined, subscribed = courses.CourseDefined, courses.StudentSubscribed
other = defined("other", 1), subscribed("zoe", "other")


def test_a_course_is_defined() -> None:
    """A new name is a new course, whatever other courses there are."""
    course().beside(*other).when(courses.DefineCourse("c1", 15)).then(defined("c1", 15))


def test_a_course_is_defined_once() -> None:
    """A name that is in use is refused."""
    course(defined("c1", 10)).beside(*other).when(
        courses.DefineCourse("c1", 15)
    ).rejected(courses.RefusedError, match="'c1' exists already")


def test_a_capacity_is_changed() -> None:
    """To another one; that is the one which holds from then on."""
    changed = course(defined("c1", 1)).when(courses.ChangeCapacity("c1", 2))
    after = changed.then(courses.CapacityChanged("c1", 2))
    after.when(courses.ChangeCapacity("c1", 2)).rejected(courses.RefusedError)
    after.when(courses.ChangeCapacity("c1", 1)).then(courses.CapacityChanged("c1", 1))


def test_a_capacity_is_that_of_a_course() -> None:
    """A course that is not there has none."""
    course().beside(*other).when(courses.ChangeCapacity("c0", 15)).rejected(
        courses.RefusedError, match="no course 'c0'"
    )


def test_a_capacity_is_not_changed_to_what_it_is() -> None:
    """Nothing would change, so it is a mistake."""
    course(defined("c1", 12)).when(courses.ChangeCapacity("c1", 12)).rejected(
        courses.RefusedError, match="capacity already"
    )


def test_a_student_joins_a_course_with_room() -> None:
    """Others' places in this course count, their places elsewhere do not."""
    course(defined("c1", 2), subscribed("bob", "c1"), subscribed("ann", "c2")).beside(
        *other, subscribed("bob", "c3"), defined("c2", 1)
    ).when(courses.Subscribe("ann", "c1")).then(subscribed("ann", "c1"))


def test_nobody_joins_a_course_that_is_not_there() -> None:
    """Refused."""
    course().beside(*other).when(courses.Subscribe("ann", "c0")).rejected(
        courses.RefusedError, match="no course 'c0'"
    )


def test_nobody_joins_a_full_course() -> None:
    """As many subscriptions as the capacity is now."""
    full = course(defined("c1", 3), *(subscribed(f"s{n}", "c1") for n in range(3)))
    full.when(courses.Subscribe("ann", "c1")).rejected(
        courses.RefusedError, match="'c1' is full"
    )
    course(
        defined("c1", 3), courses.CapacityChanged("c1", 1), subscribed("s", "c1")
    ).when(courses.Subscribe("ann", "c1")).rejected(
        courses.RefusedError, match="'c1' is full"
    )


def test_nobody_joins_a_course_twice() -> None:
    """Refused, even if there is room."""
    course(defined("c1", 10), subscribed("ann", "c1")).when(
        courses.Subscribe("ann", "c1")
    ).rejected(courses.RefusedError, match="in course 'c1' already")


def test_nobody_joins_a_sixth_course() -> None:
    """Five are allowed; the fifth is accepted."""
    four = [subscribed("ann", f"c{n}") for n in range(2, 6)]
    wish = courses.Subscribe("ann", "c1")
    fifth = course(defined("c1", 10), *four).when(wish).then(subscribed("ann", "c1"))
    assert len([e for e in fifth.events if e == subscribed("ann", "c1")]) == 1
    course(defined("c1", 10), *four, subscribed("ann", "c6")).when(wish).rejected(
        courses.RefusedError, match="in 5 courses already"
    )


# User names.

name = specs_of(usernames.usernames, codec=usernames.codec)
registered, closed = usernames.AccountRegistered, usernames.AccountClosed
renamed, Taken = usernames.NameChanged, usernames.NameTakenError
register = usernames.Register("a2", "ann", TEN)


def test_a_name_that_nobody_had_is_free() -> None:
    """Other names do not matter."""
    name().beside(registered("a1", "bob")).when(register).then(registered("a2", "ann"))


def test_a_claimed_name_is_taken() -> None:
    """Refused; the account that has it may ask again."""
    name(registered("a1", "ann")).when(register).rejected(Taken, match="'ann' is taken")
    name(registered("a2", "ann")).when(register).nothing()


@pytest.mark.parametrize(
    ("days", "free"), [(0, False), (2, False), (3, True), (100, True)]
)
def test_a_name_is_free_a_while_after_its_account_was_closed(
    days: int, free: bool
) -> None:
    """Within three days it is kept back."""
    gone = name(registered("a1", "ann"), closed("a1", "ann", TEN - days * DAY))
    if free:
        gone.when(register).then(registered("a2", "ann"))
    else:
        gone.when(register).rejected(Taken)


@pytest.mark.parametrize(("days", "free"), [(1, False), (3, True)])
def test_a_name_is_free_a_while_after_it_was_changed(days: int, free: bool) -> None:
    """The name before it is kept back as well."""
    was = renamed("a1", "ann", "eve", TEN - days * DAY)
    gone = name(registered("a1", "ann"), was)
    if free:
        gone.when(register).then(registered("a2", "ann"))
    else:
        gone.when(register).rejected(Taken)


def test_a_name_that_another_account_changed_to_is_taken() -> None:
    """However long ago that was."""
    name(renamed("a1", "old", "ann", TEN - 100 * DAY)).beside(
        registered("a1", "old")
    ).when(register).rejected(Taken)


def test_an_account_changes_its_name() -> None:
    """From one that it has to one that is free; both are in the boundary."""
    change = usernames.ChangeName("a1", "ann", "eve", TEN)
    name(registered("a1", "ann")).when(change).then(renamed("a1", "ann", "eve", TEN))
    name(registered("a1", "ann"), registered("a2", "eve")).when(change).rejected(Taken)
    name(registered("a2", "ann")).when(change).rejected(usernames.NotYoursError)


def test_an_account_is_closed_by_its_name() -> None:
    """Once, and only its own."""
    close = usernames.Close("a1", "ann", TEN)
    done = name(registered("a1", "ann")).when(close).then(closed("a1", "ann", TEN))
    done.when(close).rejected(usernames.NotYoursError)


# Invoices.

invoice = specs_of(invoices.invoicing, codec=invoices.codec)


def test_the_first_invoice_of_a_year_is_number_one() -> None:
    """Other years do not count."""
    invoice().beside(invoices.Invoiced("o", 2024, 5, 41)).when(
        invoices.Invoice("o1", 2025, 10)
    ).then(invoices.Invoiced("o1", 2025, 10, 1))


def test_an_invoice_has_the_number_after_the_last() -> None:
    """And the one after it the next."""
    one = invoices.Invoiced("o1", 2025, 10, 1)
    two = invoice(one).when(invoices.Invoice("o2", 2025, 20))
    three = two.then(invoices.Invoiced("o2", 2025, 20, 2))
    three.when(invoices.Invoice("o3", 2025, 30)).then(
        invoices.Invoiced("o3", 2025, 30, 3)
    )


# Tokens.

token = specs_of(tokens.signing_up, codec=tokens.codec)
started, confirmed = tokens.SignUpStarted, tokens.SignUpConfirmed
confirm = tokens.Confirm("ann@x", "345", TEN)


def test_a_token_confirms() -> None:
    """The one that was sent to this address."""
    token(started("ann@x", "345", TEN)).beside(started("bob@x", "999", TEN)).when(
        confirm
    ).then(confirmed("ann@x", "345"))


def test_a_token_that_was_never_given_out_confirms_nothing() -> None:
    """Refused."""
    token().when(confirm).rejected(tokens.InvalidTokenError, match="no such token")


def test_a_token_of_another_address_confirms_nothing() -> None:
    """Nor does another token of this address; neither is in the boundary."""
    token().beside(started("bob@x", "345", TEN), started("ann@x", "999", TEN)).when(
        confirm
    ).rejected(tokens.InvalidTokenError, match="no such token")


def test_a_token_confirms_once() -> None:
    """Used up."""
    used = (
        token(started("ann@x", "345", TEN))
        .when(confirm)
        .then(confirmed("ann@x", "345"))
    )
    used.when(confirm).rejected(tokens.InvalidTokenError, match="used before")


@pytest.mark.parametrize(
    ("minutes", "valid"), [(0, True), (59, True), (60, False), (500, False)]
)
def test_a_token_grows_old(minutes: int, valid: bool) -> None:
    """In an hour."""
    asked = token(started("ann@x", "345", TEN - minutes * MINUTE)).when(confirm)
    if valid:
        asked.then(confirmed("ann@x", "345"))
    else:
        asked.rejected(tokens.InvalidTokenError, match="too old")


def test_a_token_is_given_out_once() -> None:
    """To an address; another address may by chance have the same."""
    wish = tokens.SignUp("ann@x", "345", TEN)
    token(started("ann@x", "345", TEN)).when(wish).rejected(tokens.InvalidTokenError)
    token().beside(started("bob@x", "345", TEN)).when(wish).then(
        started("ann@x", "345", TEN)
    )


# Prices.

price = specs_of(prices.shop, codec=prices.codec)
Item, Order, PriceSet = prices.Item, prices.Order, prices.PriceSet


def one(cents: int) -> Any:
    return Order("o1", (Item("p1", cents),), TEN)


def ordered(*items: Any) -> Any:
    return prices.Ordered("o1", items)


def test_an_order_at_the_price_is_accepted() -> None:
    """Prices of other products, and orders, do not matter."""
    price(PriceSet("p1", 123, TEN - 500 * MINUTE)).beside(
        PriceSet("p2", 321, TEN), ordered(Item("p1", 123))
    ).when(one(123)).then(ordered(Item("p1", 123)))


def test_an_order_at_a_price_that_never_was_is_refused() -> None:
    """Nor has a product without a price any."""
    price(PriceSet("p1", 123, TEN)).when(one(100)).rejected(
        prices.WrongPriceError, match="'p1' is not 100 cents"
    )
    price().beside(PriceSet("p2", 100, TEN)).when(one(100)).rejected(
        prices.WrongPriceError
    )


@pytest.mark.parametrize(
    ("shown", "minutes", "accepted"),
    [
        (100, 0, True),
        (100, 9, True),
        (100, 10, False),
        (100, 20, False),
        (123, 0, True),
        (123, 20, True),
        (999, 5, False),
    ],
)
def test_a_price_that_was_replaced_holds_for_a_while(
    shown: int, minutes: int, accepted: bool
) -> None:
    """For ten minutes; the new one holds at once."""
    was = PriceSet("p1", 100, TEN - 500 * MINUTE)
    now = PriceSet("p1", 123, TEN - minutes * MINUTE)
    asked = price(was, now).when(one(shown))
    if accepted:
        asked.then(ordered(Item("p1", shown)))
    else:
        asked.rejected(prices.WrongPriceError)


def test_an_order_of_several_products_needs_all_prices() -> None:
    """One that does not hold refuses the whole order."""
    known = price(
        PriceSet("p1", 100, TEN - 30 * MINUTE),
        PriceSet("p2", 200, TEN - 30 * MINUTE),
        PriceSet("p1", 111, TEN - 20 * MINUTE),
        PriceSet("p2", 222, TEN - 9 * MINUTE),
    ).beside(PriceSet("p3", 111, TEN))

    def order(first: int, second: int) -> Any:
        return known.when(Order("o1", (Item("p1", first), Item("p2", second)), TEN))

    for second in (200, 222):
        order(111, second).then(ordered(Item("p1", 111), Item("p2", second)))
        order(100, second).rejected(prices.WrongPriceError, match="'p1'")
    order(111, 111).rejected(prices.WrongPriceError, match="'p2'")


def test_an_order_of_nothing_is_none() -> None:
    """It cannot even be made."""
    with pytest.raises(prices.EmptyOrderError):
        Order("o1", (), TEN)


def test_a_price_is_set_if_it_changes() -> None:
    """The same price again is nothing."""
    first = price().when(prices.SetPrice("p1", 5, TEN)).then(PriceSet("p1", 5, TEN))
    first.when(prices.SetPrice("p1", 5, TEN + DAY)).nothing()


# Orders.

placing = specs_of(orders.ordering, codec=orders.codec)
Placed = orders.OrderPlaced


def test_a_new_token_places_an_order() -> None:
    """Other tokens do not matter, not even for an order of this name."""
    placing().beside(Placed("o1", "22")).when(orders.PlaceOrder("o1", "11")).then(
        Placed("o1", "11")
    )


def test_a_used_token_places_nothing() -> None:
    """The customer is told which order it was."""
    placing(Placed("o1", "11")).when(orders.PlaceOrder("o2", "11")).rejected(
        orders.PlacedBeforeError, match="as 'o1'"
    )


# The same decisions on stores, many at once.


async def together(
    store: EventStoreRecord[Any],
    decider: QueryDecider[Any, Any, Any],
    commands: list[Any],
    to: Callable[[Any], StreamName],
) -> Counter[str]:
    """Decide all at once; count the outcomes, by the events' or the error's name."""

    async def one(command: Any) -> str:
        try:
            done = await transact(store, decider, to(command), command, attempts=99)
        except OptimisticLockError:
            raise
        except Exception as refused:
            return type(refused).__name__
        return " ".join(type(event).__name__ for event in done.events)

    return Counter(await asyncio.gather(*map(one, commands)))


async def test_places_and_courses_are_never_too_many(open_store: OpenStore) -> None:
    """Of all who want, as many get in as both rules allow."""
    store = await open_store(courses.codec)
    where = lambda command: StreamName("course", command.course)  # noqa: E731
    names = [f"c{n}" for n in range(8)]
    await together(
        store, courses.enrolment, [courses.DefineCourse(c, 7) for c in names], where
    )
    crowd = [courses.Subscribe(f"s{n}", "c0") for n in range(20)]
    busy = [courses.Subscribe("ann", c) for c in names[1:]]
    done = await together(store, courses.enrolment, [*crowd, *busy], where)
    assert done == {"StudentSubscribed": 7 + 5, "RefusedError": 13 + 2}
    known, _ = await query(store, courses.model(courses.Subscribe("ann", "c0")))
    assert (known.taken, known.courses) == (7, 5)
    await store.close()


async def test_one_account_gets_a_name(open_store: OpenStore) -> None:
    """Whether they register with it or change to it."""
    store = await open_store(usernames.codec)
    where = lambda command: StreamName("account", command.account)  # noqa: E731
    own = [usernames.Register(f"a{n}", f"name{n}", TEN) for n in range(10)]
    assert await together(store, usernames.usernames, own, where) == {
        "AccountRegistered": 10
    }
    wishes = [usernames.Register(f"b{n}", "ann", TEN) for n in range(10)]
    wishes += [usernames.ChangeName(f"a{n}", f"name{n}", "ann", TEN) for n in range(10)]
    done = await together(store, usernames.usernames, wishes, where)
    assert done.pop("NameTakenError") == 19
    assert done.total() == 1
    await store.close()


async def test_invoice_numbers_have_no_gap(open_store: OpenStore) -> None:
    """Nor a double, in either year, whoever is first."""
    store = await open_store(invoices.codec)
    commands = [invoices.Invoice(f"o{n}", 2025 + n % 2, n) for n in range(40)]
    to = lambda command: StreamName("order", command.order)  # noqa: E731
    assert await together(store, invoices.invoicing, commands, to) == {"Invoiced": 40}
    numbers: dict[int, list[int]] = {2025: [], 2026: []}
    for recorded in (await store.read_all()).events:
        numbers[recorded.event.year].append(recorded.event.number)
    assert numbers == {2025: [*range(1, 21)], 2026: [*range(1, 21)]}
    await store.close()


async def test_a_token_is_used_once(open_store: OpenStore) -> None:
    """By one of those who have it."""
    store = await open_store(tokens.codec)
    to = lambda command: StreamName("sign-up", command.email)  # noqa: E731
    await together(store, tokens.signing_up, [tokens.SignUp("ann@x", "345", TEN)], to)
    done = await together(store, tokens.signing_up, [confirm] * 20, to)
    assert done == {"SignUpConfirmed": 1, "InvalidTokenError": 19}
    await store.close()


async def test_orders_and_prices_meet(open_store: OpenStore) -> None:
    """No order is accepted at a price that was replaced before it."""
    store = await open_store(prices.codec)
    to = lambda command: StreamName("x", getattr(command, "id", "price"))  # noqa: E731
    await together(store, prices.shop, [prices.SetPrice("p1", 1, TEN)], to)
    late = TEN + DAY
    commands: list[Any] = [
        Order(f"o{n}", (Item("p1", 1 + n % 2),), late) for n in range(20)
    ]
    commands.insert(10, prices.SetPrice("p1", 2, TEN))
    done = await together(store, prices.shop, commands, to)
    assert done["PriceSet"] == 1
    price_of_now = 0
    for recorded in (await store.read_all()).events:
        match recorded.event:
            case PriceSet(cents=cents):
                price_of_now = cents
            case order:
                assert [item.cents for item in order.items] == [price_of_now]
    await store.close()


async def test_an_order_is_placed_once(open_store: OpenStore) -> None:
    """Under one token, in whatever stream."""
    store = await open_store(orders.codec)
    commands = [orders.PlaceOrder(f"o{n}", f"t{n % 4}") for n in range(40)]
    to = lambda command: StreamName("order", command.order)  # noqa: E731
    done = await together(store, orders.ordering, commands, to)
    assert done == {"OrderPlaced": 4, "PlacedBeforeError": 36}
    assert await store.head() == 4
    await store.close()
