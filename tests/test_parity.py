"""The classes take what eventsource-py's take, in that order and with those defaults.

The tables are its public interface at version 0.4, for what its getting-started guide
and reference name. A class is written as it is called, with its members below it.
"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import evsrc
import evsrc.projections
import evsrc.snapshots
import evsrc.subscriptions

CALLS = """
DomainEvent(*, event_type, event_version=1, aggregate_id, aggregate_type, aggregate_version=1, tenant_id=None, actor_id=None, causation_id=None)
    event_id occurred_at correlation_id metadata
    with_causation(causing_event) with_metadata(**kw) with_aggregate_version(version)
    to_dict() from_dict(values) is_caused_by(event) is_correlated_with(event)
EventRegistry()
    register(event_class, event_type=None) get(event_type) get_or_none(event_type)
    contains(event_type) list_types() list_classes() clear() unregister(event_type)
    __len__() __bool__() __contains__(event_type) __iter__()
get_event_class(event_type)
get_event_class_or_none(event_type)
is_event_registered(event_type)
list_registered_events()
AggregateRoot(aggregate_id)
    aggregate_type schema_version validate_versions aggregate_id version state
    uncommitted_events has_uncommitted_events
    apply_event(event, is_new=True) load_from_history(events) get_next_version()
    mark_events_as_committed() clear_uncommitted_events() _raise_event(event)
    _apply(event) _get_initial_state() _serialize_state() _get_state_type()
    _restore_from_snapshot(state_dict, version)
DeclarativeAggregate(aggregate_id)
    unregistered_event_handling
AggregateRepository(event_store, aggregate_factory, aggregate_type, event_publisher=None, snapshot_store=None, snapshot_threshold=None, snapshot_mode="sync", tracer=None, enable_tracing=True)
    aggregate_type event_store event_publisher snapshot_store snapshot_threshold
    snapshot_mode has_snapshot_support pending_snapshot_count
    async load(aggregate_id) async load_or_create(aggregate_id) async save(aggregate)
    async create_snapshot(aggregate) async await_pending_snapshots()
    async exists(aggregate_id) async get_version(aggregate_id)
    async get_or_raise(aggregate_id) create_new(aggregate_id)
StoredEvent(event, stream_id, stream_position, global_position, stored_at)
    event_id event_type aggregate_id aggregate_type
ReadOptions(direction=evsrc.ReadDirection.FORWARD, from_position=0, limit=None, from_timestamp=None, to_timestamp=None, tenant_id=None)
EventStream(aggregate_id, aggregate_type, events=[], version=0)
    is_empty latest_event empty(aggregate_id, aggregate_type)
AppendResult(success, new_version, global_position=0, conflict=False)
    successful(new_version, global_position=0) conflicted(current_version)
EventStore
    async append_events(aggregate_id, aggregate_type, events, expected_version)
    async get_events(aggregate_id, aggregate_type=None, from_version=0, from_timestamp=None, to_timestamp=None)
    async get_events_by_type(aggregate_type, tenant_id=None, from_timestamp=None)
    async event_exists(event_id) async get_stream_version(aggregate_id, aggregate_type)
    read_stream(stream_id, options=None) read_all(options=None)
    async get_global_position()
EventPublisher()
    async publish(events)
InMemoryEventStore(*, tracer=None, enable_tracing=True)
    async clear() async get_all_events() async get_event_count()
    async get_aggregate_ids()
SQLiteEventStore(database, event_registry=None, *, wal_mode=True, busy_timeout=5000, tracer=None, enable_tracing=True, type_converter=None, uuid_fields=None, string_id_fields=None, auto_detect_uuid=True)
    async initialize() async close() is_connected
PostgreSQLEventStore(session_factory, *, event_registry=None, outbox_enabled=False, tracer=None, enable_tracing=True, type_converter=None, uuid_fields=None, string_id_fields=None, auto_detect_uuid=True)
snapshots.Snapshot(aggregate_id, aggregate_type, version, state, schema_version, created_at)
snapshots.SnapshotStore()
    async save_snapshot(snapshot) async get_snapshot(aggregate_id, aggregate_type)
    async delete_snapshot(aggregate_id, aggregate_type)
    async snapshot_exists(aggregate_id, aggregate_type)
    async delete_snapshots_by_type(aggregate_type, schema_version_below=None)
snapshots.InMemorySnapshotStore()
    async clear() snapshot_count
