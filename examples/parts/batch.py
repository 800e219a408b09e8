"""Situation: many items for a model, and a tape on which no reply is paid for twice.

Copy this file beside loop.py. `python batch.py` shows it at work, without a model.

    def task(item, run):  # `run` as in loop.py, with the call and the tape bound
        return run(f"Who? {item}", json_with(name=str))

    results = each(task, items, call=chat("gpt-5-mini"), tape="runs.jsonl")
    for item, result in zip(items, results):
        print(item, result.value or result.why)
    print(results.spent)  # by the whole batch

    replay("runs.jsonl", task)  # which runs end otherwise with the task as it is now

Promised: Results come in the order of the items, each as soon as it and those before it
are done. What a task raises is in result.error, with what was paid for. Started again
with its tape, a batch asks only for what is not there. At most 16 items per worker are
held at a time. Replay makes no call.

Not promised: Calls in flight may overrun the limits of the batch, and are lost after
Ctrl-C. An item that is no JSON needs a key on the tape, and replay has only its repr.
Items are read by other threads, one at a time. For async tasks there is arun, with a
semaphore and asyncio.gather.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import copy_context
from dataclasses import fields, replace
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Generic, TypeVar
from weakref import finalize

if __name__ == "__main__":
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))

from loop import (
    FAULTS,
    FIXES,
    UNITS,
    Account,
    Ask,
    Attempt,
    CallError,
    GaveUp,
    Hook,
    Limits,
    Reply,
    Result,
    Spent,
    State,
    Tape,
    digest,
    event_in,
    name_of,
    recorded_settings,
    run,
    settings_of,
    whole_lines,
)

T = TypeVar("T")
Item = TypeVar("Item")
Facts = dict[str, Any]  # an event of a tape

# A batch ------------------------------------------------------------------------------


def each(
    task: Callable[[Item, BoundRun], Result[T]],
    items: Iterable[Item],
    *,
    call: Hook,
    tape: Any = None,
    workers: int = 8,
    limits: Limits = Limits(),
    key: Callable[[Item], object] | None = None,
    watch: Hook | None = None,
    give_up_after: float = 20,
) -> Results[T]:
    """Yield the result of task(item, run) for each item, in order, `workers` at a time.

    tape: a path, or a Tape. limits: of the whole batch, replies from the tape included.
    key(item): its name on the tape. Shows on stderr how it goes, unless you give a
    watcher. Raises TypeError, ValueError or OSError at once for wrong arguments. Raises
    BatchGaveUp once the first results, so many, all failed alike, as the endpoint, the
    judge or the task is broken; math.inf: never. A run that a fix-up of your own stopped,
    to wait for a person, say, did not fail.
    """
    for name, hook in ("task", task), ("call", call):
        if not callable(hook):
            raise TypeError(f"{name} is {hook!r}, not a function")
        if is_async(hook):
            cure = "use arun, a semaphore and asyncio.gather"
            raise TypeError(f"{name} {name_of(hook)} is async: {cure}")
    for name, number in ("workers", workers), ("give_up_after", give_up_after):
        if number < 1:
            raise ValueError(f"{name} is {number}, and has to be 1 or more")
    if isinstance(tape, (str, os.PathLike)):
        tape = Tape(tape)
    options: Facts = {"call": call, "tape": tape, "watch": watch}
    return Results(Batch(task, items, options, workers, limits, key, give_up_after))


def is_async(hook: Any) -> bool:
    """Return whether a function, or an object that is called, has to be awaited."""
    method = getattr(hook, "__call__", None)  # noqa: B004
    return iscoroutinefunction(hook) or iscoroutinefunction(method)


class BatchGaveUp(GaveUp):
    """Raised by `each`; `.results` has all results so far."""

    def __init__(self, why: str, results: list[Result[Any]]):
        super().__init__(why, results)
        self.results = results

    def __str__(self) -> str:
        return str(self.args[0])


class Results(Iterator[Result[T]]):
    """The results of a batch. Where it is no longer referred to, the batch stops."""

    def __init__(self, batch: Batch[T]):
        self.batch = batch  # the threads refer to this, and not to the Results
        self.close = finalize(self, batch.stop)

    def __next__(self) -> Result[T]:
        try:
            return self.batch.next_result()
        except BaseException as error:
            self.batch.stop(interrupted=isinstance(error, KeyboardInterrupt))
            raise

    @property
    def spent(self) -> Spent:
        """What the batch has spent so far, replies from the tape included."""
        account = self.batch.account
        return replace(account.spent, seconds=round(self.batch.seconds(), 3))


class Batch(Generic[T]):
    """What the threads of a batch share."""

    def __init__(
        self,
        task: Any,
        items: Iterable[Any],
        options: Facts,
        workers: int,
        limits: Limits,
        key: Any,
        give_up_after: float,
    ):
        self.task, self.items, self.key = task, iter(items), key
        self.total = len(items) if isinstance(items, Sized) else None
        self.options, self.workers, self.account = options, workers, Joint(limits)
        self.context, self.names = copy_context(), Counter[str]()
        self.reading, self.changed = threading.Lock(), threading.Condition()
        self.room = threading.Semaphore(16 * workers)
        # Guarded by `changed`:
        self.started = self.done = self.accepted = self.taken = 0
        self.results: dict[int, Result[T]] = {}  # done, and not yet taken
        self.ended = False  # no further item is started
        self.error: BaseException | None = None  # to raise after the last result
        self.failures: set[str] = set()  # of the first results
        self.all_alike = give_up_after < float("inf")
        self.give_up_after, self.first = give_up_after, list[Result[T]]()
        self.view: View | None = None
        self.began, self.stopped = time.monotonic(), 0.0

    def next_result(self) -> Result[T]:
        """Wait for the next result, and return it; raise what ended the batch."""
        if self.view is None:
            self.view = View(self)
            for _ in range(self.workers):  # daemons, so that Ctrl-C need not wait
                threading.Thread(target=self.work, daemon=True).start()
        is_known = False
        while not is_known:  # in pieces, as Windows needs it for Ctrl-C
            self.view.show()
            with self.changed:
                is_known = self.changed.wait_for(self.next_is_known, 0.25)
        if self.taken not in self.results:
            raise self.error or StopIteration
        result = self.results.pop(self.taken)
        self.taken += 1
        self.room.release()
        if self.all_alike:
            self.first.append(result)
        return result

    def next_is_known(self) -> bool:
        """Return whether there is a result to take, or will be none."""
        at_end = self.ended and self.taken == self.started
        return self.taken in self.results or at_end

    def work(self) -> None:
        """Do one item after the other, as long as there is one."""
        while True:
            self.room.acquire()
            started = self.start_item()
            if started is None:
                return
            place, item, name = started
            result = self.context.copy().run(self.result_of, item, name)
            with self.changed:
                self.results[place] = result
                self.done += 1
                self.accepted += result.accepted
                self.watch_for_failure(result)
                self.changed.notify_all()

    def start_item(self) -> tuple[int, Any, str] | None:
        """Return the next item, with its place and its name; None where it ends."""
        with self.reading:  # not `changed`: an item may take long to come
            try:
                item = None if self.ended else next(self.items)
                name = self.name_item(item)
            except BaseException as error:  # noqa: BLE001
                self.end(None if isinstance(error, StopIteration) else error)
            with self.changed:
                if self.ended:
                    return None
                self.started += 1
                return self.started - 1, item, name

    def name_item(self, item: Any) -> str:
        """Return the name of an item: its key, or else made of what it is."""
        if self.options["tape"] is None:
            name = "item"
        elif self.key:
            name = str(self.key(item))
        else:
            try:
                name = digest(item)
            except TypeError as error:
                raise TypeError(f"an item has no name on the tape: give key=; {error}")
        return numbered(self.names, name)

    def result_of(self, item: Any, name: str) -> Result[T]:
        """Return the result of an item, also where its task raises."""
        account, bound = Joint(Limits(), self.account), None
        try:
            bound = bind(item, name=name, account=account, **self.options)
            result = self.task(item, bound)
            if not isinstance(result, Result):
                returned = f"{name_of(self.task)} returned {result!r:.200}"
                raise TypeError(f"{returned}, not a Result")
            return result
        except BaseException as error:
            # SystemExit ends the batch, and so does a full disk: more would be lost.
            path = getattr(self.options["tape"], "path", "")
            on_tape = path and getattr(error, "filename", None) == path
            if on_tape or not isinstance(error, Exception):
                self.end(error)
            why = f"{type(error).__name__}: {error}"
            attempts = bound.attempts if bound else []
            caught: Any = error
            return Result(None, False, why, None, attempts, account.spent, caught)

    def watch_for_failure(self, result: Result[T]) -> None:
        """End the batch where all of its first results failed alike."""
        if not self.all_alike or self.ended:
            return
        self.failures.add(failure_of(result))
        self.all_alike = len(self.failures) == 1 and "" not in self.failures
        if self.all_alike and self.done >= self.give_up_after:
            cure = "the endpoint, the judge or the task is broken"
            why = f"{cure}: the first {self.done} results all failed alike: {result.why}"
            self.end(BatchGaveUp(why, self.first))

    def end(self, error: BaseException | None) -> None:
        """Start no further item, and have no further call made if there is an error."""
        with self.changed:
            self.ended = True
            if error is not None and self.error is None:
                self.error, self.account.closed = error, "the batch was stopped"
            self.changed.notify_all()

    def stop(self, interrupted: bool = False) -> None:
        """End the batch, and say how it went."""
        self.end(None)
        for _ in range(self.workers):
            self.room.release()
        if self.view and not self.stopped:
            self.stopped = time.monotonic()
            tape = self.options["tape"]
            self.view.close()
        self.account.closed = "the batch was stopped"
