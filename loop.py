# loop.py 0.5.0 (2026-11-28): call a model, inspect the reply, decide what comes next
# SPDX-License-Identifier: MIT-0
# Copy this file, edit it, keep these four lines. To upgrade an edited copy, merge:
# git merge-file loop.py base.py new.py (base.py: this version as it was published)
"""A loop over an unreliable model: call it, inspect the reply, decide what to do next.

    from loop import json_with, run, scripted  # scripted: a stand-in for chat("gpt-5")
    call = scripted('Sure! {"name": "Ada", age: 36,}')
    result = run("Who? As JSON.", json_with(name=str, age=int), call=call)
    result.value  # {"name": "Ada", "age": 36}: a fix-up, json_slips, repaired the reply

    word       example                 meaning
    ask        "Who? As JSON."         the task: a text, a list of messages or Ask(...)
    call       chat("gpt-5")           call(messages, **settings) -> Reply or str
    judge      json_with(age=int)      judge(text) -> the value; it raises to reject
    complaint  "age: missing"          why the judge rejected a reply
    fault      CallError("busy", 429)  why a call failed: there is no reply
    fix-up     json_slips              fix(state) -> a move, or None: it does not apply
    move       Use(text, ...)          to inspect these repairs of the reply
               Ask(messages, ...)      to call again
               Stop(why)               to end the run
    hook       a judge or a fix-up     your code, which the run calls
    tape       Tape("runs.jsonl")      a file of replies, which are not paid for again

How a run goes:

  - The judge returns a value: the run ends, accepted. (None rejects the reply; a bare
    True or False is an error: return Accept(True).)
  - The judge raises: the reply is rejected, even by a KeyError. Only BUGS (NameError
    ...) are raised by `run`, and a time-out or a broken connection in the judge ends
    the run. The fix-ups in FIXES are tried in order; the first that returns a move
    decides. The defaults repair the reply, which is free, or ask again: the task, then
    the task and the complaint (after two alike; at temperature 0 at once), and so on in
    turn, never with the rejected reply, as a model repeats what it sees.
  - The call fails (a 429, a broken connection): the fix-ups in FAULTS are tried. The
    defaults wait and ask again, or stop where that cannot help (a wrong API key).
  - The reply asks for tools (state.reply.tool_calls): no judge sees it. A fix-up of
    yours goes on from it, with an Ask that has their results, or the run stops.
  - A fix-up returns Stop, none applies (by default, once one reply came three times),
    or a limit is reached (8 replies judged, 8 calls failed, 32 calls with those of
    hooks, 600 s): the run ends, not accepted. result.best is the best so far.
  - The call or a fix-up has a bug, or the judge raises BUGS: `run` raises it.

A special case of your own goes first: fixes=[yours, *FIXES], or for failed calls
faults=[yours, *FAULTS]. A hook that needs a model is a generator: `reply = yield
Ask(...)` gets a Reply, `value = yield Question(...)` what a judge accepted. In async
code `await arun(...)` with `achat` takes the place of `run(...)` with `chat`; call,
judge and fix-ups may be async or not.

    1. The loop                 2. Words                    3. Running it
    4. Judges                   5. Fix-ups                  6. Calls
    7. Watching                 8. The tape                 9. The books

To use or extend it, read sections 1 to 3. Each of 4 to 8 can be deleted: see README."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from itertools import count, islice
from typing import Any, Generic, NamedTuple, TypeVar, cast

__version__ = "0.5.0"

# 1. The loop --------------------------------------------------------------------------


def steps(state: State, move: Move) -> Steps:
    """Call, inspect, decide, until a reply is accepted or nothing is left to try.

    The first move is the task. `yield from` runs call_model, inspect_reply or
    decide_next to its end and takes what it returns. Each thing that they yield on the
    way is a function to call: a driver of section 3 calls it, and sends its result back
    in. In async code the driver awaits it, too; nothing else differs.
    """
    while True:
        move = within_limits(state, move)  # an Ask that a limit forbids becomes a Stop
        if isinstance(move, Stop):
            return gave_up(state, move.why)
        texts = yield from call_model(state, move)
        for text in texts:  # none after a fault, or where the model asks for tools
            if (yield from inspect_reply(state, text)):
                return accepted(state)
        move = yield from decide_next(state)


def call_model(state: State, move: Ask | Use) -> Steps:
    """Return the texts to inspect: of the reply to an Ask, or the repairs of a Use."""
    if isinstance(move, Use):
        state.texts, state.fault = move.texts, None
        return move.texts
    outcome = start_attempt(state, move)  # the tape's reply, where it has one
    if outcome is None:
        if move.wait:
            yield partial(time.sleep, move.wait)  # adrive takes asyncio.sleep instead
        emit(state, "sent", messages=state.messages, settings=state.settings)
        try:
            # A copy, as the call may change it; and no settings but those of the task
            # and of moves, as the call adds its own.
            messages = [dict(message) for message in state.messages]
            outcome = yield partial(state.call, messages, **state.changed)
        except Exception as error:
            outcome = fault_of(error, also=OSError)  # a 429, a broken connection ...
            if outcome is None:
                raise  # a bug in the call
    record_outcome(state, outcome)  # on the account and the tape, before a hook sees it
    return state.texts


def inspect_reply(state: State, text: str) -> Steps:
    """Return whether the judge accepts a text; note its value, or its complaint."""
    if text in state.inspected:
        return False  # already judged for this reply: the repair changed nothing
    start_inspection(state, text)
    try:
        value = yield from ask_hook(state, state.judge, text)
        state.value = accepted_value(state.judge, text, value)  # None is rejected here
    except CallError:
        raise  # a service that the judge needs failed: run_steps ends the run
    except (HookError, *BUGS):
        raise  # the judge is wrong, not the reply
    except Exception as error:
        if error is state.question_error:
            raise  # a bug in answering the judge's question, not in the reply
        record_rejection(state, text, error)
        return False
    emit(state, "inspect", complaint="")
    return True


def decide_next(state: State) -> Steps:
    """Return the move of the first fix-up that applies, or a Stop."""
    fixes = state.faults if state.fault else state.fixes
    for fix in fixes:
        move = yield from ask_hook(state, fix, state)
        if is_new_move(state, fix, move):  # neither None nor a repair tried before
            record_decision(state, fix, move)
            return move
    if state.stuck:
        return Stop("stuck: the same reply came three times, and no fix-up applies")
    return Stop("no fix-up applies")


def run_steps(state: State, move: Move) -> Steps:
    """Take the steps of a run, and end it in good order where a hook raises."""
    try:
        return (yield from steps(state, move))
    except CallError as fault:  # a hook's question, or its service, got no answer
        return gave_up(state, str(fault))
    except BaseException as error:  # a bug or Ctrl-C: there is no Result, only attempts
        with suppress(Exception):
            error.attempts = state.attempts  # type: ignore[attr-defined]
        with suppress(Exception):
            gave_up(state, f"raised {describe(error)}")
        raise


# 2. Words -----------------------------------------------------------------------------

T = TypeVar("T")
Hook = Callable[..., Any]
Messages = list[Any]  # [{"role": "user", "content": "..."}, ...]
Steps = Generator["partial[Any]", Any, Any]

# The default fix-ups, one for each special case; section 5 fills the lists.
FIXES: list[Hook] = []  # for a rejected reply
FAULTS: list[Hook] = []  # for a failed call

# What `run` does with an exception of a judge; the first of these that fits:
# - CallError, a time-out, a broken connection, an HTTP status: a service that it needs
#   failed. The run ends, not accepted. (A fix-up's likewise; its others are raised.)
# - One of BUGS: `run` raises it. (OSError: no model can mend a missing file.)
# - Any other: the reply is rejected. Mostly, it is about what the model wrote.
BUGS = (NameError, ImportError, NotImplementedError, OSError, MemoryError)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call returned. None means unknown, never zero."""

    text: str
    # stop, length (of max_tokens), refusal, tools, cut (by the connection) or unknown
    finish: str = "unknown"
    reasoning: str = ""
    # As OpenAI has them: {"id": "...", "function": {"name": "...", "arguments": "{}"}}
    tool_calls: tuple[Any, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None  # dollars
    seconds: float | None = None
    model: str = ""
    id: str = ""
    complaint: str = ""  # the call's own: the reply is rejected for it, not judged
    raw: Any = field(default=None, repr=False)  # the response; pickled copies lack it

    def __reduce__(self) -> Any:
        values = [getattr(self, it.name) for it in fields(self) if it.name != "raw"]
        return Reply, tuple(values)


@dataclass(eq=False)
class Reason(Exception):
    """What Reject and CallError share: they print as a reason, and can be pickled."""

    why: str

    def __post_init__(self) -> None:
        self.args = tuple(getattr(self, it.name) for it in fields(self))

    def __str__(self) -> str:
        return str(self.why)


@dataclass(eq=False)
class Reject(Reason):
    """Raised by a judge: the complaint, and what is good so far. Result.best is the
    value with the most `passed`, then the highest score, then the last one."""

    value: Any = None  # what is good so far
    score: float | None = None
    passed: int = 0  # set by all_of: how many of its judges accepted


@dataclass(eq=False)
class CallError(Reason):
    """Raised by a call: why there is no reply. Raised by a judge or a fix-up, it ends
    the run: a service that the hook needs did not answer."""

    status: int | None = None  # of HTTP
    code: str = ""  # the endpoint's own word for it
    wait: float | None = None  # seconds that the endpoint asks us to wait
    billed: bool = False  # the call may be charged for, although no reply came


class HookError(TypeError):
    """A hook or a call broke its contract. Raised by a run, it has `.attempts`."""


class GaveUp(Exception):
    """Raised by Result.unwrap; `.args[0]` is the Result."""


class Ask:
    """A task, or a move: call with these messages, after `wait` seconds.

    The call and the settings stay in force until a later Ask of the run changes them;
    None removes a setting of chat. An Ask that changes the call goes back to the
    settings of the task, without its model. One that a hook yields changes nothing.
    """

    def __init__(
        self,
        messages: str | Sequence[Any],
        wait: float = 0,
        call: Hook | None = None,
        **settings: Any,
    ):
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, (list, tuple)) or not messages:
            raise HookError(f"ask is {messages!r}, not a text or a list of messages")
        for message in messages:
            if get_path(str, message, "role") is None:
                kind = type(message).__name__
                cure = "give dicts with a role, as from its .model_dump()"
                raise HookError(f"a message is {short_json(message)} ({kind}): {cure}")
        for name in settings.keys() & {"judge", "fixes", "faults", "limits"}:
            raise HookError(f"{name} is no setting of a request: see run, or Question")
        if type(wait) not in (int, float) or not wait >= 0:
            raise HookError(f"wait is {wait!r}: give seconds, 0 or more")
        if call is not None:
            check_callable(call)
        self.messages: Messages = list(messages)
        self.wait, self.call, self.settings = wait, call, settings

    def __repr__(self) -> str:
        settings = recorded_settings(self.settings)
        return f"{type(self).__name__}({short_json(self.messages)}, {settings})"


class Question(Ask):
    """What a hook yields to get a value that this judge accepts, by a loop of its own.

    It has the account, tape and limits of the run, and its own count of tries. Where it
    gives up, a CallError is raised in the hook. (`yield Ask(...)` gets the Reply.)
    """

    def __init__(
        self,
        messages: str | Sequence[Any],
        judge: Hook,
        *,
        fixes: Sequence[Hook] = FIXES,
        wait: float = 0,
        call: Hook | None = None,
        **settings: Any,
    ):
        super().__init__(messages, wait, call, **settings)
        check_callable(judge, *fixes)
        self.judge, self.fixes = judge, fixes


class Use:
    """A move: inspect these texts in order. They are repairs of the reply, and free."""

    def __init__(self, *texts: str):
        for text in texts:
            if type(text) is not str:
                raise HookError(f"Use takes texts, not {text!r}")
        self.texts = texts

    def __repr__(self) -> str:
        return f"Use({', '.join(map(short_json, self.texts))})"


@dataclass(frozen=True, slots=True)
class Stop:
    """A move: end the run, as trying again cannot help."""

    why: str


Move = Ask | Use | Stop


@dataclass(frozen=True, slots=True)
class Accept:
    """What a judge returns where the accepted value is None or a bool."""

    value: Any


@dataclass(frozen=True, slots=True)
class Limits:
    """When to give up, checked before each call. math.inf: never.

    None means not given: a run then has its default, an account of several runs none.
    """

    tries: float | None = None  # replies judged (8); a question of a hook has its own
    faults: float | None = None  # calls failed (8)
    calls: float | None = None  # requests sent, or answered by the tape (32)
    seconds: float | None = None  # waits included (600)
    tokens: float | None = None  # input and output (math.inf)
    cost: float | None = None  # dollars (math.inf)


