"""The testing kit itself: sentences, strategies, laws and machines say what is wrong."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Any, NewType
from uuid import UUID

import pytest
from hypothesis import Phase, find, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from msgspec import Meta, Struct

from docs.examples.seats import (
    Release,
    Reserve,
    SeatReleased,
    SeatReserved,
    SeatTakenError,
    room,
    seat,
)
from docs.examples.tasks import (
    Task,
    TaskCompleted,
    TaskCreated,
    TaskReassigned,
    TaskState,
)
from evsrc import (
    Decider,
    EventStoreRecord,
    Loaded,
    Metadata,
    Snapshotting,
    StreamName,
    View,
    chain,
    fold,
    memory_store,
)
from evsrc.core.codec import Codec
from evsrc.testing import (
    CODEC,
    InvariantBrokenError,
    LawBrokenError,
    commands_of,
    decider_laws,
    decider_machine,
    histories,
    recorded,
    specs_of,
    states,
    store_machine,
    upcaster_laws,
    values,
    view_laws,
)

TEN, ELEVEN, NOON = (datetime(2026, 5, 1, hour, tzinfo=UTC) for hour in (10, 11, 12))
ID = UUID(int=7)
given = specs_of(room)
given_task = specs_of(Task)
REQUIRED = {"aggregate_id": ID}


def test_expired_hold_is_released_first() -> None:
    """A hold past its end gives way, and its release is recorded."""
    given(SeatReserved("1A", "ann", until=TEN)).when(
        Reserve("1A", "bob", now=ELEVEN, until=NOON)
    ).then(SeatReleased("1A"), SeatReserved("1A", "bob", until=NOON))


def test_sentences_about_deciders() -> None:
    """What is true passes: nothing, a refusal, a state, and what follows."""
    held = given(SeatReserved("1A", "ann", until=NOON))
    held.when(Reserve("1A", "ann", now=TEN, until=NOON)).nothing()
    again = held.when(Reserve("1A", "bob", now=TEN, until=NOON))
    again.rejected(SeatTakenError, match="'ann' until 12:00")
    held.when(Release("1A")).then(SeatReleased("1A")).when(Release("1A")).nothing()
    held.when(Release("1A")).then(SeatReleased("1A")).state(
        fold(room, [SeatReserved("1A", "ann", until=NOON), SeatReleased("1A")])
    )


def test_sentences_about_classes() -> None:
    """A command is a function of the aggregate; ids and clocks are not compared."""
    created = given_task(TaskCreated(**REQUIRED, title="plan"))
    created.when(lambda task: task.reassign("ann")).then(
        TaskReassigned(**REQUIRED, to="ann")
    ).state(TaskState("plan", "ann"))
    created.when(lambda task: task.create("x")).rejected(ValueError, match="plan")
    with pytest.raises(
        AssertionError, match=r"event 1 \.to: expected 'bob', got 'ann'"
    ):
        created.when(lambda task: task.reassign("ann")).then(
            TaskReassigned(**REQUIRED, to="bob")
        )


def test_what_comes_by_itself_is_compared_on_demand() -> None:
    """The version of an event of a class is compared if the test wants it."""
    strict = specs_of(Task, id=ID, compare=["aggregate_version"])
    started = strict(TaskCreated(**REQUIRED, title="plan"))
    started.when(lambda task: task.complete()).then(
        TaskCompleted(**REQUIRED, aggregate_version=2)
    )
    with pytest.raises(AssertionError, match=r"\.aggregate_version: expected 3, got 2"):
        started.when(lambda task: task.complete()).then(
            TaskCompleted(**REQUIRED, aggregate_version=3)
        )


def told(claim: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as failure:
        claim()
    return str(failure.value)


HELD = given(SeatReserved("1A", "ann", until=NOON))
FALSE: list[tuple[Callable[[], object], str]] = [
    (
        lambda: HELD.when(Release("1A")).then(SeatReleased("1B")),
        (
            "given SeatReserved(seat='1A', guest='ann', until=datetime.datetime(2026, 5, 1, "
            "12, 0, tzinfo=datetime.timezone.utc))\n"
            " when Release(seat='1A')\n"
            "expected SeatReleased(seat='1B')\n"
            "     got SeatReleased(seat='1A')\n"
            "event 1 .seat: expected '1B', got '1A'"
        ),
    ),
    (
        lambda: given().when(Release("1A")).then(SeatReleased("1A")),
        (
            "given nothing\n when Release(seat='1A')\n"
            "expected SeatReleased(seat='1A')\n     got nothing"
        ),
    ),
    (
        lambda: given().when(Release("1A")).rejected(SeatTakenError),
        "given nothing\n when Release(seat='1A')\nexpected SeatTakenError, got nothing",
    ),
    (
        lambda: given().state({"1A": None}),
        (
            "given nothing\nexpected {'1A': None}\n     got pmap({})\n"
            "value: expected {'1A': None}, got pmap({})"
        ),
    ),
]


@pytest.mark.parametrize(("claim", "message"), FALSE)
def test_a_false_sentence_shows_both_sides(
    claim: Callable[[], object], message: str
) -> None:
    """The whole message: what was given and asked, both sides, and the fields."""
    assert told(claim) == message


def test_a_wrong_refusal_is_told_with_its_reason() -> None:
    """Another error, another text, and an error instead of events are each told."""
    wanted = HELD.when(Reserve("1A", "bob", now=TEN, until=NOON))
    refusal = "got SeatTakenError: seat '1A' is held by 'ann' until 12:00"
    assert f"expected KeyError, {refusal}" in told(lambda: wanted.rejected(KeyError))
    assert f"expected nothing, {refusal}" in told(wanted.nothing)
    text = told(lambda: wanted.rejected(SeatTakenError, match="13:00"))
    assert "which does not match '13:00'" in text


def test_an_event_outside_of_the_boundary_fails() -> None:
    """A decision does not know the events of another seat, so no test may give one."""
    bounded = specs_of(room, within=lambda command, event: command.seat == event.seat)
    bounded(SeatReserved("1A", "ann", until=NOON)).when(Release("1A"))
    outside = bounded(SeatReserved("1B", "ann", until=NOON))
    text = told(lambda: outside.when(Release("1A")))
    assert text.startswith("the decision on Release(seat='1A') does not know")


def test_only_domains_have_sentences() -> None:
    """Anything else is refused at once."""
    with pytest.raises(TypeError, match="neither a Decider nor"):
        specs_of(fold)  # type: ignore[call-overload]


class Seen(Struct, frozen=True):
    count: int = 0
    last: int = 0


COUNT: View[Seen, Any] = View(Seen(), lambda seen, r: Seen(seen.count + 1, r.position))
ONCE: View[Seen, Any] = View(
    Seen(), lambda seen, r: seen if r.position <= seen.last else COUNT.evolve(seen, r)
)


def test_sentences_about_views() -> None:
    """What there is to read, and that what comes again changes nothing."""
    log = recorded("a", "b", "c")
    specs_of(ONCE)(*log).state(Seen(3, 3)).twice_gives_once()
    text = told(lambda: specs_of(COUNT)(*log).twice_gives_once())
    assert text.endswith(".count: expected 3, got 4")
    assert "expected 2, got 3" in told(lambda: specs_of(COUNT)(*log).state(Seen(2, 3)))


def test_recorded_events_are_numbered_as_a_log() -> None:
    """Versions count in each stream, positions in the log; the rest is by choice."""
    one, other = StreamName("show", "friday"), StreamName("show", "sunday")
    actor = Metadata(actor_id="ann")
    friday = recorded("a", "b", stream=one, metadata=actor, at=NOON)
    log = recorded(*friday, "c", *recorded("d"), "e", stream=other)
    assert [(r.stream.id, r.version, r.position) for r in log] == [
        *(("friday", 1, 1), ("friday", 2, 2), ("sunday", 1, 3)),
        *(("1", 1, 4), ("sunday", 2, 5)),
    ]
    assert {(r.metadata.actor_id, r.recorded_at) for r in log[:2]} == {("ann", NOON)}
    assert len({r.id for r in log}) == 5


Money = NewType("Money", int)


class Order(Struct, frozen=True):
    price: Money
    note: str
    quantity: Annotated[int, Meta(ge=1)] = 1


class Gift(Order, frozen=True):
    to: str = ""


def drawn(strategy: st.SearchStrategy[Any], count: int = 50) -> list[Any]:
    found: list[Any] = []
    quick = settings(max_examples=count, database=None, derandomize=True)
    with pytest.raises(Exception, match="."):
        find(strategy, lambda value: found.append(value) or False, settings=quick)
    return found


def test_types_and_fields_are_overridden() -> None:
    """A NewType, a field of a class and so of its subclass; the rest is as it was."""
    wanted = {Money: st.just(Money(5)), (Order, "note"): st.just("n")}
    for order in drawn(values(Gift, wanted)):
        assert (order.price, order.note) == (5, "n")
        assert order.quantity >= 1
    with pytest.raises(TypeError, match="Order has no 'notes', only price, note"):
        values(Order, {(Order, "notes"): st.just("")})


class Endless(Struct):
    again: Endless


def test_what_cannot_be_drawn_is_refused_by_name() -> None:
    """A foreign type is named with its place, and so is a type without end."""

    class Odd(Struct):
        inner: tuple[complex, ...]

    with pytest.raises(TypeError, match=r"for Odd\.inner: add <class 'complex'>"):
        values(Odd)
    assert drawn(values(Odd, {complex: st.just(1j)}))
    with pytest.raises(TypeError, match="would have no end"):
        values(Endless)


def test_commands_are_read_off_the_domain() -> None:
    """The annotation of `decide`, or the methods of a class with their arguments."""
    assert {type(command) for command in drawn(commands_of(seat))} == {Reserve, Release}
    wanted = {(Task.create, "title"): st.just("plan")}
    calls = drawn(commands_of(Task, wanted))
    assert {call.method for call in calls} == {"create", "reassign", "complete"}
    assert {c.arguments["title"] for c in calls if c.method == "create"} == {"plan"}
    with pytest.raises(TypeError, match="does not say what a command is"):
        commands_of(room)
    with pytest.raises(TypeError, match="Mute.say does not say what its 'what' is"):
        commands_of(Mute)


class Mute(Task):
    def say(self, what) -> None: ...


@pytest.mark.parametrize("subject", [seat, Task])
def test_histories_can_happen(subject: Any) -> None:
    """What a domain refuses is left out; the states are those of the histories."""
    drawn_histories = drawn(histories(subject), 100)
    assert max(map(len, drawn_histories)) > 1
    if subject is seat:
        for history in drawn_histories:
            kinds = [type(event) for event in history]
            assert kinds[::2] == [SeatReserved] * len(kinds[::2])
            assert kinds[1::2] == [SeatReleased] * len(kinds[1::2])
    assert len({repr(state) for state in drawn(states(subject))}) > 1


def test_mistakes_are_no_refusals() -> None:
    """A KeyError of Python's is a bug in `decide`, unless the domain says otherwise."""
    hasty: Decider[Any, Any, Any] = Decider(lambda s, c: {}[c], lambda s, e: s, 0)
    commands = st.integers(0, 3)
    assert broken(decider_laws(hasty, commands=commands)) == "decide answers or refuses"
    decider_laws(hasty, commands=commands, refusals=[KeyError])()


