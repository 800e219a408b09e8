#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: you want to know what the loop costs with many calls under way at once.

    uv run examples/bench/concurrency.py          a minute or two
    uv run examples/bench/concurrency.py --json   one JSON object on stdout
    uv run examples/bench/concurrency.py -n 200   fewer calls, at most as many at once

An endpoint on this machine takes 20 ms for a reply. Prints the time and the CPU time
of 2,000 runs with `arun` and `achat`, with 8, 100 and 1,000 at once, as a share of what
the best bare loop of httpx that we know takes, in turn with it. That has a client for
each task: with one client for all, 1,000 at once took more than three times as long.
Each figure is the best of three rounds. Exit status: 0; 2 for a wrong argument.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where loop.py is

import loop

SERVER = r"""
import asyncio, json, signal, sys

signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C, the benchmark ends it
message = {"role": "assistant", "content": "12"}
reply = {"id": "r1", "model": "m", "choices": [{"index": 0, "message": message}]}
reply["choices"][0]["finish_reason"] = "stop"
reply["usage"] = {"prompt_tokens": 7, "completion_tokens": 3}
body = json.dumps(reply).encode()
head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()

async def serve(reader, writer):
    try:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            length = request.lower().partition(b"content-length: ")[2].split()[0]
            await reader.readexactly(int(length))
            await asyncio.sleep(float(sys.argv[1]))
            writer.write(head + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
ASK = {"model": "m", "messages": [{"role": "user", "content": "n?"}]}
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


@contextmanager
def endpoint(seconds: float) -> Iterator[str]:
    """Serve an endpoint, in a process of its own, that takes so long for a reply."""
    command = [sys.executable, "-c", SERVER, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.kill()


async def call_bare(url: str, calls: int, at_once: int) -> None:
    """Make these calls with httpx alone, by a client for each task."""
    certificates = httpx.create_ssl_context()

    async def make_calls(share: int) -> None:
        options: Any = {"verify": certificates, "timeout": 60, "headers": HEADERS}
        async with httpx.AsyncClient(**options) as client:
            for _ in range(share):
                content = json.dumps(ASK).encode()
                reply = await client.post(f"{url}/chat/completions", content=content)
                int(json.loads(reply.content)["choices"][0]["message"]["content"])

    await asyncio.gather(*(make_calls(calls // at_once) for _ in range(at_once)))


async def call_in_runs(url: str, calls: int, at_once: int) -> None:
    """Make these calls in runs, which judge each reply, and would ask again."""
    call = loop.achat("m", url, "")

    async def make_calls(share: int) -> None:
        for _ in range(share):
            (await loop.arun("n?", int, call=call)).unwrap()

    await asyncio.gather(*(make_calls(calls // at_once) for _ in range(at_once)))


def compare(url: str, calls: int, at_once: int) -> dict[str, float]:
    """Return the time and the CPU time of our calls, as a share of the bare loop's."""
    walls: dict[Any, list[float]] = {call_bare: [], call_in_runs: []}
    cpus: dict[Any, list[float]] = {call_bare: [], call_in_runs: []}
    for make_calls in (call_bare, call_in_runs) * 3:
        wall, cpu = time.perf_counter(), time.process_time()
        asyncio.run(make_calls(url, calls, at_once))
        walls[make_calls].append(time.perf_counter() - wall)
        cpus[make_calls].append(time.process_time() - cpu)
    # The best of the rounds, as a busy machine only ever adds.
    return {
        "wall": round(min(walls[call_in_runs]) / min(walls[call_bare]), 2),
        "cpu": round(min(cpus[call_in_runs]) / min(cpus[call_bare]), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=2000, help="calls (2000)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    if options.n < 8:
        parser.error(f"-n {options.n}: give 8 or more")
    figures: dict[int, dict[str, float]] = {}
    with endpoint(0.02) as url:
        for at_once in 8, 100, 1000:
            if at_once > options.n:
                break
            figures[at_once] = compare(url, options.n, at_once)
            if not options.json:
                wall, cpu = figures[at_once].values()
                line = f"{wall:.2f} of the time, {cpu:.2f} of the CPU time"
                print(f"{at_once:5} at once: {line}", flush=True)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
