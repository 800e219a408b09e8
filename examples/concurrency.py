#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: you want to know what the loop costs with many calls under way at once.

    uv run examples/concurrency.py          half a minute
    uv run examples/concurrency.py --json   one JSON object on stdout
    uv run examples/concurrency.py -n 200   fewer calls

An endpoint on this machine takes 20 ms for a reply. Prints the time and the CPU time of
2,000 runs with `arun` and `achat`, 8, 100 and 1,000 at once, in those of the best bare
loop of httpx that we know, in turn with it: a client for each task. (With one client
for all, 1,000 at once took more than three times as long.) Exit status 0.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

import loop

SERVER = r"""
import asyncio, json
body = json.dumps({"choices": [{"message": {"content": "12"}}]}).encode()
head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
async def serve(reader, writer):
    try:
        while True:
            told = await reader.readuntil(b"\r\n\r\n")
            length = told.lower().partition(b"content-length: ")[2].split()[0]
            await reader.readexactly(int(length))
            await asyncio.sleep(0.02)
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
ASK = {"messages": [{"role": "user", "content": "n?"}]}


async def bare(url: str, runs: int, at_once: int) -> None:
    """Do it with httpx alone, a client for each task."""
    trust = httpx.create_ssl_context()

    async def task(share: int) -> None:
        async with httpx.AsyncClient(verify=trust, timeout=60) as client:
            for _ in range(share):
                reply = await client.post(f"{url}/chat/completions", json=ASK)
                int(reply.json()["choices"][0]["message"]["content"])

    await asyncio.gather(*(task(runs // at_once) for _ in range(at_once)))


async def ours(url: str, runs: int, at_once: int) -> None:
    """Do it with runs, which judge, and would try again."""
    call = loop.achat("m", url)

    async def task(share: int) -> None:
        for _ in range(share):
            (await loop.arun("n?", int, call=call)).unwrap()

    await asyncio.gather(*(task(runs // at_once) for _ in range(at_once)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=2000, help="calls (2000)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    told = {}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        for at_once in 8, 100, 1000:
            best = {bare: (9e9, 9e9), ours: (9e9, 9e9)}
            for way in (bare, ours) * 3:  # a busy machine only ever adds
                began, cpu = time.perf_counter(), time.process_time()
                asyncio.run(way(url, max(options.n, at_once), at_once))
                spent = time.perf_counter() - began, time.process_time() - cpu
                best[way] = tuple(map(min, best[way], spent))
            wall, cpu = (round(best[ours][i] / best[bare][i], 2) for i in (0, 1))
            told[at_once] = {"wall": wall, "cpu": cpu}
            if not options.json:
                print(
                    f"{at_once:5} at once: {wall:.2f} of the time, {cpu:.2f} of the CPU"
                )
        server.kill()
    if options.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
