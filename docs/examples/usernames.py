"""Keep user names unique over all accounts, and keep a released one back for a while.

Every event about a name is tagged with it, and those are all that a decision about the
name has to know. Times are part of the commands and the events, so a decision can be
repeated and tested.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, assert_never

from msgspec import Struct

from evsrc import (
    Codec,
    DecisionModel,
    QueryDecider,
    StreamName,
    compose,
    json_codec,
    memory_store,
    transact,
)

RETENTION = timedelta(days=3)


class Register(Struct, frozen=True):
    account: str
    name: str
    now: datetime


class ChangeName(Struct, frozen=True):
    """An account, which has the name *old*, wants another one."""

    account: str
    old: str
    name: str
    now: datetime


class Close(Struct, frozen=True):
    account: str
    name: str
    now: datetime


class AccountRegistered(Struct, frozen=True):
    account: str
    name: str


class NameChanged(Struct, frozen=True):
    account: str
    old: str
    new: str
    at: datetime


class AccountClosed(Struct, frozen=True):
    account: str
    name: str
    at: datetime


Command: TypeAlias = Register | ChangeName | Close
Event: TypeAlias = AccountRegistered | NameChanged | AccountClosed


class NameTakenError(Exception):
    """Somebody has the name, or had it until a moment ago."""


class NotYoursError(Exception):
    """The account does not have the name that it says it has."""


def of_name(name: str) -> str:
    return f"name:{name}"


codec: Codec[Event] = json_codec(
    {
        "account-registered": AccountRegistered,
        "name-changed": NameChanged,
        "account-closed": AccountClosed,
    },
    tags={
        AccountRegistered: lambda event: [of_name(event.name)],
        NameChanged: lambda event: [of_name(event.old), of_name(event.new)],
        AccountClosed: lambda event: [of_name(event.name)],
    },
)


class Claim(Struct, frozen=True):
    """Whose a name is, or since when it is nobody's."""

    account: str | None = None
    released: datetime | None = None

    def free(self, now: datetime) -> bool:
        return self.account is None and (
            self.released is None or now >= self.released + RETENTION
        )


def claim_of(name: str) -> DecisionModel[Claim, Event]:
    """Know who has a name."""

    def changed(_: Claim, event: NameChanged) -> Claim:
        if event.new == name:
            return Claim(event.account)
        return Claim(released=event.at)

    return DecisionModel.handling(
        codec,
        Claim(),
        {
            AccountRegistered: lambda _, event: Claim(event.account),
            NameChanged: changed,
            AccountClosed: lambda _, event: Claim(released=event.at),
        },
        tags=[of_name(name)],
    )


class Known(Struct, frozen=True):
    """The claims that a decision is about; one that it is not about is nobody's."""

    wanted: Claim = Claim()
    own: Claim = Claim()


def model(command: Command) -> DecisionModel[Known, Event]:
    """Say whose claims the decision on a command has to know."""
    match command:
        case Register(_, name):
            return compose(Known, wanted=claim_of(name))
        case ChangeName(_, old, name):
            return compose(Known, wanted=claim_of(name), own=claim_of(old))
        case Close(_, name):
            return compose(Known, own=claim_of(name))
        case _:
            assert_never(command)


def decide(known: Known, command: Command) -> Sequence[Event]:
    """Decide about a name that is wanted, or one that is given up, or both."""
    match command:
        case Register(account, name, now):
            if known.wanted.account == account:
                return []  # the same wish again: nothing to do
            if not known.wanted.free(now):
                raise NameTakenError(f"{name!r} is taken")
            return [AccountRegistered(account, name)]
        case ChangeName(account, old, name, now):
            if known.own.account != account:
                raise NotYoursError(f"{old!r} is not the name of {account!r}")
            if not known.wanted.free(now):
                raise NameTakenError(f"{name!r} is taken")
            return [NameChanged(account, old, name, now)]
        case Close(account, name, now):
            if known.own.account != account:
                raise NotYoursError(f"{name!r} is not the name of {account!r}")
            return [AccountClosed(account, name, now)]
        case _:
            assert_never(command)


usernames: QueryDecider[Known, Command, Event] = QueryDecider(decide, model)


async def main() -> None:
    """Let two want one name, and a third wait until it is free."""
    monday = datetime(2025, 5, 5, tzinfo=UTC)
    thursday = monday + RETENTION
    async with memory_store(codec) as store:
        for command in (
            Register("a1", "ann", monday),
            Register("a2", "ann", monday),
            Close("a1", "ann", monday),
            Register("a2", "ann", monday + timedelta(days=1)),
            Register("a2", "ann", thursday),
        ):
            stream = StreamName("account", command.account)
            try:
                done = await transact(store, usernames, stream, command)
            except NameTakenError as refused:
                print("refused:", refused)
            else:
                print([type(event).__name__ for event in done.events])


if __name__ == "__main__":
    asyncio.run(main())
