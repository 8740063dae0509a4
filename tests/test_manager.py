"""Every option of the subscription manager, seen through the manager, on every store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiosqlite
import pytest

from evsrc import (
    DomainEvent,
    InMemoryCheckpointRepository,
    InMemoryDLQRepository,
    InMemoryEventBus,
    InMemoryEventStore,
    SQLiteCheckpointRepository,
    SQLiteEventStore,
    StoreUnavailableError,
    SubscriptionError,
    SubscriptionStateError,
)
from evsrc.projections import (
    DEFAULT_RETRY_POLICY,
    CheckpointTrackingProjection,
    ExponentialBackoffRetryPolicy,
    FilteredRetryPolicy,
    NoRetryPolicy,
    RetryPolicy,
    handles,
)
from evsrc.runtime.delivery import State
from evsrc.subscriptions import (
    BaseSubscriber,
    BatchAwareSubscriber,
    CheckpointStrategy,
    CircuitBreakerConfig,
    ErrorCategory,
    ErrorClassification,
    ErrorClassifier,
    ErrorHandlingConfig,
    ErrorHandlingStrategy,
    ErrorInfo,
    ErrorSeverity,
    EventFilter,
    FilteringSubscriber,
    HealthCheckConfig,
    PauseReason,
    RetryConfig,
    ShutdownPhase,
    Subscription,
    SubscriptionConfig,
    SubscriptionConfigError,
    SubscriptionManager,
    SubscriptionState,
    get_subscribed_event_types,
    matches_event_type,
    supports_batch_handling,
)
from tests.facade_domain import REGISTRY, Closed, Opened, Paid, opened, paid
from tests.guarantees.test_poison import until
from tests.test_facade_delivery import QUICK, Recorder, World, world

__all__ = ["world"]


class Poisoned(Recorder):
    """Handles payments, but not those of some amounts."""

    def __init__(self, *amounts: int, error: type[Exception] = ValueError) -> None:
        super().__init__()
        self.amounts = set(amounts)
        self.raises = error
        self.tried: list[int] = []

    def subscribed_to(self) -> list[type[DomainEvent]]:
        return [Paid]

    async def handle(self, event: Any) -> None:
        self.tried.append(event.amount)
        if event.amount in self.amounts:
            raise self.raises(f"not {event.amount}")
        await super().handle(event)

    @property
    def handled(self) -> list[int]:
        return [event.amount for event in self.seen if isinstance(event, Paid)]


async def run(
    manager: SubscriptionManager,
    subscriber: Any,
    config: SubscriptionConfig | None = None,
) -> Subscription:
    """Start a subscriber; return when it has caught up, or ended."""
    subscription = await manager.subscribe(
        subscriber, config or SubscriptionConfig(**QUICK), "s"
    )
    await manager.start()
    if not subscription.is_terminal:
        try:
            await subscription.caught_up()
        except SubscriptionError:
            assert subscription.is_terminal
    return subscription


# What is done about failures.


@pytest.mark.parametrize(
    ("strategy", "letters", "tried", "handled", "kept"),
    [
        (ErrorHandlingStrategy.STOP, True, [1, 13], [1], []),
        (ErrorHandlingStrategy.CONTINUE, True, [1, 13, 2], [1, 2], []),
        (ErrorHandlingStrategy.RETRY_THEN_CONTINUE, True, [1, 13, 13, 2], [1, 2], []),
        (ErrorHandlingStrategy.RETRY_THEN_DLQ, True, [1, 13, 13, 2], [1, 2], [13]),
        (ErrorHandlingStrategy.RETRY_THEN_DLQ, False, [1, 13, 13], [1], []),
        (ErrorHandlingStrategy.DLQ_ONLY, True, [1, 13, 2], [1, 2], [13]),
        (ErrorHandlingStrategy.DLQ_ONLY, False, [1, 13], [1], []),
    ],
)
async def test_strategies(
    world: World,
    strategy: ErrorHandlingStrategy,
    letters: bool,
    tried: list[int],
    handled: list[int],
    kept: list[int],
) -> None:
    """Each does with a poison event what its name says, or stops before it."""
    await world.account(1, 13, 2)
    dlq, poisoned = InMemoryDLQRepository(), Poisoned(13)
    manager = world.manager(
        dlq_repo=dlq if letters else None,
        error_handling_config=ErrorHandlingConfig(strategy),
    )
    config = SubscriptionConfig(max_retries=1, **QUICK)
    subscription = await run(manager, poisoned, config)
    assert (poisoned.tried, poisoned.handled) == (tried, handled)
    entries = await dlq.get_failed_events("s")
    assert [entry.event_data["amount"] for entry in entries] == kept
    stopped = handled == [1]
    assert (subscription.state is SubscriptionState.ERROR) == stopped
    assert manager.total_dlq_count == len(kept)


async def test_a_subscription_that_must_not_go_on_stops(world: World) -> None:
    """`continue_on_error=False` comes before any strategy; `dlq_enabled` before letters."""
    await world.account(13)
    for options, config in (
        ({}, SubscriptionConfig(continue_on_error=False, max_retries=0)),
        ({"dlq_enabled": False}, SubscriptionConfig(max_retries=0)),
    ):
        dlq = InMemoryDLQRepository()
        manager = world.manager(
            dlq_repo=dlq, error_handling_config=ErrorHandlingConfig(**options)
        )
        subscription = await run(manager, Poisoned(13), config)
        assert subscription.state is SubscriptionState.ERROR
        assert await dlq.get_failed_events() == []
        await manager.stop()


async def test_too_many_errors_stop_a_subscription(world: World) -> None:
    """With the third failed attempt, whatever the strategy would do."""
    await world.account(13, 1, 13, 2, 13, 3)
    poisoned, dlq = Poisoned(13), InMemoryDLQRepository()
    handling = ErrorHandlingConfig(
        ErrorHandlingStrategy.DLQ_ONLY, max_errors_before_stop=3
    )
    manager = world.manager(dlq_repo=dlq, error_handling_config=handling)
    subscription = await run(manager, poisoned)
    assert poisoned.handled == [1, 2]
    assert (subscription.events_failed, subscription.events_dlq) == (3, 2)
    assert subscription.state is SubscriptionState.ERROR
    for bad in ({"max_errors_before_stop": 0}, {"max_recent_errors": 0}):
        with pytest.raises(SubscriptionConfigError, match="at least 1"):
            ErrorHandlingConfig(**bad)


async def test_callbacks_are_told_of_failures(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Sync or async, of all errors, one category or one severity; who raises is logged."""
    account = await world.account(1, 13)
    told: dict[str, list[ErrorInfo]] = {"all": [], "category": [], "severity": []}
    rare = ErrorClassification(ErrorCategory.PERMANENT, ErrorSeverity.CRITICAL, True)
    classifier = ErrorClassifier()
    classifier.register_classification(ValueError, rare)
    handling = ErrorHandlingConfig(max_recent_errors=2, classifier=classifier)
    manager = world.manager(
        dlq_repo=InMemoryDLQRepository(), error_handling_config=handling
    )

    async def everything(info: ErrorInfo) -> None:
        told["all"].append(info)

    def broken(info: ErrorInfo) -> None:
        raise RuntimeError(info.error_message)

    manager.on_error(broken)
    manager.on_error(everything)
    manager.on_error_category(ErrorCategory.PERMANENT, told["category"].append)
    manager.on_error_category(ErrorCategory.TRANSIENT, broken)
    manager.on_error_severity(ErrorSeverity.CRITICAL, told["severity"].append)
    manager.on_error_severity(ErrorSeverity.LOW, broken)
    subscription = await run(
        manager, Poisoned(13), SubscriptionConfig(max_retries=2, **QUICK)
    )
    first, *_ = told["all"]
    assert told["category"] == told["severity"] == told["all"]
    assert [info.retry_count for info in told["all"]] == [0, 1, 2]
    assert (first.event_type, first.subscription_name) == ("Paid", "s")
    assert (first.error_type, first.error_message) == ("ValueError", "not 13")
    assert (first.position, first.classification) == (3, rare)
    assert "in handle" in first.error_stacktrace
    history = await world.store.get_events(account.aggregate_id, "Account")
    assert first.event_id == history.events[-1].event_id
    assert list(subscription.recent_errors) == told["all"][1:], "two are remembered"
    assert subscription.get_status().recent_errors_count == 2
    assert subscription.last_error_at == told["all"][-1].timestamp
    assert len([r for r in caplog.records if "error callback" in r.message]) == 3
    stats = manager.get_error_stats()
    assert (stats["total_errors"], manager.total_errors) == (3, 3)
    assert stats["total_dlq_count"] == 1
    told_of = stats["subscriptions"]["s"]
    assert (told_of["permanent_errors"], told_of["transient_errors"]) == (3, 0)
    assert told_of["retried_errors"] == 2
    assert told_of["errors_by_type"] == {"ValueError": 3}
    assert told_of["errors_by_category"] == {"permanent": 3}
    json.dumps(stats)


