"""Situation: the model is to do things by itself: look up, compute, write a file. An
agent is a loop with one more fix-up. Copy this file beside loop.py.

    tools = use_tools(read_file, add)  # plain functions, with types and docstrings
    ask = Ask("How long is notes.txt?", tools=tools.schemas)
    run(ask, judge, call=chat("gpt-5"), fixes=[tools, *FIXES], tape=Tape("agent.jsonl"))

The judge sees the first reply that asks for no tool. With `arun`, take `ause_tools`.
Where the tool call itself is the answer, so that no tool runs, take
fixes=[answer_in_tool_call, *FIXES]. For a model that has no tool calls, there is
tools_in_text.py. Run this file to see it at work, offline.

Promised:
- A tool runs at most once for each request of the model. What it returned is on the
  tape, so that a run that is started again reads it there.
- If the program is killed while a tool runs, nobody knows whether it took effect. The
  tool does not run again: the model reads that this is not known. A tool that has a
  parameter `idempotency_key` does run again, with the same key, so that a service that
  knows the key does it once.
- What a tool raises is what the model reads, and so are a time-out and the mistakes of
  the model: a tool that is not there, arguments that do not fit (the tool is not run),
  a request for the third time with nothing new in between. A fourth ends the run.
- No tool runs where a limit keeps the model from reading what it would return.

Not promised: that a tool stops at its time-out (it has a thread of its own, and Python
cannot stop that); that what it returns does not mislead the model; anything where two
processes do one run, by its name, at the same time.

Each run of a tool takes two calls of Limits(calls=32), though they cost nothing: one
records that it may run, with its key, and one its result. With the model's own, a step
takes three: 32 calls are ten steps.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from concurrent.futures import Future, wait
from contextvars import copy_context
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, getdoc, iscoroutinefunction, signature
from pathlib import Path
from threading import TIMEOUT_MAX, Thread
from typing import Any, cast
from uuid import uuid4

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import (
    FIXES,
    Ask,
    Hook,
    HookError,
    Messages,
    Reject,
    Reply,
    State,
    Stop,
    Use,
    complaint_of,
    describe,
    get_path,
    json_with,
    name_of,
    run,
    scan_json,
    scripted,
    short_json,
    show,
    strict_json,
    token_limits_reached,
    visible,
)

LONGEST = 20_000  # characters of a result that the model gets to read


class use_tools:
    """A fix-up: the reply asks for tools. Run them, and ask on with what they returned.

    Each function is a tool: its name, parameters, their types, and its docstring are
    what the model reads, by Ask(..., tools=tools.schemas). timeout: seconds for each
    run. confirm(name, arguments): may it run? It returns True, False or a text that
    says why not; yes_at_terminal asks a person.
    """

    blocks = True  # `arun` refuses it: there, take ause_tools

    def __init__(
        self, *functions: Hook, timeout: float = 30.0, confirm: Hook | None = None
    ):
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}: give seconds, more than 0")
        if not all(map(callable, functions)):
            raise TypeError(f"{functions} are no functions: use_tools(read, write)")
        for hook in (*functions, confirm):
            if self.blocks and iscoroutinefunction(hook):
                raise TypeError(f"{name_of(hook)} is async: take ause_tools and arun")
        self.tools = {name_of(function): Tool(function) for function in functions}
        if len(self.tools) < len(functions):
            names = ", ".join(map(name_of, functions))
            raise ValueError(f"two of the tools have one name: {names}")
        self.schemas: list[Any] = [tool.schema for tool in self.tools.values()]
        self.confirm: Hook = confirm or (lambda _name, _given: True)
        self.timeout = min(timeout, TIMEOUT_MAX)
        self.late = TimeoutError(f"it has {timeout:g} s; it may yet take effect")

    def __call__(self, state: State) -> Generator[Ask, Any, Ask | Stop | None]:
        if not state.settings.get("tools"):
            cure = "give run an Ask(..., tools=tools.schemas)"
            raise HookError(f"the model was not told of any tool: {cure}")
        requests, calls = requests_in(state.reply), state.reply.tool_calls
        if not calls or get_path(str, calls, 0, "type") == "pause_turn":
            return None  # the latter is claude.py's, and has a fix-up of its own
        if not all(get_path(dict, it, "function") for it in calls):
            return Stop(f"no tool call as OpenAI has it: {short_json(calls)}")
        # What a tool does must not be done for nobody.
        reason = limit_ahead(state, 2 * len(requests))
        if reason:
            return Stop(f"{reason}; so no tool was run")
        answer = {"role": "assistant", "content": state.reply.text}
        conversation = [*state.task, answer | {"tool_calls": requests}]
        for request, asked in zip(requests, calls, strict=True):
            name = get_path(str, asked, "function", "name") or ""
            arguments = arguments_of(asked)
            text = yield from self.text_for(state, name, arguments)
            if text is None:
                what = visible(f"{name}({arguments})"[:200])
                return Stop(f"the model asks for {what} again and again")
            facts = {"role": "tool", "tool_call_id": request["id"], "content": text}
            conversation.append(facts)
        state.task = conversation  # the re-asks go on from there
        return Ask(conversation)

    def text_for(
        self, state: State, name: str, arguments: str
    ) -> Generator[Ask, Any, str | None]:
        """Return what the model is to read about a request; None where it asked for
        the same too often."""
        # How often each request brought each result, since any brought a new one.
        times = state.memory.setdefault(self, Counter[tuple[str, str, str]]())
        for found in times:
            if found[:2] == (name, arguments) and times[found] > 1:
                times[found] += 1
                told = "error: asked for twice before, with the same result"
                return told if times[found] == 3 else None
        tool = self.tools.get(name)
        if tool is None:
            text = f"error: there is no tool {name!r}, only {', '.join(self.tools)}"
        elif state.reply.finish in ("length", "cut") or (
            arguments == "{}" and token_limits_reached(state)  # whatever its flag says
        ):
            text = "error: not run, as the reply was cut off"
        else:
            try:
                given = tool.read(arguments)
            except Exception as error:  # noqa: BLE001
                text = f"error: {complaint_of(error)}, in {arguments[:500]}"
            else:
                text = yield from self.run_once(state, tool, given, arguments)
        if (name, arguments, text) not in times:
            for found in times:
                times[found] = 1
        times[name, arguments, text] += 1
        return text

    def run_once(
        self, state: State, tool: Tool, given: dict[str, Any], arguments: str
    ) -> Generator[Ask, Any, str]:
        """Run a tool, if it may run and was not started before; return what the model
        is to read. Both steps are calls, so that a tape has the one before the next."""
        what = f"{tool.name}({arguments})"
        may_run = partial(self.confirm, tool.name, json.loads(arguments))
        permission: Reply = yield Ask(what, call=self.as_call(tool, may_run, verdict))
        if permission.text != "allowed":
            return permission.text
        # Where the tape had the permission, the tool was started before. If the tape
        # has its result, too, the call below is not made.
        was_started = state.attempts[-1].reused
        work = partial(tool.work, given, permission.id, was_started)
        result: Reply = yield Ask(what, call=self.as_call(tool, work, result_text))
        return result.text

    def as_call(self, tool: Tool, work: Hook, text_of: Hook) -> Hook:
        """Return a call, as loop.py's, that does work() and costs nothing. Its text is
        text_of() what work() returned, or of the error that it raised."""

        def call(_messages: Messages, **_settings: Any) -> Any:
            return self.reply_of(work, text_of)

        step = "run" if text_of is result_text else "permission"
        vars(call).update(settings={"tool": tool.name, "step": step}, price=(0.0, 0.0))
        call.__name__ = tool.name
        return call

    def reply_of(self, work: Hook, text_of: Hook) -> Any:
        """Return the reply of a call."""
        if text_of is verdict:  # a person is asked without a thread or a time-out
            try:
                return free_reply(text_of, work())
            except (Exception, SystemExit) as error:  # noqa: BLE001
                return free_reply(text_of, error)
        future = in_thread(work)
        wait([future], self.timeout)
        return free_reply(text_of, future.result() if future.done() else self.late)


class ause_tools(use_tools):
    """The same for `arun`. A tool and `confirm` may be async; if not, they run in a
    thread, and the event loop goes on."""

    blocks = False

    async def reply_of(self, work: Hook, text_of: Hook) -> Any:
        """Return the reply of a call."""
        task = asyncio.ensure_future(outcome_of(work))
        timeout = None if text_of is verdict else self.timeout
        try:
            await asyncio.wait([task], timeout=timeout)
            return free_reply(text_of, task.result() if task.done() else self.late)
        finally:
            task.cancel()  # where it is late, or the run was cancelled


async def outcome_of(work: Hook) -> Any:
    """Return what work() returns, awaited if it can be, or the error that it raises: a
    cancelled task within a tool does not cancel the run."""
    try:
        value = await asyncio.wrap_future(in_thread(work))
        return await value if isinstance(value, Awaitable) else value
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001
        return error


def yes_at_terminal(name: str, arguments: dict[str, Any]) -> bool | str:
    """Return whether a person at the terminal says yes. To ask about one tool alone:
    confirm=lambda name, given: name != "delete" or yes_at_terminal(name, given)."""
    if not sys.stdin.isatty():
        return "there is no terminal to ask a person at"
    shown = visible(f"{name}({json.dumps(arguments, ensure_ascii=False)})")
    print(f"May it run {shown}? (y or n) ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def in_thread(work: Hook) -> Future[Any]:
    """Start work() in a thread that ends with the program; return the future of what it
    returns, or of the error that it raises, whatever that is."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # it cannot be cancelled any more
    context = copy_context()

    def target() -> None:
        try:
            outcome = context.run(work)
        except BaseException as error:  # noqa: BLE001
            outcome = error
        future.set_result(outcome)

    Thread(target=target, daemon=True).start()
    return future