def broken(test: Callable[[], None]) -> str:
    with pytest.raises(LawBrokenError) as found:
        settings(derandomize=True, database=None)(test)()
    assert str(found.value).startswith(f"broken: {found.value.law}\n")
    return found.value.law


def listed(decide: Any, evolve: Any = None, **options: Any) -> Decider[Any, Any, Any]:
    """Give a decider whose state is all its events."""
    return Decider(decide, evolve or (lambda s, e: (*s, e)), (), **options)


def grown(state: list[int], command: int) -> list[int]:
    state.append(command)
    return [command]


def kept(state: list[int], event: int) -> list[int]:
    state.append(event)
    return state


def lazily(_: Any, command: int) -> Any:
    yield command
    if command == 2:
        raise ValueError(command)


def first_only(state: tuple[int, ...], event: int) -> tuple[int, ...]:
    return state or (event,)


calls: list[int] = []


def remembers(_: Any, command: int) -> list[int]:
    calls.append(command)
    return [command] if len(calls) % 7 else []


echo: Any = lambda state, command: [command]  # noqa: E731
DIGITS = st.integers(0, 3)
BYTES: Codec[Any] = Codec(lambda _: "n", lambda n: b"%d" % (n % 3), lambda _, b: int(b))
LOSING: Snapshotting[Any] = Snapshotting(
    dump=lambda state: b"", load=lambda _: (1,), due=lambda *_: True
)
BROKEN: list[tuple[str, Decider[Any, Any, Any], dict[str, Any]]] = [
    ("decide is pure", Decider(grown, lambda s, e: s, [0]), {}),
    ("decide is deterministic", listed(remembers), {}),
    ("evolve is pure", Decider(echo, kept, []), {}),
    ("a refused command emits nothing", listed(lazily), {}),
    ("evolve is total on what can happen", listed(echo, lambda s, e: [0, 1][e]), {}),
    (
        "terminal is absorbing",
        listed(lambda s, c: [c, 0], lambda s, e: e, is_terminal=lambda s: s == 1),
        {},
    ),
    ("events read back equal", listed(echo), {"codec": BYTES}),
    ("states read back equal", listed(echo), {"snapshots": LOSING}),
    ("a retried command changes nothing", listed(echo), {"retryable": int}),
    (
        "a retried command changes nothing",
        listed(echo),
        {"retryable": lambda command: command > 1},
    ),
]


