"""Situation: a special case that not everyone meets. Copy it, and put it in your list.

    run(..., fixes=[*REPAIRS, label_in_text("good", "bad"), *RE_ASKS])

Each is a fix-up like those in section 5 of loop.py, with the place in the list where it
belongs. They are here, and not there, because a tape said so: in 296 runs of extract.py
on a real model none of them fired, or nobody needs them who did not ask for them.
"""

import re
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from loop import Ask, Hook, State, Use, afresh


def label_in_text(*labels: str) -> Hook:
    """Return a fix-up: there is talk around one of these labels: use it if it alone is
    named, and nothing is denied. Its place is after the repairs. SmolLM2 said of a
    neutral text: "positive, but it's not entirely neutral"."""
    denial = r"(?i)\b(not?|non|nor|never|neither|cannot|hardly|without)\b|n['\u2019]t\b"

    def label_in_text(state: State) -> Use | None:
        rests = {x: re.sub(whole_word(x), "", state.text) for x in labels}
        named = [label for label, rest in rests.items() if rest != state.text]
        doubt = len(named) != 1 or re.search(denial, rests[named[0]])
        return None if doubt else Use(*named)

    return label_in_text


def whole_word(label: str) -> str:
    """Return the pattern of a label that stands by itself, in any case."""
    return rf"(?i)(?<!\w){re.escape(label)}(?!\w)"


def repetition_loop(state: State) -> Ask | None:
    """The reply ends in a loop: ask afresh and warmer, unquoted (claude-code#82803).
    Its place is before cut_by_length, which would pay for more of it."""
    tail = state.reply.text[-1000:].encode(errors="replace")
    if len(tail) < 200 or len(tail) < 10 * len(zlib.compress(tail)):
        return None
    warmth = state.settings.get("temperature") or 0.7
    return afresh(state, temperature=max(warmth, min(1.5, warmth + 0.3)))


def with_example(text: str) -> Hook:
    """Return a fix-up: ask the task again with a worked example of a right answer. Its
    place is before ask_afresh: [*REPAIRS, with_example("..."), ask_afresh]."""

    def with_example(state: State) -> Ask | None:
        return afresh(state, f"An example of a right answer:\n{text}")

    return with_example