snapshots.SQLiteSnapshotStore(database_path)
snapshots.PostgreSQLSnapshotStore(session_factory)
CheckpointData(projection_name, last_event_id=None, last_event_type=None, last_processed_at=None, events_processed=0, global_position=None)
LagMetrics(projection_name, last_event_id, latest_event_id, lag_seconds=0.0, events_processed=0, last_processed_at=None)
CheckpointRepository()
    async get_checkpoint(projection_name) async reset_checkpoint(projection_name)
    async update_checkpoint(projection_name, event_id, event_type)
    async get_lag_metrics(projection_name, event_types=None)
    async get_all_checkpoints() async get_position(subscription_id)
    async save_position(subscription_id, position, event_id, event_type)
InMemoryCheckpointRepository()
    async clear()
PostgreSQLCheckpointRepository(conn)
SQLiteCheckpointRepository(connection)
DLQEntry(*, id, event_id, projection_name, event_type, event_data, error_message, error_stacktrace=None, retry_count=0, first_failed_at, last_failed_at, status="failed", resolved_at=None, resolved_by=None)
DLQStats(total_failed, total_retrying, affected_projections, oldest_failure)
ProjectionFailureCount(projection_name, failure_count, oldest_failure, most_recent_failure)
DLQRepository()
    async add_failed_event(event_id, projection_name, event_type, event_data, error, retry_count=0)
    async get_failed_events(projection_name=None, status="failed", limit=100)
    async get_failed_event_by_id(dlq_id) async mark_resolved(dlq_id, resolved_by)
    async mark_retrying(dlq_id) async get_failure_stats()
    async get_projection_failure_counts()
    async delete_resolved_events(older_than_days=30)
InMemoryDLQRepository()
SQLiteDLQRepository(connection)
PostgreSQLDLQRepository(conn)
projections.Projection()
    async handle(event) async reset()
projections.SyncProjection()
    handle(event) reset()
projections.CheckpointTrackingProjection(checkpoint_repo=None, dlq_repo=None, retry_policy=None, tracer=None, enable_tracing=False)
    async handle(event) async reset() async get_checkpoint() async get_lag_metrics()
    projection_name subscribed_to() async _process_event(event)
    async _truncate_read_models()
projections.DeclarativeProjection(checkpoint_repo=None, dlq_repo=None, enable_tracing=False)
    unregistered_event_handling
projections.DatabaseProjection(session_factory, checkpoint_repo=None, dlq_repo=None, enable_tracing=False)
projections.RetryPolicy()
    max_retries get_backoff(attempt) should_retry(attempt, error)
projections.ExponentialBackoffRetryPolicy(config=None)
    max_retries get_backoff(attempt) should_retry(attempt, error)
projections.NoRetryPolicy()
    max_retries get_backoff(attempt) should_retry(attempt, error)
projections.FilteredRetryPolicy(base_policy, retryable_exceptions)
projections.handles(event_type)
projections.get_handled_event_type(method)
projections.is_event_handler(method)
EventBus()
    async publish(events, background=False) subscribe(event_type, handler)
    unsubscribe(event_type, handler) subscribe_all(subscriber)
    subscribe_to_all_events(handler) unsubscribe_from_all_events(handler)
InMemoryEventBus(*, tracer=None, enable_tracing=True)
    clear_subscribers() get_subscriber_count(event_type=None) get_stats()
    get_wildcard_subscriber_count() get_background_task_count()
    async shutdown(timeout=30.0)
subscriptions.RetryConfig(max_retries=5, initial_delay=1.0, max_delay=60.0, exponential_base=2.0, jitter=0.1)
subscriptions.CircuitBreakerConfig(failure_threshold=5, recovery_timeout=30.0, half_open_max_calls=1)
subscriptions.SubscriptionConfig(*, start_from="checkpoint", batch_size=100, max_in_flight=1000, backpressure_threshold=0.8, checkpoint_strategy=evsrc.subscriptions.CheckpointStrategy.EVERY_BATCH, checkpoint_interval_seconds=5.0, processing_timeout=30.0, shutdown_timeout=30.0, event_types=None, aggregate_types=None, tenant_id=None, continue_on_error=True, max_retries=5, initial_retry_delay=1.0, max_retry_delay=60.0, retry_exponential_base=2.0, retry_jitter=0.1, circuit_breaker_enabled=True, circuit_breaker_failure_threshold=5, circuit_breaker_recovery_timeout=30.0)
    get_retry_config() get_circuit_breaker_config()
