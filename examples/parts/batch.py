"""Situation: many items for a model, and a tape on which no reply is paid for twice.

Copy this file beside loop.py. `python batch.py` shows it at work, without a model.

    def task(item, run):  # `run` as in loop.py, with the call and the tape bound
        return run(f"Who? {item}", json_with(name=str))

    results = each(task, items, call=chat("gpt-5-mini"), tape="runs.jsonl")
    for item, result in zip(items, results):
        print(item, result.value if result else result.why)
    print(results.spent)  # by the whole batch

Promised: Results come in the order of the items, each as soon as it and those before it
are done. What a task raises is in result.error, with what was paid for. Started again
with its tape, a batch asks only for what is not there. At most 16 items per worker are
held at a time.

Not promised: Calls in flight may overrun the limits of the batch, and are lost after
Ctrl-C. An item that JSON cannot hold needs `key=` on a tape, and stands there
as its repr. Items are read by other threads, one at a time. For async tasks there is
arun, with a semaphore and asyncio.gather. To test a changed task on a tape there is
replay.py.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextvars import copy_context
from dataclasses import fields, replace
from functools import partial
from importlib.util import find_spec
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Generic, TypeVar, cast
from weakref import finalize

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from loop import (
    FAULTS,
    FIXES,
    Account,
    Ask,
    Attempt,
    GaveUp,
    Hook,
    Limits,
    Result,
    Spent,
    Tape,
    digest,
    name_of,
    recorded_settings,
    run,
    settings_of,
)

T = TypeVar("T")
Item = TypeVar("Item")
Facts = dict[str, Any]  # an event of a tape
NO_LIMITS = Limits()
STOPPED = "the batch was stopped"

# A batch ------------------------------------------------------------------------------


def each(
    task: Callable[[Item, BoundRun], Result[T]],
    items: Iterable[Item],
    *,
    call: Hook,
    tape: Any = None,
    workers: int = 8,
    limits: Limits = NO_LIMITS,
    key: Callable[[Item], object] | None = None,
    watch: Hook | None = None,
    give_up_after: float = 20,
) -> Results[T]:
    """Yield the result of task(item, run) for each item, in order, `workers` at a time.

    tape: a path, or a Tape. limits: of the whole batch, replies from the tape included.
    key(item): its name on the tape; items of one key are told apart by their order.
    Shows on stderr how it goes, unless you give a watcher. Raises TypeError, ValueError
    or OSError at once for wrong arguments, and BatchGaveUp where the first results, so
    many, all failed for one reason (math.inf: never). A run that a fix-up of your own
    stopped, to wait for a person, did not fail.
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
        tape = Tape(cast("str", tape))
    batch = Batch[T](task, items, workers, limits)
    batch.options = {"call": call, "tape": tape, "watch": watch}
    batch.key, batch.give_up_after = key, give_up_after
    return Results(batch)


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
        except BaseException:
            self.batch.stop()
            raise

    @property
    def spent(self) -> Spent:
        """What the batch has spent so far, replies from the tape included."""
        return replace(self.batch.account.spent, seconds=self.batch.seconds())


