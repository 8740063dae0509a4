"""Say, as values, what a worker is doing. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from .delivery import State
from .status import Status


class PartitionStatus(Struct, frozen=True, kw_only=True):
    """What a worker is doing with one of its partitions.

    Args:
        partition: which one, from 0 on.
        token: of its lease.
        subscription: how the delivery of its events is doing.
    """

    partition: int
    token: int
    subscription: Status


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """What a worker is doing.

    Args:
        name: of the subscription.
        owner: of the worker.
        state: LIVE: it takes part; RETRYING: the store is away; STOPPED or FAILED.
        partitions: what it has, by number.
        members: the partitions of each worker that is alive, as this one saw it last.
        rebalances: how often what it has has changed.
        error: why it retries or failed; else the first of its partitions' errors.
    """

    name: str
    owner: str
    state: State
    partitions: tuple[PartitionStatus, ...]
    members: Mapping[str, tuple[int, ...]]
    rebalances: int
    error: Exception | None