def free_reply(text_of: Hook, outcome: Any) -> Reply:
    """Return a reply that took no tokens, with an id that no other has."""
    try:
        text = text_of(outcome)
    except Exception as error:  # noqa: BLE001
        text = f"error: {describe(error)}"
    return Reply(text, "stop", input_tokens=0, output_tokens=0, id=uuid4().hex)


def verdict(answer: Any) -> str:
    """Return "allowed", or why not, for what `confirm` returned or raised."""
    if isinstance(answer, (BaseException, Awaitable)):
        return result_text(answer)
    refused = f"not allowed: {answer or 'a person said no'}"
    return "allowed" if answer is True else refused


def result_text(value: Any) -> str:
    """Return what a tool returned as a text, as JSON if it was none; or its error."""
    if value is None:
        return "done"
    if isinstance(value, BaseException):
        return f"error: {describe(value)}"
    if isinstance(value, (Awaitable, Iterator, AsyncIterator)):
        raise TypeError(f"it returned {value!r}, which is no value yet")
    text = value
    if not isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False, default=str)
    text = text.encode(errors="backslashreplace").decode()  # no lone surrogates
    more = len(text) - LONGEST
    return text if more <= 0 else f"{text[:LONGEST]} ... ({more} characters more)"


def limit_ahead(state: State, calls: int) -> str:
    """Return which limit forbids that the model is asked after so many calls, or ""."""
    for account in state.accounts:
        used, most = account.spent.calls, account.limits.calls
        if reason := account.limit_reached(0.0):
            return reason
        if most is not None and used + calls >= most:
            return f"limit reached: {used} of {most:g} calls, and tools take {calls}"
    return ""