@pytest.mark.parametrize(
    ("error", "tries"), [(ConnectionError, 3), (ValueError, 1), (KeyError, 1)]
)
async def test_a_classifier_says_what_is_tried_again(
    world: World, error: type[Exception], tries: int
) -> None:
    """One that is given decides; without one, every error is tried again."""
    await world.account(13)
    for classifier, count in ((ErrorClassifier(), tries), (None, 3)):
        poisoned = Poisoned(13, error=error)
        manager = world.manager(
            error_handling_config=ErrorHandlingConfig(classifier=classifier)
        )
        await run(manager, poisoned, SubscriptionConfig(max_retries=2, **QUICK))
        assert len(poisoned.tried) == count
        await manager.stop()


def test_errors_are_classified() -> None:
    """By type; by your rules, the latest first, of which some look at the text."""
    classifier = ErrorClassifier()
    for error, category, severity, retryable in (
        (ConnectionResetError(), ErrorCategory.TRANSIENT, ErrorSeverity.MEDIUM, True),
        (ValueError(), ErrorCategory.APPLICATION, ErrorSeverity.MEDIUM, False),
        (MemoryError(), ErrorCategory.INFRASTRUCTURE, ErrorSeverity.CRITICAL, False),
        (SubscriptionError(), ErrorCategory.INFRASTRUCTURE, ErrorSeverity.HIGH, False),
    ):
        found = classifier.classify(error)
        assert (found.category, found.severity) == (category, severity)
        assert found.retryable is retryable
    low = ErrorClassification(ErrorCategory.TRANSIENT, ErrorSeverity.LOW, True, "mine")
    high = ErrorClassification(ErrorCategory.PERMANENT, ErrorSeverity.HIGH, False)
    classifier.register_classification(LookupError, low)
    classifier.register_pattern_rule("quota", high)
    assert classifier.classify(KeyError("a")) == low
    assert classifier.classify(KeyError("Quota reached")) == high


