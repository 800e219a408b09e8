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
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextvars import copy_context
from dataclasses import fields, replace
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Generic, TypeVar
from weakref import finalize

if __name__ == "__main__":  # where loop.py is
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
STOPPED = "the batch was stopped"

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
    watcher. Raises TypeError, ValueError or OSError at once for wrong arguments, and
    BatchGaveUp where the first results, so many, all failed for one reason (math.inf:
    never). A run that a fix-up of your own stopped, to wait for a person, did not fail.
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
    options = {"call": call, "tape": tape, "watch": watch}
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
    """The results of a batch. The batch stops when nobody refers to this any more."""

    def __init__(self, batch: Batch[T]):
        self.batch = batch  # which is all that its threads refer to
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
        return replace(self.batch.account.spent, seconds=self.batch.seconds())


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
        self.options, self.workers = options, workers
        self.account, self.names = JointAccount(limits), Counter[str]()
        self.context, self.view = copy_context(), None if options["watch"] else View()
        self.began, self.ended_at = 0.0, 0.0
        self.room = threading.Semaphore(16 * workers)
        self.reading, self.changed = threading.Lock(), threading.Condition()
        # Guarded by `changed`:
        self.started = self.done = self.accepted = self.taken = 0
        self.results: dict[int, Result[T]] = {}  # done, and not yet taken, by place
        self.ended = False  # no further item is started
        self.error: BaseException | None = None  # to raise after the last result
        self.give_up_after = give_up_after
        self.all_alike = give_up_after < float("inf")  # all failed, for one reason
        self.failures: set[str] = set()
        self.first: list[Result[T]] = []  # taken while all were alike

    def next_result(self) -> Result[T]:
        """Wait for the next result and return it; raise what ended the batch."""
        if not self.began:
            self.start()
        is_known = False
        while not is_known:  # in pieces, as Windows needs it for Ctrl-C
            if self.view:
                self.view.show(self)
            with self.changed:
                is_known = self.changed.wait_for(self.next_is_known, 0.25)
        if self.taken not in self.results:
            raise self.error or StopIteration
        result = self.results.pop(self.taken)
        self.taken += 1
        if self.all_alike:
            self.first.append(result)
        self.room.release()
        return result

    def next_is_known(self) -> bool:
        """Return whether the next result is there, or will never be."""
        at_end = self.ended and self.taken == self.started
        return self.taken in self.results or at_end

    def start(self) -> None:
        """Start the threads. They are daemons, so that Ctrl-C need not wait for them."""
        self.began = time.monotonic()
        for _ in range(self.workers):
            work = partial(self.context.copy().run, self.work)
            threading.Thread(target=work, daemon=True).start()

    def work(self) -> None:
        """Do one item after the other, as long as there is one."""
        while True:
            self.room.acquire()
            started = self.start_item()
            if started is None:
                return
            place, item, name = started
            result = copy_context().run(self.result_of, item, name)
            with self.changed:
                self.results[place] = result
                self.done += 1
                self.accepted += result.accepted
                self.look_for_failure(result)
                self.changed.notify_all()

    def start_item(self) -> tuple[int, Any, str] | None:
        """Return the next item with its place and its name; None where there is none."""
        item, name = None, ""
        with self.reading:  # and not `changed`: the next item may take long to come
            try:
                if not self.ended:
                    item = next(self.items)
                    name = self.name_item(item)
            except BaseException as error:  # noqa: BLE001
                self.end(None if isinstance(error, StopIteration) else error)
            with self.changed:
                if self.ended:
                    return None
                self.started += 1
                return self.started - 1, item, name

    def name_item(self, item: Any) -> str:
        """Return the name of an item: its key, or else a digest of it."""
        if self.options["tape"] is None:
            return numbered(self.names, "item")
        name = str(self.key(item)) if self.key else name_of_item(item)
        return numbered(self.names, name)

    def result_of(self, item: Any, name: str) -> Result[T]:
        """Return the result of an item, also where its task raises."""
        account, bound = JointAccount(Limits(), self.account), None
        try:
            bound = bind(item, name=name, account=account, **self.options)
            result = self.task(item, bound)
            if not isinstance(result, Result):
                returned = f"task {name_of(self.task)} returned {result!r:.200}"
                raise TypeError(f"{returned}, not a Result")
            return result
        except BaseException as error:
            path = getattr(self.options["tape"], "path", None)
            no_tape = path and getattr(error, "filename", None) == path
            if no_tape or not isinstance(error, Exception):
                self.end(error)  # a full disk: what is paid for now would be lost
                self.account.closed = STOPPED
            why, caught = f"{type(error).__name__}: {error}", error
            attempts = bound.attempts if bound else []
            return Result(None, False, why, None, attempts, account.spent, caught)

    def look_for_failure(self, result: Result[T]) -> None:
        """End the batch where its first results all failed for one reason."""
        if not self.all_alike or self.ended:
            return
        self.failures.add(failure_of(result))
        self.all_alike = len(self.failures) == 1 and "" not in self.failures
        if self.all_alike and self.done >= self.give_up_after:
            why = f"the first {self.done} items all ended in: {result.why}"
            cure = "the judge, the prompt, the task or the endpoint is broken"
            self.end(BatchGaveUp(f"{cure}: {why}", self.first))

    def end(self, error: BaseException | None = None) -> None:
        """Start no further item; after the last result, raise this error."""
        with self.changed:
            self.ended, self.error = True, self.error or error
            self.changed.notify_all()

    def stop(self, interrupted: bool = False) -> None:
        """End the batch, have no further call made, and say how it went."""
        self.end()
        for _ in range(self.workers):
            self.room.release()
        if self.began and not self.ended_at:
            self.ended_at = time.monotonic()
            path = getattr(self.options["tape"], "path", "")
            if self.view:
                self.view.close(self, path if interrupted else "")
        self.account.closed = STOPPED

    def seconds(self) -> float:
        """Return how long the batch took, so far."""
        began = self.began or time.monotonic()
        return round((self.ended_at or time.monotonic()) - began, 3)