DEFAULT_LIMITS = Limits(tries=8, faults=8, calls=32, seconds=600)


@dataclass(slots=True)
class Spent:
    """What was spent so far, the calls of hooks included."""

    tries: int = 0  # replies judged; not those of a question of a hook
    faults: int = 0  # calls failed
    calls: int = 0  # requests sent, or answered by the tape
    seconds: float = 0.0
    tokens: int = 0  # input and output
    cost: float | None = 0.0  # dollars; None once a call had no known price
    estimated: int = 0  # how many of the tokens are a guess (characters / 4)
    reused: int = 0  # how many of the calls the tape answered, for nothing


@dataclass(slots=True)
class Attempt:
    """One request and what became of it. Nothing in it holds a key or a function."""

    messages: Messages
    settings: dict[str, Any]
    call: str  # its name
    hook: str = ""  # the name of the hook that asked; "" where it is the task itself
    reply: Reply | None = None
    fault: CallError | None = None
    complaint: str = ""  # about the last text of it that was rejected
    fixes: list[str] = field(default_factory=list[str])  # fix-ups that returned a move
    seconds: float = 0.0  # a wait before it included
    key: str = ""  # of the request, on a tape
    reused: bool = False  # the tape had its reply


@dataclass(slots=True, repr=False)
class Result(Generic[T]):
    """How a run ended. bool(result) says whether a reply was accepted."""

    value: T | None  # what the judge returned
    accepted: bool
    why: str
    best: Any  # the accepted value, else the best rejected value, else the last text
    attempts: list[Attempt]
    spent: Spent
    error: Exception | None = None  # in a batch: what the task raised

    def __bool__(self) -> bool:
        return self.accepted

    def __repr__(self) -> str:
        value = f"value={short_json(self.value)}, " if self.accepted else ""
        spent = f"calls={self.spent.calls}, tokens={self.spent.tokens}"
        return f"Result({value}why={self.why!r}, {spent})"

    def unwrap(self) -> T:
        """Return the accepted value, or raise GaveUp."""
        if not self.accepted:
            raise GaveUp(self)
        return cast("T", self.value)


@dataclass(slots=True)
class State:
    """What a fix-up sees of a run: `task` and `memory` to change, the rest to read."""

    task: Messages  # what is asked, and what the re-asks go on from
    judge: Hook
    call: Hook
    fixes: Sequence[Hook]
    faults: Sequence[Hook]
    accounts: tuple[Account, ...]  # the run's own, then those that it shares
    messages: Messages = field(default_factory=list[Any])  # sent last
    settings: dict[str, Any] = field(default_factory=dict[str, Any])  # without secrets
    reply: Reply = Reply("")  # the last one, as it came
    # The texts inspected last: the reply's own or, after a repair, the repaired ones,
    # so that repairs build on each other. Those of JSON and of code blocks end with the
    # whole text. () where the reply asks for tools.
    texts: Sequence[str] = ()
    text: str = ""  # the one of these that the judge saw last
    complaint: str = ""  # about this text
    fault: Any = None  # a CallError, where the last call failed
    faults_in_a_row: int = 0  # of the present call
    judged: int = 0  # replies of the present call that its judge saw
    repeats: int = 0  # how often the present call gave the last reply: 1 for a new one
    best: Any = None  # as in Result
    best_complaint: str = ""  # about it
    attempts: list[Attempt] = field(default_factory=list[Attempt])  # append-only
    memory: dict[Any, Any] = field(default_factory=dict[Any, Any])  # of the fix-ups
    # What only the loop uses:
    attempt: Any = None  # the present one: a question of a hook appends others
    task_settings: dict[str, Any] = field(default_factory=dict[str, Any])
    # Settings that the task and the moves gave so far:
    changed: dict[str, Any] = field(default_factory=dict[str, Any])
    value: Any = None  # what the judge accepted
    name: str = ""  # of the run, in its events
    hook: str = ""  # whose question this run answers
    watch: Hook | None = None
    tape: Any = None  # with name_run(task), recall(state), write(event): section 8
    started_at: float = 0.0
    question_error: Exception | None = None  # a bug in answering a hook's question
    inspected: set[str] = field(default_factory=set[str])  # texts of the last reply
    replies_by_request: dict[str, int] = field(default_factory=dict[str, int])
    replies_by_content: dict[str, int] = field(default_factory=dict[str, int])
    # Of best: (is it a value, judges that passed it, its score); the greater wins.
    best_rank: tuple[bool, int, float] = (False, 0, -math.inf)

    @property
    def spent(self) -> Spent:
        """What this run has spent so far."""
        return self.accounts[0].spent

    @property
    def stuck(self) -> bool:
        """Whether the last reply came for the third time: the re-asks stand back."""
        return self.repeats >= 3

    @property
    def why(self) -> str:
        """What is wrong at present: the fault of the last call, or the complaint."""
        return str(self.fault or self.complaint)


# 3. Running it ------------------------------------------------------------------------


def run(
    ask: str | Sequence[Any] | Ask,
    judge: Callable[[str], T],
    *,
    call: Hook,
    fixes: Sequence[Hook] = FIXES,
    faults: Sequence[Hook] = FAULTS,
    limits: Limits = Limits(),
    account: Account | None = None,
    tape: Any = None,
    name: str = "",
    after: Sequence[str] = (),
    watch: Hook | None = None,
    driver: Hook | None = None,
) -> Result[T]:
    """Ask until the judge accepts, a fix-up says stop or a limit is reached.

    Returns a Result, accepted or not. Raises TypeError or ValueError for a wrong hook,
    before anything is paid for where that can be seen. account: shared with other
    runs. name: of the run; one with the name of a run on the tape is that run, and pays
    only for what is missing. after: names of the runs that it follows, for its record.
    driver: calls what the run yields, as `drive` does; what it returns is returned.
    """
    driver = driver or drive
    ask = ask if isinstance(ask, Ask) else Ask(ask)
    if isinstance(ask, Question):
        raise TypeError("a Question is for a hook to yield: give run a text or an Ask")
    accounts = accounts_of(limits, account)
    task = [*ask.messages]  # a fix-up may change it
    state = State(task, judge, ask.call or call, fixes, faults, accounts)
    state.task_settings = state.changed = ask.settings
    check_hooks(state, driver)
    start_run(state, tape, name, watch, after)
    return cast("Result[T]", driver(run_steps(state, ask)))


async def arun(
    ask: str | Sequence[Any] | Ask,
    judge: Hook,
    *,
    call: Hook,
    fixes: Sequence[Hook] = FIXES,
    faults: Sequence[Hook] = FAULTS,
    limits: Limits = Limits(),
    account: Account | None = None,
    tape: Any = None,
    name: str = "",
    after: Sequence[str] = (),
    watch: Hook | None = None,
) -> Result[Any]:
    """Do what `run` does, and await the call and those hooks that are async."""
    options: dict[str, Any] = {"fixes": fixes, "faults": faults, "limits": limits}
    options |= {"account": account, "tape": tape, "name": name, "watch": watch}
    options["after"] = after
    result: Any = run(ask, judge, call=call, driver=adrive, **options)
    return cast("Result[Any]", await result)


def drive(flow: Steps, sleep: Hook | None = None) -> Any:
    """Call what a run yields until it ends; refuse what would have to be awaited.
    sleep(seconds) does the waits, in place of time.sleep."""
    try:
        step = next(flow)
        while True:
            try:
                if sleep and step.func is time.sleep:
                    step = partial(sleep, *step.args)
                value = step()
                if hasattr(value, "__await__"):
                    if hasattr(value, "close"):
                        value.close()  # or Python warns that nobody awaited it
                    raise HookError(f"{name_of(step)} is async: use arun")
            except BaseException as error:  # noqa: BLE001
                step = flow.throw(error)
            else:
                step = flow.send(value)
    except StopIteration as end:
        return end.value


async def adrive(flow: Steps) -> Any:
    """Call what a run yields, until it ends; await what is awaitable."""
    import asyncio

    try:
        step = next(flow)
        while True:
            try:
                if getattr(step.func, "blocks", False) is True:
                    check_blocking(step.func)  # of a fix-up, which nobody saw before
                value = asyncio.sleep(*step.args) if step.func is time.sleep else step()
                if hasattr(value, "__await__"):
                    value = await value
            except BaseException as error:  # noqa: BLE001
                step = flow.throw(error)
            else:
                step = flow.send(value)
    except StopIteration as end:
        return end.value