# Circuits.


async def test_an_open_circuit_waits_and_consumes_nothing(world: World) -> None:
    """A handler that is down for 20 events: at most the threshold is put aside."""
    await world.account(*range(1, 21))
    down, dlq = Poisoned(*range(1, 21)), InMemoryDLQRepository()
    manager = world.manager(dlq_repo=dlq)
    config = SubscriptionConfig(
        max_retries=0,
        circuit_breaker_failure_threshold=3,
        circuit_breaker_recovery_timeout=0.01,
        **QUICK,
    )
    subscription = await manager.subscribe(down, config, "s")
    await manager.start()
    await until(lambda: len(down.tried) > 10)
    assert subscription.core.state is State.CIRCUIT_OPEN
    assert subscription.state is SubscriptionState.ERROR
    assert set(down.tried) == {1, 2, 3}, "the third is tried again and again"
    assert (await manager.health_check()).status == "unhealthy"
    down.amounts.clear()
    await subscription.caught_up()
    assert down.handled == list(range(3, 21))
    assert len(await dlq.get_failed_events()) == 2


async def test_without_a_circuit_all_are_put_aside(world: World) -> None:
    """`circuit_breaker_enabled=False`: each failed event is one of its own."""
    await world.account(*range(1, 21))
    dlq = InMemoryDLQRepository()
    config = SubscriptionConfig(max_retries=0, circuit_breaker_enabled=False)
    await run(world.manager(dlq_repo=dlq), Poisoned(*range(1, 21)), config)
    assert len(await dlq.get_failed_events()) == 20
    assert config.get_circuit_breaker_config() is None


def test_parts_of_the_configuration() -> None:
    """Retries and circuit as values, with the same defaults, and checked."""
    config = SubscriptionConfig()
    assert config.get_retry_config() == RetryConfig()
    assert config.get_circuit_breaker_config() == CircuitBreakerConfig()
    for bad in (
        {"max_retries": -1},
        {"initial_delay": 61.0},
        {"exponential_base": 0.5},
        {"jitter": 1.5},
    ):
        with pytest.raises(SubscriptionConfigError, match=next(iter(bad))):
            RetryConfig(**bad)  # type: ignore[arg-type]
    for wrong in ({"failure_threshold": 0}, {"recovery_timeout": -1.0}):
        with pytest.raises(SubscriptionConfigError, match="out of its range"):
            CircuitBreakerConfig(**wrong)  # type: ignore[arg-type]


# Projections' own policies and dead letters.


class Sums(CheckpointTrackingProjection):
    """A read model that cannot do with 13."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tries = 0
        self.sum = 0

    def subscribed_to(self) -> list[type[DomainEvent]]:
        return [Paid]

    async def _process_event(self, event: Any) -> None:
        self.tries += event.amount == 13
        if event.amount == 13:
            raise ValueError("unlucky")
        self.sum += event.amount

    async def _truncate_read_models(self) -> None:
        self.sum = 0


FAST = ExponentialBackoffRetryPolicy(RetryConfig(4, 0.001, 0.002))


@pytest.mark.parametrize(
    ("policy", "tries"),
    [
        (None, 2),
        (NoRetryPolicy(), 1),
        (FAST, 5),
        (FilteredRetryPolicy(FAST, (ValueError,)), 5),
        (FilteredRetryPolicy(FAST, (OSError,)), 1),
    ],
)
async def test_a_projections_policy_is_the_subscriptions(
    world: World, policy: RetryPolicy | None, tries: int
) -> None:
    """There is one loop that retries; it asks the projection, then the configuration."""
    await world.account(1, 13, 2)
    own, others = InMemoryDLQRepository(), InMemoryDLQRepository()
    sums = Sums(world.checkpoints, own, policy)
    await run(
        world.manager(dlq_repo=others), sums, SubscriptionConfig(max_retries=1, **QUICK)
    )
    assert (sums.tries, sums.sum) == (tries, 3)
    (entry,) = await own.get_failed_events("s")
    assert (entry.retry_count, entry.error_message) == (tries - 1, "unlucky")
    assert await others.get_failed_events() == []


def test_retry_policies() -> None:
    """Pauses grow up to the longest; jitter is a share of them."""
    assert DEFAULT_RETRY_POLICY.max_retries == 3
    assert NoRetryPolicy().get_backoff(0) == 0
    exact = ExponentialBackoffRetryPolicy(RetryConfig(5, 2.0, 9.0, jitter=0))
    assert [exact.get_backoff(n) for n in range(4)] == [2, 4, 8, 9]
    assert [exact.should_retry(n, ValueError()) for n in (4, 5)] == [True, False]
    filtered = FilteredRetryPolicy(exact, (ValueError,))
    assert (filtered.max_retries, filtered.get_backoff(1)) == (5, 4)
    for n in range(50):
        assert 1.8 <= DEFAULT_RETRY_POLICY.get_backoff(0) <= 2.2, n


async def test_a_checkpoint_that_cannot_be_noted_repeats_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handled event is handled; the repository's failure is logged."""

    class Away(InMemoryCheckpointRepository):
        async def update_checkpoint(self, *_: Any) -> None:
            raise ConnectionError

    sums = Sums(Away())
    await sums.handle(paid(uuid4(), 5))
    assert sums.sum == 5
    assert "not noted" in caplog.text


