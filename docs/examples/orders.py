"""Place an order once, however often the customer presses the button.

The page that shows the button makes a token. An order carries it, and is refused if
there is an order with this token already, in whatever stream. (The id of an event does
the same for one call that is sent twice; this is for two calls that mean the same.)
"""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from evsrc import (
    Codec,
    DecisionModel,
    Query,
    QueryDecider,
    StreamName,
    json_codec,
    memory_store,
    transact,
)


class PlaceOrder(Struct, frozen=True):
    order: str
    token: str


class OrderPlaced(Struct, frozen=True):
    order: str
    token: str


class PlacedBeforeError(Exception):
    """There is an order with this token; *order* is which."""

    def __init__(self, order: str) -> None:
        super().__init__(f"this was placed before, as {order!r}")
        self.order = order


def of_token(token: str) -> str:
    return f"token:{token}"


codec: Codec[OrderPlaced] = json_codec(
    {"order-placed": OrderPlaced},
    tags={OrderPlaced: lambda event: [of_token(event.token)]},
)


def order_of(command: PlaceOrder) -> DecisionModel[str | None, OrderPlaced]:
    """Know the order that was placed with a token, if there is one."""
    return DecisionModel.of(
        Query.of(tags=[of_token(command.token)]), None, lambda _, event: event.order
    )


def decide(placed: str | None, command: PlaceOrder) -> Sequence[OrderPlaced]:
    """Place the order, unless the token has been used."""
    if placed is not None:
        raise PlacedBeforeError(placed)
    return [OrderPlaced(command.order, command.token)]


ordering: QueryDecider[str | None, PlaceOrder, OrderPlaced] = QueryDecider(
    decide, order_of
)


async def main() -> None:
    """Press the button three times at once, and then another one."""
    async with memory_store(codec) as store:

        async def press(order: str, token: str) -> str:
            command = PlaceOrder(order, token)
            try:
                await transact(store, ordering, StreamName("order", order), command)
            except PlacedBeforeError as refused:
                return f"refused: {refused}"
            return f"{order} is placed"

        presses = [press(order, "11") for order in ("o1", "o2", "o3")]
        for line in await asyncio.gather(*presses, press("o4", "44")):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