subscriptions.create_catch_up_config(batch_size=1000, checkpoint_every_batch=True)
subscriptions.create_live_only_config()
subscriptions.SubscriptionManager(event_store, event_bus, checkpoint_repo, shutdown_timeout=30.0, *, drain_timeout=10.0, dlq_repo=None, error_handling_config=None, health_check_config=None, tracer=None, enable_tracing=True)
    async subscribe(subscriber, config=None, name=None) async unsubscribe(name)
    subscriptions subscription_names subscription_count get_subscription(name)
    get_all_statuses() async start(subscription_names=None, concurrent=True)
    async stop(timeout=30.0, subscription_names=None) is_running get_health()
    async run_until_shutdown(shutdown_timeout=None) request_shutdown()
    is_shutting_down shutdown_phase last_shutdown_result on_error(callback)
    on_error_category(category, callback) on_error_severity(severity, callback)
    get_error_stats() total_errors total_dlq_count async health_check()
    async readiness_check() async liveness_check() is_healthy uptime_seconds
    get_subscription_health(subscription_name) paused_subscriptions
    async pause_subscription(name, reason=None) async resume_subscription(name)
    async pause_all(reason=None) async resume_all() paused_subscription_names
    __aenter__() __aexit__(*_)
subscriptions.Subscription(name, config, subscriber)
    state last_processed_position last_event_id last_event_type events_processed
    events_failed last_error last_error_at events_dlq lag is_running is_terminal
    uptime_seconds get_status() pause(reason=None) resume() is_paused
    pause_duration_seconds
subscriptions.SubscriptionStatus(*, name, state, position, lag_events, events_processed, events_failed, last_processed_at, started_at, uptime_seconds, error, events_dlq, recent_errors_count)
subscriptions.supports_batch_handling(subscriber)
subscriptions.get_subscribed_event_types(subscriber)
subscriptions.matches_event_type(event, event_types)
subscriptions.matches_pattern(event_type_name, pattern)
subscriptions.BaseSubscriber()
    can_handle(event) async handle(event) subscribed_to()
subscriptions.BatchAwareSubscriber()
    async handle_batch(events)
subscriptions.FilteringSubscriber()
    should_handle(event)
subscriptions.EventFilter(event_types=None, event_type_patterns=None, aggregate_types=None, tenant_id=None)
    from_config(config) from_subscriber(subscriber) from_patterns(*patterns)
    from_config_and_subscriber(config, subscriber) matches(event)
subscriptions.ErrorClassifier()
    register_classification(exception_type, classification) classify(error)
    register_pattern_rule(pattern, classification)