class Tool:
    """A function that a model may run, with its schema.

    With pydantic installed, a parameter may have any type that it knows; the function
    gets a date, say, or a model. Without, it has one of JSON: str, int, list ...
    """

    def __init__(self, function: Hook):
        self.function, self.name = function, name_of(function)
        self.signature = signature(function, eval_str=True)
        parameters = dict(self.signature.parameters)
        by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        if not all(it.kind in by_name for it in parameters.values()):
            why = "the parameters of a tool have names, no * or /"
            raise TypeError(f"{self.name}: {why}")
        self.takes_key = parameters.pop("idempotency_key", None) is not None
        self.signature = self.signature.replace(parameters=[*parameters.values()])
        self.types = {
            name: object if it.annotation is it.empty else it.annotation
            for name, it in parameters.items()
        }
        self.adapter: Any = None
        optional = [it.name for it in parameters.values() if it.default is not it.empty]
        if find_spec("pydantic"):
            self.adapter = adapter_of(self.name, self.types, optional)
            shape = self.adapter.json_schema()
        else:
            try:
                json_with(**self.types)
            except TypeError as error:  # a type that is none of JSON
                raise TypeError(f"{self.name}: {error}; or install pydantic") from None
            shape = simple_schema(self.types, optional)
        facts = {"name": self.name, "description": getdoc(partial(function).func) or ""}
        self.schema = {"type": "function", "function": facts | {"parameters": shape}}

    def read(self, arguments: str) -> dict[str, Any]:
        """Return the arguments for the function; raise where they do not fit."""
        given = strict_json(arguments)
        if self.adapter is not None:
            return cast("dict[str, Any]", self.adapter.validate_python(given))
        if not isinstance(given, dict):
            raise TypeError(f"expected a JSON object, found {short_json(given)}")
        self.signature.bind(**given)
        types = {name: kind for name, kind in self.types.items() if name in given}
        return cast("dict[str, Any]", json_with(**types)(arguments))

    def work(self, given: dict[str, Any], key: str, was_started: bool) -> Any:
        """Run the tool. Where it was started before, it has to take a key."""
        if self.takes_key:
            return self.function(**given, idempotency_key=key)
        if was_started:
            why = "so nobody knows whether it took effect. It was not run again"
            return f"error: the run ended before this had a result, {why} (key {key})"
        return self.function(**given)


