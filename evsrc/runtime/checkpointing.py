"""Move a subscription's checkpoint, and whatever belongs in the same transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic

from ..core.errors import CheckpointError, LeaseLostError
from ..core.event import E
from ..ports import START, Also, EventStore, SaveCheckpoint
from .delivery import Delivery, Progress
from .run import PASSING, Run, log, log_fields


class Saver(Generic[E]):
    """Where the checkpoint is, as far as is known, and how it is moved."""

    def __init__(self, store: EventStore[E], run: Run, delivery: Delivery[E]) -> None:
        self.failing = False  # the last attempt to save came to nothing
        self.lost = False  # it is another worker's by now
        self.own = delivery.checkpoints is None  # kept by the store itself
        self._store = store
        self._run = run
        self.also = delivery.also
        self._kept = delivery.checkpoints or store.checkpoints
        self._known: int | None = None  # None: not known to be anywhere
        self._attempted: int | None = None  # a commit that did not succeed yet
        self._doubtful = set[int]()  # others that did not, and may have, or still may
        self._saved_at = 0.0
        self._done = 0  # how much was done when it was saved
        self._lock = asyncio.Lock()

    @property
    def position(self) -> int | None:
        """Where it is known to be."""
        return self._known

    @property
    def unsaved(self) -> int:
        """How many events were handled since."""
        return self._run.done - self._done

    def progress(self, *, page_ended: bool) -> Progress:
        """Tell what was handled since it was saved."""
        seconds = asyncio.get_running_loop().time() - self._saved_at
        return Progress(self.unsaved, seconds, page_ended)

    async def begin(self, *, load: bool) -> int | None:
        """Find the checkpoint, if it is to be known; give its position."""
        self._saved_at = asyncio.get_running_loop().time()
        if not load:
            return None
        saved = await self._run.patiently(lambda: self._kept.load(self._run.name))
        self._known = START if saved is None else saved.position
        return self._known

    async def save(self) -> None:
        """Save where the run is, unless the store cannot now; the next one saves it.

        Raises:
            CheckpointError, LeaseLostError: it is another worker's by now.
        """
        try:
            await self.commit(None)
        except PASSING as error:  # handled all the same
            self.failing = True
            self._run.note(error)
            fields = log_fields(
                self._run.name, position=self._run.position, error=error
            )
            log.warning("checkpoint of %r not saved", self._run.name, extra=fields)

    async def commit(self, reached: int | None, also: Sequence[Also] = ()) -> None:
        """Move it to *reached* (None: where the run is then) and write *also*.

        Both are one transaction if the checkpoints are the store's own.

        Raises:
            CheckpointError, LeaseLostError: it is another worker's by now.
            StoreError: the store could not.
        """
        async with self._lock:
            if also and not self.own:
                await self._store.append(also=also)
                return  # it follows when it is due; to repeat the letters is harmless
            await self.resolve()
            while True:
                position = self._run.position if reached is None else reached
                done = self._run.done
                try:
                    await self._write(position, (*also, *self.also()))
                    break
                except CheckpointError as error:
                    self.found(error)
                except LeaseLostError:
                    self.lost = True
                    raise
            self.committed(position, done)

    async def _write(self, position: int, also: Sequence[Also]) -> None:
        change = self._change(position)
        if also:
            await self._store.append(also=(change, *also))
        else:
            await self._kept.save(change)

    def _change(self, position: int) -> SaveCheckpoint:
        self._doubt()
        self._attempted = position
        return SaveCheckpoint(self._run.name, position, after=self._known)

    def changes(self, position: int) -> tuple[Also, ...]:
        """Give what a transaction writes that passes *position*."""
        return (self._change(position), *self.also())

    def committed(self, position: int, done: int) -> None:
        """Note that it is there, and how much had been *done* then."""
        self._known, self.failing = position, False
        self.undone()
        self._saved_at = asyncio.get_running_loop().time()
        self._done = done

    def undone(self) -> None:
        """Note that no commit of ours can still move it."""
        self._attempted = None
        self._doubtful.clear()

    def _doubt(self) -> None:
        if self._attempted is not None:
            self._doubtful.add(self._attempted)
            self._attempted = None

    async def resolve(self) -> None:
        """Find out what became of commits whose answers never came.

        Raises:
            CheckpointError: another worker has moved it meanwhile.
        """
        self._doubt()
        if self._doubtful and not self.own:
            self._known = None
        if not self._doubtful or self._known is None:
            self.undone()
            return
        saved = await self._store.checkpoints.load(self._run.name)
        actual = START if saved is None else saved.position
        if actual != self._known:
            self.found(CheckpointError(self._run.name, self._known, actual))

    def found(self, error: CheckpointError) -> None:
        """Go on from where the checkpoint is, if a commit of ours has moved it.

        A database may end one long after its answer was given up, until another one
        has succeeded.

        Raises:
            CheckpointError: *error*; another worker has moved it.
        """
        if error.name != self._run.name or error.actual not in self._doubtful:
            self.lost = True
            raise error
        self._known = error.actual
        self.undone()
        # it was committed, with what it passes: never go back
        self._run.position = max(self._run.position, error.actual)