@pytest.mark.parametrize(("law", "decider", "options"), BROKEN)
def test_each_law_is_told_by_its_name(
    law: str, decider: Decider[Any, Any, Any], options: dict[str, Any]
) -> None:
    """A domain that breaks one law fails by that law."""
    assert broken(decider_laws(decider, commands=DIGITS, **options)) == law


class Hiding(Struct, frozen=True, eq=False):
    """A state that looks equal when it is not: what hides shows with the next event."""

    total: int = 0
    step: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hiding) and other.total == self.total

    def __hash__(self) -> int:
        return self.total


def test_what_looks_equal_is_found_by_what_follows() -> None:
    """A snapshot that forgets what hides, and a fold that takes it from outside."""
    steps: Decider[Any, Any, Any] = Decider(
        echo, lambda s, e: Hiding(s.total + s.step, e), Hiding()
    )
    forgets: Snapshotting[Hiding] = Snapshotting(
        lambda state: b"%d" % state.total, lambda stored: Hiding(int(stored))
    )
    decider_laws(steps, commands=DIGITS)()
    law = broken(decider_laws(steps, commands=DIGITS, snapshots=forgets))
    assert law == "snapshot plus tail is the full fold"
    outside: Decider[Any, Any, Any] = Decider(
        echo, lambda s, _: Hiding(s.total + s.step, next(COUNTER)), Hiding()
    )
    assert broken(decider_laws(outside, commands=DIGITS)) == "fold splits"


