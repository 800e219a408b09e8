#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# ///
"""Situation: you want to see what your client does about an endpoint that fails.

    uv run examples/bench/versus_server.py     prints its port, and serves until Ctrl-C

The base_url http://127.0.0.1:PORT/ANY/SCENARIO/v1 says what goes wrong:

    fast, slow      nothing but the judge's trouble: of each run, known by its number in
                    the prompt, "(run 17)", a bad reply, then a good one; slow: 100 ms
    growth          15 bad replies that differ, then good ones
    forever         one bad reply, 40 times; then silence
    400, 401        this status, for ever; 401-quoted: its message quotes the key
    429, 500        this status, twice; 429-told: with Retry-After: 1
    beside          a text that would do, beside a call of a tool that would not
    broken          the connection is closed in the body
    half, number    cut at max_tokens, as JSON and as "3" of "36"
    cancel          no answer to the first 120 requests

It answers by a call of a tool where the request has tools, else by text. GET
/ANY/SCENARIO returns what it noted of the requests there (nothing of fast and slow, so
that they cost it little), and how many of their connections are open. It is the server
of versus.py. Exit status: 0 after Ctrl-C; 2 for a wrong argument.
"""

import argparse
import asyncio
import json
import re
import time
from contextlib import suppress
from typing import Any

BAD, GOOD = '{"name": "Ada Byron"}', '{"name": "Ada Lovelace", "age": 36}'
HALF = '{"name": "Ada Lovelace", "age": 3'
BESIDE = '{"name": "Talk", "age": 1}'  # stands as text beside a call of a tool
CANCELLED = 120  # requests that "cancel" never answers
MOST = 40  # requests that "forever" answers
FAST, SLOW = "fast", "slow"
SECONDS = {FAST: 0.0, SLOW: 0.1}
PLACES: dict[str, "Place"] = {}  # by the part of the path before /v1
NUMBER = re.compile(rb"\(run (\d+)\)")
LENGTH = re.compile(rb"(?i)content-length: *(\d+)")


class Place:
    """What was asked of one peer in one scenario, and how it is answered."""

    def __init__(self, path: str):
        self.scenario = path.rpartition("/")[2]
        self.seconds = SECONDS.get(self.scenario)
        self.pending: set[bytes] = set()  # runs that had their bad reply
        self.replies: tuple[bytes, bytes] | None = None  # bad and good, once known
        self.notes: list[dict[str, Any]] = []
        self.answered = 0.0  # when the last answer went out
        self.open: set[Connection] = set()  # connections that asked here

    def speedy(self, body: bytes) -> bytes:
        """Return the next reply to a run, of those made once."""
        if self.replies is None:
            tool = tool_in(json.loads(body))
            self.replies = (completion(BAD, tool), completion(GOOD, tool))
        found = NUMBER.search(body)
        number = found.group(1) if found else b""
        if number in self.pending:
            self.pending.discard(number)
            return self.replies[1]
        self.pending.add(number)
        return self.replies[0]

    def note(self, body: bytes) -> None:
        now = time.monotonic()
        wait = now - self.answered if self.answered else 0.0
        self.notes.append({"bytes": len(body), "wait": round(wait, 3)})

    def answer(self, body: bytes, key: str) -> bytes | None:
        """Return the answer to the request just noted; None: never."""
        n, asked = len(self.notes) - 1, json.loads(body)
        kind, _, detail = self.scenario.partition("-")
        tool = tool_in(asked)
        if kind.isdigit() and (n < 2 or kind in ("400", "401")):
            return fault(kind, detail, key)
        if kind == "number":
            return number_reply(asked, n)
        if (kind == "cancel" and n < CANCELLED) or (kind == "forever" and n >= MOST):
            return None
        good, bad = completion(GOOD, tool), completion(BAD, tool)
        if kind == "growth" and n < 15:
            return completion(BAD.replace("Byron", f"Byron the {n + 1}th"), tool)
        first = {
            "beside": completion(BAD, tool or "look_up", BESIDE),
            "broken": good[:-30],
            "half": completion(HALF, tool, finish="length"),
            "forever": bad,
        }
        return first.get(kind, good) if n == 0 or kind == "forever" else good


def fault(status: str, detail: str, key: str) -> bytes:
    """Return the response of a failed call; some proxies do quote the key in theirs."""
    why = f"Incorrect API key provided: {key}" if detail == "quoted" else "No."
    return failure(int(status), why, "Retry-After: 1\r\n" if detail == "told" else "")


def number_reply(body: dict[str, Any], n: int) -> bytes:
    """Return 36, at first cut after the 3; a tool takes it in its only argument."""
    text, finish = ("3", "length") if n == 0 else ("36", "")
    tool = tool_in(body)
    if not tool:
        return completion(text, finish=finish)
    [name] = body["tools"][0]["function"]["parameters"]["properties"]
    return completion(f'{{"{name}": {text}' + "}" * (n > 0), tool, finish=finish)


def tool_in(body: dict[str, Any]) -> str:
    """Return the name of the first tool of a request, or nothing."""
    tools = body.get("tools") or body.get("functions")
    return tools[0]["function"]["name"] if tools else ""


def completion(text: str, tool: str = "", talk: str = "", finish: str = "") -> bytes:
    """Return a whole response with this text, or with it as arguments of the tool."""
    message: dict[str, Any] = {"role": "assistant", "content": talk or text}
    if tool:
        call = {"name": tool, "arguments": text}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        message |= {"content": talk or None, "tool_calls": calls}
    finish = finish or ("tool_calls" if tool else "stop")
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    reply = {
        "id": "r",
        "object": "chat.completion",
        "created": 1,
        "model": "some-model",
    }
    return response(200, reply | {"choices": [choice], "usage": usage})


def failure(status: int, why: str, headers: str = "") -> bytes:
    """Return a whole response with an error."""
    error = {"message": why, "type": "some_error", "code": None, "param": None}
    return response(status, {"error": error}, headers)


def response(status: int, data: Any, headers: str = "") -> bytes:
    body = json.dumps(data).encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.data = transport, b""
        self.place: Place | None = None

    def connection_lost(self, _: Exception | None) -> None:
        if self.place:
            self.place.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or len(body) < (int(length.group(1)) if length else 0):
            return
        self.data = b""
        method, path, _ = head.split(b" ", 2)
        name = path.decode().partition("/v1")[0]
        if method == b"GET":
            self.transport.write(response(200, report(name)))
            return
        if name not in PLACES:
            PLACES[name] = Place(name)
        place = self.place = PLACES[name]
        place.open.add(self)
        if place.seconds is None:
            self.answer(place, head, body)
        elif place.seconds:
            reply = place.speedy(body)
            asyncio.get_running_loop().call_later(
                place.seconds, self.transport.write, reply
            )
        else:
            self.transport.write(place.speedy(body))

    def answer(self, place: Place, head: bytes, body: bytes) -> None:
        """Note a request of a behaviour, and answer it."""
        place.note(body)
        found = re.search(rb"(?i)authorization: bearer (\S+)", head)
        reply = place.answer(body, found.group(1).decode() if found else "")
        if reply is None:
            return
        self.transport.write(reply)
        place.answered = time.monotonic()
        length = LENGTH.search(reply)
        if length and len(reply.partition(b"\r\n\r\n")[2]) < int(length.group(1)):
            self.transport.close()  # in the middle of the body


def report(name: str) -> dict[str, Any]:
    """Return what was noted of a place; of the whole server for the path /."""
    place = PLACES.get(name)
    cpu = {"cpu": time.process_time()}
    return cpu | {"requests": place.notes, "open": len(place.open)} if place else cpu


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve())
