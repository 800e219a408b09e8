#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""Situation: you try an agent, and want a model that costs nothing and errs on purpose.

    uv run examples/schools/scripted_endpoint.py --help    this text; agent.py starts it

start_endpoint gives the URL of a server on this machine that speaks OpenAI's protocol,
with tool calls. Its models do the task of agent.py, each in its own way:

- works: it does the task, and errs on the way as models do. It asks for a tool that
  does not exist, sends broken arguments, and names a file outside the folder.
- loops: it asks for the same tool again and again.
- words: it has no tool calls, and says that it is done.

What a model replies follows from the request alone, so that a run that was killed goes
on with it. Tokens are counted as a quarter of the bytes. `example` returns a whole
conversation, for the prompt of a model that is too small to do without.
"""

from __future__ import annotations

import argparse
import http.server
import json
import re
import threading
from collections.abc import Callable
from typing import Any

# What a model learns from the task and the files of agent.py.
TOTAL = "total.txt"
AMOUNT = re.compile(r"^amount: (\d+(?:\.\d+)?)$", re.MULTILINE)

Messages = list[dict[str, Any]]
Step = Any  # words, or requests for tools: [(name, arguments), ...]
Returned = tuple[str, dict[str, Any], str]  # name, arguments and result of a tool


class ScriptedEndpoint(http.server.BaseHTTPRequestHandler):
    """Answers as the model of that name: works, loops or words."""

    def do_POST(self) -> None:
        """Answer a request for a completion."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)
        said = asked["messages"]
        step = STEPS[asked["model"]](results_in(said))
        message: dict[str, Any] = {"role": "assistant", "content": step}
        if not isinstance(step, str):
            requests = [
                {
                    "id": f"call_{len(said)}_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
                for number, (name, arguments) in enumerate(step)
            ]
            message |= {"content": None, "tool_calls": requests}
        finish = "stop" if isinstance(step, str) else "tool_calls"
        used = len(body) // 4, len(json.dumps(message)) // 4
        usage = {"prompt_tokens": used[0], "completion_tokens": used[1]}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        answer = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def results_in(messages: Messages) -> list[Returned]:
    """Return the name, the arguments and the result of each tool call so far."""
    asked: dict[str, Any] = {}
    found = list[Returned]()
    for message in messages:
        for request in message.get("tool_calls") or []:
            asked[request["id"]] = request["function"]
        if message["role"] == "tool":
            function = asked[message["tool_call_id"]]
            arguments = json.loads(function["arguments"])
            found.append((function["name"], arguments, message["content"]))
    return found


def work_step(results: list[Returned]) -> Step:
    """Return what a model that works, and errs, does next."""
    good = [it for it in results if not it[2].startswith("error: ")]
    listed = [json.loads(text) for name, _, text in good if name == "list_files"]
    if not listed:
        return [("ls", "{}"), ("list_files", "{}")]  # the first is no tool
    texts = {it["name"]: text for name, it, text in good if name == "read_file"}
    names = [name for name in listed[0] if name != TOTAL]
    missing = [name for name in names if name not in texts]
    if missing:
        requests = [("read_file", json.dumps({"name": name})) for name in missing]
        if not texts:  # the arguments of the first are broken off
            requests[0] = ("read_file", requests[0][1][:-2])
        return requests
    sums = [text for name, _, text in good if name == "add"]
    if not sums:
        amounts = [float(it) for name in names for it in AMOUNT.findall(texts[name])]
        return [("add", json.dumps({"numbers": amounts}))]
    return write_step(results, sums[-1])


def write_step(results: list[Returned], total: str) -> Step:
    """Return what it does once it has the total."""
    writes = [text for name, _, text in results if name == "write_file"]
    last, _, text = results[-1]
    name = TOTAL if writes else f"../{TOTAL}"  # the first leads out of the folder
    if writes and writes[-1].startswith("not allowed"):
        return f"The total is {total}, but I may not write it."
    if writes and (writes[-1] == "done" or (last == "read_file" and text == total)):
        return f"The total is {total}; I wrote it into {TOTAL}."
    if last == "write_file" and "nobody knows" in text:  # so it looks
        return [("read_file", json.dumps({"name": TOTAL}))]
    return [("write_file", json.dumps({"name": name, "text": total}))]


STEPS: dict[str, Callable[[list[Returned]], Step]] = {
    "works": work_step,
    "loops": lambda _results: [("list_files", "{}")],
    "words": lambda _results: f"I wrote the total into {TOTAL}. Done!",
}


def start_endpoint() -> str:
    """Return the URL of the endpoint, started on a free port of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ScriptedEndpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


def example(name: str, *amounts: int) -> Messages:
    """Return a whole conversation, as a small model needs a few to go by."""
    total = str(sum(amounts))
    text = "\n".join(f"amount: {amount}" for amount in amounts)
    steps: list[tuple[str, dict[str, Any], str]] = [
        ("read_file", {"name": name}, text),
        ("add", {"numbers": [*amounts]}, total),
        ("write_file", {"name": TOTAL, "text": total}, "done"),
    ]
    task = f"Write the sum of the amounts in {name} into {TOTAL}."
    messages: Messages = [{"role": "user", "content": task}]
    for tool, arguments, result in steps:
        function = {"name": tool, "arguments": json.dumps(arguments)}
        request = {"id": tool, "type": "function", "function": function}
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [request]},
            {"role": "tool", "tool_call_id": tool, "content": result},
        ]
    return [*messages, {"role": "assistant", "content": "Done."}]


def main() -> None:
    """Say what this file is for."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.parse_args()
    parser.print_help()


if __name__ == "__main__":
    main()
