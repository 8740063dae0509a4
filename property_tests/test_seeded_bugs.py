"""Ten bugs of domains: each is found within 500 examples, and told as small as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from evsrc import json_snapshots
from evsrc.testing import (
    InvariantBrokenError,
    LawBrokenError,
    decider_laws,
    decider_machine,
    histories,
    recorded,
    specs_of,
    upcaster_laws,
    view_laws,
)

from . import seeded
from .conftest import share
from .seeded import (
    Account,
    Priced,
    PricedInEuros,
    account_codec,
)

# the same examples in every run, so that what is told can be compared
WITHIN = {"max_examples": 500, "derandomize": True, "database": None, "deadline": None}
LOGS = histories(seeded.account).map(lambda events: recorded(*events))


def law_of(test: Callable[[], None]) -> LawBrokenError:
    """Give what a test of laws finds within 500 examples."""
    with pytest.raises(LawBrokenError) as found:
        settings(**WITHIN)(test)()
    return found.value


def bug_of(machine: type[RuleBasedStateMachine]) -> InvariantBrokenError:
    """Give what a machine finds within 500 examples."""
    quick = settings(machine.TestCase.settings, **WITHIN)
    with pytest.raises(InvariantBrokenError) as found:
        run_state_machine_as_test(machine, settings=quick)
    return found.value


def test_overdraft() -> None:
    """One withdrawal from an empty account, as a test to paste."""
    bug = bug_of(decider_machine(seeded.overdraft, invariants=[seeded.never_negative]))
    assert str(bug) == OVERDRAFT


OVERDRAFT = """\
never_negative does not hold: the state is Account(balance=-1, closed=False)

def test_never_negative() -> None:
    given = specs_of(overdraft)
    given().when(
        Withdraw(amount=1),
    ).holds(never_negative)"""


def test_lost_refund() -> None:
    """Two payments, of which one comes back."""
    machine = decider_machine(seeded.lost_refund, invariants=[seeded.all_is_paid_back])
    bug = bug_of(machine)
    assert bug.test == LOST_REFUND
    assert len(bug.commands) == 3


LOST_REFUND = """\
def test_all_is_paid_back() -> None:
    given = specs_of(lost_refund)
    given(
        Paid(amount=1),
        Paid(amount=1),
    ).when(
        Cancel(),
    ).holds(all_is_paid_back)"""


def test_double_booking() -> None:
    """Two stays: a single night, and three around it."""
    machine = decider_machine(seeded.double_booking, invariants=[seeded.no_night_twice])
    first, second = bug_of(machine).commands
    assert (first.nights, second.nights, second.first) == (1, 3, first.first - 1)


def test_off_by_one_limit() -> None:
    """Four guests at the table for three."""
    machine = decider_machine(seeded.off_by_one, invariants=[seeded.at_most_three])
    guests = [command.guest for command in bug_of(machine).commands]
    assert len(guests) == len(set(guests)) == 4


def test_impure_decide() -> None:
    """A single command, decided twice."""
    broken = law_of(decider_laws(seeded.impure))
    assert broken.law == "decide is deterministic"
    assert broken.story == "given().when(Issue())"


def test_non_total_evolve() -> None:
    """Two of a thing are put in, and taken out."""
    broken = law_of(decider_laws(seeded.not_total))
    assert broken.law == "evolve is total on what can happen"
    assert broken.story == NOT_TOTAL


NOT_TOTAL = "given(PutIn(item='a'), PutIn(item='a')).when(Take(item='a'))"


def test_wrong_upcaster() -> None:
    """One price of four decimals, which was cut off instead of rounded."""
    chain, agree = seeded.wrong_upcaster, seeded.same_price
    broken = law_of(upcaster_laws(chain, PricedInEuros, Priced, agree=agree))
    assert broken.law == "old and new agree"
    assert broken.story.count("PricedInEuros(") == 1


def test_torn_snapshot() -> None:
    """One closing, which the snapshot forgets."""
    broken = law_of(decider_laws(seeded.account, snapshots=seeded.torn))
    assert broken.law == "states read back equal"
    assert broken.story == "given().when(Close())"


def test_stale_decision_in_a_batch() -> None:
    """A deposit, and a batch of withdrawals that each of them could be."""
    bug = bug_of(decider_machine(seeded.stale, invariants=[seeded.never_negative]))
    assert [type(command).__name__ for command in bug.commands] == ["Deposit", "Batch"]


STALE = """\
def test_never_negative() -> None:
    given = specs_of(stale)
    given(
        Deposited(amount=1),
    ).when(
        Batch(withdrawals=(Withdraw(amount=1), Withdraw(amount=1))),
    ).holds(never_negative)"""


def test_projection_that_counts_twice() -> None:
    """Two events that come again: of one, it would have known."""
    broken = law_of(view_laws(seeded.twice, LOGS))
    assert broken.law == "a projection that is fed twice equals once"
    assert broken.story == "given(Deposited(amount=1), Deposited(amount=1))"


def test_what_is_told_can_be_pasted() -> None:
    """The tests above fail where the bug is, and pass where it is not."""
    names: dict[str, Any] = {**vars(seeded), "specs_of": specs_of}
    for text in (OVERDRAFT.partition("\n\n")[2], LOST_REFUND, STALE):
        exec(text, names)
    with pytest.raises(AssertionError, match="never_negative does not hold"):
        names["test_never_negative"]()
    with pytest.raises(AssertionError, match="all_is_paid_back does not hold"):
        names["test_all_is_paid_back"]()
    names["stale"] = seeded.not_stale
    names["test_never_negative"]()


test_a_right_account_keeps_the_laws = decider_laws(
    seeded.account, codec=account_codec, snapshots=json_snapshots(Account)
)
test_a_projection_that_counts_once_keeps_the_laws = view_laws(seeded.once, LOGS)
TestRightBatch = decider_machine(
    seeded.not_stale, invariants=[seeded.never_negative]
).TestCase
TestRightBatch.settings = settings(TestRightBatch.settings, max_examples=share(100))
