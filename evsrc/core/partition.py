"""Say which partition a stream is in, and which worker should have which partition.

No I/O here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from zlib import crc32

from .event import StreamName


def partition_of(stream: StreamName, partitions: int) -> int:
    """Give the partition that a stream is in, from 0 on.

    It is the CRC-32 of the name, as it is shown, in UTF-8, modulo *partitions*: the
    same in every process, on every machine, for ever.

    >>> partition_of(StreamName("Task", "7f3"), 16)
    6
    """
    return crc32(f"{stream.category}-{stream.id}".encode()) % partitions


def assign(
    partitions: int, members: Collection[str], owners: Mapping[int, str]
) -> dict[int, str]:
    """Say which member should have which partition.

    Every partition gets a member, the members' shares differ by 1 at most, and as few
    partitions move as can be: who has too many gives up the last ones, and who has most
    now may keep one more. Whoever sees the same members and owners says the same.

    Args:
        partitions: how many there are.
        members: the workers that are alive; nobody: no partition is assigned.
        owners: who has a partition now; one that nobody has is absent.

    >>> assign(4, {"a", "b"}, {0: "a", 1: "a", 2: "a", 3: "gone"})
    {0: 'a', 1: 'a', 2: 'b', 3: 'b'}
    """
    if not members:
        return {}
    counts = Counter(owner for owner in owners.values() if owner in members)
    ranked = sorted(members, key=lambda member: (-counts[member], member))
    least, more = divmod(partitions, len(ranked))
    room = {member: least + (n < more) for n, member in enumerate(ranked)}
    assigned: dict[int, str] = {}
    for partition in range(partitions):
        owner = owners.get(partition)
        if owner is not None and room.get(owner, 0):
            assigned[partition] = owner
            room[owner] -= 1
    free = (partition for partition in range(partitions) if partition not in assigned)
    wanting = (member for member in ranked for _ in range(room[member]))
    assigned.update(zip(free, wanting, strict=True))
    return {partition: assigned[partition] for partition in range(partitions)}