def adapter_of(name: str, types: dict[str, Any], optional: list[str]) -> Any:
    """Return pydantic's adapter for the arguments of a tool, as a dict."""
    pydantic: Any = import_module("pydantic")
    typing: Any = import_module("typing_extensions")  # pydantic brings it
    members = types | {it: typing.NotRequired[types[it]] for it in optional}
    shape = typing.TypedDict(name, members)
    shape.__pydantic_config__ = {"extra": "forbid"}
    return pydantic.TypeAdapter(shape)


def simple_schema(types: dict[str, Any], optional: list[str]) -> dict[str, Any]:
    """Return the JSON schema of arguments whose types are those of JSON."""
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    names |= {list: "array", dict: "object"}
    members = {
        it: {"type": names[kind]} if kind in names else {} for it, kind in types.items()
    }
    required = [name for name in types if name not in optional]
    return {"type": "object", "properties": members, "required": required}


def requests_in(reply: Reply) -> list[dict[str, Any]]:
    """Return the requests for tools in a reply, fit to be sent back: each has an id of
    its own, a plain name and an object of arguments, as endpoints refuse a conversation
    that has a broken one. What else is in it, as the signature of a thought, stays."""
    requests: list[dict[str, Any]] = []
    ids: set[str] = set()
    for number, asked in enumerate(reply.tool_calls):
        arguments = arguments_of(asked)
        try:
            broken = not isinstance(strict_json(arguments), dict)
        except (Reject, RecursionError):
            broken = True
        name = get_path(str, asked, "function", "name") or "_"
        name = re.sub("[^a-zA-Z0-9_-]", "_", name)[:64]
        id_ = get_path(str, asked, "id") or f"call_{number}"
        while id_ in ids:
            id_ += "_"
        ids.add(id_)
        request: dict[str, Any] = {**(get_path(dict, asked) or {}), "id": id_}
        request["function"] = {"name": name, "arguments": "{}" if broken else arguments}
        requests.append(request | {"type": "function"})
    return requests


def arguments_of(asked: Any) -> str:
    """Return the arguments of a request as a text: {} for none (xagent#1503)."""
    given: Any = get_path(object, asked, "function", "arguments")
    given = "{}" if given in (None, "") else given
    return given if isinstance(given, str) else json.dumps(given)


def answer_in_tool_call(state: State) -> Use | Ask | None:
    """The tool call is the answer: a tool serves as a form to fill in. Use its
    arguments; where they were cut off, allow twice as many tokens, once. No tool runs.
    Place: fixes=[answer_in_tool_call, *FIXES]."""
    texts = [arguments_of(asked) for asked in state.reply.tool_calls]
    limits = token_limits_reached(state)
    if texts and limits and scan_json(texts[-1]).open:
        if "answer_in_tool_call" in state.memory:
            return None
        state.memory["answer_in_tool_call"] = True
        return Ask(state.messages, **{name: 2 * limits[name] for name in limits})
    return Use(*texts) if texts else None


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    def add(a: int, b: int) -> int:
        """Return the sum of two numbers."""
        return a + b

    def asking_for(name: str, arguments: str) -> Reply:
        function = {"name": name, "arguments": arguments}
        return Reply("", "tools", tool_calls=({"id": "c1", "function": function},))

    tools = use_tools(add)
    result = run(
        Ask("What is 1234 + 4321?", tools=tools.schemas),
        int,
        call=scripted(
            asking_for("plus", "{}"),
            asking_for("add", '{"a": 1234, "b": "x"}'),
            asking_for("add", '{"a": 1234, "b": 4321}'),
            "It is 5555.",
            "5555",
        ),
        fixes=[tools, *FIXES],
        watch=show,
    )
    print(result)