def failure_of(result: Result[Any]) -> str:
    """Return of what a result failed, the same for all of one kind; "" where it did not.

    A run that a fix-up of your own stopped did not fail: it may wait for a person.
    """
    error = result.error
    if isinstance(error, GaveUp) and isinstance(error.args[0], Result):
        result = error.args[0]  # raised by unwrap
    elif error is not None:
        return result.why
    asked = [place for place, it in enumerate(result.attempts) if not it.hook]
    last = result.attempts[asked[-1] :] if asked else []  # and what its hooks asked
    fixes = [fix for attempt in last for fix in attempt.fixes]
    by_default = {name_of(fix) for fix in (*FIXES, *FAULTS)}
    went_on = result.why.startswith(("limit reached", "stuck", "no fix-up applies"))
    if result.accepted or (fixes and fixes[-1] not in by_default and not went_on):
        return ""
    failures = [str(it.fault or it.complaint) for it in last]
    return next(filter(None, reversed(failures)), "")


# How it goes --------------------------------------------------------------------------


class View:
    """Shows on stderr how a batch goes: a bar on a terminal, else a line every 10 s."""

    def __init__(self, batch: Batch[Any]):
        self.batch, self.bar = batch, None
        self.shown_at = time.monotonic()
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self.bar = start_bar(batch.total)

    def show(self) -> None:
        """Show it, if it is time to."""
        now = time.monotonic()
        if now < self.shown_at + (0.25 if self.bar else 10):
            return
        self.shown_at = now
        if self.bar:
            facts = {"completed": self.batch.done, "figures": self.figures()}
            self.bar.update(self.bar.task_ids[0], **facts)
        else:
            self.print_line()

    def close(self, path: str) -> None:
        """Show how it went and, where there is a path of a tape, how to go on."""
        if self.bar:
            self.bar.stop()
        reached = self.batch.account.limit_reached(0, UNITS)
        notes = f"; {reached}, with what was in flight" if reached else ""
        go_on = f"; to go on, run it again: {path} has what was paid for"
        self.print_line(notes + (go_on if path else ""))

    def print_line(self, notes: str = "") -> None:
        """Print how it goes as one line."""
        done, total, seconds = self.batch.done, self.batch.total, self.batch.seconds()
        of = "" if total is None else f" of {total}"
        left = ""
        if total is not None and 0 < done < total and not notes:
            left = f", about {seconds / done * (total - done):.0f} s left"
        line = f"{done}{of} done: {self.figures()}; {seconds:.0f} s{left}{notes}"
        print(line, file=sys.stderr, flush=True)

    def figures(self) -> str:
        """Return how many results were accepted, and what was spent."""
        batch, spent = self.batch, self.batch.account.spent
        cost = "cost unknown" if spent.cost is None else f"${spent.cost:.4f}"
        calls = f"{spent.calls:,} calls ({spent.reused:,} on the tape)"
        results = f"{batch.accepted} accepted, {batch.done - batch.accepted} rejected"
        return f"{results}, {calls}, {spent.tokens:,} tokens, {cost}"


