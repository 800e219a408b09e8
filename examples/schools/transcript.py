#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["rich"]
# ///
"""Situation: you have a tape of an agent, and want to read what was said and done.

    uv run examples/schools/transcript.py TAPE FILE.svg               its first run
    uv run examples/schools/transcript.py TAPE FILE.svg --run NAME    another one

The picture has the conversation as it went: the task; what the model said, which tools
it asked for, and what each returned or why it was refused; what the judge rejected; and
the end, with its cost. A run that was killed and resumed is one conversation, in which
each step is there once. Long texts are cut to eight lines, and what a terminal or a
browser would obey is text. The SVG loads nothing from elsewhere.

Exit status: 0; 2 for a wrong argument or tape.
"""

from __future__ import annotations

import argparse
import io
import sys
from html import escape
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from loop import Messages, check_tape, event_in, get_path, text_of, visible, whole_lines

# From a tape to cards -----------------------------------------------------------------

Card = list[tuple[str, str]]  # parts: who, as in COLOURS, and a text
STARTED_AGAIN = ("loop", "it was started again, with the same tape")


def read_transcript(tape: str, run: str, value_in: str = "") -> list[Card]:
    """Return the steps of a run on a tape, each once, however often it was resumed.

    value_in: where the value of the run is, for the last card, as in "total.txt".
    """
    cards: list[Card] = []
    asked: list[str] = []  # requests of the last card, whose results are to come
    for _, line in whole_lines(tape):
        event = event_in(line) or {"run": "", "hook": ""}
        if event["run"] != run or event["hook"]:
            continue  # another run; or a step of use_tools, whose results are sent
        kind = event["event"]
        if kind == "start" and cards:
            cards = [card for card in cards if card[0][0] != "end"]
            cards.append([STARTED_AGAIN])
        elif kind == "start":
            cards.append([("task", text_of(event["task"][-1]))])
        elif kind == "sent" and asked:
            results = event["messages"][-len(asked) :]
            if all(it["role"] == "tool" for it in results):
                add_results(cards, asked, results)
            asked = []
        elif kind == "reply":
            asked = [request_text(it) for it in event["tool_calls"]]
            requests = [("request", it) for it in asked]
            words = event["text"] or ("" if asked else "(an empty reply)")
            cards.append([*([("model", words)] if words else []), *requests])
        else:
            card = card_of(event, value_in)
            if card and card not in cards:  # a resumed run comes to the same again
                cards.append(card)
    return cards


def add_results(cards: list[Card], asked: list[str], results: Messages) -> None:
    """Put what tools returned below the requests, in the last card that has these."""
    place = next(it for it in reversed(cards) if it[-1][0] == "request")
    del place[-len(asked) :]
    for request, message in zip(asked, results, strict=True):
        text = text_of(message)
        wrong = text.startswith(("error: ", "not allowed"))
        place.append(("request", request))
        if "the run ended before this" in text and STARTED_AGAIN in cards[-1]:
            place.append(cards.pop()[0])
        place.append(("refused" if wrong else "returned", text))


def request_text(asked: Any) -> str:
    """Return a request for a tool, as the model wrote it."""
    name = get_path(str, asked, "function", "name") or "?"
    return f"{name} {get_path(str, asked, 'function', 'arguments') or ''}"


def card_of(event: dict[str, Any], value_in: str) -> Card | None:
    """Return the card for a rejection, a decision, a fault or the end."""
    kind, number = event["event"], event["n"]
    if kind == "fault":
        return [("loop", f"{number}: the call failed: {event['why']}")]
    if kind == "inspect" and event["complaint"]:
        asks = event["complaint"].startswith("the model asks for tools")
        why = f"{number}: rejected: {event['complaint']}"
        return None if asks else [("judge", why)]
    if kind == "decide" and event["fix"] != "use_tools" and event["move"] == "Ask":
        return [("loop", f"{number}: {event['fix']} asks again")]
    if kind == "end":
        cost = "" if event["cost"] is None else f", ${event['cost']:.4f}"
        spent = f"{number} calls, {event['tokens']} tokens{cost}"
        where = f"{value_in} has " if value_in else ""
        value = f": {where}{event['value']}" if event["accepted"] else ""
        return [("end", f"{event['why']}{value} ({spent})")]
    return None


