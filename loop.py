# loop.py 0.1.0 (2026-11-24): call a language model, inspect the reply, decide what next
# SPDX-License-Identifier: MIT-0
# SPDX-FileCopyrightText: 2026 The loop.py authors
# Origin: the loop.py repository, tag v0.1.0. Copy this file, edit it, keep these lines.
# To update an edited copy: git merge-file loop.py base.py new.py, where base.py is the
# file as it was at that tag, and new.py the newer one.
# Needs Python 3.10 or later; httpx (or httpx2) for section 6, rich for a live view.
"""One loop round an unreliable model: call it, inspect its reply, decide what to do.

    result = run("Name and age, as JSON: Ada is 36.", json_with(name=str, age=int),
                 call=chat("gpt-5-mini"))
    result.value        # {"name": "Ada", "age": 36}, and result.why says how it ended

The words, each with an example:

    ask        "Name and age, as JSON: Ada is 36."   a text, or a list of messages
    call       chat("gpt-5-mini")                    call(messages, **settings) -> Reply
    reply      '{"name": "Ada", "age": "36"}'        what came back
    judge      json_with(name=str, age=int)          judge(text) -> value, or raises
    complaint  'age: expected an integer, found ..'  why the judge refused the reply
    fault      CallError("too busy", status=429)     why there was no reply
    fix-up     json_slips                            fix(state) -> move; a special case
    move       Ask(messages, seed=1)                 or Use(text), Stop(why); None: pass

Each hook (call, judge, fix-up) is a plain function that you write or copy. A judge or
fix-up that needs a model is a generator: `reply = yield Ask(messages, call=other)`. Any
may be `async`: write `await arun(...)`, `achat` for `chat`; all else stays the same.

Not here: prompt templates, agents, vector stores, schemas, plug-ins, config, servers;
durable timers, queues and clusters, which belong to the engines made for them.

Each section uses only those above it: cut the file at any heading, and the rest works.

    1. Words        what the hooks see and say
    2. The loop     steps: the only place that calls, waits, retries or ends
    3. Drivers      run, arun; script, a call for your tests
    4. Judges       json_with, one_of, matches, grounded, check, all_of, probe
    5. Fix-ups      the special cases: run(..., fixes=[mine, *FIXES], faults=...).
                    FIXES, of a refused reply: repair it, for free; else send the task
                    again with a new seed, every other time with the complaint as a note
                    below it; never with the bad reply: shown, it is repeated.
                    FAULTS, of a failed call: wait, send the same (429); stop (400).
    6. Calls        chat, achat: any OpenAI-compatible endpoint
    7. The screen   show: a run as it happens, line by line; screen: a live view of it
    8. The tape     Tape: nothing is paid for twice; replay; each: a task, many items
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import shlex
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from errno import ENOSPC
from functools import lru_cache, partial
from inspect import CO_VARKEYWORDS, isasyncgen, iscoroutinefunction, isgenerator
from itertools import count
from queue import SimpleQueue
from signal import SIG_DFL, SIGTERM, getsignal, signal
from threading import Lock, Thread, current_thread, main_thread
from typing import Any, ClassVar, Generic, TypeVar, cast
from weakref import finalize

__version__ = "0.1.0"

# 1. Words -----------------------------------------------------------------------------

T = TypeVar("T")
Messages = list[dict[str, Any]]  # [{"role": "user", "content": "..."}, ...]
Hook = Callable[..., Any]
FIXES: list[Hook] = []  # asked in order about a refused reply; filled in section 5
FAULTS: list[Hook] = []  # asked in order about a failed call; filled in section 5

# A judge that raises one of these has a bug: `run` raises it. Any other error refuses:
# a KeyError or a TypeError is, as a rule, caused by what the model wrote.
BUGS = (NameError, ImportError, NotImplementedError, OSError, MemoryError)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call brought back. None means unknown, never zero."""

    text: str
    finish: str = "unknown"  # "stop", "length", "refusal", "tools" or "unknown"
    reasoning: str = ""
    tool_calls: tuple[Any, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None  # dollars
    seconds: float | None = None
    model: str = ""
    id: str = ""
    raw: Any = field(default=None, repr=False)


@dataclass(eq=False)
class Reject(Exception):
    """Raised by a judge: the complaint, and what is good so far."""

    why: str
    value: Any = None  # partial progress; Result.best is the best of a run
    score: float | None = None  # of this value; higher is better

    def __str__(self) -> str:
        return self.why


@dataclass(eq=False)
class CallError(Exception):
    """Raised by a call: why there is no reply. OSError and TimeoutError serve too."""

    why: str
    status: int | None = None  # of HTTP
    code: str = ""  # the endpoint's own word for it
    wait: float | None = None  # seconds that the endpoint told us to wait
    billed: bool = False  # it may be charged for, although no reply came
    retry: bool | None = None  # what the endpoint says of trying again
    __str__ = Reject.__str__


class HookError(TypeError):
    """A hook broke its contract. `.attempts` has what was paid for until then."""


class GaveUp(Exception):
    """Raised by Result.unwrap, with the Result in `.args[0]`, and by each."""


class Ask:
    """A move: call again with these messages, after `wait` seconds.

    Settings and call stick until changed; None removes a setting; another call starts
    with none. An Ask that equals one whose reply was refused is ignored."""

    def __init__(
        self, ask: str | Messages, wait: float = 0, call: Any = None, **settings: Any
    ):
        self.messages: Any = ask
        if isinstance(ask, str):
            self.messages = [{"role": "user", "content": ask}]
        self.wait, self.call, self.settings = wait, call, settings


class Use:
    """A move: inspect these texts in order: repairs of the reply, free of charge."""

    def __init__(self, *texts: str):
        self.texts: Sequence[Any] = texts


@dataclass(frozen=True, slots=True)
class Stop:
    """A move: end the run; this was never going to work."""

    why: str


@dataclass(frozen=True, slots=True)
class Accept:
    """What a judge returns where the accepted value is None or a bool."""

    value: Any


@dataclass(frozen=True, slots=True)
class Limits:
    """When to give up, checked before each call. None: the default; math.inf: never."""

    tries: float | None = None  # replies judged; default 8
    faults: float | None = None  # calls failed; 8
    calls: float | None = None  # requests sent, those of hooks too; 32
    seconds: float | None = None  # waits included; 600
    tokens: float | None = None  # input + output; no limit
    cost: float | None = None  # dollars; no limit; needs a call that has a price


@dataclass(slots=True)
class Spent:
    """What a run has cost so far, the calls of its hooks included."""

    tries: int = 0  # replies judged
    faults: int = 0  # calls failed
    calls: int = 0  # requests sent, the failed ones and those of hooks too
    seconds: float = 0.0
    tokens: int = 0  # input + output
    cost: float | None = 0.0  # dollars; None once a call had no known price
    estimated: int = 0  # tokens among those that nobody reported: characters / 4
    reused: int = 0  # calls among those that the tape had, paid for before


@dataclass(slots=True)
class Attempt:
    """One request and what became of it."""

    messages: Messages
    settings: dict[str, Any]
    call: Hook = field(repr=False)
    hook: str = ""  # the hook that asked; "" where it is the task itself
    reply: Reply | None = None
    fault: Exception | None = None
    complaint: str = ""
    fixes: list[str] = field(default_factory=list[str])  # the fix-ups that spoke
    seconds: float = 0.0  # the wait before it included
    key: str = ""  # of the request, on a tape
    reused: bool = False  # the reply was on the tape


@dataclass(slots=True)
class Result(Generic[T]):
    """How a run ended: truthy when a reply was accepted, readable when printed."""

    value: T | None  # what the judge returned
    accepted: bool
    why: str
    best: Any  # the refused value with the highest score, or the last; else a text
    attempts: list[Attempt]
    spent: Spent
    error: Exception | None = None  # of an item of `each`: what its task raised

    def __bool__(self) -> bool:
        return self.accepted

    def __str__(self) -> str:
        it = self.spent
        return f"{self.why} ({it.calls} calls, {it.tokens} tokens, {it.seconds:.1f} s)"

    def unwrap(self) -> T:
        """Return the accepted value, or raise GaveUp."""
        if not self.accepted:
            raise GaveUp(self)
        return self.value  # type: ignore[return-value]  # None only where T is None


@dataclass(slots=True)
class State:
    """What a fix-up sees. `memory` is for hooks to write in, all else to read."""

    task: Messages  # the messages first asked
    judge: Hook
    call: Hook
    fixes: Sequence[Hook]
    faults: Sequence[Hook]
    limits: Limits
    messages: Messages = field(init=False)  # last sent
    settings: dict[str, Any] = field(init=False)  # sent with them
    changed: dict[str, Any] = field(default_factory=dict[str, Any])  # by moves so far
    reply: Reply = Reply("")  # as it came
    texts: Sequence[Any] = ()  # inspected last: the reply's, or repairs of it
    text: str = ""  # the last of these
    complaint: str = ""  # about that text
    fault: Exception | None = None  # if the last call failed
    judged: int = 0  # replies so far
    stuck: bool = False  # one and the same reply came for the third time
    best: Any = None
    attempts: list[Attempt] = field(default_factory=list[Attempt])  # append-only
    spent: Spent = field(default_factory=Spent)
    memory: dict[str, Any] = field(default_factory=dict[str, Any])


BLANK = "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\U000e0100-\U000e01ef]"


def visible(text: str) -> str:
    """Return hostile text safe to show: what acts on a terminal or hides is escaped."""
    kept = "\n\t\u3000\u200c\u200d"  # the joiners are in emoji, and in Persian
    text = re.sub(BLANK, lambda found: ascii(found[0])[1:-1], text)
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


# 2. The loop --------------------------------------------------------------------------

Steps = Generator[tuple[Hook, Any], Any, Any]  # yields (hook, what it returned)


def steps(state: Run, move: Any) -> Steps:
    """Call, inspect, decide: every call, wait, retry and ending is in these lines.

    What is yielded may be awaitable: a driver sends back its value or throws its error.
    """
    try:
        while True:
            # END: told to stop; or, before an Ask, a limit or a wait that does not fit.
            if isinstance(move, Stop):
                return state.ended(move.why)
            if isinstance(move, Ask) and (limit := state.over(move)):
                return state.ended(limit)

            # CALL: a reply is charged, and on the tape, before anyone looks at it.
            state.texts = move.texts if isinstance(move, Use) else ()
            if isinstance(move, Ask):
                came = state.begin(move)
                if came is None:  # it was not paid for before
                    if move.wait:
                        yield state.sleep, state.sleep(move.wait)
                    state.tell("sent", messages=state.messages, settings=state.settings)
                    try:
                        came = state.call(state.messages, **state.changed)
                        came = yield state.call, came
                    except (CallError, OSError) as fault:  # a 429, a broken line ...
                        came = fault
                state.texts = state.charged(came)

            # INSPECT: the judge returns the value, or what it raises is the complaint.
            for text in state.texts:
                if text in state.seen:
                    continue
                try:
                    value = yield from consult(state, state.judge, text)
                    value = verdict(state.judge, value)
                except (CallError, HookError, *BUGS):
                    raise
                except Exception as error:
                    if vars(error).get("attempts") is state.attempts:
                        raise  # a bug in a call that the judge made
                    state.refused(text, error)
                else:
                    return state.ended("accepted", value)

            # DECIDE: the first special case that speaks makes the next move.
            for fix in state.faults if state.fault else state.fixes:
                move = yield from consult(state, fix, state)
                if state.speaks(fix, move):
                    break
            else:
                move = Stop("stuck" if state.stuck else "no fix-up speaks")
    except CallError as fault:  # of a call that a hook made: it failed for good
        return state.ended(str(fault))
    except BaseException as error:  # a bug or Ctrl-C: it has what was paid for
        vars(error).setdefault("attempts", state.attempts)
        raise


@dataclass(slots=True)
class Run(State):
    """A run: what the hooks see of it, and the loop's own books."""

    lock: ClassVar[Any] = nullcontext()  # a batch, which threads share, has a real one
    watch: Hook | None = None
    tape: Any = None
    name: str = ""  # on the tape
    batch: Sequence[Any] = ()  # what else is charged, with limits of its own
    sleep: Hook = time.sleep
    began: float = field(default_factory=time.monotonic)
    hook: str = ""  # whose call this is, where a hook makes one
    attempt: Attempt = field(init=False)  # the present one
    seen: set[str] = field(default_factory=set[str])  # texts inspected of this reply
    rank: tuple[bool, float] = (False, -math.inf)  # of the best: has a value, score

    def over(self, move: Ask) -> str:
        """Say which limit forbids this call; "" if none does."""
        call = move.call or self.call
        for account in (self, *self.batch):
            limits, spent = account.limits, account.spent
            spent.seconds = time.monotonic() - account.began
            for unit in Limits.__slots__:
                used, limit = getattr(spent, unit) or 0, getattr(limits, unit)
                used += move.wait if unit == "seconds" else 0
                if limit is not None and not used < limit:  # not ">=": NaN ends it, too
                    return f"limit reached: {used:.6g} of {limit:.6g} {unit}"
            if limits.cost is not None and getattr(call, "price", None) is None:
                raise HookError(f"cost limit, {name_of(call)} has no price=(in, out)")
        return ""

    def begin(self, move: Ask) -> Any:
        """Make this the present request, and count it; return its reply on the tape."""
        if move.call is not None and move.call != self.call:
            self.call, self.changed, self.stuck = move.call, {}, False
        self.changed = self.changed | move.settings
        self.settings = effective(self.call, self.changed)
        self.messages, self.fault = move.messages, None
        self.attempt = Attempt(self.messages, self.settings, self.call, self.hook)
        self.attempts.append(self.attempt)
        self.charge(calls=1)
        return self.tape.recall(self) if self.tape is not None else None

    def charged(self, came: Any) -> Sequence[str]:
        """Charge a reply or a fault; return the text to inspect, if there is one."""
        attempt, reply = self.attempt, Reply(came) if isinstance(came, str) else came
        attempt.seconds = round(time.monotonic() - self.began - self.spent.seconds, 3)
        if isinstance(came, Exception):
            self.fault = attempt.fault = came
            fault = came if isinstance(came, CallError) else CallError(str(came))
            self.charge(faults=1, **(self.cost(Reply("")) if fault.billed else {}))
            self.tell("fault", fault, key=attempt.key, seconds=attempt.seconds)
            return ()
        if not isinstance(reply, Reply):
            raise HookError(f"call {name_of(self.call)} returned {came!r}, not a Reply")
        self.reply = attempt.reply = reply
        self.judged, self.seen = self.judged + 1, set()
        this = (self.call, self.hook, reply.text)
        same = [(a.call, a.hook, a.reply.text) for a in self.attempts if a.reply]
        self.stuck = self.stuck or same.count(this) >= 3
        cost = self.cost(reply)
        self.charge(tries=not self.hook, reused=attempt.reused, **cost)
        kind, about = ("reused", None) if attempt.reused else ("reply", reply)
        facts = {"key": attempt.key, "cost": cost["cost"], "seconds": attempt.seconds}
        self.tell(kind, about, **facts)
        return (reply.text,)

    def cost(self, reply: Reply) -> dict[str, Any]:
        """Return what a reply cost; what nobody reported is estimated."""
        price, cost = getattr(self.call, "price", None), reply.cost
        asked = sum(len(str(message.get("content"))) for message in self.messages)
        guess = (asked // 4, (len(reply.text) + len(reply.reasoning)) // 4)
        told = (reply.input_tokens, reply.output_tokens)
        used = [g if n is None else max(n, 0) for n, g in zip(told, guess, strict=True)]
        if cost is None and price:
            cost = (used[0] * price[0] + used[1] * price[1]) / 1e6
        estimated = sum(used) - sum(max(n or 0, 0) for n in told)
        return {"tokens": sum(used), "estimated": estimated, "cost": cost}

    def charge(self, **used: Any) -> None:
        """Add this to what was spent, by this run and by the batch that it is in."""
        for account in (self, *self.batch):
            with account.lock:
                for unit, more in used.items():
                    had = getattr(account.spent, unit)
                    both = None if had is None or more is None else had + more
                    setattr(account.spent, unit, both)

    def refused(self, text: str, error: Exception) -> None:
        """Note the judge's complaint about a text, and keep the best so far."""
        kind, said, parts = type(error), str(error), getattr(error, "errors", None)
        if kind.__module__.startswith("pydantic") and parts:  # its text dumps values
            told = (f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in parts())
            said = "; ".join(told)
        elif kind is not Reject:
            said = f"{kind.__name__}: {said}".removesuffix(": ")
        said = said if len(said) <= 300 else f"{said[:200]} ... {said[-90:]}"
        self.text, self.complaint, self.attempt.complaint = text, said, said
        self.seen.add(text)
        value, score = getattr(error, "value", None), getattr(error, "score", None)
        rank = (value is not None, -math.inf if score is None else score)
        if not rank < self.rank:
            self.best, self.rank = text if value is None else value, rank

    def speaks(self, fix: Hook, move: Any) -> bool:
        """Tell whether a fix-up's answer is a move, and one that leads on."""
        name, attempt = name_of(fix), self.attempt
        if isinstance(move, Ask):
            call = move.call or self.call
            changed = (self.changed if call == self.call else {}) | move.settings
            request = (call, move.messages, effective(call, changed))
            refusals = (a for a in self.attempts if a.reply and not a.hook)
            new = all((a.call, a.messages, a.settings) != request for a in refusals)
        elif isinstance(move, Use) and all(isinstance(t, str) for t in move.texts):
            new = name not in attempt.fixes and not self.seen.issuperset(move.texts)
        elif not (new := isinstance(move, Stop)) and move is not None:
            raise HookError(f"{name} returned {move!r}, not Ask, Use, Stop or None")
        if new:
            attempt.fixes.append(name)
            kind, settings = type(move).__name__, getattr(move, "settings", {})
            self.tell("decide", fix=name, move=kind, settings=settings, why=self.why)
        return new

    @property
    def why(self) -> str:
        """What is wrong at present: the fault of the last call, or the complaint."""
        return str(self.fault or self.complaint)

    def ended(self, why: str, *accepted: Any) -> Result[Any]:
        """Return the result: this value was accepted, or none was."""
        self.spent.seconds = round(time.monotonic() - self.began, 3)
        if not accepted and self.why:
            why = f"{why}; at last: {self.why}"
        value, best = accepted * 2 or (None, self.best)
        result = Result(value, bool(accepted), why, best, self.attempts, self.spent)
        self.tell("end", self.spent, accepted=bool(accepted), why=why, value=value)
        return result

    def tell(self, event: str, about: Any = None, **facts: Any) -> None:
        """Put an event on the tape, and tell the watcher, whose errors are logged."""
        if self.tape is None and self.watch is None:
            return
        told = {"event": event, "run": self.name, "n": self.spent.calls}
        named = [k for k in getattr(about, "__dataclass_fields__", ()) if k != "raw"]
        told |= {"hook": self.hook} | {k: getattr(about, k) for k in named} | facts
        if self.tape is not None:
            self.tape.write(told)
        if self.watch is not None:
            try:
                self.watch(told)
            except Exception:
                import logging

                logging.getLogger("loop").exception("watch failed")


def consult(state: Run, hook: Hook, about: Any) -> Steps:
    """Return what a hook answers; where it is a generator, make the calls it asks for,
    as runs on the same account; one that gives up throws a CallError into the hook."""
    answer = hook(about)
    if not isgenerator(answer):
        return (yield hook, answer) if hasattr(answer, "__await__") else answer
    resume: Hook = answer.send
    value: Any = None
    while True:
        try:
            asked = resume(value)
        except StopIteration as end:
            return end.value
        resume = answer.send
        if isinstance(asked, Ask):
            aside = replace(state, call=asked.call or state.call, hook=name_of(hook))
            aside.judge, aside.fixes, aside.changed = str, (), {}
            aside.limits = replace(state.limits, tries=None)
            if limit := aside.over(asked):  # a hook that asks on and on ends here
                raise CallError(limit)
            result, value = (yield from steps(aside, asked)), aside.reply
            if not result:
                why = f"{aside.hook} got no answer: {result.why}"
                resume, value = answer.throw, CallError(why)
        elif hasattr(asked, "__await__"):
            value = yield hook, asked
        else:
            raise HookError(f"{name_of(hook)} yielded {asked!r}: a hook yields an Ask")


def verdict(judge: Hook, value: Any) -> Any:
    """Return the value that a judge accepted; None and bools must come in Accept."""
    if value is None or isinstance(value, bool) or isasyncgen(value):
        cure = f"return a value or raise; see check(predicate, why), Accept({value})"
        raise HookError(f"judge {name_of(judge)} returned {value}: {cure}")
    return value.value if isinstance(value, Accept) else value


def name_of(hook: Any) -> str:
    """Return the name of a hook, or of its function or class, as reports have it."""
    name: str = getattr(hook, "__name__", "")
    return name or name_of(getattr(hook, "func", hook.__class__))


def dig(kind: Any, data: Any, *path: Any) -> Any:
    """Return what is at this path of a JSON value, if it is of this kind; else None."""
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data if isinstance(data, kind) else None


def effective(call: Any, changed: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a request: the call's own, changed by the moves."""
    settings = getattr(call, "settings", {}) | changed
    return {key: value for key, value in settings.items() if value is not None}


# 3. Drivers ---------------------------------------------------------------------------


def drive(state: Run) -> Any:
    """Send the loop on; all hooks have answered, or are async, which is refused."""
    flow, value = steps(state, Ask(state.task)), None
    try:
        while True:
            hook, value = flow.send(value)
            if hasattr(value, "__await__"):
                getattr(value, "close", int)()  # or Python warns that nobody awaited it
                flow.throw(HookError(f"{name_of(hook)} is async: use arun"))
    except StopIteration as end:
        return end.value


async def adrive(state: Run) -> Any:
    """Send the loop on, and await what a hook returned where it is awaitable."""
    import asyncio

    state.sleep = asyncio.sleep
    flow = steps(state, Ask(state.task))
    try:
        _, value = next(flow)
        while True:
            try:
                value = (await value) if hasattr(value, "__await__") else value
            except asyncio.TimeoutError as late:  # no OSError before Python 3.11
                _, value = flow.throw(TimeoutError(*late.args))
            except BaseException as error:  # noqa: BLE001
                _, value = flow.throw(error)
            else:
                _, value = flow.send(value)
    except StopIteration as end:
        return end.value


def run(
    ask: str | Messages,
    judge: Callable[[str], Awaitable[T] | T],
    *,
    call: Hook,
    fixes: Sequence[Hook] = FIXES,
    faults: Sequence[Hook] = FAULTS,
    limits: Limits = Limits(),
    tape: Any = None,
    name: str = "",
    watch: Hook | None = None,
    driver: Hook = drive,
) -> Result[T]:
    """Ask until the judge accepts, a special case says stop or a limit is reached.

    Returns a Result, accepted or not; raises TypeError or ValueError for a wrong hook,
    before anything is paid for. driver: sends the loop on; yours may, elsewhere."""
    task: Any = Ask(ask).messages
    if not dig(list, task) or not all(dig(str, message, "role") for message in task):
        raise TypeError(f"ask is {ask!r}: give a text or [{{'role': .., ..}}]")
    if wrong := [h for h in (judge, call, *fixes, *faults) if not callable(h)]:
        raise TypeError(f"judge, call and fix-ups must be functions, not {wrong}")
    for names in ([*map(name_of, fixes)], [*map(name_of, faults)]):
        if len(set(names)) < len(names):
            raise ValueError(f"two fix-ups are named {max(names, key=names.count)!r}")
    own: Any = getattr(call, "func", None) or call  # of a partial
    code = getattr(own, "__code__", None) or getattr(own.__call__, "__code__", None)
    if code is not None and not code.co_flags & CO_VARKEYWORDS:
        raise TypeError(f"call {name_of(call)} takes no settings: add **settings")
    state = Run(task, judge, call, fixes, faults, filled(limits), watch=watch)
    state.tape, state.name = tape, tape.named(name, task) if tape is not None else name
    if (tape, watch) != (None, None):
        listed = [*map(name_of, fixes), *map(name_of, faults)]
        state.tell("start", task=task, settings=effective(call, {}), fixes=listed)
    return cast("Result[T]", driver(state))


async def arun(
    ask: str | Messages,
    judge: Callable[[str], Awaitable[T] | T],
    *,
    call: Hook,
    **options: Any,
) -> Result[T]:
    """Do what `run` does, with the same options, and await what is awaitable."""
    result: Any = run(ask, judge, call=call, driver=adrive, **options)
    return cast("Result[T]", await result)


@lru_cache
def filled(limits: Limits) -> Limits:
    """Return the limits of a run: its defaults where these say None."""
    given = {k: v for k in Limits.__slots__ if (v := getattr(limits, k)) is not None}
    return replace(Limits(tries=8, faults=8, calls=32, seconds=600.0), **given)


def script(*replies: Reply | str | Exception) -> Hook:
    """Return a call for tests: it gives these replies in order, raises the errors among
    them, and keeps in `.asked` the (messages, settings) that it was asked."""
    asked: list[tuple[Messages, dict[str, Any]]] = []
    left = iter(replies)

    def script(messages: Messages, **settings: Any) -> Reply | str:
        asked.append((messages, settings))
        reply = next(left, LookupError(f"all {len(replies)} replies are used up"))
        if isinstance(reply, Exception):
            raise reply
        return reply

    vars(script).update(asked=asked, settings={}, price=(0.0, 0.0))
    return script


# 4. Judges ----------------------------------------------------------------------------

KINDS = {str: "a string", int: "an integer", float: "a number", bool: "a boolean"}


def json_with(**keys: Any) -> Hook:
    """Judge: the text is one JSON object with at least these keys; returns the object.

    A key is told by its type or by a tuple of the allowed values: json_with(name=str,
    mood=("good", "bad")). The score of a refusal is minus the number of wrong keys."""
    for key, want in keys.items():
        if hasattr(want, "__args__") or not want or not isinstance(want, type | tuple):
            raise TypeError(f"{key}: give a type, or a tuple of values, not {want!r}")

    def json_with(text: str) -> dict[str, Any]:
        found: dict[str, Any] | None = dig(dict, strict_json(text))
        if found is None:
            raise Reject(f"expected a JSON object with the keys {', '.join(keys)}")
        told = {key: mismatch(found.get(key, ...), want) for key, want in keys.items()}
        wrong = [f"{key}: {complaint}" for key, complaint in told.items() if complaint]
        if wrong:
            raise Reject("; ".join(wrong), value=found, score=-len(wrong))
        return found

    return json_with


def strict_json(text: str) -> Any:
    """Return the text as one JSON value; refuse NaN, 1e999 and a key told two ways."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        for key, value in pairs if len(found) < len(pairs) else ():
            if found[key] != value:
                raise Reject(f"{key}: both {clip(value)} and {clip(found[key])}")
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise Reject(f"the text is not one JSON value: {error}") from None
    return value


def mismatch(value: Any, want: Any) -> str:
    """Say what was expected, and found, where a value is not as wanted; else ""."""
    if value is ...:
        return "missing"
    if allowed := dig(tuple, want):
        fits = json.dumps(value) in map(json.dumps, allowed)  # == takes 1 for true
        expected = f"one of {', '.join(map(clip, allowed))}"
    else:
        fits = isinstance(value, (int, float) if want is float else want)
        fits = fits and isinstance(value, bool) == (want is bool)
        expected = KINDS.get(want, f"a {want.__name__}")
    return "" if fits else f"expected {expected}, found {clip(value)}"


def clip(value: Any) -> str:
    """Return a value as JSON, short enough for a complaint."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}"


def one_of(*labels: str) -> Hook:
    """Judge: the text is one of these labels, in any case; returns it as given here."""
    folded = {label.casefold(): label for label in labels}

    def one_of(text: str) -> str:
        if label := folded.get(text.strip().casefold()):
            return label
        raise Reject(f"expected only one of {', '.join(labels)}, found {clip(text)}")

    return one_of


def check(predicate: Callable[[Any], object], complaint: str) -> Hook:
    """Judge: the predicate holds of what it is given; returns that."""

    def check(found: Any) -> Any:
        if not predicate(found):
            raise Reject(complaint, value=found)
        return found

    return check


def matches(pattern: str) -> Hook:
    """Judge: the whole text matches the regular expression; returns the text."""
    return check(re.compile(pattern).fullmatch, f"expected the pattern {pattern}")


def grounded(source: str, *keys: str) -> Hook:
    """Judge: every quote stands word for word in the source; returns what it is given.

    Quotes are what an object has at these keys, a string or a list of them; else what
    stands in quotation marks. 0 of 6 were real, in OpenContracts#2189."""
    source = plain(source)

    def grounded(found: Any) -> Any:
        there = [found[key] for key in keys] if keys else plain(found).split('"')[1::2]
        lists: Any = [it if isinstance(it, list) else [it] for it in there]
        quotes = [str(quote) for it in lists for quote in it]
        if not quotes or not all(map(plain, quotes)):
            raise Reject("there is no quote from the source", value=found)
        words = {q: rf"(?<!\w){re.escape(plain(q))}(?!\w)" for q in quotes}
        missing = [clip(q) for q in quotes if not re.search(words[q], source)]
        if missing:
            raise Reject(f"not in the source: {', '.join(missing)}", value=found)
        return found

    return grounded


def plain(text: str) -> str:
    """Return a text with one form of each letter, space and quotation mark."""
    import unicodedata

    text = re.sub("[\u2018-\u201b\u2032`]", "'", unicodedata.normalize("NFKC", text))
    return " ".join(re.sub("[\u201c-\u201f\u2033\xab\xbb]", '"', text).split())


def all_of(*judges: Hook) -> Hook:
    """Judge: all of these, in order, each of what the one before it returned, as in
    all_of(json_with(age=int), check(lambda it: it["age"] > 0, "age: not above 0"))."""

    def all_of(text: str) -> Generator[Any, Any, Any]:
        value: Any = text
        for judge in judges:
            answer = judge(value)
            if isgenerator(answer):
                answer = yield from cast("Steps", answer)
            elif hasattr(answer, "__await__"):
                answer = yield answer
            value = verdict(judge, answer)
        return Accept(value)

    return all_of


def probe(judge: Hook, ask: str | Messages) -> list[str]:
    """Return those of "", "I don't know" and an echo of the ask that a judge accepts:
    none, if it is any good. Nothing is called; write `assert not probe(judge, ask)`."""
    echo = ask if isinstance(ask, str) else str(ask[-1]["content"])
    texts, once = ("", "I don't know", echo), Limits(calls=1)
    return [t for t in texts if run(ask, judge, call=script(t), fixes=(), limits=once)]


# 5. Fix-ups: the special cases, in the order in which they are asked ------------------


def think_tags(state: State) -> Use | None:
    """The model thought aloud: use what is after </think>, opened or not, or before an
    endless thought (qwen-code#6033); but a tag inside of JSON is text (probe#439)."""
    head, closed, answer = state.text.partition("</think>")
    before, opened, _ = head.partition("<think>")
    if not (closed or opened) or left_open(before if opened else head):
        return None
    return Use((answer if closed else before).strip())


def code_fence(state: State) -> Use | None:
    """The answer is in a Markdown code block: use it, the last first (outrider#111);
    but one that follows on JSON which is left open is a part of that."""
    fence = re.compile(r"^```[^\n`]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
    pieces = fence.split(state.text)  # talk, block, talk, block ... talk
    jsons = (block for block in pieces[1:-2:2] if block.lstrip()[:1] in "{[")
    inside = any(map(left_open, (*pieces[:-2:2], *jsons)))
    return None if inside else Use(*pieces[-2::-2], state.text)


def json_slips(state: State) -> Use | None:
    """There is talk round the JSON (promptfoo#10268), or it has slips: spare commas,
    bare keys, single or smart quotes, comments, True and None, line ends in strings
    (dirty-json#21): use each whole piece of it, mended. (A fix-up for the talk alone
    fired in 169 of 200 runs, and was deleted: ledger.py found that none missed it.)"""
    spans = (span for text in state.texts for span in json_spans(text))
    return Use(*(JSONISH.sub(mended, span) for span in spans))


JSONISH = re.compile(  # what there is in JSON with slips; `open` has no end: cut off
    r"""(?P<text>"[^"\\]*(?:\\.[^"\\]*)*"|“[^“”]*”
                |(?<![\w'])'[^'\\]*(?:\\.[^'\\]*)*'(?=\s*[]},:]))
    |(?P<open>["“]|(?<=[\s:,{[])'|/\*(?![^*]*\*/)|(?:(?<!\w:)//|\#)[^\n"]*")
    |(?P<note>(?:(?<!\w:)//|\#)[^\n"]*|/\*[^*]*\*/)|(?P<key>\b[^\W\d]\w*(?=\s*:))
    |(?P<word>\b(?:True|False|None)\b)|(?P<comma>,(?=\s*[]}]))|\\.|[][{}]""",
    re.DOTALL | re.VERBOSE,
)


def mended(slip: re.Match[str]) -> str:
    """Return a piece of JSON as it should be. No string changes its meaning."""
    kind, token = slip.lastgroup, slip[0]
    if kind == "text":
        marks = {"\\'": "'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
        inner = re.sub(r'\\.|["\n\r\t]', lambda m: marks.get(m[0], m[0]), token[1:-1])
        return f'"{inner}"'
    if kind == "word":
        return {"True": "true", "False": "false", "None": "null"}[token]
    return f'"{token}"' if kind == "key" else "" if kind in ("note", "comma") else token


@lru_cache(maxsize=4)
def json_spans(text: str) -> tuple[str, ...]:
    """Return the whole objects and lists in a text, none from where one is left open:
    [{"a": 1}, {"a": 2  was cut off, and must not pass for {"a": 1} (N.E.K.O.#3134). No
    more than 1,000, none nested deeper: 10 MB of brackets would take half a minute."""
    spans, end = list[str](), 0
    while len(spans) < 1000 and (root := re.compile(r"[{[]").search(text, end)):
        start, end, closing = root.start(), 0, list[str]()
        for token in JSONISH.finditer(text, start):
            kind, mark = token.lastgroup, token[0]
            if mark in "{[":
                closing.append("}" if mark == "{" else "]")
            elif kind == "open" or (mark in "}]" and closing.pop() != mark):
                break
            if len(closing) > 1000:
                break
            if not closing:
                end = token.end()
                break
        if not end:
            break
        spans.append(text[start:end])
    return tuple(spans)


def left_open(text: str) -> bool:
    """Tell whether a text ends inside of JSON: what comes after it belongs to that."""
    return len(json_spans(f"{text}\n[]")) == len(json_spans(text))


def answer_in_reasoning(state: State) -> Use | None:
    """There is no answer, and JSON in the reasoning: use that (zammad#5984)."""
    return None if state.text.strip() else Use(*json_spans(state.reply.reasoning))


def cut_by_length(state: State) -> Ask | None:
    """The reply was cut off at max_tokens, whatever its flag says (vis#162,
    vllm#24184), no JSON in it is whole, and it is more than spaces: allow twice as
    many, once; four times where thinking took them all (litellm-docs#559)."""
    for name in ("max_tokens", "max_completion_tokens"):
        most, used = dig(int, state.settings, name), state.reply.output_tokens
        cut = state.reply.finish == "length" or (used and most and used >= most)
        vain = name in state.changed or state.reply.text.isspace()
        if cut and most and not vain and not json_spans(state.text):
            more = 2 if state.text.strip() else 4
            return Ask(state.messages, **{name: more * most})
    return None


def empty_reply(state: State) -> Ask | None:
    """Nothing came: ask afresh; a complaint would only confuse (python-genai#1789)."""
    return None if state.reply.text.strip() else afresh(state)


def ask_afresh(state: State) -> Ask | None:
    """Every other refusal, from the first: the task again, a new seed, no more. A model
    that is shown its bad answer repeats it: SmolLM2 in 78 % of re-asks, else 3 %."""
    return afresh(state) if state.judged % 2 else None


def ask_with_complaint(state: State) -> Ask | None:
    """Every other refusal: the task again, new seed, complaint (smolagents#2566)."""
    return afresh(state, f"An earlier answer was refused: {state.complaint}")


def escalate(call: Hook) -> Hook:
    """Return a fix-up: put the task to another model, once. Its place is last, as in
    [*FIXES, escalate(big)]: the re-asks above it fall silent once a model is stuck."""

    def escalate(state: State) -> Ask | None:
        asked = any(a.call == call and not a.hook for a in state.attempts)
        return None if asked else Ask(state.task, call=call)

    escalate.__name__ = f"escalate_to_{name_of(call)}"
    return escalate


def afresh(state: State, note: str = "", **settings: Any) -> Ask | None:
    """Return the move to ask the task with a note and a new seed; None once stuck, or
    where the model refused: it would again, and be paid (hermes-agent#43108)."""
    *before, last = state.task
    if note and isinstance(last.get("content"), list):  # of parts: texts, images ...
        last = {**last, "content": [*last["content"], {"type": "text", "text": note}]}
    elif note:
        last = {**last, "content": f"{last.get('content') or ''}\n\n{note}"}
    # Seeds are counted, not drawn, so that a run that is repeated asks the same.
    seed = getattr(state.call, "settings", {}).get("seed") or 0
    vain = state.stuck or state.reply.finish == "refusal"
    return None if vain else Ask([*before, last], seed=seed + state.judged, **settings)


def dialect(state: State) -> Ask | None:
    """The model knows a parameter by another name, or not at all: its call learns that,
    once, from the error (opencode#37964): max_tokens is max_completion_tokens."""
    learned, said = getattr(state.call, "dialect", None), str(state.fault)
    found = re.search(r"(?i)unsupported (?:parameter|value): '(\w+)'", said)
    told = state.memory.setdefault("dialect", set[str]())  # by this run
    if learned is None or not found or found[1] in told:
        return None
    told.add(found[1])
    other = re.search(r"(?i)use '(\w+)' instead", said)
    learned[found[1]] = other[1] if other else None
    return Ask(state.messages)


def quota_gone(state: State) -> Stop | None:
    """The account is used up: stop. By its code, not by its words, which come with an
    ordinary rate limit as well (langchainjs#1929, LibreChat-AI/agents#358)."""
    gone = getattr(state.fault, "code", "") == "insufficient_quota"
    return Stop("the account has no quota left") if gone else None


def bad_request(state: State) -> Stop | None:
    """The endpoint will never take this: stop, and say what to check (BAML#3224)."""
    status = getattr(state.fault, "status", None) or 0
    retry = getattr(state.fault, "retry", None)
    passing = not 300 <= status < 500 or status in (408, 409, 425, 429)
    if retry or (passing and retry is None):  # what the endpoint says comes first
        return None
    check = {401: "the key", 403: "the key", 404: "the model's name, and base_url"}
    return Stop(f"refused for good: check {check.get(status, 'messages and settings')}")


def told_to_wait(state: State) -> Ask | None:
    """The endpoint said how long to wait: wait that long (litellm#4387, aider#3265)."""
    wait = getattr(state.fault, "wait", None)
    return later(state, wait) if wait else None


def overloaded(state: State) -> Ask | None:
    """408, 409, 429, 5xx: wait, doubling; 503 and 529 last (claude-code#75396)."""
    status = getattr(state.fault, "status", None) or 0
    first = 4.0 if status in (503, 529) else 1.0
    wait = min(60.0, first * 2.0 ** (state.spent.faults - 1))
    return later(state, wait) if status >= 400 else None


def no_answer(state: State) -> Ask | Stop | None:
    """No reply came: wait a little; if nothing ever did, stop: the address is wrong."""
    statuses = [getattr(a.fault, "status", None) or 0 for a in state.attempts]
    heard = max(statuses) >= 400 or any(a.reply for a in state.attempts)
    if state.spent.faults >= 3 and not heard:
        return Stop("nothing ever came: is the endpoint running? check base_url")
    return later(state, 0.5 * 2.0 ** (state.spent.faults - 1))


def later(state: State, wait: float) -> Ask:
    """Return the move to ask the same after a wait, and some jitter: no rush."""
    import random

    return Ask(state.messages, wait=wait * (1 + random.random() / 4))


REPAIRS = [think_tags, code_fence, json_slips, answer_in_reasoning]
RE_ASKS = [cut_by_length, empty_reply, ask_afresh, ask_with_complaint]
FIXES.extend([*REPAIRS, *RE_ASKS])
FAULTS.extend([dialect, quota_gone, bad_request, told_to_wait, overloaded, no_answer])


# 6. Calls -----------------------------------------------------------------------------

BODY_LIMIT = 32 * 2**20  # bytes; no reply is this long
FINISH = {"stop": "stop", "length": "length", "content_filter": "refusal"}
IDLE = defaultdict[int, list[Any]](list)  # of each process, clients not in use
POOLS: dict[Any, Any] = {}  # of each event loop, what yields those


class chat:  # noqa: N801
    """A call, for `run`, of an OpenAI-compatible endpoint: one request, no retry.

    What is not given comes from OPENAI_MODEL, OPENAI_BASE_URL and OPENAI_API_KEY.
    price: (input, output) in dollars per million tokens. timeout: seconds for one call,
    looked at between the parts of its body. headers: to add. client: an httpx client of
    your own. settings: what to add to every request: temperature, max_tokens ..."""

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        price: tuple[float, float] | None = None,
        timeout: float = 120.0,
        headers: dict[str, str] | None = None,
        client: Any = None,
        **settings: Any,
    ):
        model = model or os.getenv("OPENAI_MODEL")
        key = (os.getenv("OPENAI_API_KEY", "") if api_key is None else api_key).strip()
        openai = "https://api.openai.com/v1" if key else ""
        url = base_url or os.getenv("OPENAI_BASE_URL") or openai
        if not re.match("https?://[^@]*$", url):  # httpx would log a password in it
            url = re.sub("//.*@", "//...@", url)
            cure = "give base_url or set OPENAI_BASE_URL, as in http://host/v1"
            raise ValueError(f"no endpoint in {url!r}: {cure}; or OPENAI_API_KEY alone")
        own = ({"Authorization": f"Bearer {key}"} if key else {}) | (headers or {})
        plain = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self.headers = plain | own
        base, mark, query = url.partition("?")  # Azure has its version there
        if not all(v.isascii() and v.isprintable() for v in self.headers.values()):
            raise ValueError("a key or header has characters that HTTP does not allow")
        held = [key, *own.values(), query]  # and their parts:
        held += re.split(r"[\s:=&]", " ".join(held))
        self.secrets = [it for it in held if len(it) >= 8]  # what is shorter is a word
        url, self.price = f"{base.rstrip('/')}/chat/completions", price
        self.url = f"{url}{mark}{query}"
        self.settings = ({"model": model} if model else {}) | settings
        self.timeout, self.client, self.__name__ = timeout, client, model or "chat"
        self.dialect: dict[str, str | None] = {}  # learned; no part of the settings

    def __call__(self, messages: Messages, **changed: Any) -> Reply:
        import asyncio

        with suppress(RuntimeError):
            if asyncio.get_running_loop():
                raise HookError("chat would block the event loop: use achat, and arun")
        idle, body, began = IDLE[os.getpid()], bytearray(), time.monotonic()
        client = self.client or taken(idle, "Client")
        try:
            with client.stream(**self.request(messages, changed)) as response:
                for chunk in response.iter_bytes():
                    self.take(chunk, body, began)
        except http_errors() as error:
            raise self.fault(error) from None  # its request has the key
        finally:
            idle += [] if self.client else [client]
        return self.read(response, body, began)

    def request(self, messages: Messages, changed: dict[str, Any]) -> dict[str, Any]:
        """Return what the client's `stream` needs to send these messages."""
        settings = effective(self, changed)
        for name in settings.keys() & self.dialect.keys():
            value, other = settings.pop(name), self.dialect[name]
            settings |= {other: value} if other else {}
        body = json.dumps(settings | {"messages": messages}).encode()
        silence = (min(10.0, self.timeout), self.timeout, self.timeout, None)
        where = {"method": "POST", "url": self.url, "headers": self.headers}
        return where | {"content": body, "timeout": silence}

    def take(self, chunk: bytes, body: bytearray, began: float) -> None:
        """Add to the body; raise CallError where it is too slow, or too large."""
        late = len(body) > 0 and time.monotonic() - began > self.timeout
        body += chunk
        if late or len(body) > BODY_LIMIT:
            limits = f"{self.timeout:.0f} s and {BODY_LIMIT} bytes"
            raise self.fault(f"no whole reply within {limits}", billed=True)

    def fault(self, why: object, code: str = "", **facts: Any) -> CallError:
        """Return a CallError that says why and where, and never holds a key."""
        if isinstance(why, Exception):
            name, unsent = type(why).__name__, ("Connect", "UnsupportedProtocol")
            why, facts = f"{name} {why}", {"billed": not name.startswith(unsent)}
        texts = [str(why), code, self.url]
        for secret in self.secrets:
            texts = [text.replace(secret, "(key)") for text in texts]
        why, code, url = texts
        return CallError(f"{why[:250]} ({url})", code=code[:60], **facts)

    def read(self, response: Any, body: bytearray, began: float) -> Reply:
        """Return the reply in a response, or raise CallError where there is none."""
        text = body.decode(errors="replace").strip("\ufeff \t\r\n")
        raw: Any = None  # the HTML of a proxy, say, whatever the content type
        with suppress(ValueError, RecursionError):
            raw = json.loads(text)
        message = dig(dict, raw, "choices", 0, "message")
        if response.status_code >= 300 or message is None or dig(object, raw, "error"):
            raise self.refusal(response, raw, text)
        said, refusal = dig(str, message, "content"), dig(str, message, "refusal")
        for part in dig(list, message, "content") or ():
            said = (said or "") + (dig(str, part, "text") or "")
        calls, usage = dig(list, message, "tool_calls") or (), dig(dict, raw, "usage")
        finish = FINISH.get(dig(str, raw, "choices", 0, "finish_reason"), "unknown")
        if refusal or (calls and finish != "length"):
            finish = "refusal" if refusal else "tools"
        thought = dig(str, message, "reasoning_content")
        return Reply(
            text=said or refusal or "",
            finish=finish,
            reasoning=thought or dig(str, message, "reasoning") or "",
            tool_calls=tuple(calls),
            input_tokens=figure(int, usage, "prompt_tokens"),
            output_tokens=figure(int, usage, "completion_tokens"),
            cost=figure((int, float), usage, "cost"),
            seconds=time.monotonic() - began,
            model=dig(str, raw, "model") or "",
            id=dig(str, raw, "id") or "",
            raw=raw,
        )

    def refusal(self, response: Any, raw: Any, text: str) -> CallError:
        """Return the CallError for a response that has no reply in it."""
        status, headers = response.status_code, response.headers
        if status < 300:  # an error inside of a 200 has its own: inspect_ai#1534
            status = dig(int, raw, "error", "code") or status
        said = dig(str, raw, "error", "message") or text or "an empty body"
        if status < 400 or text.startswith("<"):
            said = f"check base_url: {headers.get('location', '')} {said}"
        code = dig(str, raw, "error", "code") or dig(str, raw, "error", "type") or ""
        retry = {"true": True, "false": False}.get(headers.get("x-should-retry"))
        facts = {"status": status, "wait": wait_told(headers, said), "retry": retry}
        return self.fault(f"{status}: {said}", code, **facts)


class achat(chat):  # noqa: N801
    """A call, for `arun`: what chat is, awaited."""

    async def __call__(  # type: ignore[override]
        self, messages: Messages, **changed: Any
    ) -> Reply:
        import asyncio

        idle = await anext(POOLS.setdefault(asyncio.get_running_loop(), pool()))
        client, body = self.client or taken(idle, "AsyncClient"), bytearray()
        began = time.monotonic()
        try:
            async with client.stream(**self.request(messages, changed)) as response:
                async for chunk in response.aiter_bytes():
                    self.take(chunk, body, began)
        except http_errors() as error:
            raise self.fault(error) from None
        except asyncio.CancelledError:  # its connection would stay in use for ever
            if not self.client:
                await client.aclose()
            raise
        finally:
            idle += [] if self.client or client.is_closed else [client]
        return self.read(response, body, began)


def figure(kind: Any, usage: Any, name: str) -> Any:
    """Return what was used, as told; None if below zero, NaN or beyond all sense."""
    told = dig(kind, usage, name)
    return told if told is not None and 0 <= told < 1e12 else None


def wait_told(headers: Any, said: str) -> float | None:
    """Return the seconds that a response tells to wait: in ms, in seconds, by a date,
    by the reset of a limit that has nothing left, or in words (aider#3265)."""
    from email.utils import parsedate_to_datetime

    told, waits = headers.get("retry-after", ""), list[float]()
    for number, unit in ((headers.get("retry-after-ms", ""), 1000), (told, 1)):
        with suppress(ValueError):
            waits.append(float(number) / unit)
    with suppress(ValueError, TypeError, OverflowError):
        waits.append(parsedate_to_datetime(told).timestamp() - time.time())
    for kind in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
            waits.append(duration(headers.get(f"x-ratelimit-reset-{kind}", "")))
    waits += map(duration, re.findall(r"(?i)try again in ([\d.hms]+)", said))
    return next((wait for wait in waits if 0 < wait < 1e9), None)  # 0, nan, inf: seen


def duration(text: str) -> float:
    """Return the seconds of a text like 6m0s, 12ms or 5.289s."""
    units = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text[:40])
    return sum(float(number) * units[unit] for number, unit in parts)


def http_errors() -> tuple[Any, ...]:
    """Return what httpx and httpx2 raise, of whichever is in use."""
    loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return tuple(library.HTTPError for library in loaded)


@lru_cache
def client_maker(kind: str) -> Hook:
    """Return what makes a client that has no proxy to this machine, no queue for a free
    slot, and no cookies: they would go from one endpoint, or key, to another."""
    from http.cookiejar import CookieJar, DefaultCookiePolicy
    from importlib import import_module, util

    only = util.find_spec("httpx2") and not util.find_spec("httpx")
    library = import_module("httpx2" if only else "httpx")
    direct = dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]"))
    limits, trust = library.Limits(max_connections=None), library.create_ssl_context()
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    facts = {"mounts": direct, "limits": limits, "cookies": jar, "verify": trust}
    return partial(getattr(library, kind), **facts)


def taken(idle: list[Any], kind: str) -> Any:
    """Return a client, for one request at a time: in httpx 0.28.1 the pool of a shared
    one takes time in the square of its connections, and loses those cancelled."""
    try:
        return idle.pop()
    except IndexError:
        return client_maker(kind)()


@atexit.register
def close_idle() -> None:
    """Close the idle clients of this process, or Python warns of their sockets."""
    for client in IDLE.pop(os.getpid(), ()):
        client.close()


async def pool() -> Any:
    """Yield the idle clients of an event loop; asyncio.run closes them in the end."""
    idle = list[Any]()
    try:
        for closed in [loop for loop in tuple(POOLS) if loop.is_closed()]:
            POOLS.pop(closed, None)  # other threads do so, too
        while True:
            yield idle
    finally:
        for client in idle:
            await client.aclose()


# 7. The screen ------------------------------------------------------------------------

LINES = {  # what is shown of an event; of those that are not here, nothing
    "reply": "{n:3} {seconds:5.1f} s  {text!r:.400}",
    "reused": "{n:3}          on the tape",
    "fault": "{n:3} {seconds:5.1f} s  fault: {why}",
    "decide": "      -> {fix}{settings}: {why}",
    "end": "    = {why} ({calls} calls, {tokens} tokens, {seconds:.1f} s)",
    "progress": "{why}",
}


def line_of(event: dict[str, Any]) -> str:
    """Return an event as one line that is safe to show; "" where it is worth none."""
    aside = event["hook"] and event["event"] == "end"  # the call of a hook came back
    shape = "" if aside else LINES.get(event["event"], "")
    changed = f" {event['settings']}" if event.get("settings") else ""
    line = shape.format(**event | {"settings": changed})
    return visible(line[:1000]).replace("\n", "\\n")


def show(event: dict[str, Any]) -> None:
    """Watcher: show a run as it happens, line by line on stderr: run(watch=show)."""
    if line := line_of(event):
        codes = {"decide": "36", "end": "32" if event.get("accepted") else "31"}
        code = codes.get(event["event"])
        if code and sys.stderr.isatty() and not os.getenv("NO_COLOR"):
            line = f"\x1b[{code}m{line}\x1b[0m"
        print(line, file=sys.stderr)


@contextmanager
def screen(rows: int = 8) -> Generator[Hook, None, None]:
    """Give a watcher: on a terminal a live view of the last rows, gone in the end; with
    NO_COLOR, CI, TERM=dumb, no terminal or no rich: show.

    with screen() as watch: run(..., watch=watch)"""
    from importlib.util import find_spec

    no = os.getenv("NO_COLOR") or os.getenv("CI") or os.getenv("TERM") == "dumb"
    if no or not sys.stderr.isatty() or not find_spec("rich"):
        yield show
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def view(event: dict[str, Any]) -> None:
        kept = bottom if event["event"] == "progress" else above
        kept.extend(filter(None, [line_of(event)]))
        lines = "\n".join([*above, *bottom])
        live.update(Text(lines, no_wrap=True, overflow="ellipsis"))

    above, bottom = deque[str](maxlen=rows), deque[str](maxlen=1)
    console = Console(stderr=True)
    there = sys.stdout.isatty()  # elsewhere, what is printed would end up on stderr
    ours = getsignal(SIGTERM) is SIG_DFL and current_thread() is main_thread()
    if ours:  # or the cursor would stay hidden
        signal(SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        with Live(console=console, transient=True, redirect_stdout=there) as live:
            yield view
    finally:
        if ours:
            signal(SIGTERM, SIG_DFL)


# 8. The tape --------------------------------------------------------------------------

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ENCODER = json.JSONEncoder(default=repr, skipkeys=True)  # of any value; ASCII


class Tape:
    """What was asked, what came and what was decided: JSON Lines in a file that grows.

    run(..., tape=Tape("runs.jsonl")): run it again, with a new Tape, and no reply is
    bought twice. Its events, in time: item (of each), start; for each request sent and
    then, before anyone looks at it, reply, fault, or reused (it was there); decide (a
    fix-up spoke, and why: the complaint); end. Made for many threads and, on Linux and
    macOS, many processes of one machine, each with a Tape of its own; Windows has no
    lock: one process. A reply is on the disk (fdatasync; fsync where there is none)."""

    def __init__(self, path: str | os.PathLike[str], replaying: bool = False):
        self.path, self.replaying, self.lock = os.path.abspath(path), replaying, Lock()
        self.names = Counter[str]()
        self.last = {kind: dict[str, Any]() for kind in ("item", "start", "end")}
        self.ends: dict[str, dict[str, Any]] = {}  # of the runs that are replayed
        self.places = defaultdict[tuple[str, str], list[int]](list)
        self.unanswered = 0  # requests in flight at a kill: they may have been billed
        self.unasked = 0  # replies that nobody asked for, so far
        if not replaying:
            how = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self.file = os.open(self.path, how, 0o600)
            finalize(self, os.close, self.file).atexit = False  # workers may live
        for place, event in self.events(path) if replaying else ():
            if event["event"] in self.last and not event["hook"]:
                self.last[event["event"]][event["run"]] = event | {"place": place}
        for place, event in self.events(path):
            kind, run = event["event"], event["run"]
            self.unanswered += (kind == "sent") - (kind in ("reply", "fault"))
            self.unasked += kind == "reply"
            kept = kind == "reply" or (replaying and kind in ("fault", "sent"))
            begun = self.last["start"].get(run, {}).get("place", 0)
            if kept and (kind != "fault" or place > begun):  # older: not repeated
                self.places[run, event.get("key", "")].append(place)

    @staticmethod
    def events(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the place and the facts of each event; what is torn is skipped."""
        place, head = 0, b'{"v": 1, '
        with open(path, "rb") as file:
            if (begin := file.read(9)) != head[: len(begin)]:
                raise ValueError(f"{path} is no tape of version 1: {begin!r}")
            file.seek(0)
            for line in file:
                with suppress(ValueError, RecursionError):
                    event = json.loads(line if line.startswith(head) else "")
                    if {"event", "run", "hook"} <= event.keys():
                        yield place, event
                place += len(line)

    def at(self, place: int) -> dict[str, Any]:
        """Return the event at a place in the file."""
        with open(self.path, "rb") as file:
            file.seek(place)
            return cast("dict[str, Any]", json.loads(file.readline()))

    def named(self, name: str, task: Any) -> str:
        """Return the name of a run; a name that this process had before becomes #2."""
        with self.lock:
            self.names[name := name or digest(task)] += 1
            return name if self.names[name] == 1 else f"{name}#{self.names[name]}"

    def recall(self, run: Run) -> Any:
        """Return what is on the tape of a run's present request, or None."""
        if not hasattr(run.call, "settings"):
            cure = "a tape needs it to know a request again; {} will do"
            raise TypeError(f"call {name_of(run.call)} has no .settings: {cure}")
        key = digest([run.messages, run.settings])
        before = sum(a.key == key for a in run.attempts if a.reply or self.replaying)
        places, run.attempt.key = self.places.get((run.name, key), ()), key
        if before >= len(places):
            return self.diverged(run) if self.replaying else None
        event = self.at(places[before])
        if event["event"] == "fault":
            return CallError(**{k: event[k] for k in CallError.__dataclass_fields__})
        with self.lock:
            self.unasked -= 1
        run.attempt.reused = True
        return Reply(**{k: event[k] for k in Reply.__slots__ if k in event})

    def diverged(self, run: Run) -> None:
        """Raise the CallError for a request that is not there; show what is nearest."""
        sent = map(self.at, self.places.get((run.name, ""), ()))
        texts = [json.dumps([it["messages"], it["settings"]]) for it in sent] or [""]
        asked = json.dumps([run.messages, run.settings])
        same = {len(os.path.commonprefix((asked, text))): text for text in texts}
        at, near = max(0, max(same) - 20), same[max(same)]
        told = f"asked {asked[at : at + 80]!r}, on the tape {near[at : at + 80]!r}"
        raise CallError(f"diverged: {told}")

    def write(self, event: dict[str, Any]) -> None:
        """Append an event, whole or not at all; OSError if the disk has no space."""
        facts = {"v": 1, **event, "at": round(time.time(), 3)}
        try:
            line = ENCODER.encode(facts).encode() + b"\n"
        except Exception:  # noqa: BLE001
            # The value is in a ring, nested too deep, or has a repr that raises.
            line = ENCODER.encode(facts | {"value": "no JSON"}).encode() + b"\n"
        if self.replaying:
            self.ends |= {} if event["hook"] else {event["run"]: json.loads(line)}
            return
        try:
            with self.lock:
                self.append(line)
            if event["event"] == "reply":
                getattr(os, "fdatasync", os.fsync)(self.file)
        except OSError as error:
            error.filename = self.path
            raise

    def append(self, line: bytes) -> None:
        """Append a line, where other processes may do so as well."""
        if fcntl:
            fcntl.flock(self.file, fcntl.LOCK_EX)
        try:
            end = os.lseek(self.file, 0, os.SEEK_END)
            os.lseek(self.file, max(0, end - 1), os.SEEK_SET)
            if end < 9:  # there is nothing, or a kill tore it in its very head
                os.ftruncate(self.file, 0)
            elif os.read(self.file, 1) != b"\n":
                line = b"\n" + line  # a kill tore the line before
            if os.write(self.file, line) < len(line):  # a full disk says nothing
                os.ftruncate(self.file, end)
                raise OSError(ENOSPC, f"no space for {line[:60]!r}")
        finally:
            if fcntl:
                fcntl.flock(self.file, fcntl.LOCK_UN)


def digest(data: Any) -> str:
    """Return a short name for a JSON value, the same for ever."""
    from hashlib import sha256

    try:
        text = json.dumps(data, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{error} (an item? give key=): {data!r:.80}") from None
    return sha256(text.encode()).hexdigest()[:16]


def bound(item: Any, name: str, call: Hook, tape: Any, **options: Any) -> Hook:
    """Return `run` as a task gets it: its runs are name/1, name/2 ... or name/own."""
    options, numbers = options | {"call": call, "tape": tape}, count(1)
    if tape is not None:
        about = {"event": "item", "run": name, "n": 0, "hook": "", "item": item}
        tape.write(about | {"settings": effective(call, {})})

    def bound(ask: Any, judge: Hook, **own: Any) -> Result[Any]:
        last = own.pop("name", "") or next(numbers)
        return run(ask, judge, **options | own, name=f"{name}/{last}")

    return bound


def each(
    task: Hook,
    items: Iterable[Any],
    *,
    call: Hook,
    tape: Any = None,
    workers: int = 8,
    limits: Limits = Limits(),
    key: Hook | None = None,
    watch: Hook | None = None,
) -> Iterator[Result[Any]]:
    """Yield the result of a task for each item, in their order, `workers` at a time.

    task(item, run) returns what its run(ask, judge) does. tape: a Tape, or a path.
    limits: of the batch, replies on the tape included; once reached, they end all runs.
    key(item): its name on the tape, where it is no JSON. What a task raises is in
    result.error. GaveUp: the first 20 results have one complaint or fault (what was
    under way is still yielded). How it goes is on stderr, unless you give a watcher."""
    if iscoroutinefunction(task):
        raise TypeError(f"task {name_of(task)} is async: use arun and asyncio.gather")
    if workers < 1:
        raise ValueError(f"workers is {workers}, and has to be 1 or more")
    batch = Batch(task, call, key, watch, limits)
    batch.tape = tape if tape is None or hasattr(tape, "recall") else Tape(tape)
    try:
        with nullcontext() if watch else screen() as batch.shown:
            yield from batch.results(items, workers)
        if batch.error:
            raise batch.error
    except KeyboardInterrupt:
        if batch.tape:
            show(batch.status(f"to go on: {shlex.join(sys.orig_argv)}"))
        raise
    finally:
        batch.limits = Limits(calls=0)  # for what is still under way
        if batch.shown:
            show(batch.status())


class Batch:
    """What the items of `each` share: how it goes, and what they may cost together."""

    def __init__(self, task: Hook, call: Hook, key: Any, watch: Any, limits: Limits):
        self.task, self.call, self.key, self.watch = task, call, key, watch
        self.tape, self.shown = cast("Any", None), cast("Any", None)
        self.limits, self.spent, self.lock = limits, Spent(), Lock()
        self.began = self.said = time.monotonic()
        self.done, self.accepted, self.ends = 0, 0, set[str]()
        self.error: Exception | None = None  # that ends it all

    def results(self, items: Iterable[Any], workers: int) -> Iterator[Result[Any]]:
        """Yield the results, in order. So many threads make them, and are at most 16
        times as many ahead of the slowest; not at all before 20 are done."""
        from concurrent.futures import Future  # brings logging, which takes 6 ms

        todo, window = SimpleQueue[Any](), deque[Future[Result[Any]]]()

        def work() -> None:
            for future, item, name in iter(todo.get, None):
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(self.result(item, name))
                    except BaseException as error:  # noqa: BLE001
                        future.set_exception(error)

        try:
            for _ in range(workers):
                Thread(target=work, daemon=True).start()  # so that Ctrl-C need not wait
            for item, name in self.named(items):
                window.append(Future())
                todo.put((window[-1], item, name))
                most = workers * (16 if self.done >= 20 else 1)
                while window and (len(window) >= most or window[0].done()):
                    yield self.counted(window.popleft().result())
            while window:
                yield self.counted(window.popleft().result())
        finally:
            for future in window:
                future.cancel()
            for _ in range(workers):
                todo.put(None)

    def named(self, items: Iterable[Any]) -> Iterator[tuple[Any, str]]:
        """Yield each item, and its name on the tape."""
        try:
            for item in items:
                if self.error:
                    return
                name = str(self.key(item)) if self.key else digest(item)
                name = self.tape.named(name, item) if self.tape else name
                yield item, name
        except Exception as error:  # noqa: BLE001
            self.error = error  # of the items; first, what was paid for is yielded

    def result(self, item: Any, name: str) -> Result[Any]:
        """Return the result of an item, also where its task raises."""
        live = self.shown if self.shown is not show else None  # else it is too much
        bind = partial(bound, item, name, self.call, self.tape, driver=self.drive)
        try:
            result: Result[Any] = self.task(item, bind(watch=self.watch or live))
            if type(result) is not Result:
                raise TypeError(f"task {name_of(self.task)} returned {result!r}")
            return result
        except Exception as error:
            if self.tape and getattr(error, "filename", "") == self.tape.path:
                self.limits = Limits(calls=0)  # or more is paid for, and lost:
                raise  # the disk is full, say
            why, paid = f"{type(error).__name__}: {error}", vars(error).get("attempts")
            return Result(None, False, why, None, paid or [], Spent(), error)

    def drive(self, state: Run) -> Any:
        """Drive a run that is charged to the batch as well."""
        state.batch = (self,)
        return drive(state)

    def counted(self, result: Result[Any]) -> Result[Any]:
        """Return a result, counted; show how far it is, every 10 s if by lines."""
        self.done, self.accepted = self.done + 1, self.accepted + result.accepted
        if self.done <= 20:
            last = result.why.partition("; at last: ")[2]
            self.ends.add(result.why if result.error else last)
        if self.done == 20 and len(self.ends) == 1 and all(self.ends):
            cure = "the judge, the prompt or the endpoint is broken"
            told = f"{cure}: the first 20 items all ended in: {self.ends.pop()}"
            self.error = GaveUp(told)
        if self.shown and (self.shown is not show or time.monotonic() > self.said + 10):
            self.said = time.monotonic()
            self.shown(self.status())
        return result

    def status(self, *why: str) -> dict[str, Any]:
        """Return the event that says how far it is, and what the tape was worth."""
        spent, told = self.spent, f"{self.done} done, {self.accepted} accepted; "
        told += f"{spent.reused} reused, {spent.calls - spent.reused} paid"
        if self.tape:
            told += f", {self.tape.unasked} on the tape but not asked for"
        if self.tape and self.tape.unanswered:
            told += f", {self.tape.unanswered} cut off at a kill and perhaps billed"
        return {"event": "progress", "hook": "", "why": "; ".join([told, *why])}


def replay(tape: str | os.PathLike[str], task: Hook) -> list[dict[str, Any]]:
    """Do a task again from what a tape has, without a call; return what ends otherwise,
    as {"run": name, "before": .., "after": ..}, each "accepted", "why" and "value".

    A tape of `each`: task(item, run) for each item; else task(messages, run) for a run.
    Where it asks what was not asked, it ends with "diverged", and what is nearest."""
    if iscoroutinefunction(task):
        raise TypeError(f"task {name_of(task)} is async: give one that is not")
    kept = Tape(tape, replaying=True)
    (items, starts, ends), errors = kept.last.values(), dict[str, str]()
    for name, event in (items or starts).items():
        call = script()
        vars(call).update(settings=event["settings"], dialect={})
        try:
            if items:
                task(event["item"], bound(event["item"], name, call, kept))
            else:
                task(event["task"], partial(run, name=name, call=call, tape=kept))
        except Exception as error:  # noqa: BLE001
            errors[name] = f"{type(error).__name__}: {error}"
    changes = list[dict[str, Any]]()
    for name, before in ends.items():
        raised = errors.get(name) or errors.get(name.rpartition("/")[0], "")
        why = f"not run {raised}".strip()
        missing = {"accepted": False, "why": why, "value": None, "tries": 0}
        after = kept.ends.get(name, missing)
        values = [json.dumps([it["accepted"], it["value"]]) for it in (before, after)]
        diverged = "diverged: " in after["why"]
        if before["why"].startswith("limit reached: "):  # there, and not before it
            diverged = diverged and before["tries"] != after["tries"]
        if values[0] != values[1] or diverged:
            changes.append({"run": name, "before": before, "after": after})
    return changes