class Away(InMemoryCheckpointRepository):
    """Positions whose database is away until it is said to be back."""

    away = True

    async def get_position(self, subscription_id: str) -> int | None:
        self.check()
        return await super().get_position(subscription_id)

    async def save_position(self, *position: Any) -> None:
        self.check()
        await super().save_position(*position)

    def check(self) -> None:
        if self.away:
            raise ConnectionRefusedError


@pytest.mark.parametrize("world", ["memory"], indirect=True)
async def test_checkpoints_that_are_away_are_waited_for(world: World) -> None:
    """Before the start and later: each event is handled once, nothing is put aside."""
    await world.account(1, 2, 3)
    dlq, positions, recorder = InMemoryDLQRepository(), Away(), Poisoned()
    world.checkpoints = positions
    manager = world.manager(dlq_repo=dlq)
    config = SubscriptionConfig(
        batch_size=2, checkpoint_strategy=CheckpointStrategy.EVERY_EVENT, **QUICK
    )
    subscription = await manager.subscribe(recorder, config, "s")
    async with manager:
        assert isinstance(subscription.last_error, StoreUnavailableError)
        assert recorder.handled == []
        positions.away = False
        await subscription.caught_up()
        positions.away = True
        await world.account(4, 5)
        await subscription.caught_up()
        assert subscription.state is SubscriptionState.LIVE
        assert not subscription.core.healthy, "its checkpoint is not saved"
        positions.away = False
        await world.account(6)
        await until(lambda: subscription.core.healthy)
        await subscription.caught_up()
    assert recorder.handled == [1, 2, 3, 4, 5, 6]
    assert await dlq.get_failed_events("s", None) == []
    assert await positions.get_position("s") == await world.store.get_global_position()


async def test_checkpoints_in_a_busy_file_are_waited_for(tmp_path: Path) -> None:
    """Somebody else writes to the file that they are in: no event is handled twice."""
    path, recorder, id = tmp_path / "app.db", Poisoned(), uuid4()
    async with (
        InMemoryEventStore(event_registry=REGISTRY) as store,
        aiosqlite.connect(path, timeout=0) as connection,
        aiosqlite.connect(path) as other,
    ):
        positions = SQLiteCheckpointRepository(connection)
        manager = SubscriptionManager(store, InMemoryEventBus(), positions)
        subscription = await manager.subscribe(
            recorder, SubscriptionConfig(**QUICK), "s"
        )
        async with manager:
            await other.execute("BEGIN IMMEDIATE")
            events = [opened(id), paid(id, 1, 2), paid(id, 2, 3)]
            await store.append_events(id, "Account", events, 0)
            await subscription.caught_up()
            await until(lambda: not subscription.core.healthy)  # it is not saved
            await other.rollback()
        assert recorder.handled == [1, 2]
        assert await positions.get_position("s") == 3


async def test_dead_letters_that_are_away_are_waited_for(world: World) -> None:
    """The event that is to be put aside is neither passed nor handled again."""
    tries = 0

    class Gone(InMemoryDLQRepository):
        async def add_failed_event(self, *event: Any, **more: Any) -> None:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise ConnectionResetError
            await super().add_failed_event(*event, **more)

    await world.account(1, 13, 2)
    dlq, poisoned = Gone(), Poisoned(13)
    manager = world.manager(dlq_repo=dlq)
    config = SubscriptionConfig(max_retries=0, **QUICK)
    subscription = await manager.subscribe(poisoned, config, "s")
    async with manager:
        await subscription.caught_up()
    assert tries == 4
    assert poisoned.tried == [1, 13, 2]
    assert len(await dlq.get_failed_events("s")) == 1
    assert subscription.events_dlq == 1


async def test_a_mistake_in_a_repository_is_no_outage(world: World) -> None:
    """It stops the subscription, with the error, rather than be waited for."""

    class Wrong(InMemoryCheckpointRepository):
        async def save_position(self, *_: Any) -> None:
            raise TypeError("a mistake")

    await world.account(1)
    world.checkpoints, recorder = Wrong(), Poisoned()
    manager = world.manager()
    subscription = await manager.subscribe(recorder, SubscriptionConfig(**QUICK), "s")
    async with manager:
        await asyncio.wait_for(subscription.core.join(), 20)
    assert isinstance(subscription.last_error, TypeError)
    assert recorder.handled == [1]