def scripted(*replies: Reply | str | Exception) -> Hook:
    """Return a call for tests: it returns these replies in order, and raises errors.

    Its `.asked` has the (messages, settings) of each request.
    """
    asked: list[tuple[Messages, dict[str, Any]]] = []

    def scripted(messages: Messages, **settings: Any) -> Reply | str:
        asked.append((messages, settings))
        if len(asked) > len(replies):
            raise LookupError(f"all {len(replies)} replies are used up")
        reply = replies[len(asked) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    settings = {"model": "scripted"}
    vars(scripted).update(asked=asked, settings=settings, price=(0.0, 0.0))
    return scripted


# 4. Judges ----------------------------------------------------------------------------

JSON_TYPES = (str, int, float, bool, list, dict, type(None), object)
KINDS = {str: "a string", int: "an integer", float: "a number", bool: "a boolean"}


def json_with(**keys: Any) -> Hook:
    """Judge: the text is one JSON object with at least these keys; returns the object.

    A key has a type, or a tuple of the allowed values: json_with(name=str,
    mood=("good", "bad")). The score of a rejection is minus the number of wrong keys.
    """
    for key, want in keys.items():
        kinds: tuple[Any, ...] = getattr(want, "__args__", (want,))  # int | None ...
        is_generic = hasattr(want, "__origin__")  # list[int], say
        fits = not is_generic and all(kind in JSON_TYPES for kind in kinds)
        allowed = get_path(tuple, want)
        if allowed is not None:
            fits = len(allowed) > 0 and not any(isinstance(it, type) for it in allowed)
        if not fits:
            raise TypeError(f"{key}: give a type, or a tuple of values, not {want!r}")

    def json_with(text: str) -> dict[str, Any]:
        found = strict_json(text)
        if not isinstance(found, dict):
            raise Reject(f"expected a JSON object with the keys {', '.join(keys)}")
        wrong: list[str] = []
        for key, want in keys.items():
            complaint = mismatch(found[key], want) if key in found else "missing"
            if complaint:
                wrong.append(f"{key}: {complaint}")
        if wrong:
            raise Reject("; ".join(wrong), value=found, score=-len(wrong))
        return cast("dict[str, Any]", found)

    return json_with


def strict_json(text: str) -> Any:
    """Return the text as one JSON value; reject NaN, 1e999, a key with two values."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            # As JSON, since True == 1 in Python.
            if key in found and json.dumps(found[key]) != json.dumps(value):
                both = f"{short_json(found[key])} and {short_json(value)}"
                raise Reject(f"{key}: both {both}")
            found[key] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise Reject(f"the text is not one JSON value: {error}") from None
    return value


def mismatch(value: Any, want: type | tuple[Any, ...]) -> str:
    """Return what was expected and what was found, or "" where a value is as wanted."""
    if isinstance(want, tuple):
        allowed = [json.dumps(it) for it in want]
        fits = json.dumps(value) in allowed
        expected = f"one of {', '.join(allowed)}"
    else:
        kinds: tuple[Any, ...] = getattr(want, "__args__", (want,))
        if isinstance(value, bool):  # which Python takes for an int
            fits = bool in kinds or object in kinds
        else:
            fits = isinstance(value, (*kinds, int) if float in kinds else kinds)
        expected = KINDS.get(want, str(getattr(want, "__name__", want)))
    return "" if fits else f"expected {expected}, found {short_json(value)}"


def one_of(*labels: str) -> Hook:
    """Judge: the text is one of these labels, in any case; returns it as given here.

    Its `.labels` are what the repair `label_in_talk` looks for.
    """
    by_folded = {label.strip().casefold(): label for label in labels}

    def one_of(text: str) -> str:
        label = by_folded.get(text.strip().casefold())
        if label is None:
            expected = f"expected only one of {', '.join(labels)}"
            raise Reject(f"{expected}, found {short_json(text)}")
        return label

    one_of.labels = labels  # type: ignore[attr-defined]
    return one_of


def check(predicate: Callable[[Any], object], complaint: str) -> Hook:
    """Judge: the predicate holds for what it is given; returns that."""

    def check(found: Any) -> Accept:
        holds = predicate(found)
        if isinstance(holds, (types.GeneratorType, types.CoroutineType)):
            holds.close()
            raise HookError(f"check takes a plain predicate, not {name_of(predicate)}")
        if not holds:
            raise Reject(complaint, value=found)
        return Accept(found)

    return check


def all_of(*judges: Hook) -> Hook:
    """Judge: all of these, in order, each given what the one before it returned.

    all_of(json_with(age=int), check(lambda it: it["age"] > 0, "age: not above 0"))
    """

    def all_of(text: str) -> Generator[Any, Any, Accept]:
        value: Any = text
        for number, judge in enumerate(judges):
            try:
                answer = judge(value)
                if isinstance(answer, types.GeneratorType):
                    answer = yield from cast("Generator[Any, Any, Any]", answer)
                elif hasattr(answer, "__await__"):
                    answer = yield answer
                value = accepted_value(judge, value, answer)
            except Exception as error:
                # What passed some of the judges is better than what passed none.
                rejection: Any = error
                with suppress(Exception):
                    rejection.passed = number + getattr(error, "passed", 0)
                    if number and getattr(error, "value", None) is None:
                        rejection.value = value
                raise
        return Accept(value)

    marks: Any = {"labels": getattr(judges[0], "labels", ())}  # for label_in_talk
    marks["blocks"] = any(call_attribute(it, "blocks") is True for it in judges)
    vars(all_of).update(marks)
    return all_of


# 5. Fix-ups ---------------------------------------------------------------------------
# The special cases, in the order in which they are tried; below them, what they share.
# A docstring ends with where the case was reported, if it was.


def think_tags(state: State) -> Use | None:
    """The model thought aloud. Use what follows </think>, whether or not that was
    opened, or what stands before a thought without an end. A tag within JSON is text.
    (qwen-code#6033, probe#439)"""
    head, closed, answer = state.text.partition("</think>")
    before, opened, _ = head.partition("<think>")
    if not (opened or closed) or scan_json(before).open:
        return None
    answer = answer if closed else before
    answer, second_opened, second = answer.partition("<think>")
    if second_opened and scan_json(answer).open:
        answer += second_opened + second  # the tag is in the JSON
    elif second_opened:
        answer += second.partition("</think>")[2]  # without the second thought
    return Use(answer.strip())


def code_fence(state: State) -> Use | None:
    """The answer stands in a Markdown code block. Use the last block first. A block
    within JSON is a part of it, and blocks before one that is cut off are drafts.
    (outrider#111)"""
    parts, is_open = split_at_fences(state.text)
    if is_open or len(parts) == 1:
        return None
    pieces, blocks = scan_json(state.text).pieces, list[str]()
    for number, part in enumerate(parts):
        is_block = number % 2 == 1
        is_json = part.lstrip()[:1] in ("{", "[")
        if (is_json or not is_block) and scan_json(part).open:
            break  # a fence that follows on unfinished JSON is inside of that
        # JSON that scan_json did not take is contradicted by a later piece of the text.
        found = scan_json(part).pieces if is_json else ()
        contradicted = any('"' in it and it not in pieces for it in found)
        if is_block and not contradicted:
            blocks.append(part)
    return Use(*reversed(blocks), state.text) if blocks else None


def split_at_fences(text: str) -> tuple[list[str], bool]:
    """Return talk, code block, talk ... of a text, in turn, and whether it ends within
    a block. A fence that has a word after it, as ```python, opens a block, and cannot
    close one; ```ls``` on a line does neither."""
    parts, start, language = list[str](), 0, ""
    for fence in islice(re.finditer(r"(?m)^```([^\n]*)", text), 2000):
        within = len(parts) % 2 == 1
        after = fence[1].strip()
        if within and re.match(r"\w", after):
            continue
        if within or "`" not in after:
            parts.append(text[start : fence.start()])
            start = fence.start() + 3 if within else fence.end() + 1
            language = after
    parts.append(text[start:])
    is_open = len(parts) % 2 == 0
    if is_open and not (language or parts[-1].strip()):  # a lone fence at the end
        return parts[:-1], False
    return parts, is_open


def json_slips(state: State) -> Use | None:
    """The JSON has talk around it, or slips: spare commas, bare keys, other quotes,
    comments, True and None, line breaks in strings. Use each whole piece without them,
    the last piece first. (promptfoo#10268, dirty-json#21)"""
    pieces: list[str] = []
    for text in state.texts:
        found = scan_json(text).pieces
        if found and not is_json(text):
            pieces.extend(reversed(found))
    # The text itself comes last, for the repairs after this one.
    return Use(*pieces, state.texts[-1]) if pieces else None


def label_in_talk(state: State) -> Use | None:
    """The judge wants one of a few labels, and the reply has talk around it. Use the
    label if it is the only one in the reply, is not asked for, and nothing denies it.
    Denials are known in English only. SmolLM2 said of a neutral text "positive, but
    it's not entirely neutral"."""
    text = state.texts[-1].strip() if state.texts else ""
    labels = getattr(state.judge, "labels", ())
    found = [label for label in labels if re.search(pattern_of_label(label), text)]
    if len(found) != 1:
        return None
    label = found[0]
    word = pattern_of_label(label)
    if re.search(rf"{word}[^.!?\n]{{0,200}}\?", text):
        return None  # "Is it positive or not?"
    # What explains a label may deny other things: "negative\nIt did not work".
    alone = rf"\W*(?:\w+:\W*)?{word}\W*\n"
    if label.casefold() == "no":  # "No, it is not"
        alone += rf"|\W*{word}\W{{1,3}}(?i:it|this|that|there|the|he|she|they)\b"
    if re.match(alone, text):
        return Use(label)
    if DENIAL.search(re.sub(word, "", text)):
        return None
    # A short label may be a common word ("I have no idea"), or number a list.
    ended = rf"(?:^|[\s:\"'*(\[]){word}[\"'*)\]]*\s*(?:[.,;:!\n]|$)"
    in_list = label.isdigit() and re.search(rf"(?m)^\s*{label}[.):]\s+\S", text)
    if len(label) < 4 and (in_list or not re.search(ended, text)):
        return None
    return Use(label)


def pattern_of_label(label: str) -> str:
    """Return the pattern of a label where it is no part of a word or number, nor a key:
    4 is not in 4.8, 4/10 or 3,400. Short capitals are no words: US is not in "tell us".
    """
    as_given = len(label) < 4 and label.isupper() and label not in ("NO", "YES")
    text = re.escape(label) if as_given else f"(?i:{re.escape(label)})"
    before = r"(?<![\w.,/+-])(?<!\w['\u2019])"  # can't has no label t
    return rf"{before}{text}(?![\w/%]|[.,:]\d|-\w|[\"']\s*:)"


# More words would deny more than they should: a miss costs a call, a hit a wrong value.
DENIAL = re.compile(
    r"(?i)\b(not?|non|none|nor|nothing|never|neither|cannot|hardly|barely|without"
    r"|lacks?|doubt|unlikely|unable|unclear|unsure|wrong|incorrect|false|opposite"
    r"|fails?|refuse|far from|rather than|other than|instead of|anything but"
    r"|(?:is|are|was|were|do|does|did|would|could|should|ca|wo)nt)\b"
    r"|n['`\u2019\u02bc]t\b"
)


def answer_in_reasoning(state: State) -> Use | None:
    """The reply has no text, but there is JSON in its reasoning: use that. Not where
    the reply was cut off or the model refused, as it may be a draft. (zammad#5984)"""
    reply = state.reply
    if reply.text.strip() or reply.tool_calls or token_limits_reached(state):
        return None
    if reply.finish in ("length", "cut", "refusal"):
        return None
    pieces = scan_json(reply.reasoning or "").pieces
    return Use(*reversed(pieces)) if pieces else None


def token_limits_reached(state: State) -> dict[str, Any]:
    """Return the settings that cut the reply off, if any, whatever its flag says."""
    used = state.reply.output_tokens or 0
    limits: dict[str, Any] = {}
    for name in ("max_tokens", "max_completion_tokens"):
        limit = get_path(int, state.settings, name)
        if limit and (state.reply.finish == "length" or used >= limit):
            limits[name] = limit
    return limits


def tools_wanted(state: State) -> Stop | None:
    """The model asks for tools, and no fix-up above runs them, or uses their arguments:
    stop, as the same request would bring the same."""
    if not state.reply.tool_calls or state.texts:
        return None
    cure = "give one that runs them, or uses their arguments as the answer"
    return Stop(f"no fix-up runs tools: {cure}")


def cut_by_length(state: State) -> Ask | None:
    """The reply was cut off at max_tokens within JSON, a code block or a thought: allow
    twice as many tokens, once; four times as many where thinking took them all. A reply
    that was cut off within talk is none of this: more talk brings nothing (measured
    with SmolLM2). (vis#162, vllm#24184, litellm-docs#559)"""
    memory_key = f"cut_by_length of {name_of(state.call)}"
    limits = token_limits_reached(state)
    if not limits or memory_key in state.memory or state.reply.finish == "refusal":
        return None
    text = state.reply.text
    only_thought = "<think>" in text and "</think>" not in text
    only_thought = only_thought or (bool(state.reply.reasoning) and not text.strip())
    if not (only_thought or first_answer_is_open(text)):
        return None
    state.memory[memory_key] = True
    state.memory["limits before"] = limits
    factor = 4 if only_thought else 2
    return Ask(state.messages, **{name: limits[name] * factor for name in limits})


def first_answer_is_open(text: str) -> bool:
    """Return whether a text ends within the first JSON or code block that it has."""
    parts, is_open = split_at_fences(text)
    if is_open and parts[-1].lstrip()[:1] not in ("{", "["):
        return len(parts) == 2 and not scan_json(parts[0]).pieces
    scan = scan_json(text)
    return scan.open and not scan.pieces


def empty_reply(state: State) -> Ask | None:
    """The reply is empty: ask again, without a complaint, which would only confuse.
    (python-genai#1789)"""
    is_empty = not (state.reply.text.strip() or state.reply.tool_calls)
    return ask_again(state) if is_empty else None


def ask_afresh(state: State) -> Ask | None:
    """Ask the same again after the first rejection and every other one, and after the
    second where its complaint is another one. A model that is shown its bad answer
    repeats it (SmolLM2 in 78 % of re-asks, unshown in 3 %). Not at temperature 0, and
    not where the same reply came twice and there is no seed to change."""
    # Two different complaints are mistakes by chance: SmolLM2 is then right more often
    # without a complaint before its eyes. After the same one twice it is the reverse.
    by_chance = state.judged == 2 and not same_complaint_twice(state)
    came_twice = state.repeats > 1 and "seed" not in state.settings
    pointless = came_twice or state.settings.get("temperature") == 0
    if pointless or (state.judged % 2 == 0 and not by_chance):
        return None
    return ask_again(state)


def same_complaint_twice(state: State) -> bool:
    """Return whether the last two replies were rejected for the same, but for numbers
    and quotes in the complaint."""
    complaints = [it.complaint for it in state.attempts if it.hook == state.hook]
    details = r"'[^']*'|\"[^\"]*\"|\d+"
    last = [re.sub(details, "#", it) for it in complaints if it][-2:]
    return len(last) == 2 and last[0] == last[1]


def ask_with_complaint(state: State) -> Ask | None:
    """The last resort: ask the task with the complaint as a note, so that the model
    knows what was missing. The size of the request stays constant. (smolagents#2566)"""
    # With "An earlier answer was refused: ..." SmolLM2 was right less often.
    return ask_again(state, f"Note: {state.complaint}")


def ask_again(state: State, note: str = "", **settings: Any) -> Ask | None:
    """Return the move to ask the task, with a note; None where that cannot help: the
    same reply came three times, or the model refused (hermes-agent#43108).

    A call that has a seed gets the next one. To others none is sent: Mistral, Anthropic
    and ollama do not take it.
    """
    if state.stuck or state.reply.finish == "refusal":
        return None
    messages, last = list(state.task), state.task[-1]
    parts: list[Any] | None = get_path(list, last, "content")  # texts, images ...
    if note and get_path(str, last, "role") != "user":  # a tool's result, say
        messages.append({"role": "user", "content": note})
    elif note and parts is not None:
        messages[-1] = {**last, "content": [*parts, {"type": "text", "text": note}]}
    elif note:
        messages[-1] = {**last, "content": f"{text_of(last)}\n\n{note}".strip()}
    seed = get_path(int, state.settings, "seed")
    if seed is not None:
        settings = {"seed": seed + 1} | settings
    return Ask(messages, **settings)


def escalate(call: Hook, after: int = 2) -> Hook:
    """Return a fix-up that puts the task to another call, once: after so many rejected
    replies of the present one, or at once where that is stuck or refuses. List it
    before the re-asks: [*REPAIRS, escalate(big), *RE_ASKS]; several make a ladder. In
    `faults` it counts failures in a row: [escalate(other, 1), *FAULTS] is a fall-back.
    (hermes-agent#43108)"""

    def escalate(state: State) -> Ask | None:
        if state.fault:
            due = state.faults_in_a_row >= after
        else:
            refused = state.reply.finish == "refusal"
            due = refused or state.stuck or state.judged >= after
        if not due or escalate in state.memory:
            return None
        state.memory[escalate] = True
        return Ask(state.task, call=call)

    escalate.__name__ = f"escalate_to_{name_of(call)}"
    return escalate


def quota_gone(state: State) -> Stop | None:
    """The account has no quota left: stop. Only the code tells it from a rate limit,
    whose message reads the same. (langchainjs#1929, LibreChat-AI/agents#358)"""
    gone = state.fault.code == "insufficient_quota"
    return Stop("the account has no quota left") if gone else None


def more_tokens_refused(state: State) -> Ask | None:
    """The endpoint does not take the limit that cut_by_length allowed: go back to the
    one before."""
    if state.fault.status != 400 or "limits before" not in state.memory:
        return None
    return Ask(state.messages, **state.memory.pop("limits before"))


def bad_request(state: State) -> Stop | None:
    """The endpoint will never take this request: stop, and say what to check.
    (BAML#3224)"""
    status = state.fault.status or 0
    if not 300 <= status < 500 or status in (408, 409, 425, 429):
        return None
    cures = {
        401: "check the key",
        402: "the account has no credit",
        403: "check what the key may do",
        404: "check the model's name, and base_url",
    }
    return Stop(f"refused for good: {cures.get(status, 'check messages and settings')}")


def told_to_wait(state: State) -> Ask | None:
    """The endpoint said how long to wait: wait that long, and a little more.
    (litellm#4387, aider#3265)"""
    wait = state.fault.wait
    return ask_later(state, wait) if wait else None


def overloaded(state: State) -> Ask | None:
    """The endpoint has too much to do, or failed (429, 5xx): wait, each time twice as
    long, up to a minute and some jitter; 503 and 529 take longest.
    (claude-code#75396)"""
    status = state.fault.status or 0
    first = 4.0 if status in (503, 529) else 1.0
    return ask_later(state, backoff(state, first)) if status >= 400 else None


def no_answer(state: State) -> Ask | Stop | None:
    """No answer came, or a web page in its place: wait a little, and ask again. Stop
    after three where nothing better ever came, as the address is probably wrong."""
    faults = [attempt.fault or CallError("") for attempt in state.attempts]
    answered = any(fault.code or (fault.status or 0) >= 400 for fault in faults)
    answered = answered or any(attempt.reply for attempt in state.attempts)
    if state.faults_in_a_row >= 3 and not answered:
        return Stop("no answer ever came: is the endpoint running? check base_url")
    return ask_later(state, backoff(state, 0.5))


def backoff(state: State, first: float) -> float:
    """Return how many seconds to wait: twice as long each time, up to a minute."""
    return min(60.0, first * 2.0 ** min(10, state.faults_in_a_row - 1))


def ask_later(state: State, wait: float) -> Ask:
    """Return the move to ask the same after a wait, with jitter: not all at once."""
    from random import random

    return Ask(state.messages, wait=wait * (1 + random() / 4))


REPAIRS = [think_tags, code_fence, json_slips, label_in_talk, answer_in_reasoning]
RE_ASKS = [tools_wanted, cut_by_length, empty_reply, ask_afresh, ask_with_complaint]
FIXES.extend([*REPAIRS, *RE_ASKS])
FAULTS.extend([quota_gone, more_tokens_refused, bad_request])
FAULTS.extend([told_to_wait, overloaded, no_answer])

# What the repairs share is a reader of JSON that has slips. It never completes what was
# cut off, and takes nothing out of what is broken:
#
#     text                                  pieces                 why
#     Sure: {"a": 1,} Bye                   {"a": 1}
#     Not {'a': 1} but {a: True}            {"a": 1} {"a": true}   the last goes first
#     [{"a": 1}, {"a": 2                    none                   it is cut off
#     {"a": 1} Sorry: {"a": 2               none                   a cut one contradicts
#     {"a": 1} Again: {"a": 1               {"a": 1}               a cut one repeats it
#     {"a": [{"b": 1} {"b": 2}]}            none                   broken: no part of it
#     {"a": 1}, "b": 2}                     none                   part of more than it
#     see [1], {name} and [0, 1): {"a": 1}  {"a": 1}               brackets in prose

# Spaces and comments, but #fff is none. One that is not closed goes on to the end.
SPACE = re.compile(r"(?:\s|//[^\n]*|#(?=\s)[^\n]*|/\*(?:.*?\*/|.*))*", re.DOTALL)
BRACKET = re.compile(r"[{[]")
ONLY_BRACKETS = re.compile(r"[{[\s]{1,200}\Z")
# A string, a comment or a bracket:
TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"?|//[^\n]*|#\s[^\n]*|/\*(?:.*?\*/|.*)|[][{}]', re.DOTALL
)
WORD = re.compile(r"[\w.+-]+")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
WORDS = {"True": "true", "False": "false", "None": "null"}
WORDS.update(true="true", false="false", null="null")
STRINGS = {  # by the mark that opens them; a ' within a word, as in it's, ends none
    '"': re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL),
    "'": re.compile(r"'([^'\\]*(?:(?:\\.|(?<=\w)'(?=\w))[^'\\]*)*)'", re.DOTALL),
    "\u201c": re.compile("\u201c([^\u201c\u201d]*)\u201d"),
}
# If one of these matches before or after a piece, it is part of something larger:
COMES_BEFORE = re.compile(r"""(?:["'\u201d]\s*[,:]|(?:[\]}\d]|\.\.\.)\s*,)\s*$""")
CLOSES = re.compile(r"""["'\u201d]?\s*[]}]|["'\u201d]\s*[,:]""")
NEXT_MEMBER = re.compile(r"""["'{[\u201c\]}]|\.\.\.|\w+\s*:""")
COMMENT = re.compile(r"//[^\n]*|#\s[^\n]*|/\*.*?\*/", re.DOTALL)
DEEPEST = 100  # levels; what is nested deeper counts as cut off
MOST_BRACKETS = 1_000  # looked at in a text: 10 MB of them would take a minute


