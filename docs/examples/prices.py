"""Sell at the price that a customer was shown, for some minutes after it changed.

An order of several products depends on the prices of just those products. A change of
another price disturbs nobody, and an order disturbs no other order.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, assert_never

from msgspec import Struct
from pyrsistent import PMap

from evsrc import (
    Codec,
    DecisionModel,
    QueryDecider,
    StreamName,
    compose_map,
    json_codec,
    memory_store,
    transact,
)

GRACE = timedelta(minutes=10)


class WrongPriceError(Exception):
    """The price that was shown does not hold, or not any more."""


class EmptyOrderError(Exception):
    """Nothing is wanted."""


class SetPrice(Struct, frozen=True):
    product: str
    cents: int
    now: datetime


class Item(Struct, frozen=True):
    """A product, at the price that was shown."""

    product: str
    cents: int


class Order(Struct, frozen=True):
    id: str
    items: tuple[Item, ...]
    now: datetime

    def __post_init__(self) -> None:
        if not self.items:
            raise EmptyOrderError(f"order {self.id!r} has no items")


class PriceSet(Struct, frozen=True):
    product: str
    cents: int
    at: datetime


class Ordered(Struct, frozen=True):
    id: str
    items: tuple[Item, ...]


Command: TypeAlias = SetPrice | Order
Event: TypeAlias = PriceSet | Ordered


def of_product(product: str) -> str:
    return f"product:{product}"


codec: Codec[Event] = json_codec(
    {"price-set": PriceSet, "ordered": Ordered},
    tags={
        PriceSet: lambda event: [of_product(event.product)],
        Ordered: lambda event: [of_product(item.product) for item in event.items],
    },
)


class Prices(Struct, frozen=True):
    """The prices that a product has had, from the first to the one of now."""

    history: tuple[PriceSet, ...] = ()

    def valid(self, now: datetime) -> set[int]:
        """Give the price of now, and those that were replaced moments ago."""
        valid = {price.cents for price in self.history[-1:]}
        for price, next in zip(self.history, self.history[1:], strict=False):
            if now < next.at + GRACE:
                valid.add(price.cents)
        return valid


def prices_of(product: str) -> DecisionModel[Prices, Event]:
    """Know the prices of one product."""
    return DecisionModel.handling(
        codec,
        Prices(),
        {PriceSet: lambda prices, event: Prices((*prices.history, event))},
        tags=[of_product(product)],
    )


Known: TypeAlias = PMap[str, Prices]


def model(command: Command) -> DecisionModel[Known, Event]:
    """Say which prices the decision on a command has to know."""
    match command:
        case SetPrice(product):
            products = [product]
        case Order(_, items):
            products = [item.product for item in items]
        case _:
            assert_never(command)
    return compose_map({product: prices_of(product) for product in products})


def decide(known: Known, command: Command) -> Sequence[Event]:
    """Decide on the prices of the products that a command is about."""
    match command:
        case SetPrice(product, cents, now):
            history = known[product].history
            if history and history[-1].cents == cents:
                return []
            return [PriceSet(product, cents, now)]
        case Order(id, items, now):
            for item in items:
                if item.cents not in known[item.product].valid(now):
                    raise WrongPriceError(f"{item.product!r} is not {item.cents} cents")
            return [Ordered(id, items)]
        case _:
            assert_never(command)


shop: QueryDecider[Known, Command, Event] = QueryDecider(decide, model)


async def main() -> None:
    """Change a price, and order at the old one, in time and too late."""
    ten = datetime(2025, 5, 1, 10, tzinfo=UTC)
    five_past, a_quarter_past = (ten + timedelta(minutes=n) for n in (5, 15))
    lamp, rug = Item("lamp", 20_00), Item("rug", 90_00)
    async with memory_store(codec) as store:
        for command in (
            SetPrice("lamp", 20_00, ten),
            SetPrice("rug", 90_00, ten),
            SetPrice("lamp", 25_00, ten),
            Order("o1", (lamp, rug), five_past),
            Order("o2", (lamp, rug), a_quarter_past),
            Order("o3", (Item("lamp", 25_00), rug), a_quarter_past),
        ):
            match command:
                case SetPrice(product):
                    stream = StreamName("product", product)
                case Order(id):
                    stream = StreamName("order", id)
            try:
                done = await transact(store, shop, stream, command)
            except WrongPriceError as refused:
                print("refused:", refused)
            else:
                print([type(event).__name__ for event in done.events])


if __name__ == "__main__":
    asyncio.run(main())