async def test_a_tracking_projection_tells_its_progress() -> None:
    """Checkpoint, lag and reset, as far as it has a repository."""
    sums, event = Sums(InMemoryCheckpointRepository()), paid(uuid4(), 5)
    assert await sums.get_lag_metrics() is None
    await sums.handle(event)
    assert await sums.get_checkpoint() == str(event.event_id)
    lag = await sums.get_lag_metrics()
    assert lag is not None
    assert lag["events_processed"] == 1
    await sums.reset()
    assert (sums.sum, await sums.get_checkpoint()) == (0, None)
    assert await Sums().get_lag_metrics() is None


# Re-driving.


async def test_a_dead_letter_is_driven_again(world: World) -> None:
    """Through the subscriber, while it runs; resolved, or failed again and counted."""
    await world.account(1, 13, 2)
    dlq, poisoned = InMemoryDLQRepository(), Poisoned(13)
    manager = world.manager(dlq_repo=dlq)
    subscription = await run(
        manager, poisoned, SubscriptionConfig(max_retries=0, **QUICK)
    )
    (entry,) = await dlq.get_failed_events("s")
    assert not await manager.redrive(entry.id)
    (entry,) = await dlq.get_failed_events("s")
    assert (entry.retry_count, entry.status) == (1, "failed")
    poisoned.amounts.clear()
    outcomes = await asyncio.gather(
        *(manager.redrive(entry.id) for _ in range(5)), return_exceptions=True
    )
    assert outcomes.count(True) == 1
    assert sum(isinstance(o, SubscriptionStateError) for o in outcomes) == 4
    assert poisoned.handled == [1, 2, 13]
    resolved = await dlq.get_failed_event_by_id(entry.id)
    assert resolved is not None
    assert (resolved.status, resolved.resolved_by) == ("resolved", "re-drive of s")
    assert subscription.last_processed_position == 4
    assert subscription.last_event_id == poisoned.seen[1].event_id
    with pytest.raises(SubscriptionStateError, match="is resolved"):
        await manager.redrive(entry.id)


async def test_an_entry_whose_redrive_died_is_driven_again_by_the_same_call(
    world: World,
) -> None:
    """Refused while the dead one's lease lasts, with the time when that is over."""
    await world.account(13)
    dlq, poisoned = InMemoryDLQRepository(), Poisoned(13)
    manager = world.manager(dlq_repo=dlq)
    await run(manager, poisoned, SubscriptionConfig(max_retries=0, **QUICK))
    (entry,) = await dlq.get_failed_events("s")
    poisoned.amounts.clear()
    leases = (await world.store.core()).leases
    name = f"s#letter/{entry.event_id}"
    dead = await leases.acquire(name, "dead", timedelta(minutes=1))
    assert dead is not None
    assert await dlq.mark_retrying(entry.id)
    with pytest.raises(SubscriptionStateError, match=r"it is free at \d{4}-"):
        await manager.redrive(entry.id)
    assert poisoned.handled == []
    await leases.release(dead)  # as if its time were over
    assert await manager.redrive(entry.id)
    assert poisoned.handled == [13]
    resolved = await dlq.get_failed_event_by_id(entry.id)
    assert resolved is not None
    assert resolved.status == "resolved"


async def test_what_cannot_be_driven_again_is_said(world: World) -> None:
    """No dead letters, no entry, no subscription, no event: nothing is taken."""
    with pytest.raises(SubscriptionError, match="no dead letters"):
        await world.manager().redrive(1)
    dlq = InMemoryDLQRepository()
    manager = world.manager(dlq_repo=dlq)
    with pytest.raises(SubscriptionError, match="no dead letter 1"):
        await manager.redrive(1)
    await dlq.add_failed_event(uuid4(), "s", "Paid", {}, ValueError())
    with pytest.raises(SubscriptionError, match="does not have"):
        await manager.redrive(1)
    await manager.subscribe(Poisoned(), name="s")
    with pytest.raises(SubscriptionError, match="not in the log"):
        await manager.redrive(1)
    entry = await dlq.get_failed_event_by_id(1)
    assert entry is not None
    assert entry.status == "failed"


# Kinds of subscribers.


class Batches:
    """Takes a page's events together, async or not."""

    def __init__(self, *, sync: bool) -> None:
        self.sizes: list[int] = []
        self.amounts: list[int] = []
        self.poison = {13}
        self.sync = sync

    def subscribed_to(self) -> list[type[DomainEvent]]:
        return [Paid]

    def handle_batch(self, events: Sequence[Any]) -> Any:
        if self.sync:
            return self.take(events)
        return self.later(events)

    async def later(self, events: Sequence[Any]) -> None:
        await asyncio.sleep(0)
        self.take(events)

    def take(self, events: Sequence[Any]) -> None:
        amounts = [event.amount for event in events]
        if self.poison & set(amounts):
            raise ValueError("unlucky")
        self.sizes.append(len(events))
        self.amounts += amounts


@pytest.mark.parametrize("sync", [True, False])
async def test_batches_are_handled_together(world: World, sync: bool) -> None:
    """A page at a time; a batch that fails is narrowed to the event that fails."""
    await world.account(*range(20))
    dlq, batches, infos = InMemoryDLQRepository(), Batches(sync=sync), []
    manager = world.manager(dlq_repo=dlq)
    manager.on_error(infos.append)
    config = SubscriptionConfig(batch_size=10, max_retries=1, **QUICK)
    subscription = await run(manager, batches, config)
    assert batches.amounts == [*range(13), *range(14, 20)]
    assert max(batches.sizes) == 10
    (entry,) = await dlq.get_failed_events()
    assert entry.event_data["amount"] == 13
    assert [info.retry_count for info in infos] == [0, 1]
    assert subscription.events_processed == 19
    assert supports_batch_handling(batches)
    assert not supports_batch_handling(Poisoned())