class NotJson(Exception):
    """Raised within JsonReader: "broken", or "cut" where the text ends in a value."""


class JsonReader:
    """Reads one value of JSON at a place in a text.

    `written` is the value without its slips, as far as it was read. `has_content` is
    true once there is a key or a string: then it is JSON, not brackets in prose.
    """

    def __init__(self, text: str, at: int):
        self.text, self.at = text, at
        self.written: list[str] = []
        self.has_content = False
        self.depth = 0  # brackets that are open

    def read(self) -> str:
        """Read the value; return whether it is "whole", "cut" or "broken"."""
        try:
            self.read_value()
        except NotJson as error:
            return str(error)
        return "whole"

    def peek(self) -> str:
        """Go to the next character that is no space and in no comment; return it."""
        self.at = skip_space(self.text, self.at)
        if self.at == len(self.text):
            raise NotJson("cut")
        return self.text[self.at]

    def take(self, character: str) -> bool:
        """Go past the next character if it is this one; return whether it is."""
        if self.peek() != character:
            return False
        self.at += 1
        return True

    def read_value(self) -> None:
        """Read a value of any kind."""
        mark = self.peek()
        if self.depth == DEEPEST:
            raise NotJson("cut")
        if mark in "{[":
            self.read_members(mark)
        elif mark in STRINGS:
            self.read_string(mark)
        else:
            self.read_word()

    def read_members(self, mark: str) -> None:
        """Read an object or a list."""
        self.at += 1
        self.depth += 1
        self.written.append(mark)
        close, between = ("}" if mark == "{" else "]"), ""
        while not self.take(close):
            self.written.append(between)
            between = ", "
            if mark == "{":
                self.read_key()
            self.read_value()
            if not self.take(",") and self.peek() != close:
                raise NotJson("broken")
        self.written.append(close)
        self.depth -= 1

    def read_key(self) -> None:
        """Read a key and its colon."""
        mark = self.peek()
        word = WORD.match(self.text, self.at)
        if mark in STRINGS:
            self.read_string(mark)
        elif word:
            self.written.append(json.dumps(word[0]))
            self.at = word.end()
        else:
            raise NotJson("broken")
        if not self.take(":"):
            raise NotJson("broken")
        self.written.append(": ")
        self.has_content = True

    def read_string(self, mark: str) -> None:
        """Read a string: write its marks as ", and its line breaks escaped."""
        self.has_content = True
        found = STRINGS[mark].match(self.text, self.at)
        inner = found[1] if found else self.text[self.at + 1 : self.at + 1000]
        marks = {"\\'": "'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
        inner = re.sub(r'(?s)\\.|["\n\r\t]', lambda m: marks.get(m[0], m[0]), inner)
        self.written.append(f'"{inner}')
        if not found:
            raise NotJson("cut")
        self.written.append('"')
        self.at = found.end()
        space = self.text[self.at : skip_space(self.text, self.at)]
        if mark in space:  # the "comment" may be the rest of the string: "a " # 1"
            raise NotJson("broken")

    def read_word(self) -> None:
        """Read a number, true, false or null."""
        found = WORD.match(self.text, self.at)
        word = found[0] if found else ""
        if word not in WORDS and not NUMBER.fullmatch(word):
            end = self.at + len(word)
            if word and self.text[skip_space(self.text, end) :][:1] in (",", "}", "]"):
                self.written.append(word)  # {"age": thirty} contradicts {"age": 36}
            raise NotJson("cut" if end == len(self.text) else "broken")
        self.at += len(word)
        self.written.append(WORDS.get(word, word))


class Scan(NamedTuple):
    """What scan_json finds in a text."""

    pieces: tuple[str, ...] = ()  # the whole ones, without slips
    open: bool = False  # the text ends within one, as far as can be told


@lru_cache(maxsize=8)
def scan_json(text: str) -> Scan:
    """Return the whole pieces of JSON in a text, without their slips, and whether it
    ends within one. No part of a piece that is cut off or broken is taken: [{"a": 1},
    {"a": 2  must not pass for {"a": 1} (N.E.K.O.#3134). Nor is a whole piece before it
    that it contradicts."""
    text = text.strip()
    whole: list[str] = []
    at = 0
    # If more brackets close than open, the end of a broken piece cannot be found.
    extra_closers = any(text.count(a) < text.count(b) for a, b in ("{}", "[]"))
    for _ in range(MOST_BRACKETS):
        bracket = BRACKET.search(text, at)
        if not bracket:
            return Scan(tuple(whole))
        start = bracket.start()
        reader = JsonReader(text, start)
        ending = reader.read()
        piece = "".join(reader.written)
        cut_early = start == 0 or ONLY_BRACKETS.match(text, start)
        is_prose = not reader.has_content and not (ending == "cut" and cut_early)
        if is_prose:
            if ending == "whole" and start == 0 and reader.at == len(text):
                whole.append(piece)
            at = max(reader.at, start + 1)
            continue
        if ending == "whole" and not has_neighbours(text, start, reader.at):
            whole.append(piece)
            at = reader.at
            continue
        whole = [other for other in whole if not contradicts(piece, other)]
        end: int | None = reader.at
        if ending != "whole":
            end = None if extra_closers else end_of_brackets(text, reader)
        if end is None:  # what follows is a part of it
            return Scan(tuple(whole), open=True)
        at = end
    return Scan()  # of a text that was not read to its end nothing is certain


def contradicts(part: str, piece: str) -> bool:
    """Return whether a part contradicts a whole piece: they share a key, or are lists,
    and the piece does not begin with the part. {"a": "Al  contradicts {"a": "Bob"}."""
    keys = [set(re.findall(r'"((?:[^"\\]|\\.)*)": ', it)) for it in (part, piece)]
    related = not keys[0].isdisjoint(keys[1]) or part[0] == piece[0] == "["
    return related and not piece.startswith(part)


def end_of_brackets(text: str, reader: JsonReader) -> int | None:
    """Return where the brackets that a reader left open are all closed, or None."""
    depth = reader.depth
    tokens = TOKEN.finditer(text, reader.at)
    for token in islice(tokens, 100 * MOST_BRACKETS):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return None


def has_neighbours(text: str, start: int, end: int) -> bool:
    """Return whether a piece of JSON is a member of something larger."""
    before = COMMENT.sub("", text[max(0, start - 500) : start])
    end = skip_space(text, end)
    after = CLOSES
    if text[end : end + 1] == ",":
        end, after = skip_space(text, end + 1), NEXT_MEMBER
    return bool(COMES_BEFORE.search(before) or after.match(text, end))


def skip_space(text: str, at: int) -> int:
    """Return where the spaces and comments at a place end."""
    # Of a comment that is longer nobody knows the end.
    found = SPACE.match(text, at, at + 10_000)
    return cast("re.Match[str]", found).end()  # it matches "", too


# 6. Calls -----------------------------------------------------------------------------

BODY_LIMIT = 32 * 2**20  # bytes; no reply is this long
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
FINISH = {"stop": "stop", "length": "length", "content_filter": "refusal"}


class chat:
    """A call, for `run`, of an OpenAI-compatible endpoint: one request, no retry.

    What is not given comes from OPENAI_MODEL, OPENAI_BASE_URL and OPENAI_API_KEY.
    price: (input, output) in dollars per million tokens. timeout: seconds of silence;
    once a reply has begun, also for all of it. headers: to add; a key belongs here, not
    in the URL. client: an httpx client of your own. Any other keyword is a setting of
    every request: temperature=0.7 ...
    """

    blocks = True  # it would block an event loop, so `arun` refuses it
    path = "/chat/completions"  # below base_url
    new_body = bytearray  # what a response is collected in

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
        url = (base_url or os.getenv("OPENAI_BASE_URL") or openai).strip()
        check_url(url)
        check_price(price)
        secret = ({"Authorization": f"Bearer {key}"} if key else {}) | (headers or {})
        agent = {} if client else {"User-Agent": f"loop.py/{__version__}"}
        self.headers = HEADERS | agent | secret
        if settings.get("stream"):
            raise TypeError("stream=True: chat waits for the whole reply")
        if client and self.blocks is hasattr(client, "aclose"):
            raise TypeError("chat takes an httpx.Client, achat an httpx.AsyncClient")
        if not all(it.isascii() and it.isprintable() for it in self.headers.values()):
            raise ValueError("a key or header has characters that HTTP does not allow")
        base, mark, query = url.partition("?")  # Azure has its version there
        self.url = f"{base.rstrip('/')}{self.path}{mark}{query}"
        self.secrets = [key, query, *secret.values()]  # never to be shown
        pairs = [*secret.items(), *re.findall("([^=&]+)=([^&]+)", query)]
        for name, value in pairs:  # the endpoint may quote a part of it
            if SECRET.search(name):
                self.secrets.extend(value.split()[-1:])
        # To hide shorter ones would garble words.
        self.secrets = [text for text in self.secrets if len(text) >= 8]
        self.settings = ({"model": model} if model else {}) | settings
        self.timeout, self.client, self.price = timeout, client, price
        self.__name__ = model or "chat"

    def __call__(self, messages: Messages, **changed: Any) -> Reply:
        body, began, response = self.new_body(), time.monotonic(), cast("Any", None)
        request = self.request(messages, changed)
        idle = IDLE[route_to(self.url)]
        transport = self.client or borrow_transport(idle, "HTTPTransport", self.url)
        send = getattr(transport, "handle_request", None)
        send = send or partial(transport.send, stream=True)  # a client has that
        try:
            with closing(send(request)) as response:
                for chunk in response.iter_bytes():
                    if self.add_chunk(chunk, body, began):
                        break
        except Exception as error:
            if not is_of_kind(error, "HTTPError"):
                raise
            if not self.is_whole(body):
                raise self.connection_fault(error) from None  # its request has the key
        finally:
            if not self.client:
                idle.append(transport)
        return self.read(response, body, began)

    def request(self, messages: Messages, changed: dict[str, Any]) -> Any:
        """Return the request to send, as httpx has it."""
        settings = self.settings | changed
        settings = {key: it for key, it in settings.items() if it is not None}
        content = json.dumps(self.payload(messages, settings)).encode()
        options = {"headers": self.headers, "content": content}
        options |= {"extensions": {"timeout": self.timeouts()}}
        if self.client:  # which may add headers and cookies of its own
            return self.client.build_request("POST", self.url, **options)
        return import_httpx().Request("POST", parsed_url(self.url), **options)

    def timeouts(self) -> dict[str, float | None]:
        """Return the seconds for each phase of a request; None: for ever."""
        read = write = self.timeout
        return {"connect": min(10.0, read), "read": read, "write": write, "pool": None}

    def payload(self, messages: Messages, settings: dict[str, Any]) -> dict[str, Any]:
        """Return what is sent, as a JSON value."""
        return settings | {"messages": messages}

    def add_chunk(self, chunk: bytes, body: bytearray, began: float) -> bool:
        """Add to the body, and return whether that is enough, so that the rest need not
        come; raise CallError where it is too slow or too large."""
        late = len(body) > 0 and time.monotonic() - began > self.timeout
        body += chunk
        if late or len(body) > BODY_LIMIT:
            limits = f"{self.timeout:g} s and {BODY_LIMIT} bytes"
            raise self.fault(f"no whole reply within {limits}", billed=True)
        return False

    def is_whole(self, body: bytearray) -> bool:
        """Return whether a body is whole, however its connection ended."""
        return is_json(body)

    def connection_fault(self, error: Exception) -> CallError:
        """Return the CallError for a connection that broke."""
        name = type(error).__name__
        sent = not name.startswith(("Connect", "UnsupportedProtocol"))
        return self.fault(f"{name} {error}", billed=sent)

    def fault(self, why: str, code: str = "", **facts: Any) -> CallError:
        """Return a CallError that says why and where, and never holds a key."""
        texts = [why, code, self.url]
        for secret in self.secrets:
            texts = [text.replace(secret, "(key)") for text in texts]
        why, code, url = texts
        return CallError(f"{why[:300]} ({url})", code=code[:60], **facts)

    def read(self, response: Any, body: bytearray, began: float) -> Reply:
        """Return the reply in a response; raise CallError where there is none."""
        text = body.decode(errors="replace").strip("\ufeff \t\r\n")
        raw: Any = None  # the HTML of a proxy is no JSON, whatever its content type
        with suppress(ValueError, RecursionError):
            raw = json.loads(text)
        message = get_path(dict, raw, "choices", 0, "message")
        failed = response.status_code >= 300 or get_path(object, raw, "error")
        if failed or message is None:
            raise self.response_error(response, raw, text)
        refusal = get_path(str, message, "refusal")
        calls: list[Any] = get_path(list, message, "tool_calls") or []
        flag = get_path(str, raw, "choices", 0, "finish_reason")
        finish = FINISH.get(flag, "unknown")
        if refusal:
            finish = "refusal"
        elif calls and flag != "length":
            finish = "tools"
        thought = get_path(str, message, "reasoning_content")
        usage = get_path(dict, raw, "usage")
        return Reply(
            text=text_of(message) or refusal or "",
            finish=finish,
            reasoning=thought or get_path(str, message, "reasoning") or "",
            tool_calls=tuple(calls),
            input_tokens=usage_figure(int, usage, "prompt_tokens"),
            output_tokens=usage_figure(int, usage, "completion_tokens"),
            cost=usage_figure((int, float), usage, "cost"),
            seconds=time.monotonic() - began,
            model=get_path(str, raw, "model") or "",
            id=get_path(str, raw, "id") or "",
            raw=raw,
        )

    def response_error(self, response: Any, raw: Any, text: str) -> CallError:
        """Return the CallError for a response that has no reply in it."""
        status, headers = response.status_code, response.headers
        if status < 300:  # the error within it has a status of its own: inspect_ai#1534
            status = get_path(int, raw, "error", "code") or status
        why = get_path(str, raw, "error", "message")
        if not why:
            why = text or "an empty body"
            if status < 400 or text.startswith("<"):
                why = f"check base_url: {headers.get('location', '')} {why}"
        code = get_path(str, raw, "error", "code")
        code = code or get_path(str, raw, "error", "type") or ""
        wait = wait_in(headers)
        return self.fault(f"{status}: {why}", code, status=status, wait=wait)


class achat(chat):
    """A call, for `arun`: what chat is, awaited."""

    blocks = False

    async def __call__(  # type: ignore[override]
        self, messages: Messages, **changed: Any
    ) -> Reply:
        from asyncio import CancelledError, get_running_loop

        body, began, response = self.new_body(), time.monotonic(), cast("Any", None)
        request, url = self.request(messages, changed), self.url
        loop = get_running_loop()
        if loop not in IDLE_OF_LOOP:
            for ended in [it for it in [*IDLE_OF_LOOP] if it.is_closed()]:
                IDLE_OF_LOOP.pop(ended, None)  # nothing closed its transports
            IDLE_OF_LOOP[loop] = keep_idle_transports(loop)
        idle = (await anext(IDLE_OF_LOOP[loop]))[route_to(url)]
        transport = self.client or borrow_transport(idle, "AsyncHTTPTransport", url)
        send = getattr(transport, "handle_async_request", None)
        send = send or partial(transport.send, stream=True)  # a client has that
        reusable = not self.client
        try:
            async with aclosing(await send(request)) as response:
                async for chunk in response.aiter_bytes():
                    if self.add_chunk(chunk, body, began):
                        break
        except Exception as error:
            if not is_of_kind(error, "HTTPError"):
                raise
            if not self.is_whole(body):
                raise self.connection_fault(error) from None
        except CancelledError:
            if reusable:  # not any more: its connection would stay in use for ever
                reusable = False
                await transport.aclose()
            raise
        finally:
            if reusable:
                idle.append(transport)
        return self.read(response, body, began)


def check_url(url: str) -> None:
    """Raise ValueError where this is no base_url; do not show a key in its place."""
    if not re.match("https?://[^@]*$", url):  # a client of yours would log it
        url = re.sub(r".*@", "...@", url.partition("?")[0])
        if len(url) > 12 and not re.search("[/.:]", url):
            url = f"{url[:3]}..."
        cure = "give base_url or set OPENAI_BASE_URL, as in http://host/v1"
        raise ValueError(f"no endpoint in {url!r}: {cure}; or OPENAI_API_KEY alone")


def check_price(price: Any) -> None:
    """Raise TypeError where this is no price: it would be found out after a reply."""
    parts: Any = get_path((tuple, list), price) or ()
    numbers: list[Any] = list(map(type, parts))
    if price is not None and not (len(numbers) == 2 and {*numbers} <= {int, float}):
        raise TypeError(f"price is {price!r}: give (input, output), in dollars")


def usage_figure(kind: Any, usage: Any, name: str) -> Any:
    """Return a figure of the usage; None where it is negative, NaN or senseless."""
    figure: Any = get_path(kind, usage, name)
    sensible = type(figure) in (int, float) and 0 <= figure < 1e12  # no bool, no NaN
    return figure if sensible else None


# Transports not in use, by the route that they take. Each serves one request at a time:
# in httpx 0.28.1 the pool of a shared one takes time in the square of its connections.
# They are closed with the event loop, or the process: a burst keeps its files open.
IDLE: defaultdict[Any, list[Any]] = defaultdict(list)
IDLE_OF_LOOP: dict[Any, Any] = {}  # event loop -> the generator that has its transports


def borrow_transport(idle: list[Any], kind: str, url: str) -> Any:
    """Return an idle transport, or a new one. A client of httpx takes more time, logs
    the URL, and has cookies, which would go from one key to another."""
    with suppress(IndexError):  # another thread may take the last one
        return idle.pop()
    is_https, proxy = route_to(url)
    return getattr(import_httpx(), kind)(verify=tls_context(is_https), proxy=proxy)


async def keep_idle_transports(loop: Any) -> Any:
    """Yield the idle transports of an event loop, again and again. It is a generator
    as asyncio.run closes these when its loop ends: no other notice is given."""
    idle: defaultdict[Any, list[Any]] = defaultdict(list)
    try:
        while True:
            yield idle
    finally:
        IDLE_OF_LOOP.pop(loop, None)
        for transport in [it for transports in idle.values() for it in transports]:
            await transport.aclose()


if hasattr(os, "register_at_fork"):  # a child must not use the sockets of its parent
    os.register_at_fork(after_in_child=IDLE.clear)


@lru_cache
def import_httpx() -> Any:
    """Return httpx, or its maintained fork httpx2 where only that is installed."""
    from importlib import import_module, util

    only_httpx2 = util.find_spec("httpx2") and not util.find_spec("httpx")
    return import_module("httpx2" if only_httpx2 else "httpx")


@lru_cache
def tls_context(is_https: bool) -> Any:
    """Return what checks certificates. For http there are none to check, and to read
    the trusted ones takes tens of ms."""
    return import_httpx().create_ssl_context(verify=is_https)


@lru_cache
def route_to(url: str) -> tuple[bool, str | None]:
    """Return whether a URL is of https, and its proxy of the environment: none for this
    machine, nor for what NO_PROXY has. (proxy_bypass misses IPv6, and * in a list.)"""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts, proxies = urlsplit(url), getproxies()
    near = {"localhost", "127.0.0.1", "::1", *re.split("[ ,]+", proxies.get("no", ""))}
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if near & {parts.hostname, "*"} or proxy_bypass(parts.netloc):
        proxy = None
    elif proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    return parts.scheme == "https", proxy


@lru_cache
def parsed_url(url: str) -> Any:
    """Return a URL as httpx has it: parsing it takes 20 us of each call."""
    return import_httpx().URL(url)


# 7. Watching --------------------------------------------------------------------------


def show(event: dict[str, Any]) -> None:
    """Watcher: show a run as it happens, on stderr: run(..., watch=show).

    What was wrong stands before what was done about it. Rich decides about colour. A
    reply takes one line of a terminal; elsewhere it is shown up to 1,000 characters.
    """
    from rich.text import Text

    line, style = line_of(event)
    if line:
        terminal = console().is_terminal
        one_line = terminal and event["event"] in ("start", "reply")
        shape = {"no_wrap": True, "overflow": "ellipsis"} if one_line else {}
        console().print(Text(line, style), soft_wrap=not terminal, **shape)


def line_of(event: dict[str, Any]) -> tuple[str, str]:
    """Return an event as one line that is safe to show, and its style; "" for none."""
    kind, hook = event["event"], event["hook"]
    start = f"{event['n']:3} {event.get('seconds') or 0:5.1f} s  "
    line, style = "", ""
    if kind == "start":
        line, style = f"? {text_of(event['task'][-1])} ({event['call']})", "dim"
    elif kind == "reply":
        line = start + repr(event["text"])
        for request in event["tool_calls"]:
            name = get_path(str, request, "function", "name") or "?"
            arguments = get_path(str, request, "function", "arguments") or ""
            line += f" asks for {name}({arguments})"
    elif kind == "reused":
        line, style = f"{event['n']:3}{'':10}(the reply is on the tape)", "dim"
    elif kind == "fault":
        line, style = f"{start}failed: {event['why']}", "yellow"
    elif kind == "inspect" and event["complaint"]:
        line, style = f"{'':13}rejected: {event['complaint']}", "yellow"
    elif kind == "decide":
        actions = {"Ask": "asks again", "Use": "repairs the reply", "Stop": "stops"}
        waits = f"waits {event['wait']:.1f} s and " if event["wait"] else ""
        action = f"{waits}{actions[event['move']]} {event['settings'] or ''}"
        line, style = f"{'':13}-> {event['fix']} {action}".rstrip(), "cyan"
    elif kind == "end" and not hook:
        spent = f"calls: {event['calls']}, tokens: {event['tokens']}"
        line = f"= {event['why']} ({spent}, {event['seconds']:.1f} s)"
        style = "bold green" if event["accepted"] else "bold red"
    if hook and line:
        line = f"{line[:13]}[{hook}] {line[13:]}"
    return visible(line[:1000]).replace("\n", "\\n"), style


@lru_cache
def console() -> Any:
    """Return rich's console on stderr: it knows NO_COLOR, dumb terminals and pipes."""
    from rich.console import Console

    return Console(stderr=True)


BLANK = "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\U000e0100-\U000e01ef]"


def visible(text: str) -> str:
    """Return hostile text safe to show: what acts on a terminal or hides is escaped."""
    harmless = "\n\t\u3000\u200c\u200d"  # the joiners are in emoji, and in Persian
    text = re.sub(BLANK, lambda found: ascii(found[0])[1:-1], text)
    return "".join(
        c if c.isprintable() or c in harmless else ascii(c)[1:-1] for c in text
    )


# 8. The tape --------------------------------------------------------------------------
# Promised, each with the test that shows it:
# - A reply is on the disk before anyone looks at it, and is never paid for again: the
#   same run, in this process or another, asks only for what is missing.
#   (test_kill_9_pays_again_only_for_what_was_in_flight)
# - A record that a kill tore spoils only itself. (test_torn_record_spoils_only_itself)
# - A reader that looks while another process writes misses no record.
#   (test_reader_misses_no_record_while_another_process_writes)
# - A full disk raises an OSError that carries the reply.
#   (test_full_disk_raises_and_carries_the_reply)
# - `cat` of two tapes is a tape. (test_cat_of_two_tapes_is_a_tape)
# - A file that is no tape of this version is refused, and left alone.
#   (test_file_that_is_no_tape_is_refused_and_left_alone)
# Not promised, or to be known:
# - A call in flight at a kill may be paid for twice. So may a run that two processes
#   do at once under one name. (test_two_processes_that_do_one_run_at_once_both_pay)
# - A run in which calls failed may ask something else, and pay, when it is done again.
# - NFS and SMB lose what several machines append: give each a file, then `cat` them.
# - On macOS, power loss may lose replies: its fsync is no F_FULLFSYNC. On Windows a
#   lock keeps the tape to one process. (Neither system was tried.)
# - Under `arun` a write holds up the event loop for as long as the disk takes.
# - A fork while threads use a tape may leave the child waiting. Spawn it instead.

TAPE_HEAD = b'{"v": 2, '
ENCODER = json.JSONEncoder(default=repr, skipkeys=True)  # to make one takes time


class Tape:
    """A file of events, as JSON Lines: run(..., tape=Tape("runs.jsonl")).

    A reply is found by the run's name, its request (messages, settings and the name of
    the call) and how often the run asked that. A nameless run is named by what it asks,
    and the second such run on one Tape object is another one; a named run is always the
    same. Raises OSError where the file cannot be written, ValueError if it is no tape.
    """

    def __init__(self, path: str | os.PathLike[str]):
        from weakref import finalize

        self.path = os.path.abspath(path)
        self.lock, self.read_to = threading.Lock(), 0
        self.names: Counter[str] = Counter()
        self.places: dict[bytes, int] = {}  # of the first replies; of any later ones:
        self.later_places: defaultdict[bytes, list[int]] = defaultdict(list)
        mode = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self.file = os.open(self.path, mode, 0o600)
        finalize(self, os.close, self.file).atexit = False  # threads may still write
        if not os.path.isfile(self.path):
            raise ValueError(f"{self.path} is no file: a tape needs one")
        check_tape(self.path)
        if sys.platform == "win32":
            import msvcrt

            os.lseek(self.file, 2**62, os.SEEK_SET)  # a byte that is never written
            msvcrt.locking(self.file, msvcrt.LK_NBLCK, 1)

    def __reduce__(self) -> Any:
        return Tape, (self.path,)  # in another process it is opened again

    def name_run(self, task: Any) -> str:
        """Return a name for a nameless run: by what it asks, and how often that was."""
        name = digest(task)
        with self.lock:
            self.names[name] += 1
            return name if self.names[name] == 1 else f"{name}#{self.names[name]}"

    def recall(self, state: State) -> Reply | None:
        """Return the reply to the present request of a run, if it is on the tape."""
        name = name_for_tape(state.call)
        key = digest([state.messages, state.settings, name])
        state.attempt.key = key
        number = state.replies_by_request.get(key, 0)
        self.read_on()  # other runs and processes write to the file, too
        short = hash_of(f"{key} {state.name}")
        if short not in self.places:
            return None
        places = [self.places[short], *self.later_places.get(short, [])]
        if number >= len(places):
            return None
        _, line = next(whole_lines(self.path, places[number]), (0, b""))
        event: Any = event_in(line) or {}
        if (event.get("run"), event.get("key")) != (state.name, key):
            raise OSError(f"{self.path} was changed while in use")
        event["tool_calls"] = tuple(event.get("tool_calls", ()))
        return Reply(**{it: event[it] for it in Reply.__slots__ if it in event})

    def read_on(self) -> None:
        """Take in the whole lines that were added since the last time."""
        with self.lock:
            ours, there = os.fstat(self.file), os.stat(self.path)
            if not os.path.samestat(ours, there) or ours.st_size < self.read_to:
                raise OSError(f"{self.path} was replaced or cut while in use")
            for place, line in whole_lines(self.path, self.read_to):
                self.read_to = place + len(line)
                event = event_in(line) if b'"reply"' in line else None
                if event and event["event"] == "reply" and "text" in event:
                    short = hash_of(f"{event.get('key')} {event['run']}")
                    if self.places.setdefault(short, place) != place:
                        self.later_places[short].append(place)

    def write(self, event: dict[str, Any]) -> None:
        """Append an event. A reply is on the disk when this returns."""
        facts = {"v": 2, **event, "at": round(time.time(), 3)}
        try:
            text = ENCODER.encode(facts)
        except Exception:  # noqa: BLE001
            # A value contains itself, is nested too deep, or has a repr that raises.
            text = ENCODER.encode(facts | {"value": "not JSON"})
        # The line break at its start closes a record that a kill cut short. It is one
        # write, as others append to the file as well. Blank lines are passed over.
        line = f"\n{text}\n".encode()
        try:
            written = os.write(self.file, line)
            if written < len(line):  # a disk that gets full does not raise
                from errno import ENOSPC

                why = f"{written} of {len(line)} bytes were written of {text[:200]}"
                raise OSError(ENOSPC, why)
            if event["event"] == "reply":
                getattr(os, "fdatasync", os.fsync)(self.file)
        except OSError as error:
            error.filename = self.path
            raise
        if event.get("tool_calls"):
            digest(event["tool_calls"])  # a TypeError where they would not come back


def whole_lines(path: str, place: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield each line of a tape with its place, but no tail that is being written."""
    with open(path, "rb") as file:
        file.seek(place)
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield place, line
            place += len(line)


def event_in(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line of a tape; None where it is blank or torn."""
    with suppress(ValueError, RecursionError):
        event: dict[str, Any] = json.loads(line) if line.startswith(TAPE_HEAD) else {}
        if all(isinstance(event.get(name), str) for name in ("event", "run", "hook")):
            return event
    return None


def check_tape(path: str) -> None:
    """Raise ValueError where a file is no tape of this version."""
    with open(path, "rb") as file:
        lines = [line for line in file.read(100).split(b"\n") if line]
    for line in lines:
        # A kill may have torn a line within its head.
        if line[: len(TAPE_HEAD)] == TAPE_HEAD[: len(line)]:
            continue
        if line.startswith(b'{"v": '):
            version = line[6:].partition(b",")[0].decode(errors="replace")
            why = f"of version {version}, and loop.py {__version__} writes version 2"
            raise ValueError(f"{path} is a tape {why}: give another file")
        raise ValueError(f"{path} is no tape, it starts with {line[:20]!r}")


def digest(data: Any) -> str:
    """Return a short name for a JSON value, the same for ever."""
    try:
        text = json.dumps(data, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{error}, but a tape needs JSON: {data!r:.200}") from None
    return hash_of(text).hex()[:16]


def hash_of(text: str) -> bytes:
    """Return a short hash of a text, so that the index of a tape is small."""
    from hashlib import sha256

    return sha256(text.encode(errors="surrogatepass")).digest()[:16]


def name_for_tape(call: Hook) -> str:
    """Return the name by which a tape knows a call again, or raise TypeError.

    A lambda, a closure, an object or its method may be another one tomorrow: these need
    `.settings` that say what they are, as chat has them, or the keywords of a partial.
    """
    as_partial = partial(call)
    target = as_partial.func
    name = getattr(target, "__qualname__", "") or name_of(target)
    if settings_of(call):
        return name
    code: Any = getattr(target, "__code__", None)
    simple = code and not (code.co_freevars or hasattr(target, "__self__"))
    if "<locals>" in name:  # one of several, perhaps, that differ in their defaults
        simple = simple and not (target.__defaults__ or target.__kwdefaults__)
    if not simple or "<lambda>" in name or as_partial.args:
        cure = "make it a plain def, or give it .settings or a partial's keywords"
        raise TypeError(f"a tape would not know the call {name} again: {cure}")
    module = target.__module__
    return name if module in ("__main__", "__mp_main__") else f"{module}.{name}"


# 9. The books -------------------------------------------------------------------------
# Helpers, roughly in the order in which a run calls them. To use or to extend the file
# you need only Account, for run(account=...).


def check_hooks(state: State, driver: Hook) -> None:
    """Raise TypeError or ValueError where a hook cannot work, as far as can be seen."""
    hooks = [state.call, state.judge]
    for fixes in (state.fixes, state.faults):
        if not isinstance(fixes, (list, tuple)):
            raise TypeError(f"fixes, or faults, is {fixes!r}: give a list of functions")
        if fixes is FIXES or fixes is FAULTS:
            continue  # the defaults are in order, and looking takes as long as a run
        hooks.extend(fixes)
        names = [name_of(fix) for fix in fixes]
        if len(set(names)) < len(names):
            twice = max(names, key=names.count)
            raise ValueError(f"two fix-ups are named {twice!r}: set one's __name__")
    check_callable(*hooks)
    if isinstance(state.judge, type) and hasattr(state.judge, "model_validate_json"):
        cure = f"give {name_of(state.judge)}.model_validate_json"
        raise TypeError(f"judge {state.judge!r} does not take a text: {cure}")
    for hook in hooks:
        flags = flags_of(hook)
        if flags & CO_ASYNC_GENERATOR:
            raise TypeError(f"{name_of(hook)} is async and yields: it cannot do both")
        if flags & CO_COROUTINE and partial(driver).func is drive:
            raise TypeError(f"{name_of(hook)} is async: use arun")
        if driver is adrive:
            check_blocking(hook)


def flags_of(hook: Any) -> int:
    """Return the flags of a function's code; 0 for what has none."""
    code = getattr(hook, "__code__", None)
    return code.co_flags if isinstance(code, types.CodeType) else 0


def check_callable(*hooks: Any) -> None:
    """Raise HookError where one of these is no function."""
    for hook in hooks:
        if not callable(hook):
            raise HookError(f"call, judge and fix-ups are functions, not {hook!r}")


def check_blocking(function: Hook) -> None:
    """Raise HookError where a function would block the event loop, and says so."""
    if call_attribute(function, "blocks") is True:
        cure = "use an async one, such as achat for chat"
        raise HookError(f"{name_of(function)} would block the event loop: {cure}")


def accounts_of(limits: Any, account: Any) -> tuple[Account, ...]:
    """Return the accounts of a run: its own, and one that it shares with others."""
    if not isinstance(limits, Limits):
        raise TypeError(f"limits is {limits!r}: give Limits(...)")
    if not isinstance(account, Account) and account is not None:
        raise TypeError(f"account is {account!r}: give Account(Limits(...))")
    own = Account(with_defaults(limits))
    return (own, account) if account else (own,)


@lru_cache
def with_defaults(limits: Limits) -> Limits:
    """Return the limits of a run: its defaults where these say None."""
    return replace(DEFAULT_LIMITS, **dict(given_limits(limits)))


@lru_cache
def given_limits(limits: Limits) -> tuple[tuple[str, float], ...]:
    """Return the unit and the number of each limit that is given."""
    limits_by_unit = ((it.name, getattr(limits, it.name)) for it in fields(limits))
    return tuple((unit, limit) for unit, limit in limits_by_unit if limit is not None)


class Account:
    """What may be spent, and what was. Several runs may share one: run(account=...)."""

    def __init__(self, limits: Limits = Limits()):
        self.limits, self.spent = limits, Spent()
        self.began, self.lock = 0.0, threading.Lock()

    def limit_reached(self, wait: float, but: str = "") -> str:
        """Return which limit forbids a call after a wait of so many seconds, or ""."""
        spent = self.spent
        self.began = self.began or time.monotonic()  # at the first of its runs
        spent.seconds = time.monotonic() - self.began
        for unit, limit in given_limits(self.limits):
            used: Any = getattr(spent, unit)
            if unit == but or limit == math.inf:
                continue
            if used is None:
                cure = "give the call a price=(in, out)"
                return f"limit reached: the cost so far is unknown: {cure}"
            used += wait if unit == "seconds" else 0
            if not used < limit:  # with ">=", a limit of NaN would never be reached
                return f"limit reached: {used:.6g} of {limit:.6g} {unit}"
        return ""

    def charge(self, **used: Any) -> None:
        """Add this to what was spent. A cost of None makes the sum unknown."""
        with self.lock:
            for unit, more in used.items():
                if more != 0:
                    total: Any = getattr(self.spent, unit)
                    total = None if total is None or more is None else total + more
                    setattr(self.spent, unit, total)


def start_run(state: State, tape: Any, name: str, watch: Any, after: Any) -> None:
    """Name a run, and say that it starts, where anybody listens."""
    if tape is None and watch is None:
        return
    if tape is not None and not hasattr(tape, "recall"):
        raise TypeError(f"tape is {tape!r}: give Tape({tape!r})")
    if not isinstance(cast("Any", name), str):
        raise TypeError(f"name is {name!r}: give a text")
    if isinstance(after, str):
        raise TypeError(f"after is {after!r}: give a list of names")
    if watch is not None and (not callable(watch) or flags_of(watch) & CO_COROUTINE):
        raise TypeError(f"watch is a function of an event, not async; not {watch!r}")
    state.tape, state.watch = tape, watch
    settings = recorded_settings(settings_of(state.call) | state.task_settings)
    call = name_of(state.call)
    if not name and tape is not None:
        name = tape.name_run([state.task, settings, call])
    state.name = name or f"run {next(RUN_NUMBERS)}"
    facts: dict[str, Any] = {"task": state.task, "call": call, "settings": settings}
    facts["fixes"] = [name_of(fix) for fix in (*state.fixes, *state.faults)]
    emit(state, "start", **facts, after=[*after])


RUN_NUMBERS = count(1)


def within_limits(state: State, move: Move) -> Move:
    """Return the move, or a Stop where a limit forbids the call that it makes."""
    if isinstance(move, Ask):
        for account in state.accounts:
            # The tries of a question are its own: those of the run do not forbid it.
            is_question = state.hook and account is not state.accounts[0]
            reason = account.limit_reached(move.wait, "tries" if is_question else "")
            if reason:
                return Stop(reason)
    return move


def start_attempt(state: State, move: Ask) -> Any:
    """Make this the present request, and count it; return what the tape has of it."""
    if move.call is not None and move.call != state.call:
        state.call, state.reply = move.call, Reply("")
        state.changed = {k: it for k, it in state.task_settings.items() if k != "model"}
        state.replies_by_content, state.repeats = {}, 0
        state.judged, state.faults_in_a_row = 0, 0
    state.changed = state.changed | move.settings
    state.settings = recorded_settings(settings_of(state.call) | state.changed)
    state.messages, state.fault = move.messages, None
    state.started_at = time.monotonic()
    call = name_of(state.call)
    state.attempt = Attempt(state.messages, state.settings, call, state.hook)
    state.attempts.append(state.attempt)
    charge(state, calls=1)
    reply = state.tape.recall(state) if state.tape is not None else None
    state.attempt.reused = reply is not None
    return reply


def record_outcome(state: State, outcome: Any) -> None:
    """Charge and record what came of a call; set the texts to inspect."""
    attempt = state.attempt
    attempt.seconds = round(time.monotonic() - state.started_at, 3)
    state.texts, state.inspected = (), set()
    if isinstance(outcome, str):
        outcome = Reply(str(outcome))
    if isinstance(outcome, CallError):
        record_fault(state, attempt, outcome)
    elif isinstance(outcome, Reply) and isinstance(cast("Any", outcome.text), str):
        record_reply(state, attempt, outcome)
    else:
        raise HookError(f"call {attempt.call} returned {outcome!r}, not a Reply or str")


def record_fault(state: State, attempt: Attempt, fault: CallError) -> None:
    """Charge a failed call, and record it."""
    state.fault = attempt.fault = fault
    state.faults_in_a_row += 1
    billed = usage_of(state, Reply("")) if fault.billed else {}
    charge(state, faults=1, **billed)
    emit(state, "fault", fault, key=attempt.key, seconds=attempt.seconds)


def record_reply(state: State, attempt: Attempt, reply: Reply) -> None:
    """Charge a reply, record it, and notice whether it came before."""
    state.reply = attempt.reply = reply
    counts = state.replies_by_request
    counts[attempt.key] = counts.get(attempt.key, 0) + 1
    state.faults_in_a_row = 0
    used = usage_of(state, reply)
    charge(state, reused=int(attempt.reused), **used)
    if attempt.reused:
        emit(state, "reused", key=attempt.key, seconds=attempt.seconds)
    else:
        facts = {"key": attempt.key, "cost": used["cost"], "seconds": attempt.seconds}
        emit(state, "reply", reply, **facts)
    # The id of a tool call is new each time; what counts is what it asks for.
    asks = [get_path(dict, it, "function") or it for it in reply.tool_calls or ()]
    content = f"{reply.text}{asks}" if asks else reply.text
    state.repeats = state.replies_by_content.get(content, 0) + 1
    state.replies_by_content[content] = state.repeats
    state.text, state.texts = reply.text, (reply.text,)
    if asks and state.judge is not accept_anything:
        # Text beside a tool call is no answer. Only a fix-up can go on from here.
        state.text, state.texts = "", ()
        names = ", ".join(get_path(str, it, "name") or "?" for it in asks)
        record_complaint(state, f"the model asks for tools: {names}")
    elif reply.finish == "refusal" and state.judge is not accept_anything:
        state.text, state.texts = "", ()  # no answer, though any text might do
        record_complaint(state, f"the model refused: {short_json(reply.text)}")
    elif reply.complaint and state.judge is not accept_anything:
        start_inspection(state, reply.text)  # it counts as a try
        record_rejection(state, reply.text, Reject(reply.complaint))
        state.text, state.texts = "", ()  # nothing to repair


def charge(state: State, **used: Any) -> None:
    """Add this to the account of the run, and to those that it shares."""
    for account in state.accounts:
        account.charge(**used)


def usage_of(state: State, reply: Reply) -> dict[str, Any]:
    """Return what a reply cost; tokens that nobody reported are estimated."""
    sent, received, estimated = reply.input_tokens, reply.output_tokens, 0
    if sent is None:
        sent = sum(len(text_of(message)) for message in state.messages) // 4
        estimated += sent
    if received is None:
        received = (len(reply.text) + len(reply.reasoning or "")) // 4
        estimated += received
    price, cost = call_attribute(state.call, "price"), reply.cost
    if cost is None and price:
        cost = (sent * price[0] + received * price[1]) / 1e6
    return {"tokens": sent + received, "estimated": estimated, "cost": cost}


def text_of(message: Any) -> str:
    """Return the text of a message, without its images and other parts."""
    content = get_path(object, message, "content")
    if isinstance(content, str):
        return content
    parts: list[Any] = get_path(list, message, "content") or []
    return "".join(get_path(str, part, "text") or "" for part in parts)


def fault_of(error: Exception, also: Any = ()) -> CallError | None:
    """Return the fault that an error of a call is; None where it is a bug.

    A fault is a CallError, what has the HTTP status of a response, and what is, or was
    caused by, a broken connection, a time-out or an error of the kinds in `also`.
    """
    if isinstance(error, CallError):
        return error
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    status = status or getattr(response, "status_code", None)
    if not isinstance(status, int) or not 100 <= status < 600:
        status = None
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ is not None and len(chain) < 10:  # it may be a ring
            chain.append(chain[-1].__cause__)
        kinds = ("ConnectionError", "TimeoutError", "TransportError")  # the last: httpx
        if not any(isinstance(it, also) or is_of_kind(it, *kinds) for it in chain):
            return None
    code = getattr(error, "code", None)
    with_headers = error if response is None else response
    wait = wait_in(getattr(with_headers, "headers", None) or {})
    return CallError(describe(error), status, code if type(code) is str else "", wait)


def is_of_kind(error: BaseException, *names: str) -> bool:
    """Return whether an error is of one of these classes; by name, as httpx is imported
    where it is used alone, and a client of yours may be of its fork."""
    return not {kind.__name__ for kind in type(error).__mro__}.isdisjoint(names)


def wait_in(headers: Any) -> float | None:
    """Return how many seconds a response asks us to wait: in ms, in s or by a date."""
    from email.utils import parsedate_to_datetime

    headers = {str(name).lower(): str(value) for name, value in dict(headers).items()}
    retry_after, waits = headers.get("retry-after", ""), list[float]()
    for text, unit in ((headers.get("retry-after-ms", ""), 1000), (retry_after, 1)):
        with suppress(ValueError):
            waits.append(float(text) / unit)
    with suppress(ValueError, TypeError, OverflowError):
        waits.append(parsedate_to_datetime(retry_after).timestamp() - time.time())
    return next((wait for wait in waits if 0 < wait < 1e9), None)  # 0, nan, inf: seen


def start_inspection(state: State, text: str) -> None:
    """Note that a text is inspected; the first of a reply counts as a try."""
    if not state.inspected:
        state.judged += 1
        # The tries of a question are its own.
        for account in state.accounts[: 1 if state.hook else None]:
            account.charge(tries=1)
    state.inspected.add(text)
    state.complaint = ""  # that was about another text


def ask_hook(state: State, hook: Hook, about: Any) -> Steps:
    """Return what a hook answers. Where it is a generator, its questions are answered;
    where a service that it uses fails, that is raised as a CallError."""
    try:
        answer = yield partial(hook, about)
        if isinstance(answer, types.GeneratorType):
            answer = yield from answer_questions(state, hook, answer)
        return answer
    except Exception as error:
        if type(error) is StopIteration:  # a generator cannot let it through
            raise LookupError("next() found nothing") from error
        fault = None if isinstance(error, Reject) else fault_of(error)
        if fault is None or fault is error:
            raise
        why = f"a service that {name_of(hook)} uses failed: {fault}"
        raise replace(fault, why=why) from error


def answer_questions(state: State, hook: Hook, asking: Any) -> Steps:
    """Answer what a generator yields, until it returns; return what it returns."""
    resume: Hook = partial(next, asking)
    try:
        while True:
            try:
                question = resume()
            except StopIteration as end:
                return end.value
            if isinstance(question, Ask):
                inner = state_of_question(state, hook, question)
                limit = within_limits(inner, question)
                if isinstance(limit, Stop):  # not thrown into the hook: it could ask on
                    raise CallError(limit.why)
                answer = answer_question(inner, question)
            else:
                answer = yield_awaitable(hook, question)
            try:
                value = yield from answer
            except Exception as error:  # noqa: BLE001
                if isinstance(question, Ask) and not isinstance(error, CallError):
                    state.question_error = error
                resume = partial(asking.throw, error)
            else:
                resume = partial(asking.send, value)
    finally:
        asking.close()


def state_of_question(state: State, hook: Hook, ask: Ask) -> State:
    """Return the state of the run that answers what a hook asks: with the account, tape
    and attempts of the hook's run, and tries of its own."""
    question = State(
        task=ask.messages,
        judge=ask.judge if isinstance(ask, Question) else accept_anything,
        call=ask.call or state.call,
        fixes=ask.fixes if isinstance(ask, Question) else (),
        faults=state.faults,
        accounts=(Account(Limits(state.accounts[0].limits.tries)), *state.accounts),
    )
    question.task_settings = question.changed = ask.settings
    question.attempts = state.attempts
    question.replies_by_request = state.replies_by_request
    question.hook = name_of(hook)
    question.name, question.tape, question.watch = state.name, state.tape, state.watch
    return question


def answer_question(question: State, ask: Ask) -> Steps:
    """Return the value or the Reply that a hook asks for; raise CallError for none."""
    result = yield from run_steps(question, Ask(ask.messages, ask.wait))
    if not result:
        raise CallError(f"{question.hook} got no answer: {result.why}")
    return result.value if isinstance(ask, Question) else question.reply


def yield_awaitable(hook: Hook, awaitable: Any) -> Steps:
    """Return what comes of an awaitable that a hook yields: the driver awaits it."""
    if not hasattr(awaitable, "__await__"):
        cure = "a hook yields an Ask or a Question"
        raise HookError(f"{name_of(hook)} yielded {awaitable!r}: {cure}")

    def hand_over() -> Any:
        return awaitable

    hand_over.__name__ = name_of(hook)
    return (yield partial(hand_over))


def accept_anything(text: str) -> Accept:
    """Judge: every reply will do, one that asks for tools included."""
    return Accept(text)


def accepted_value(judge: Hook, given: Any, value: Any) -> Any:
    """Return the value that a judge accepted.

    None is a rejection, as from `fullmatch` or `.get`, and so is a bool that the text
    itself is, as from json.loads. Any other bool is no value but a forgotten `raise`.
    """
    if isinstance(value, Accept):
        return value.value
    kind = type(value).__name__
    is_bool = kind in ("bool", "bool_")  # the latter is numpy's
    if value is None and not returns_nothing(judge):
        raise Reject("no value found")
    if is_bool and str(given).strip().lower() in ("true", "false"):
        raise Reject(f"expected a value, found {given}")
    if value is None or is_bool:
        cure = "return a value or raise, or use check(predicate, complaint) or Accept"
        raise HookError(f"judge {name_of(judge)} returned {value}: {cure}")
    awaitable = hasattr(value, "__await__") and not isinstance(value, type)
    functions = (types.FunctionType, types.AsyncGeneratorType)
    if awaitable or isinstance(value, (Ask, Use, Stop, Result, Exception, *functions)):
        cure = "a judge returns a value, or raises (one_of(...), say, makes a judge)"
        raise HookError(f"judge {name_of(judge)} returned {value!r}: {cure}")
    module: Any = sys.modules.get(type(value).__module__)
    if kind == "Accept" and hasattr(module, "run_steps"):
        cure = f"use one copy: it is of {module.__name__}, the run is of {__name__}"
        raise HookError(f"judge {name_of(judge)} returned {value!r}: {cure}")
    return value


def returns_nothing(judge: Hook) -> bool:
    """Return whether a function has no `return` with a value: it was forgotten."""
    from dis import get_instructions

    if not hasattr(judge, "__code__") or judge.__code__.co_flags & CO_GENERATOR:
        return False
    before: Any = None
    for step in get_instructions(judge):
        returned = {"RETURN_CONST": step, "RETURN_VALUE": before}.get(step.opname)
        if returned and (returned.argval is not None or "CONST" not in returned.opname):
            return False
        before = step
    return True


def record_rejection(state: State, text: str, error: Exception) -> None:
    """Note the judge's complaint about a text, and keep the best value so far."""
    state.text, complaint = text, complaint_of(error)
    value, score = getattr(error, "value", None), getattr(error, "score", None)
    if not isinstance(score, (int, float)) or math.isnan(score):
        score = -math.inf
    rank = (value is not None, getattr(error, "passed", 0), score)
    if not rank < state.best_rank:
        state.best = value if value is not None else state.reply.text or text
        state.best_rank = rank
        state.best_complaint = complaint
    record_complaint(state, complaint)


def record_complaint(state: State, complaint: str) -> None:
    """Make this the present complaint, and record it."""
    state.complaint = state.attempt.complaint = complaint
    emit(state, "inspect", complaint=complaint)


def complaint_of(error: Exception) -> str:
    """Return what an exception complains of: the first line of its message, or each of
    pydantic's errors with its path, as the text of these has the whole value in it."""
    if isinstance(error, Reject):
        complaint = str(error)
    elif type(error).__module__.startswith("pydantic") and hasattr(error, "errors"):
        parts = cast("Any", error).errors()
        wrong = [(".".join(map(str, it["loc"])), it["msg"]) for it in parts]
        complaint = "; ".join(f"{path}: {why}" if path else why for path, why in wrong)
    else:
        complaint = describe(error)
    if len(complaint) <= 300:
        return complaint
    return f"{complaint[:200]} ... {complaint[-90:]}"


def is_new_move(state: State, fix: Hook, move: Any) -> bool:
    """Return whether a fix-up returned a move, and one that leads on.

    A repair must have a text that was not inspected yet, and a fix-up repairs a reply
    once: so decisions that are free come to an end. To ask the same again is a move.
    """
    if move is None:
        return False
    if isinstance(move, Use):
        again = name_of(fix) in state.attempt.fixes
        return not again and not state.inspected.issuperset(move.texts)
    if isinstance(move, Question):
        raise HookError(f"{name_of(fix)} returned a Question: yield it, return an Ask")
    if isinstance(move, (Ask, Stop)):
        return True
    raise HookError(f"{name_of(fix)} returned {move!r}, not Ask, Use, Stop or None")


def record_decision(state: State, fix: Hook, move: Move) -> None:
    """Note which special case made this move, and record it."""
    name = name_of(fix)
    state.attempt.fixes.append(name)
    facts: dict[str, Any] = {"settings": {}, "wait": 0.0, "why": state.why}
    if isinstance(move, Ask):
        facts |= {"settings": recorded_settings(move.settings), "wait": move.wait}
    if isinstance(move, Stop):
        facts["why"] = move.why
    emit(state, "decide", fix=name, move=type(move).__name__, **facts)


def accepted(state: State) -> Result[Any]:
    """End a run whose reply was accepted."""
    state.best = state.value
    return end_run(state, "accepted", True)


def gave_up(state: State, why: str) -> Result[Any]:
    """End a run in which no reply was accepted."""
    state.value = None
    if state.best is None:
        state.best = state.reply.text or None  # nobody could judge it
    reason = str(why)
    if not reason.endswith(state.why):
        reason = f"{reason}; at last: {state.why}"
    return end_run(state, reason, False)


def end_run(state: State, why: str, is_accepted: bool) -> Result[Any]:
    """Return the result of a run, and record its end."""
    account, value = state.accounts[0], state.value
    account.spent.seconds = round(time.monotonic() - account.began, 3)
    emit(state, "end", account.spent, accepted=is_accepted, why=why, value=value)
    return Result(value, is_accepted, why, state.best, state.attempts, account.spent)


def emit(state: State, event: str, about: Any = None, **facts: Any) -> None:
    """Write an event to the tape, and show it to the watcher, whose errors are logged.

    An event is a dict: `event`, `run` (its name), `n` (the number of the request),
    `hook` (whose question it is, or ""), and for
        start    task, call, settings, fixes, after
        sent     messages, settings
        reply    what a Reply has, key          reused   key: the reply was on the tape
        fault    what a CallError has, key      inspect  complaint: "" where accepted
        decide   fix, move, settings, wait, why
        end      what Spent has, accepted, why, value
    """
    if state.tape is None and state.watch is None:
        return
    facts = {"hook": state.hook} | facts
    if about is not None:
        facts = {it.name: getattr(about, it.name) for it in fields(about)} | facts
        facts.pop("raw", None)
    record = {"event": event, "run": state.name, "n": len(state.attempts)} | facts
    if state.tape is not None:
        state.tape.write(record)
    if state.watch is not None:
        try:
            state.watch(record)
        except Exception:
            import logging

            logging.getLogger("loop").exception("watch failed")


def settings_of(call: Hook) -> dict[str, Any]:
    """Return the settings of a call: its own, and the keywords of a partial."""
    if isinstance(call, partial):
        return settings_of(call.func) | call.keywords
    settings: Any = getattr(call, "settings", None)
    return cast("dict[str, Any]", settings) if type(settings) is dict else {}


def call_attribute(call: Hook, name: str) -> Any:
    """Return an attribute of a call, or of the call in a partial; None for none."""
    return getattr(call, name, None) or getattr(partial(call).func, name, None)


SECRET = re.compile(  # api_key, accessToken, extra_headers ...
    r"(?:^|(?i:api)|[_-]|[a-z](?=[A-Z]))"
    r"(?i:keys?|token|secrets?|password|auth|authorization|credentials?|headers?)$"
)


def recorded_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a record may have: no secrets, none that are removed."""
    public = without_secrets(settings)
    return {name: it for name, it in public.items() if it is not None}


def without_secrets(value: Any) -> Any:
    """Return a JSON value without the members whose keys look like those of secrets."""
    if isinstance(value, dict):
        public: dict[Any, Any] = {}
        for key, member in cast("Any", value).items():
            # In a JSON schema, a member of such a name is an object.
            is_object = isinstance(member, dict) and "header" not in str(key).lower()
            if is_object or not SECRET.search(str(key)):
                public[key] = without_secrets(member)
        return public
    if isinstance(value, (list, tuple)):
        return [without_secrets(it) for it in cast("Any", value)]
    return value


def name_of(hook: Any) -> str:
    """Return the name of a hook, or of its function or class, as reports have it."""
    if isinstance(hook, partial):
        return name_of(hook.func)
    name: Any = getattr(hook, "__name__", None)
    return name if isinstance(name, str) else type(hook).__name__


def describe(error: BaseException) -> str:
    """Return an error as its kind and the first line of its message, without what a URL
    in it has behind its "?": that may be a key."""
    line = str(error).strip().partition("\n")[0][:400]  # it may be a page of HTML
    line = re.sub(
        r"(https?://)(?:[^/\s@]*@)?([^\s?'\"]*)\?[^\s'\"]*", r"\1\2?...", line
    )
    return f"{type(error).__name__}: {line}".removesuffix(": ")


def get_path(kind: Any, data: Any, *path: Any) -> Any:
    """Return what is at this path of a JSON value, if it is of this kind; else None."""
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data if isinstance(data, kind) else None


def is_json(text: str | bytearray) -> bool:
    """Return whether a text is JSON as it stands."""
    with suppress(ValueError, RecursionError):
        json.loads(text)
        return True
    return False


def short_json(value: Any) -> str:
    """Return a value as JSON, short enough for a complaint."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):  # odd keys, or a ring
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}"