def start_bar(total: int | None) -> Any:
    """Return a progress bar of rich, with elapsed and remaining time, on stderr."""
    from rich import progress
    from rich.console import Console

    # Rich would move what is printed on stdout to stderr. Only where both are one
    # terminal is that right: then it goes above the bar.
    same = sys.stdout.isatty() and os.path.sameopenfile(1, 2)
    bar = progress.Progress(
        progress.BarColumn(12),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[figures]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
        redirect_stdout=same,
    )
    bar.add_task("", total=total, figures="")
    bar.start()
    return bar


# What a task gets ---------------------------------------------------------------------


def bind(
    item: Any,
    *,
    call: Hook,
    tape: Any = None,
    name: str = "",
    account: Account | None = None,
    watch: Hook | None = None,
) -> BoundRun:
    """Return `run` as a task gets it for an item: what the glue to an engine needs.

    name: of the item on the tape; by default a digest, for which it has to be JSON.
    """
    if tape is not None:
        name = name or name_of_item(item)
        settings = recorded_settings(settings_of(call))
        event = {"event": "item", "run": name, "n": 0, "hook": "", "item": item}
        tape.write(event | {"settings": settings})
    options = {"call": call, "tape": tape, "watch": watch}
    return BoundRun(name or "item", account, options)


class BoundRun:
    """`run` as a task gets it: with the call, tape, watcher and account of its item.

    A run has the name that the task gives it, or one made of what it asks: so a task may
    start runs in several threads, in any order. The second run that asks the same is
    another one. `.attempts` are those of the runs that ended.
    """

    def __init__(self, name: str, account: Account | None, options: Facts):
        self.name, self.account, self.options = name, account, options
        self.attempts: list[Attempt] = []
        self.names: Counter[str] = Counter()

    def __call__(
        self,
        ask: str | Sequence[Any] | Ask,
        judge: Callable[[str], T],
        *,
        name: str = "",
        account: Account | None = None,
        **options: Any,
    ) -> Result[T]:
        ask = ask if isinstance(ask, Ask) else Ask(ask)
        options = self.options | options
        if not name:
            name = self.name_run(ask, options["call"])
        shared = [it for it in (self.account, account) if it is not None]
        options |= {"name": f"{self.name}/{name}", "account": JointAccount(*shared)}
        try:
            result = run(ask, judge, **options)
        except BaseException as error:
            self.attempts += getattr(error, "attempts", [])
            raise
        self.attempts += result.attempts
        return result

    def name_run(self, ask: Ask, call: Hook) -> str:
        """Return a name for a run: by what it asks, and how often that was."""
        if self.options["tape"] is None:
            return numbered(self.names, "run")
        is_own = (ask.call or call) is not self.options["call"]
        own = name_of(ask.call or call) if is_own else ""
        asked = [ask.messages, recorded_settings(ask.settings), own]
        return numbered(self.names, digest(asked))