async def test_a_batch_has_its_time_too(world: World) -> None:
    """`processing_timeout` is for one call, of either kind."""
    await world.account(1)

    class Hangs:
        async def handle_batch(self, events: Sequence[Any]) -> None:
            await asyncio.Event().wait()

    config = SubscriptionConfig(processing_timeout=0.01, max_retries=0)
    subscription = await run(world.manager(), Hangs(), config)
    assert "TimeoutError" in repr(subscription.last_error)


async def test_base_classes(world: World) -> None:
    """The base classes do what their names say."""

    class Both(BatchAwareSubscriber):
        def __init__(self) -> None:
            self.seen: list[DomainEvent] = []

        def subscribed_to(self) -> list[type[DomainEvent]]:
            return [Paid]

        async def handle(self, event: DomainEvent) -> None:
            self.seen.append(event)

    class Large(FilteringSubscriber):
        def __init__(self) -> None:
            self.seen: list[DomainEvent] = []

        def subscribed_to(self) -> list[type[DomainEvent]]:
            return [Paid]

        def should_handle(self, event: Any) -> bool:
            return super().should_handle(event) and event.amount > 1

        async def _process_event(self, event: DomainEvent) -> None:
            self.seen.append(event)

    await world.account(1, 2, 3)
    both, large, manager = Both(), Large(), world.manager()
    await manager.subscribe(both)
    await manager.subscribe(large)
    await manager.start()
    assert [len(s.seen) for s in (both, large)] == [3, 2]
    assert isinstance(both, BaseSubscriber)
    assert both.can_handle(both.seen[0])
    assert not both.can_handle(opened())
    assert get_subscribed_event_types(both) == [Paid]
    assert get_subscribed_event_types(Recorder()) == []


# Filters.


async def test_events_are_chosen_by_pattern_and_tenant(world: World) -> None:
    """What is filtered out is passed, and not counted as handled."""
    tenant, id = uuid4(), uuid4()
    mine = Paid(aggregate_id=id, amount=1, tenant_id=tenant)
    events = [opened(id), mine, paid(id, 2), Closed(aggregate_id=id)]
    await world.store.append_events(id, "Account", events, 0)
    manager = world.manager()
    wanted: dict[str, tuple[SubscriptionConfig, int]] = {
        "patterns": (
            SubscriptionConfig(event_type_patterns=("P*", "?ccountClosed")),
            3,
        ),
        "tenant": (SubscriptionConfig(tenant_id=tenant), 1),
        "both": (
            SubscriptionConfig(tenant_id=tenant, event_type_patterns=("A*",)),
            0,
        ),
    }
    batches = Batches(sync=True)
    for name, (config, _) in wanted.items():
        await manager.subscribe(Recorder(), config, name)
    await manager.subscribe(batches, SubscriptionConfig(tenant_id=tenant), "batches")
    await manager.start()
    for name, (_, count) in wanted.items():
        subscription = manager.get_subscription(name)
        assert subscription is not None
        await subscription.caught_up()
        recorder: Any = subscription.subscriber
        assert len(recorder.seen) == subscription.events_processed == count, name
        assert subscription.last_processed_position == 4
    assert batches.amounts == [1]


def test_filters_match_events() -> None:
    """Each condition that is given has to be met; classes match exactly."""
    tenant, id = uuid4(), uuid4()
    mine = Paid(aggregate_id=id, amount=1, tenant_id=tenant)
    for found, event, expected in (
        (EventFilter(), mine, True),
        (EventFilter(event_types=(Opened,)), mine, False),
        (EventFilter(event_types=(Paid,), tenant_id=tenant), mine, True),
        (EventFilter(tenant_id=uuid4()), mine, False),
        (EventFilter(aggregate_types=("Order",)), mine, False),
        (EventFilter.from_patterns("P*"), mine, True),
        (EventFilter.from_patterns("p*", "Q*"), mine, False),
    ):
        assert found.matches(event) is expected, found
    config = SubscriptionConfig(event_types=(Opened,), aggregate_types=("Account",))
    assert EventFilter.from_config(config).matches(opened())
    assert EventFilter.from_subscriber(Poisoned()).event_types == (Paid,)
    assert EventFilter.from_subscriber(Recorder()).event_types is None
    joined = EventFilter.from_config_and_subscriber(config, Poisoned())
    assert joined.event_types == (Opened,), "the configuration comes first"
    narrow = SubscriptionConfig(aggregate_types=("Account",))
    joined = EventFilter.from_config_and_subscriber(narrow, Poisoned())
    assert (joined.event_types, joined.aggregate_types) == ((Paid,), ("Account",))
    assert matches_event_type(mine, None)


# Health.


