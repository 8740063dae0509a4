"""Number the invoices of a year without a gap and without a double.

The next number follows from the last invoice alone, so no more than that is read.
Whoever is overtaken decides again, on the number that the other one took.
"""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from evsrc import (
    Codec,
    DecisionModel,
    QueryDecider,
    StreamName,
    json_codec,
    memory_store,
    transact,
)


class Invoice(Struct, frozen=True):
    """Somebody has to pay; *order* is what for."""

    order: str
    year: int
    cents: int


class Invoiced(Struct, frozen=True):
    order: str
    year: int
    cents: int
    number: int


def of_year(year: int) -> str:
    return f"invoices:{year}"


codec: Codec[Invoiced] = json_codec(
    {"invoiced": Invoiced}, tags={Invoiced: lambda event: [of_year(event.year)]}
)


def last_number(command: Invoice) -> DecisionModel[int, Invoiced]:
    """Know the last number of a year; 0: there is none yet."""
    return DecisionModel.handling(
        codec,
        0,
        {Invoiced: lambda _, event: event.number},
        tags=[of_year(command.year)],
        newest=True,
    )


def decide(last: int, command: Invoice) -> Sequence[Invoiced]:
    """Give the invoice the number after the last one."""
    return [Invoiced(command.order, command.year, command.cents, last + 1)]


invoicing: QueryDecider[int, Invoice, Invoiced] = QueryDecider(decide, last_number)


async def main() -> None:
    """Write invoices at the same time, and some of the next year."""
    async with memory_store(codec) as store:

        async def write(command: Invoice) -> str:
            stream = StreamName("order", command.order)
            done = await transact(store, invoicing, stream, command, attempts=10)
            (invoiced,) = done.events
            return f"{invoiced.order}: {invoiced.year}/{invoiced.number}"

        orders = [("desk", 2025), ("lamp", 2025), ("rug", 2026), ("sofa", 2025)]
        commands = [Invoice(order, year, 100_00) for order, year in orders]
        for line in await asyncio.gather(*map(write, commands)):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