class Batch(Generic[T]):
    """What the threads of a batch share."""

    def __init__(self, task: Any, items: Iterable[Any], workers: int, limits: Limits):
        self.task, self.items, self.workers = task, iter(items), workers
        self.total = len(items) if isinstance(items, Sized) else None
        self.options: Facts = {}
        self.key: Hook | None = None
        self.give_up_after = math.inf
        self.account = JointAccount(limits=limits)
        self.names: Counter[str] = Counter()
        self.context, self.view = copy_context(), cast("View | None", None)
        self.began = self.ended_at = 0.0
        self.reading, self.changed = threading.Lock(), threading.Condition()
        # Guarded by `changed`:
        self.started = self.done = self.accepted = self.taken = 0
        self.results: dict[int, Result[T]] = {}  # done and not yet taken, by place
        self.ended = False  # no further item is started
        self.error: BaseException | None = None  # to raise after the last result
        self.failures: set[str] = set()  # of the first results; two suffice
        self.first: list[Result[T]] = []  # as long as all failed alike

    def next_result(self) -> Result[T]:
        """Wait for the next result and return it; raise what ended the batch."""
        if not self.began:
            self.start()
        is_known = False
        while not is_known:  # in pieces, as Windows needs it for Ctrl-C
            if self.view:
                self.view.show()
            with self.changed:
                is_known = self.changed.wait_for(self.next_is_known, 0.25)
        with self.changed:
            if self.taken not in self.results:
                raise self.error or StopIteration
            result = self.results.pop(self.taken)
            self.taken += 1
            if self.all_failed_alike():
                self.first.append(result)
            self.changed.notify_all()
        return result

    def next_is_known(self) -> bool:
        """Return whether the next result is there, or will never be."""
        at_end = self.ended and self.taken == self.started
        return self.taken in self.results or at_end

    def has_room(self) -> bool:
        """Return whether another item may be started, or none will be."""
        return self.ended or self.started - self.taken < 16 * self.workers

    def start(self) -> None:
        """Start the threads: daemons, so that Ctrl-C need not wait for them."""
        self.began = time.monotonic()
        if self.options["watch"] is None:
            self.view = View(self)
        for _ in range(self.workers):
            work = partial(self.context.copy().run, self.work)
            threading.Thread(target=work, daemon=True).start()

    def work(self) -> None:
        """Do one item after the other, as long as there is one."""
        while (started := self.start_item()) is not None:
            place, item, name = started
            result = copy_context().run(self.result_of, item, name)
            with self.changed:
                self.results[place] = result
                self.done += 1
                self.accepted += result.accepted
                self.look_for_failure(result)
                if place == self.taken:  # others are not waited for
                    self.changed.notify_all()

    def start_item(self) -> tuple[int, Any, str] | None:
        """Return the next item, with its place and its name; None for no more."""
        item, name = None, ""
        with self.reading:
            with self.changed:
                self.changed.wait_for(self.has_room)
            try:  # without `changed`, as the next item may take long to come
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
        name = str(self.key(item)) if self.key else digest_of_item(item)
        return numbered(self.names, name)

    def result_of(self, item: Any, name: str) -> Result[T]:
        """Return the result of an item, also where its task raises."""
        account, attempts = JointAccount(self.account), list[Attempt]()
        try:
            bound = bind(item, name=name, account=account, **self.options)
            attempts = bound.attempts
            result = self.task(item, bound)
            if not isinstance(result, Result):  # of this loop.py
                returned = f"task {name_of(self.task)} returned {result!r:.200}"
                raise TypeError(f"{returned}, not a Result")
        except BaseException as caught:  # noqa: BLE001
            error: Any = caught
            path = getattr(self.options["tape"], "path", None)
            no_tape = path and getattr(error, "filename", None) == path
            if no_tape or not isinstance(error, Exception):
                self.end(error)  # a full disk: what is paid for now would be lost
                self.account.closed = STOPPED
            why = f"{type(error).__name__}: {error}"
            return Result(None, False, why, None, attempts, account.spent, error)
        return cast("Result[T]", result)

    def look_for_failure(self, result: Result[T]) -> None:
        """End the batch where its first results all failed for one reason."""
        if len(self.failures) > 1 or self.error or self.give_up_after == math.inf:
            return
        self.failures.add(failure_of(result))
        if self.all_failed_alike() and self.done >= self.give_up_after:
            why = f"the first {self.done} items all ended in: {result.why}"
            cure = "the judge, the prompt, the task or the endpoint is broken"
            self.end(BatchGaveUp(f"{cure}: {why}", self.first))

    def all_failed_alike(self) -> bool:
        """Return whether all results so far failed for one reason."""
        return len(self.failures) == 1 and "" not in self.failures

    def end(self, error: BaseException | None = None) -> None:
        """Start no further item; after the last result, raise this error."""
        with self.changed:
            self.ended, self.error = True, self.error or error
            self.changed.notify_all()

    def stop(self) -> None:
        """End the batch, have no further call made, and say how it went."""
        at_end = self.ended and self.taken == self.started and not self.error
        is_whole = at_end or self.taken == self.total
        self.end()
        if self.began and not self.ended_at:
            self.ended_at = time.monotonic()
            path = getattr(self.options["tape"], "path", "")
            if self.view:
                self.view.close("" if is_whole else path)
        self.account.closed = STOPPED

    def seconds(self) -> float:
        """Return how long the batch has taken so far."""
        now = self.ended_at or time.monotonic()
        return round(now - (self.began or now), 3)