async def test_health_follows_the_thresholds(world: World) -> None:
    """Errors, dead letters, lag, rate and circuit: each makes it worse at its number."""
    await world.account(13, 1, 13, 2, 13, 3)
    limits: dict[str, tuple[dict[str, Any], str]] = {
        "none": ({}, "healthy"),
        "errors": ({"max_errors_warning": 2}, "degraded"),
        "many errors": (
            {"max_errors_warning": 1, "max_errors_critical": 2},
            "unhealthy",
        ),
        "letters": ({"max_dlq_events_warning": 2}, "degraded"),
        "many letters": (
            {"max_dlq_events_warning": 1, "max_dlq_events_critical": 2},
            "unhealthy",
        ),
        "rate": ({"max_error_rate_per_minute": 2}, "degraded"),
        "rate is met": ({"max_error_rate_per_minute": 3}, "healthy"),
    }
    for name, (limit, expected) in limits.items():
        manager = world.manager(
            dlq_repo=InMemoryDLQRepository(),
            health_check_config=HealthCheckConfig(**limit),
        )
        config = SubscriptionConfig(
            start_from="beginning", max_retries=0, circuit_breaker_enabled=False
        )
        await run(manager, Poisoned(13), config)
        health = await manager.health_check()
        assert health.status == expected, name
        assert (health.total_events_processed, health.total_events_failed) == (3, 3)
        assert health.subscription_count == 1
        counts = (health.healthy_count, health.degraded_count, health.unhealthy_count)
        assert counts[["healthy", "degraded", "unhealthy"].index(expected)] == 1
        one = manager.get_subscription_health("s")
        assert one is not None
        assert one.to_dict().keys() == health.subscriptions[0].to_dict().keys()
        assert (one.error_rate, one.state) == (3.0, "live")
        assert json.dumps(health.to_dict())
        await manager.stop()
    assert world.manager().get_subscription_health("nobody") is None
    with pytest.raises(SubscriptionConfigError, match="max_errors_warning"):
        HealthCheckConfig(max_errors_warning=101)


async def test_lag_and_pause_degrade(world: World) -> None:
    """A subscription that falls behind, or is held, is seen; and so is an open circuit."""
    await world.account(*range(1, 10))
    gate, reached = asyncio.Event(), asyncio.Event()

    class Slow(Recorder):
        async def handle(self, event: DomainEvent) -> None:
            reached.set()
            await gate.wait()

    limits = HealthCheckConfig(
        max_lag_events_warning=5,
        max_lag_events_critical=20,
        circuit_open_is_unhealthy=False,
    )
    manager = world.manager(
        health_check_config=limits, dlq_repo=InMemoryDLQRepository()
    )
    slow = await manager.subscribe(Slow(), name="slow")
    starting = asyncio.create_task(manager.start())
    await asyncio.wait_for(reached.wait(), 20)
    assert slow.lag == slow.get_status().lag_events == 10
    assert (await manager.health_check()).status == "degraded"
    assert not (await manager.readiness_check()).ready
    gate.set()
    await slow.caught_up()
    await starting
    assert (await manager.health_check()).status == "healthy"
    assert (await manager.readiness_check()).ready
    assert manager.is_healthy
    assert await manager.pause_all(PauseReason.MAINTENANCE) == {"slow": True}
    assert (await manager.health_check()).status == "degraded"
    assert await manager.resume_all() == {"slow": True}
    config = SubscriptionConfig(
        max_retries=0,
        circuit_breaker_failure_threshold=1,
        circuit_breaker_recovery_timeout=60,
    )
    open_circuit = await manager.subscribe(Poisoned(1), config, "open")
    await until(lambda: open_circuit.core.state is State.CIRCUIT_OPEN)
    assert (await manager.health_check()).status == "degraded"
    assert manager.get_health()["status"] == "unhealthy"


async def test_readiness_and_liveness(world: World) -> None:
    """Ready once all have caught up; alive until a handler hangs beyond its time."""
    await world.account(1)
    manager = world.manager()
    assert not (await manager.readiness_check()).ready
    assert manager.uptime_seconds == 0

    class Stubborn(Recorder):
        hang = False

        async def handle(self, event: DomainEvent) -> None:
            while self.hang:
                try:
                    await asyncio.sleep(0.02)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    assert task is not None
                    task.uncancel()

    stubborn = Stubborn()
    await manager.subscribe(
        stubborn, SubscriptionConfig(processing_timeout=0.02), "stubborn"
    )
    await manager.start()
    ready = await manager.readiness_check()
    assert (ready.ready, ready.details) == (True, {"stubborn": "live"})
    assert manager.uptime_seconds > 0
    assert (await manager.liveness_check()).alive
    stubborn.hang = True
    await world.account(2)

    async def is_alive() -> bool:
        return (await manager.liveness_check()).alive

    while await is_alive():
        await asyncio.sleep(0.01)
    dead = await manager.liveness_check()
    assert dead.reason == "handlers hang: stubborn"
    assert dead.to_dict()["alive"] is False
    stubborn.hang = False
    while not await is_alive():
        await asyncio.sleep(0.01)
    await manager.stop()
    assert (await manager.liveness_check()).alive
    assert not (await manager.readiness_check()).ready