COUNTER = count()


def test_retried_commands_that_change_nothing_pass() -> None:
    """Once granted, the same again is empty."""
    once = listed(lambda s, c: [] if c in s else [c])
    decider_laws(once, commands=DIGITS, retryable=int)()


def test_laws_of_views() -> None:
    """A view fails on what it cannot take, and on what comes again if it must not."""
    total: View[int, int] = View(0, lambda n, event: n + [5, 6, 7][event])
    events = st.lists(DIGITS)
    assert broken(view_laws(total, events, idempotent=False)) == "evolve is total"
    less: View[int, int] = View(0, lambda n, event: n + event)
    law = "a projection that is fed twice equals once"
    assert broken(view_laws(less, events)) == law
    view_laws(less, events, idempotent=False)()
    growing: View[list[int], int] = View([], kept)
    assert broken(view_laws(growing, events)) == "evolve is pure"


class Old(Struct, frozen=True):
    name: str


class New(Struct, frozen=True):
    first: str
    last: str


def split(body: dict[str, Any]) -> dict[str, Any]:
    first, _, last = body["name"].partition(" ")
    return {"first": first, "last": last}


def popped(body: dict[str, Any]) -> dict[str, Any]:
    return {"first": body.pop("name"), "last": ""}


def test_laws_of_upcasters() -> None:
    """A right step passes; one that fails, changes its argument or lies does not."""

    def agree(old: Old, new: New) -> bool:
        return f"{new.first} {new.last}".strip() == old.name.strip()

    upcaster_laws(chain(split, dict), Old, New, agree=agree)()
    fails = chain(split, split)
    assert broken(upcaster_laws(fails, Old, New)) == "an upcaster is total"
    assert broken(upcaster_laws(chain(popped), Old, New)) == "an upcaster is pure"
    law = "what is upcast is a valid event of today"
    assert broken(upcaster_laws(chain(dict), Old, New)) == law
    lies = chain(lambda _: {"first": "", "last": "x"})
    assert broken(upcaster_laws(lies, Old, New, agree=agree)) == "old and new agree"


