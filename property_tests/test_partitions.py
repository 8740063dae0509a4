"""Who should have which partition: for all members, owners and interleavings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from evsrc.core.event import StreamName
from evsrc.core.partition import assign, partition_of

MEMBERS = st.sets(st.sampled_from("abcdefg"), min_size=1)
PARTITIONS = st.integers(1, 24)


@st.composite
def situations(draw: st.DrawFn) -> tuple[int, set[str], dict[int, str]]:
    partitions = draw(PARTITIONS)
    owners = st.dictionaries(
        st.integers(0, partitions - 1), st.sampled_from("abcdefgxyz")
    )
    return partitions, draw(MEMBERS), draw(owners)


@given(situations())
def test_shares_are_even_and_as_little_moves_as_can_be(
    situation: tuple[int, set[str], dict[int, str]],
) -> None:
    """Each partition has a living member, shares differ by 1, only a surplus moves."""
    partitions, members, owners = situation
    target = assign(partitions, members, owners)
    assert list(target) == list(range(partitions))
    shares = Counter(target.values())
    assert set(shares) <= members
    least, more = divmod(partitions, len(members))
    sizes = sorted((shares[member] for member in members), reverse=True)
    assert sizes == [least + 1] * more + [least] * (len(members) - more)
    had = Counter(owner for owner in owners.values() if owner in members)
    kept = sum(owners.get(partition) == target[partition] for partition in target)
    most = sorted((had[member] for member in members), reverse=True)
    assert kept == sum(map(min, most, sizes)), "one moved that could have stayed"


@given(situations(), st.randoms())
def test_everyone_who_sees_the_same_says_the_same(
    situation: tuple[int, set[str], dict[int, str]], chance: Any
) -> None:
    """The order in which members and owners are listed does not matter."""
    partitions, members, owners = situation
    people, rows = list(members), list(owners.items())
    chance.shuffle(people)
    chance.shuffle(rows)
    target = assign(partitions, members, owners)
    assert assign(partitions, people, dict(rows)) == target
    assert assign(partitions, members, target) == target, "what is balanced stays"
    assert assign(partitions, set(), owners) == {}


@dataclass
class Crowd:
    """Workers that act on what they saw some time ago."""

    partitions: int
    members: set[str] = field(default_factory=set)
    owners: dict[int, str] = field(default_factory=dict)
    seen: dict[str, tuple[set[str], dict[int, str]]] = field(default_factory=dict)
    moves: int = 0

    def step(self, kind: str, who: str) -> None:
        match kind:
            case "join":
                self.members.add(who)
            case "leave":
                self.members.discard(who)
                self.seen.pop(who, None)
                self.owners = {n: o for n, o in self.owners.items() if o != who}
            case "look" if who in self.members:
                self.seen[who] = set(self.members), dict(self.owners)
            case "act" if who in self.seen:
                self.act(who, *self.seen[who])

    def act(self, who: str, members: set[str], owners: dict[int, str]) -> None:
        target = assign(self.partitions, members | {who}, owners)
        for number in [n for n, owner in self.owners.items() if owner == who]:
            if target[number] != who:
                del self.owners[number]
                self.moves += 1
        for number, member in target.items():
            if member == who and number not in self.owners:
                self.owners[number] = who
                self.moves += 1


@given(
    PARTITIONS,
    st.lists(
        st.tuples(
            st.sampled_from(["join", "join", "look", "act", "look", "act", "leave"]),
            st.sampled_from("abcdefg"),
        ),
        max_size=60,
    ),
    st.randoms(),
)
def test_any_interleaving_settles(
    partitions: int, steps: list[tuple[str, str]], chance: Any
) -> None:
    """Whatever was done on stale sights, three rounds of looking and acting balance it."""
    crowd = Crowd(partitions)
    for kind, who in [("join", "a"), *steps, ("join", "b")]:
        crowd.step(kind, who)
    for last in (False, False, False, True):
        crowd.moves = 0
        everyone = sorted(crowd.members)
        chance.shuffle(everyone)
        for who in everyone:
            crowd.step("look", who)
            crowd.step("act", who)
        if last:
            assert crowd.moves == 0, "it goes round in circles"
    assert assign(partitions, crowd.members, crowd.owners) == crowd.owners


@given(st.uuids(), st.integers(1, 100))
def test_a_stream_is_in_one_partition(id: UUID, partitions: int) -> None:
    """The partition is a number from 0 on, the same each time."""
    stream = StreamName("Task", str(id))
    assert 0 <= partition_of(stream, partitions) < partitions
    assert partition_of(stream, partitions) == partition_of(
        StreamName("Task", str(id)), partitions
    )


def test_partitions_are_what_they_were() -> None:
    """The hash is fixed for ever: these streams stay where they are."""
    names = [("Task", "7f3"), ("order", "1"), ("order", "2"), ("Käufer", "ü")]
    streams = [StreamName(*name) for name in names]
    assert [partition_of(stream, 1000) for stream in streams] == PINNED


def test_partitions_are_of_one_size() -> None:
    """Numbered streams spread evenly, whatever the step of the numbers is."""
    for step in (1, 2, 8, 64):
        sizes = Counter(
            partition_of(StreamName("order", str(n * step)), 64) for n in range(6400)
        )
        assert min(sizes.values()) > 60
        assert max(sizes.values()) < 140


PINNED = [766, 79, 693, 890]