async def test_what_failed_for_good_is_not_ready(world: World) -> None:
    """But alive: to start the process again would not help."""
    await world.account(13)
    manager = world.manager()
    await run(manager, Poisoned(13), SubscriptionConfig(max_retries=0))
    ready = await manager.readiness_check()
    assert (ready.ready, ready.reason) == (False, "not caught up, or ended: s")
    assert (await manager.liveness_check()).alive
    assert (await manager.health_check()).status == "unhealthy"


# Pausing, starting, shutting down.


async def test_pauses_have_a_reason(world: World) -> None:
    """Why, since when, and who; until it goes on."""
    manager = world.manager()
    one = await manager.subscribe(Recorder(), name="one")
    two = await manager.subscribe(Recorder(), name="two")
    await manager.start()
    assert await manager.pause_subscription("one", PauseReason.MAINTENANCE)
    assert one.pause()
    assert one.pause_reason is PauseReason.MANUAL, "the last reason"
    assert one.paused_at is not None
    assert one.pause_duration_seconds > 0
    assert manager.paused_subscription_names == ["one"]
    assert manager.paused_subscriptions == [one]
    assert await manager.pause_all() == {"one": True, "two": True}
    assert await manager.resume_all() == {"one": True, "two": True}
    assert (two.pause_reason, two.paused_at, two.pause_duration_seconds) == (
        None,
        None,
        0,
    )
    assert await manager.resume_all() == {"one": False, "two": False}
    assert not await manager.pause_subscription("nobody")


async def test_subscriptions_may_start_one_after_the_other(world: World) -> None:
    """`concurrent=False`: the second starts when the first has caught up."""
    await world.account(*range(5))
    order: list[str] = []

    class Named(Recorder):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def handle(self, event: DomainEvent) -> None:
            await asyncio.sleep(0)
            order.append(self.name)

    manager = world.manager()
    for name in "ab":
        await manager.subscribe(Named(name), name=name)
    assert await manager.start(concurrent=False) == {"a": None, "b": None}
    assert order == ["a"] * 6 + ["b"] * 6
    one = manager.get_subscription("a")
    assert one is not None
    assert one.started_at is not None
    assert 0 < one.uptime_seconds <= one.get_status().uptime_seconds


async def test_a_shutdown_can_be_asked_for(world: World) -> None:
    """It ends like one by a signal, and the manager can be started again."""
    manager, seen = world.manager(), Recorder()
    await manager.subscribe(seen, name="s")
    assert manager.last_shutdown_result is None
    running = asyncio.create_task(manager.run_until_shutdown())
    await until(lambda: manager.is_running)
    await world.account(1)
    await until(lambda: len(seen.seen) == 2)
    assert (manager.shutdown_phase, manager.is_shutting_down) == (
        ShutdownPhase.RUNNING,
        False,
    )
    manager.request_shutdown()
    result = await asyncio.wait_for(running, 20)
    assert result is manager.last_shutdown_result
    assert (result.phase, result.forced, result.signal) == (
        ShutdownPhase.STOPPED,
        False,
        None,
    )
    assert (result.subscriptions_stopped, result.checkpoints_saved) == (1, 1)
    assert 0 <= result.duration_seconds < 20
    assert not manager.is_running
    assert await world.checkpoints.get_position("s") == 2
    await world.account(1)
    await manager.start()
    assert len(seen.seen) == 4
    assert manager.shutdown_phase is ShutdownPhase.RUNNING


async def test_a_worker_that_cannot_start_says_so(tmp_path: Path) -> None:
    """It does not wait for a signal with nothing to do."""
    store = SQLiteEventStore(str(tmp_path / "nowhere" / "events.db"))
    manager = SubscriptionManager(
        store, InMemoryEventBus(), InMemoryCheckpointRepository()
    )
    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(manager.run_until_shutdown(), 20)
    assert not manager.is_running
    assert manager.last_shutdown_result is None


async def test_a_worker_may_be_told_before_it_has_started(world: World) -> None:
    """A history that never ends does not keep it: it stops in the middle."""
    await world.account(1)
    hangs, manager = Recorder(), world.manager(shutdown_timeout=0.3)
    hangs.gate = asyncio.Event()
    await manager.subscribe(hangs, name="s")
    running = asyncio.create_task(manager.run_until_shutdown())
    await until(lambda: hangs.calls == 1)
    manager.request_shutdown()
    result = await asyncio.wait_for(running, 20)
    assert (result.forced, result.phase) == (True, ShutdownPhase.FORCED)
    assert await world.checkpoints.get_position("s") is None


async def test_strategies_of_checkpoints_fit_the_subscriber(world: World) -> None:
    """What cannot be run as configured is refused, by name, when it is subscribed."""
    from evsrc.projections import DatabaseProjection

    class Rows(DatabaseProjection):
        @handles(Paid)
        async def _paid(self, conn: Any, event: Paid) -> None: ...

    manager = world.manager()
    config = SubscriptionConfig(checkpoint_strategy=CheckpointStrategy.EVERY_EVENT)
    with pytest.raises(SubscriptionConfigError, match="rows: .*every page"):
        await manager.subscribe(Rows(world.store), config, "rows")
    other = InMemoryEventStore()
    with pytest.raises(SubscriptionConfigError, match="manager of that event store"):
        await manager.subscribe(Rows(other), name="rows")
    assert manager.subscription_count == 0