def test_the_examples_keep_the_laws() -> None:
    """The decider and the class of the documents, snapshots of the class included."""

    def sensible(command: Reserve | Release) -> bool:
        return isinstance(command, Release) or command.now < command.until

    commands = commands_of(seat).filter(sensible)
    refusals = [SeatTakenError]
    decider_laws(seat, commands=commands, retryable=object, refusals=refusals)()
    decider_laws(Task)()


def test_a_class_is_searched_by_its_methods() -> None:
    """What is found is told with the methods to call, and fails when it is pasted."""

    def never_done(state: Any, _: Sequence[Any]) -> bool:
        return state is None or not state.done

    machine = decider_machine(Task, invariants=[never_done])
    with pytest.raises(InvariantBrokenError) as found:
        run_state_machine_as_test(machine)
    assert len(found.value.commands) == 2
    assert "lambda it: it.complete()" in found.value.test
    names = {
        "Task": Task,
        "specs_of": specs_of,
        "never_done": never_done,
        "UUID": UUID,
        "TaskCreated": TaskCreated,
    }
    exec(found.value.test, names)
    with pytest.raises(AssertionError, match="never_done does not hold"):
        names["test_never_done"]()  # type: ignore[operator]


def test_a_mistake_is_found_by_a_machine() -> None:
    """Evolve that fails needs no invariant to be found."""
    machine = decider_machine(listed(echo, lambda s, e: {0: s}[e]), DIGITS)
    with pytest.raises(InvariantBrokenError, match="KeyError: 1") as found:
        run_state_machine_as_test(machine)
    assert found.value.commands == (1,)


def test_a_store_that_differs_from_a_list_is_found() -> None:
    """A store whose streams lose their second event is no list."""

    async def broken_store(_: Path) -> EventStoreRecord[Any]:
        store = memory_store(CODEC)

        async def load_events(stream: StreamName, *, after: int = 0) -> Loaded[Any]:
            loaded = await store.load_events(stream, after=after)
            return Loaded(loaded.events[:1], loaded.version)

        return dataclasses.replace(store, load_events=load_events)

    found = settings(phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(store_machine(broken_store), settings=found)


def test_pytest_sessions_do_not_pay_for_hypothesis() -> None:
    """The plugin, and `evsrc.testing` itself, leave Hypothesis alone until asked."""
    code = (
        "import sys, evsrc.testing, evsrc.testing.pytest_plugin; "
        "assert not {'hypothesis', 'msgspec'} & set(sys.modules), 'too early'; "
        "evsrc.testing.specs_of; assert 'hypothesis' not in sys.modules; "
        "evsrc.testing.values; assert 'hypothesis' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_hidden_by_the_module_it_comes_from() -> None:
    """Once a module is imported, its package has it under its name."""
    from evsrc import testing

    for name, home in testing._HOMES.items():
        assert name != home
