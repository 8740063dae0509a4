"""Laws of deciders and views, over arbitrary commands and histories."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyrsistent import pmap

from evsrc import Decider, View, adapt, both, fold, many, merge, run

commands = st.lists(st.integers(-5, 5))
histories = st.lists(st.integers(-5, 5))
keyed = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 5)))


def decide(state: tuple[int, ...], command: int) -> list[int]:
    """Repeat the command as often as its size, unless it is here already."""
    return [] if command in state else [command] * abs(command)


REMEMBERS: Decider[tuple[int, ...], int, int] = Decider(
    decide, lambda s, e: (*s, e)[-6:], (), is_terminal=lambda s: sum(s) > 20
)
SUMS: Decider[int, int, int] = Decider(
    lambda s, c: [c - s] if c != s else [], lambda s, e: s + e, 0
)


@given(histories, histories)
def test_folding_splits(xs: list[int], ys: list[int]) -> None:
    """A history folded in two parts is the history folded whole."""
    whole = fold(REMEMBERS, [*xs, *ys])
    assert whole == fold(REMEMBERS, ys, fold(REMEMBERS, xs))


@given(commands)
def test_running_is_deciding_one_by_one(given_commands: list[int]) -> None:
    """`run` equals deciding each command on the folded state of then."""
    state, events = run(REMEMBERS, REMEMBERS.initial, given_commands)
    history: list[int] = []
    for command in given_commands:
        now = fold(REMEMBERS, history)
        if not REMEMBERS.is_terminal(now):
            history += REMEMBERS.decide(now, command)
    assert list(events) == history
    assert state == fold(REMEMBERS, history)


@given(commands, commands)
def test_terminal_states_absorb(before: list[int], after: list[int]) -> None:
    """Once final, nothing more happens whatever is asked."""
    state, _ = run(REMEMBERS, REMEMBERS.initial, before)
    if REMEMBERS.is_terminal(state):
        assert run(REMEMBERS, state, after) == (state, ())


@given(commands)
def test_adapting_to_oneself_changes_nothing(given_commands: list[int]) -> None:
    """With identities a decider decides and folds as before."""
    same = adapt(REMEMBERS, command=lambda c: c, event=lambda e: e, out=lambda e: e)
    assert run(same, same.initial, given_commands) == run(REMEMBERS, (), given_commands)


@given(st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=2))))
def test_adapted_deciders_ignore_what_is_foreign(mixed: list[Any]) -> None:
    """Foreign commands and events in between change nothing at all."""
    wide: Decider[Any, Any, Any] = adapt(
        REMEMBERS,
        command=lambda c: c if isinstance(c, int) else None,
        event=lambda e: e if isinstance(e, int) else None,
        out=lambda e: e,
    )
    own = [c for c in mixed if isinstance(c, int)]
    assert run(wide, wide.initial, mixed) == run(REMEMBERS, (), own)
    state = fold(wide, mixed)
    assert state == fold(REMEMBERS, own)
    assert wide.evolve(state, "foreign") is state


@given(histories, commands)
def test_a_pair_is_its_parts(history: list[int], given_commands: list[int]) -> None:
    """The parts of a pair fold as they would alone; both decide each command."""
    pair = both(REMEMBERS, SUMS)
    first, second = fold(pair, history)
    assert (first, second) == (fold(REMEMBERS, history), fold(SUMS, history))
    for command in given_commands:
        alone = () if REMEMBERS.is_terminal(first) else REMEMBERS.decide(first, command)
        assert list(pair.decide((first, second), command)) == [
            *alone,
            *SUMS.decide(second, command),
        ]


@given(keyed)
def test_a_family_is_its_members(pairs: list[tuple[str, int]]) -> None:
    """Each member of a family decides and folds as it would alone."""
    member: Decider[int, Any, Any] = adapt(
        SUMS, command=lambda c: c[1], event=lambda e: e[1], out=lambda e: ("?", e)
    )
    family = many(member, command_key=lambda c: c[0], event_key=lambda e: e[0])
    states = fold(family, pairs)
    for key in "abc":
        own = [pair for pair in pairs if pair[0] == key]
        assert states.get(key, 0) == fold(member, own)
        for _, amount in pairs:
            asked = family.decide(states, (key, amount))
            assert list(asked) == list(member.decide(states.get(key, 0), (key, amount)))
    assert family.initial == pmap()


@given(histories)
def test_merging_folds_both(history: list[int]) -> None:
    """One pass over merged views gives what two passes give."""
    count: View[int, int] = View(0, lambda n, _: n + 1)
    last: View[int | None, int] = View(None, lambda _, e: e)
    assert fold(merge(count, last), history) == (
        fold(count, history),
        fold(last, history),
    )