# From cards to a picture --------------------------------------------------------------

COLOURS = {  # the label of a part; the colours of its text and of the field behind it
    "task": ("task", "#1f2937", "#eef2f7"),
    "model": ("model", "#1f2937", "#ffffff"),
    "request": ("model", "#1d4ed8", "#ffffff"),
    "returned": ("tool", "#15803d", "#ffffff"),
    "refused": ("tool", "#b91c1c", "#ffffff"),
    "judge": ("judge", "#b45309", "#fff8eb"),
    "loop": ("loop", "#6b7280", "#f9fafb"),
    "end": ("end", "#1f2937", "#eef2f7"),
}
COLUMNS, LINE, LEFT = 88, 18, 76  # letters in a line; its height, and its left, in px


def folded(text: str) -> list[str]:
    """Return a text as lines that are safe, and fit; of a long one the first eight."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=COLUMNS, file=io.StringIO())
    shown = Text(visible(text[:4000].strip()).replace("\t", "    "))
    lines = [line.plain.rstrip() for line in shown.wrap(console, COLUMNS)]
    more = [f"... ({len(lines) - 8} lines more)"] if lines[8:] else []
    return [*lines[:8], *more] or [""]


def draw(cards: list[Card]) -> str:
    """Return a transcript as SVG, which loads nothing from elsewhere."""
    shapes, top = list[str](), 12
    for card in cards:
        texts, y = list[str](), top + 18
        for who, text in card:
            label, ink, _ = COLOURS[who]
            x = LEFT + 14 * (who in ("returned", "refused"))
            place = f'x="{LEFT - 16}" y="{y}" text-anchor="end" fill="#6b7280"'
            texts.append(f"<text {place}>{label}</text>")
            for line in folded(text):
                place = f'x="{x}" y="{y}" fill="{ink}"'
                texts.append(f"<text {place}>{escape(line)}</text>")
                y += LINE
        height = y - top - 8
        field = f'fill="{COLOURS[card[0][0]][2]}" stroke="#d1d5db"'
        size = f'width="740" height="{height}" rx="5"'
        shapes.append(f'<rect x="{LEFT - 8}" y="{top}" {size} {field}/>')
        shapes += texts
        top += height + 6
    size = f'width="820" height="{top + 6}" viewBox="0 0 820 {top + 6}"'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    style = "<style>text { font: 13px monospace; white-space: pre; }</style>"
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([begin, style, paper, *shapes, "</svg>\n"])


# The command line ---------------------------------------------------------------------


def runs_on(tape: str) -> list[str]:
    """Return the names of the runs on a tape; raise OSError or ValueError for none."""
    check_tape(tape)
    events = [event_in(line) for _, line in whole_lines(tape)]
    names = {it["run"]: True for it in events if it and it["event"] == "start"}
    if not names:
        raise ValueError(f"{tape} has no runs")
    return [*names]


def main() -> None:
    """Draw a run on a tape."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("tape", metavar="TAPE")
    parser.add_argument("file", metavar="FILE.svg")
    parser.add_argument("--run", metavar="NAME", help="this run, not the first")
    options = parser.parse_args()
    if not options.file.endswith(".svg"):  # a tape is never written over
        parser.error(f"{options.file!r}: the name of the picture ends with .svg")
    try:
        names = runs_on(options.tape)
        run = options.run or names[0]
        if run not in names:
            some = ", ".join(map(repr, names[:5]))
            raise ValueError(f"{options.tape} has no run {run!r}; it has {some}")
        cards = read_transcript(options.tape, run)
        Path(options.file).write_text(draw(cards), encoding="utf-8")
    except (OSError, ValueError) as error:
        parser.error(visible(str(error)))


if __name__ == "__main__":
    main()
