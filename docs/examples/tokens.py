"""Confirm sign-ups by a token that works once, and not for ever.

No token table is kept and cleaned up: what happened to a token is what the log has
under its tag. The time is part of the commands.
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
    json_codec,
    memory_store,
    transact,
)

LIFETIME = timedelta(minutes=60)


class SignUp(Struct, frozen=True):
    """Somebody wants in; *token* is a new one, and goes to the address by mail."""

    email: str
    token: str
    now: datetime


class Confirm(Struct, frozen=True):
    email: str
    token: str
    now: datetime


class SignUpStarted(Struct, frozen=True):
    email: str
    token: str
    at: datetime


class SignUpConfirmed(Struct, frozen=True):
    email: str
    token: str


Command: TypeAlias = SignUp | Confirm
Event: TypeAlias = SignUpStarted | SignUpConfirmed


class InvalidTokenError(Exception):
    """The token does not confirm anything, and why."""


def tags_of(event: Command | Event) -> list[str]:
    return [f"email:{event.email}", f"token:{event.token}"]


codec: Codec[Event] = json_codec(
    {"sign-up-started": SignUpStarted, "sign-up-confirmed": SignUpConfirmed},
    tags={SignUpStarted: tags_of, SignUpConfirmed: tags_of},
)


class Token(Struct, frozen=True):
    """A token that was given out."""

    since: datetime
    used: bool = False


def token_of(command: Command) -> DecisionModel[Token | None, Event]:
    """Know what became of one address's token."""
    return DecisionModel.handling(
        codec,
        None,
        {
            SignUpStarted: lambda _, event: Token(event.at),
            SignUpConfirmed: lambda token, _: token and Token(token.since, used=True),
        },
        tags=tags_of(command),
    )


def decide(token: Token | None, command: Command) -> Sequence[Event]:
    """Decide on what is known of the token."""
    match command:
        case SignUp(email, text, now):
            if token is not None:
                raise InvalidTokenError("the token was given out before")
            return [SignUpStarted(email, text, now)]
        case Confirm(email, text, now):
            if token is None:
                raise InvalidTokenError("there is no such token for this address")
            if token.used:
                raise InvalidTokenError("the token was used before")
            if now >= token.since + LIFETIME:
                raise InvalidTokenError("the token is too old")
            return [SignUpConfirmed(email, text)]
        case _:
            assert_never(command)


signing_up: QueryDecider[Token | None, Command, Event] = QueryDecider(decide, token_of)


async def main() -> None:
    """Confirm twice, with a wrong token, and too late."""
    ten = datetime(2025, 5, 1, 10, tzinfo=UTC)
    eleven = ten + LIFETIME
    async with memory_store(codec) as store:
        for command in (
            SignUp("ann@example.org", "345678", ten),
            Confirm("ann@example.org", "999999", ten),
            Confirm("ann@example.org", "345678", ten),
            Confirm("ann@example.org", "345678", ten),
            SignUp("bob@example.org", "111111", ten),
            Confirm("bob@example.org", "111111", eleven),
        ):
            stream = StreamName("sign-up", command.email)
            try:
                done = await transact(store, signing_up, stream, command)
            except InvalidTokenError as refused:
                print("refused:", refused)
            else:
                print([type(event).__name__ for event in done.events])


if __name__ == "__main__":
    asyncio.run(main())