def failure_of(result: Result[Any]) -> str:
    """Return of what a result failed, the same for all of a kind; "" for no failure.

    Where a fix-up of the user's own stopped a run, that was a decision.
    """
    error: Any = result.error
    if isinstance(error, GaveUp) and error.args and isinstance(error.args[0], Result):
        return failure_of(cast("Any", error.args[0]))  # raised by unwrap
    if error:
        return result.why
    if result.accepted or not result.attempts:
        return ""
    last = result.attempts[-1]
    by_default = {name_of(fix) for fix in (*FIXES, *FAULTS)}
    went_on = result.why.startswith(("limit reached", "stuck", "no fix-up applies"))
    if last.fixes and last.fixes[-1] not in by_default and not went_on:
        return ""
    return str(last.fault or last.complaint)


class View:
    """Shows on stderr how a batch goes: a bar on a terminal, by rich, where that is
    installed; else a line every 10 s."""

    def __init__(self, batch: Batch[Any]):
        self.batch, self.bar = batch, cast("Any", None)
        self.shown_at = time.monotonic()
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        if is_terminal and find_spec("rich"):
            self.bar = start_bar(batch.total, self.line())

    def show(self) -> None:
        """Show it, if it is time to."""
        if time.monotonic() < self.shown_at + (0.25 if self.bar else 10):
            return
        self.shown_at = time.monotonic()
        if self.bar:
            facts = {"completed": self.batch.done, "description": self.line()}
            self.bar.update(self.bar.task_ids[0], **facts)
        else:
            print(self.line(), file=sys.stderr, flush=True)

    def close(self, path: str) -> None:
        """Show how it went and, where there is the path of a tape, how to go on."""
        if self.bar:
            self.bar.stop()
        line = self.line()
        if reached := self.batch.account.limit_reached(0):
            line += f"; {reached}, with what was in flight"
        if path:
            line += f"; to go on, run it again: {path} has what was paid for"
        print(line, file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return how many results there are, what they cost, and how long it took."""
        batch, spent = self.batch, self.batch.account.spent
        done, total, seconds = batch.done, batch.total, batch.seconds()
        of_total = "" if total is None else f" of {total}"
        cost = "cost unknown" if spent.cost is None else f"${spent.cost:.4f}"
        left = ""
        if total and 0 < done < total and not batch.ended_at:
            left = f", about {seconds / done * (total - done):.0f} s left"
        return (
            f"{done}{of_total} done: {batch.accepted} accepted, "
            f"{done - batch.accepted} rejected; "
            f"{spent.calls:,} calls ({spent.reused:,} from the tape), "
            f"{spent.tokens:,} tokens, {cost}; {seconds:.0f} s{left}"
        )


def start_bar(total: int | None, line: str) -> Any:
    """Return a progress bar of rich on stderr, started."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    bar = Progress(
        BarColumn(12),
        TextColumn("{task.description}", markup=False, table_column=Column()),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
        # Rich would move stdout to stderr. That is right only where both are the same
        # terminal: then what is printed goes above the bar.
        redirect_stdout=sys.stdout.isatty() and os.path.sameopenfile(1, 2),
    )
    bar.add_task(line, total=total)
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
        name = name or digest_of_item(item)
        event = {"event": "item", "run": name, "n": 0, "hook": "", "item": item}
        tape.write(event | {"settings": recorded_settings(settings_of(call))})
    options = {"call": call, "tape": tape, "watch": watch}
    return BoundRun(name or "item", account, options)