subscriptions.ErrorHandlingConfig(*, strategy=evsrc.subscriptions.ErrorHandlingStrategy.RETRY_THEN_CONTINUE, max_recent_errors=100, max_errors_before_stop=None, error_rate_threshold=None, dlq_enabled=True, notify_on_severity=None)
subscriptions.HealthCheckConfig(*, max_error_rate_per_minute=10, max_errors_warning=10, max_errors_critical=100, max_lag_events_warning=1000, max_lag_events_critical=10000, circuit_open_is_unhealthy=True, max_dlq_events_warning=10, max_dlq_events_critical=100)
AggregateNotFoundError(aggregate_id, aggregate_type=None)
EventVersionError(expected_version, actual_version, event_id, aggregate_id)
UnhandledEventError(event_type, event_id, handler_class, available_handlers)
EventTypeNotFoundError(event_type, available_types)
DuplicateEventTypeError(event_type, existing_class, new_class)
ProjectionError(projection_name, event_id, message)
SerializationError(event_type, message)
subscriptions.SubscriptionAlreadyExistsError(name)
"""

VALUES: dict[str, dict[str, Any]] = {
    "ExpectedVersion": {"ANY": -1, "NO_STREAM": 0, "STREAM_EXISTS": -2},
    "ReadDirection": {"FORWARD": "forward", "BACKWARD": "backward"},
    "subscriptions.CheckpointStrategy": {
        "EVERY_EVENT": "every_event",
        "EVERY_BATCH": "every_batch",
        "PERIODIC": "periodic",
    },
    "subscriptions.SubscriptionState": {
        "STARTING": "starting",
        "CATCHING_UP": "catching_up",
        "LIVE": "live",
        "PAUSED": "paused",
        "STOPPED": "stopped",
        "ERROR": "error",
    },
}

OTHERWISE = {
    "LagMetrics.latest_event_id",  # a repository of checkpoints does not see the log
    "CheckpointRepository.get_lag_metrics.event_types",
    "DatabaseProjection.checkpoint_repo",  # the position is beside the rows
    "ErrorHandlingConfig.strategy",  # nothing is left out unless it is spelled out
    "PostgreSQLEventStore.outbox_enabled",  # the log is the outbox
    "SubscriptionConfig.shutdown_timeout",  # the manager's alone
    "SubscriptionManager.stop.timeout",  # by default the manager's shutdown_timeout
}
"""What differs on purpose; the page says so. Its row "Options" counts too."""

PAGE = Path(__file__).parents[1] / "docs" / "classes.md"


def options_that_are_not_there() -> set[str]:
    """Give the options that the documentation says do not exist."""
    text = PAGE.read_text("utf-8")
    (row,) = re.findall(r"^\| Options \| (.*) do not exist\.", text, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row))


def parsed() -> list[tuple[str, str]]:
    """Give each entry as the name of its owner and what is said of it."""
    found, owner = [], ""
    for line in CALLS.strip().splitlines():
        if not line.startswith(" "):
            owner = line.partition("(")[0]
            found.append(("", line))
            continue
        entries = re.findall(r"(?:async )?\w+(?:\([^)]*\))?", line)
        found += [(owner, entry) for entry in entries]
    return found


def home(name: str) -> Any:
    thing: Any = evsrc
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def placed(signature: inspect.Signature, wrong: set[str]) -> list[str]:
    """Give the parameters that may be given by position, in their order."""
    return [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name not in wrong
    ]


def differences(mine: inspect.Signature, theirs: inspect.Signature) -> set[str]:
    """Name the parameters that could not be given to ours as they were to theirs."""
    ours, wrong = mine.parameters, set[str]()
    for name, parameter in theirs.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name not in ours:
            wrong.add(name)
        elif parameter.default == []:  # of a field that is made anew each time
            wrong |= {name} if ours[name].default is inspect.Parameter.empty else set()
        elif parameter.default not in (parameter.empty, ours[name].default):
            wrong.add(name)
    at = zip(placed(theirs, wrong), placed(mine, wrong), strict=False)
    return wrong | {name for name, other in at if name != other}


def signature_of(thing: Any) -> inspect.Signature:
    """Give what a function takes, a method's without its instance or class."""
    signature = inspect.signature(thing)
    parameters = [
        p for name, p in signature.parameters.items() if name not in ("self", "cls")
    ]
    return signature.replace(parameters=parameters)


def compared(owner: str, entry: str) -> set[str]:
    """Name the parameters of one entry that differ; refuse an entry that is not there."""
    name, takes, rest = entry.removeprefix("async ").partition("(")
    path = f"{owner}.{name}" if owner else name
    place = home(owner) if owner else None
    thing = inspect.getattr_static(place, name, None) if owner else home(name)
    if thing is None and not takes:  # an attribute of each instance
        thing = name if name in place.__init__.__code__.co_names else None
    assert thing is not None, f"{path} is missing"
    if not takes or getattr(thing, "_is_protocol", False):
        return set()
    thing = getattr(thing, "__func__", thing)
    if owner and not name.startswith("__"):
        assert inspect.iscoroutinefunction(thing) == entry.startswith("async "), path
    theirs = inspect.signature(eval(f"lambda {rest[:-1]}: 0"))
    different = differences(signature_of(thing), theirs)
    short = re.sub(r"^(projections|subscriptions|snapshots)\.", "", path)
    return {f"{short}.{each}" for each in different - options_that_are_not_there()}


def test_calls_are_as_they_were() -> None:
    """Names, order, defaults and what is awaited; but for what differs on purpose."""
    entries = parsed()
    assert len(entries) > 250
    found = {each for owner, entry in entries for each in compared(owner, entry)}
    assert found == OTHERWISE


@pytest.mark.parametrize("name", VALUES)
def test_values_are_as_they_were(name: str) -> None:
    """The members of enumerations, and what they stand for."""
    kind = home(name)
    assert issubclass(kind, Enum)
    assert {member.name: member.value for member in kind} == VALUES[name]
