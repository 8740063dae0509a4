"""Subscribe students to courses: neither a course nor a student may have too many.

A subscription concerns a course and a student. As streams, one of them would have to
hold both rules. Here the decision asks for the events of both, and holds only if none
of those came in between.
"""

import asyncio
from collections.abc import Sequence
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

MOST_COURSES = 5


class DefineCourse(Struct, frozen=True):
    course: str
    capacity: int


class ChangeCapacity(Struct, frozen=True):
    course: str
    capacity: int


class Subscribe(Struct, frozen=True):
    student: str
    course: str


class CourseDefined(Struct, frozen=True):
    course: str
    capacity: int


class CapacityChanged(Struct, frozen=True):
    course: str
    capacity: int


class StudentSubscribed(Struct, frozen=True):
    student: str
    course: str


Command: TypeAlias = DefineCourse | ChangeCapacity | Subscribe
Event: TypeAlias = CourseDefined | CapacityChanged | StudentSubscribed


class RefusedError(Exception):
    """The command cannot be obeyed, and why."""


def of_course(course: str) -> str:
    return f"course:{course}"


def of_student(student: str) -> str:
    return f"student:{student}"


codec: Codec[Event] = json_codec(
    {
        "course-defined": CourseDefined,
        "capacity-changed": CapacityChanged,
        "student-subscribed": StudentSubscribed,
    },
    tags={
        CourseDefined: lambda event: [of_course(event.course)],
        CapacityChanged: lambda event: [of_course(event.course)],
        StudentSubscribed: lambda event: [
            of_course(event.course),
            of_student(event.student),
        ],
    },
)


# What there is to know. Each is a small fold over a query of its own.


def capacity_of(course: str) -> DecisionModel[int | None, Event]:
    """Know how many a course takes; None: there is no such course."""
    return DecisionModel.handling(
        codec,
        None,
        {
            CourseDefined: lambda _, event: event.capacity,
            CapacityChanged: lambda _, event: event.capacity,
        },
        tags=[of_course(course)],
    )


def subscriptions(*tags: str) -> DecisionModel[int, Event]:
    """Count the subscriptions that have all of some tags."""
    return DecisionModel.handling(
        codec, 0, {StudentSubscribed: lambda count, _: count + 1}, tags=tags
    )


class Known(Struct, frozen=True):
    """What a decision may know; what it does not ask for stays at its default."""

    capacity: int | None = None
    taken: int = 0
    courses: int = 0
    same: int = 0


def model(command: Command) -> DecisionModel[Known, Event]:
    """Say what the decision on a command has to know."""
    match command:
        case DefineCourse(course) | ChangeCapacity(course):
            return compose(Known, capacity=capacity_of(course))
        case Subscribe(student, course):
            return compose(
                Known,
                capacity=capacity_of(course),
                taken=subscriptions(of_course(course)),
                courses=subscriptions(of_student(student)),
                same=subscriptions(of_course(course), of_student(student)),
            )
        case _:
            assert_never(command)


def decide(known: Known, command: Command) -> Sequence[Event]:
    """Decide about one course, or about one course and one student."""
    match command:
        case DefineCourse(course, capacity):
            if known.capacity is not None:
                raise RefusedError(f"course {course!r} exists already")
            return [CourseDefined(course, capacity)]
        case ChangeCapacity(course, capacity):
            if known.capacity is None:
                raise RefusedError(f"there is no course {course!r}")
            if known.capacity == capacity:
                raise RefusedError(f"course {course!r} has that capacity already")
            return [CapacityChanged(course, capacity)]
        case Subscribe(student, course):
            return subscribe(known, student, course)
        case _:
            assert_never(command)


def subscribe(known: Known, student: str, course: str) -> Sequence[Event]:
    """Decide whether a student may join."""
    if known.capacity is None:
        raise RefusedError(f"there is no course {course!r}")
    if known.same:
        raise RefusedError(f"{student!r} is in course {course!r} already")
    if known.taken >= known.capacity:
        raise RefusedError(f"course {course!r} is full")
    if known.courses >= MOST_COURSES:
        raise RefusedError(f"{student!r} is in {MOST_COURSES} courses already")
    return [StudentSubscribed(student, course)]


enrolment: QueryDecider[Known, Command, Event] = QueryDecider(decide, model)


async def main() -> None:
    """Let three students want the two places of a course, all at once."""
    async with memory_store(codec) as store:

        async def ask(command: Command) -> str:
            try:
                where = StreamName("course", command.course)
                done = await transact(store, enrolment, where, command)
            except RefusedError as refused:
                return f"refused: {refused}"
            return str(*done.events)

        print(await ask(DefineCourse("chess", 2)))
        wishes = [Subscribe(name, "chess") for name in ("ann", "bob", "cid")]
        for answer in await asyncio.gather(*map(ask, wishes)):
            print(answer)
        print(await ask(ChangeCapacity("chess", 3)))
        print(await ask(wishes[-1]))


if __name__ == "__main__":
    asyncio.run(main())