class BoundRun:
    """`run` as a task gets it: with the call, tape, watcher and account of its item.

    A run has the name that the task gives it, or one made of what it asks: so a task
    may start runs in threads, in any order. The second run that asks the same is
    another one. after: which of the task's runs, by their names, it follows.
    `.attempts` has those of all runs that ended.
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
        after: Sequence[str] = (),
        account: Account | None = None,
        **options: Any,
    ) -> Result[T]:
        ask = ask if isinstance(ask, Ask) else Ask(ask)
        options = self.options | options
        name = name or self.name_run(ask, ask.call or options["call"])
        accounts = [it for it in (self.account, account) if it is not None]
        options |= {"name": f"{self.name}/{name}", "account": JointAccount(*accounts)}
        options["after"] = [f"{self.name}/{it}" for it in after]
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
        own_call = "" if call is self.options["call"] else name_of(call)
        asked = [ask.messages, recorded_settings(ask.settings), own_call]
        return numbered(self.names, digest(asked))


class JointAccount(Account):
    """An account that charges others as well, and keeps to their limits."""

    def __init__(self, *others: Account, limits: Limits = NO_LIMITS):
        super().__init__(limits)
        self.others, self.closed = others, ""  # closed: why no call may be made

    def limit_reached(self, *about: Any, **more: Any) -> str:
        for account in self.others:
            if reason := account.limit_reached(*about, **more):
                return reason
        return self.closed or super().limit_reached(*about, **more)

    def charge(self, **used: Any) -> None:
        super().charge(**used)
        for account in self.others:
            account.charge(**used)


def digest_of_item(item: Any) -> str:
    """Return the name of an item that has no key."""
    try:
        return digest(item)
    except TypeError as error:
        raise TypeError(f"{error}: give each a key=, or bind a name=") from None


NAMING = threading.Lock()


def numbered(names: Counter[str], name: str) -> str:
    """Return a name or, where it was used before, name#2."""
    with NAMING:
        names[name] += 1
        return name if names[name] == 1 else f"{name}#{names[name]}"


def join_results(value: T, *results: Result[Any]) -> Result[T]:
    """Return one result for a task of several runs: this value, if all were accepted.

    Otherwise it has the value as its best, and the first reason why not. It has the
    attempts of all runs, and what they spent together.
    """
    spent, attempts = Spent(), list[Attempt]()
    for result in results:
        attempts += result.attempts
        for it in fields(Spent):
            total, more = getattr(spent, it.name), getattr(result.spent, it.name)
            total = None if total is None or more is None else total + more
            setattr(spent, it.name, total)
    rejected = [result.why for result in results if not result]
    if rejected:
        return Result(None, False, rejected[0], value, attempts, spent)
    return Result(value, True, "accepted", value, attempts, spent)


# An example ---------------------------------------------------------------------------


def demo(tape: str) -> None:
    """Do a batch, and do it again from its tape."""

    def answer(messages: Any, **_settings: Any) -> str:
        return f"{len(messages[0]['content'])} letters"

    def measure(word: str, run: BoundRun) -> Result[int]:
        return run(word, lambda text: int(text.split()[0]))

    call, words = partial(answer, model="counter"), ["inch", "foot", "yard"]
    for _ in range(2):
        results = each(measure, words, call=call, tape=tape)
        print([result.value for result in results], results.spent)


if __name__ == "__main__":
    import argparse
    from tempfile import TemporaryDirectory

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    with TemporaryDirectory() as folder:
        demo(f"{folder}/runs.jsonl")
