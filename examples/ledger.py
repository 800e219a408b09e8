#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: runs on a tape, and the question which special cases earn their place.

    uv run examples/ledger.py report TAPE...          outcomes, fix-ups, complaints
    uv run examples/ledger.py show TAPE [RUN]         one run, step by step
    uv run examples/ledger.py ablate TAPE FILE:TASK   each fix-up left out, no call made
    uv run examples/ledger.py replay TAPE FILE:TASK   which runs an edit of TASK changes

A tape is what run(tape=...) writes, and `each` of parts/batch.py. TASK is a function
task(item, run) in FILE, as `each` takes it. With --truth FILE:FUNCTION, a function
function(item, value) -> bool, the figures also say what of the accepted is correct.
--json: one JSON object on stdout. Shares have their 95 % intervals (Wilson). A run that
was resumed counts once, as it went the last time; what was paid counts always. Where a
run without a fix-up would ask the model something new, its outcome is unknown, and is
not guessed. Exit status: 0; 1 if `replay` lost an accepted run; 2 for a wrong argument
or tape; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import json
import math
import re
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from parts import batch

import loop
from loop import Hook, name_of, text_of, visible

Event = dict[str, Any]  # as loop.py writes it
Facts = dict[str, Any]  # what a command found: figures, for --json

# What the user gave -------------------------------------------------------------------
# ValueError and OSError say that it cannot be used.

EVENTS = set("start sent reply reused fault inspect decide end".split())


@dataclass
class Records:
    """What is on a tape: the items of a batch, and the events of its runs.

    A run has a list of events for each time that it was begun: a run that was resumed
    has several, and the last one tells how it ended.
    """

    items: dict[str, Any] = field(default_factory=dict)  # by name
    runs: dict[str, list[list[Event]]] = field(default_factory=dict)  # by name

    def item_of(self, run: str) -> Any:
        """Return the item that a run was about; without one, what it asked."""
        return self.items.get(self.item_name(run), self.runs[run][-1][0].get("task"))

    def item_name(self, run: str) -> str:
        """Return the name of the item of a run; without one, that of the run."""
        name = batch.item_of(run, self.items)
        return name if name in self.items else run


def read_tape(path: str) -> Records:
    """Return what is on a tape. Lines that are torn or unknown are passed over."""
    loop.check_tape(path)
    records = Records()
    for _, line in loop.whole_lines(path):
        event = loop.event_in(line)
        if event is None:
            continue
        kind, run = event["event"], event["run"]
        if kind == "item":
            records.items[run] = event["item"]
        elif kind in EVENTS:
            times_begun = records.runs.setdefault(run, [])
            if kind == "start" or not times_begun:
                times_begun.append([])
            times_begun[-1].append(event)
    if not records.items and not records.runs:
        raise ValueError(f"{path} has no events: it is an empty tape")
    return records


def load_function(where: str) -> Hook:
    """Return the function that FILE:NAME means."""
    file, _, name = where.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise ValueError(f"{where}: expected FILE:NAME; there is no file {file!r}")
    sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        raise ValueError(f"{path} fails: {type(error).__name__}: {error}") from None
    if getattr(module, "__file__", "") != str(path):
        raise ValueError(f"{path}: there is another module {path.stem}: rename it")
    public = {key: it for key, it in vars(module).items() if not key.startswith("_")}
    functions = {key: it for key, it in public.items() if callable(it)}
    if name not in functions:
        raise ValueError(f"{file} has no function {name!r}; {suggest(name, functions)}")
    return functions[name]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return what was perhaps meant by a name that is not known, or what there is."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, 1, 0.4)
    return f"nearest: {nearest[0]}" if nearest else f"there is {', '.join(known[:5])}"


def is_true(truth: Hook, item: Any, value: Any) -> bool:
    """Return what the function of the user says of an accepted value."""
    try:
        return bool(truth(item, value))
    except Exception as error:  # noqa: BLE001
        about = f"{name_of(truth)}({shorten(item)}, {shorten(value)})"
        raise ValueError(f"{about} fails: {type(error).__name__}: {error}") from None


# report -------------------------------------------------------------------------------


@dataclass
class Occurrence:
    """That a fix-up made a move, or that a complaint or fault came."""

    kind: str  # "fix" or "complaint"
    name: str
    at: float  # seconds since 1970
    accepted_next: bool = False  # what came of it was accepted


@dataclass
class Outcome:
    """How a run went, the last time that it was begun."""

    fixes: list[str]  # all that were in its lists
    occurrences: list[Occurrence]
    end: Event | None  # None: killed, or still going on
    correct: bool = False

    @property
    def accepted(self) -> bool:
        """Return whether a reply was accepted."""
        return self.end is not None and self.end["accepted"]


def report(options: Any) -> tuple[Facts, int]:
    """Return what the tapes say of outcomes, fix-ups and complaints."""
    truth = load_function(options.truth) if options.truth else None
    outcomes: list[Outcome] = []
    bills: dict[str, Counter[str]] = defaultdict(Counter)
    unanswered: Counter[str] = Counter()
    for path in dict.fromkeys(options.tapes):
        records = read_tape(path)
        for run, times_begun in records.runs.items():
            for events in times_begun:
                charge_calls(events, bills, unanswered)
            outcome = outcome_of(times_begun[-1])
            if truth and outcome.end and outcome.accepted:
                value = outcome.end["value"]
                outcome.correct = is_true(truth, records.item_of(run), value)
            outcomes.append(outcome)
    facts = outcome_figures(outcomes, bool(truth))
    paid = {fix: {unit: bill[unit] for unit in UNITS} for fix, bill in bills.items()}
    facts["paid"] = paid.pop("", NOTHING_PAID)
    facts["maybe_billed"] = {unit: unanswered[unit] for unit in ("calls", "tokens")}
    facts["ended"] = reasons_not_accepted(outcomes)
    facts["fixes"] = occurrence_figures(outcomes, "fix", bool(truth))
    facts["costs"] = cost_figures(outcomes, paid)
    facts["silent"] = silent_fixes(outcomes)
    facts["complaints"] = occurrence_figures(outcomes, "complaint", bool(truth))
    return facts, 0


def outcome_of(events: list[Event]) -> Outcome:
    """Return how a run went."""
    end = None
    for event in events:
        if event["event"] == "end" and not event["hook"]:
            end = event
    fixes = events[0].get("fixes", [])
    return Outcome(fixes, occurrences_in(events), end)


def occurrences_in(events: list[Event]) -> list[Occurrence]:
    """Return the moves, complaints and faults of a run, in their order.

    What a hook asks is a loop of its own within the run, so each is followed alone.
    """
    found: list[Occurrence] = []
    # By hook: what happened since the last move; and that move, with what led to it.
    since: dict[str, list[Occurrence]] = defaultdict(list)
    before: dict[str, list[Occurrence]] = defaultdict(list)
    for event in events:
        kind, hook = event["event"], event["hook"]
        if kind == "decide":
            move = Occurrence("fix", event["fix"], event["at"])
            found.append(move)
            before[hook] = [*since.pop(hook, []), move]
        elif kind == "fault" or (kind == "inspect" and event["complaint"]):
            name = generalize(event["complaint"] if kind == "inspect" else event["why"])
            found.append(Occurrence("complaint", name, event["at"]))
            since[hook].append(found[-1])
        elif kind == "inspect":
            for occurrence in (*before[hook], *since[hook]):
                occurrence.accepted_next = True
        elif kind == "end":
            before.pop(hook, None)
            since.pop(hook, None)
    return found


UNITS = ("calls", "failed", "tokens", "estimated", "seconds", "dollars")
NOTHING_PAID = dict.fromkeys(UNITS, 0)


def charge_calls(
    events: list[Event], bills: dict[str, Counter[str]], unanswered: Counter[str]
) -> None:
    """Add the calls of a run to the bill of all, "", and to that of a fix-up.

    A call is charged to the fix-up whose move led to it, or that asked it itself.
    Requests that may be billed although no reply came go to `unanswered`.
    """
    fixes = events[0].get("fixes", [])
    sent: dict[str, int] = {}  # estimated tokens of the request under way, by hook
    moved: dict[str, str] = {}  # the fix-up that moved last, by hook
    for event in events:
        kind, hook = event["event"], event["hook"]
        if kind == "sent":
            sent[hook] = sum(len(text_of(it)) for it in event["messages"]) // 4
        elif kind in ("reply", "fault"):
            tokens = sent.pop(hook, 0)
            asked_by = hook if hook in fixes else moved.get("", "")
            for fix in {"", moved.get(hook, asked_by)}:
                bills[fix].update(bill_of(event, tokens))
            if event.get("billed"):
                unanswered.update(calls=1, tokens=tokens)
        elif kind == "decide":
            moved[hook] = event["fix"]
        elif kind == "end":
            moved.pop(hook, None)
    # After a kill the model may have worked all the same.
    unanswered.update(calls=len(sent), tokens=sum(sent.values()))


def bill_of(event: Event, tokens_sent: int) -> Counter[str]:
    """Return what a call cost; dollars are NaN where it has no known price."""
    bill: Counter[str] = Counter(calls=1, seconds=event["seconds"] or 0.0)
    if event["event"] == "fault":
        bill["failed"] = 1
        return bill
    tokens_received = (len(event["text"]) + len(event["reasoning"])) // 4
    for unit, estimate in (
        ("input_tokens", tokens_sent),
        ("output_tokens", tokens_received),
    ):
        if event[unit] is None:
            bill["estimated"] += estimate
        bill["tokens"] += estimate if event[unit] is None else event[unit]
    bill["dollars"] = math.nan if event["cost"] is None else event["cost"]
    return bill


def outcome_figures(outcomes: list[Outcome], truth: bool) -> Facts:
    """Return how many runs there are, how they ended, and what an accepted one cost."""
    facts: Facts = {"runs": len(outcomes)}
    accepted = sum(outcome.accepted for outcome in outcomes)
    facts["accepted"] = share(accepted, len(outcomes))
    if truth:
        facts["correct"] = share(sum(it.correct for it in outcomes), len(outcomes))
    facts["per_accepted"] = {}
    for unit in ("calls", "tokens"):
        spent = sum(outcome.end[unit] for outcome in outcomes if outcome.end)
        facts["per_accepted"][unit] = spent / accepted if accepted else None
    return facts


def reasons_not_accepted(outcomes: list[Outcome]) -> list[Facts]:
    """Return why runs ended without an accepted reply, the most frequent first."""
    reasons: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.end is None:
            reasons["no end on the tape: killed, or not done yet"] += 1
        elif not outcome.accepted:
            reason = outcome.end["why"].partition("; at last: ")[0]
            reasons[generalize(reason)] += 1
    return [{"why": why, "runs": runs} for why, runs in reasons.most_common()]


def occurrence_figures(outcomes: list[Outcome], kind: str, truth: bool) -> list[Facts]:
    """Return for each fix-up or complaint how often it came, and what followed it.

    next: what came of it was accepted. end: the run was accepted at last.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        occurrences = [it for it in outcome.occurrences if it.kind == kind]
        for it in occurrences:
            counts[it.name]["fired"] += 1
            counts[it.name]["next"] += it.accepted_next
            counts[it.name]["correct_next"] += it.accepted_next and outcome.correct
        for name in {it.name for it in occurrences}:
            counts[name]["runs"] += 1
            counts[name]["end"] += outcome.accepted
            counts[name]["correct_end"] += outcome.correct
    rows: list[Facts] = []
    for name, count in sorted(counts.items(), key=lambda it: -it[1]["fired"]):
        row: Facts = {kind: name, "fired": count["fired"], "runs": count["runs"]}
        for when, of in (("next", count["fired"]), ("end", count["runs"])):
            row[when] = share(count[when], of)
            if truth:
                row[f"correct_{when}"] = share(count[f"correct_{when}"], of)
        rows.append(row)
    return rows


def cost_figures(outcomes: list[Outcome], paid: dict[str, Facts]) -> list[Facts]:
    """Return for each fix-up what its moves cost, and the day of its last one."""
    last: dict[str, float] = {}
    for outcome in outcomes:
        for it in outcome.occurrences:
            if it.kind == "fix":
                last[it.name] = max(it.at, last.get(it.name, 0.0))
    rows: list[Facts] = []
    for fix in {*paid, *last}:
        day = str(date.fromtimestamp(last[fix])) if fix in last else "never"
        rows.append({"fix": fix} | paid.get(fix, NOTHING_PAID) | {"last": day})
    return sorted(rows, key=lambda row: (-row["tokens"], row["fix"]))


def silent_fixes(outcomes: list[Outcome]) -> list[Facts]:
    """Return the fix-ups that never made a move, and how many runs may need them.

    That is by the rule of three: none in n runs means at most 3/n, to 95 %.
    """
    listed = Counter(fix for outcome in outcomes for fix in outcome.fixes)
    for outcome in outcomes:
        for it in outcome.occurrences:
            if it.kind == "fix":
                listed.pop(it.name, None)
    return [
        {"fix": fix, "runs": runs, "at_most": min(1.0, 3 / runs)}
        for fix, runs in listed.items()
    ]


def share(count: int, of: int) -> Facts:
    """Return a share with its 95 % interval, by Wilson: honest for few and for none."""
    if of == 0:
        return {"count": 0, "of": 0, "share": None, "interval": (0.0, 1.0)}
    z = 1.959964  # standard deviations, for 95 %
    part = count / of
    scale = 1 + z * z / of
    middle = (part + z * z / (2 * of)) / scale
    half = z * math.sqrt(part * (1 - part) / of + z * z / (4 * of * of)) / scale
    low = middle - half if count > 0 else 0.0
    high = middle + half if count < of else 1.0
    return {"count": count, "of": of, "share": part, "interval": (low, high)}


QUOTED = re.compile(r"""(?<!\w)(["'`])(?:\\.|(?!\1).)*\1(?!\w)""", re.DOTALL)
BRACKETS = re.compile(r"\{.*\}|\[.*\]", re.DOTALL)
# A place in JSON, a number, or what may be the id of a request:
NUMBER = re.compile(
    r"line \d+ column \d+ \(char \d+\)|(?<![^\W_])-?\d\w*|\b(?=\w*\d)\w{12,}"
)


@lru_cache(maxsize=4096)
def generalize(why: str) -> str:
    """Return a reason without what differs from case to case, so that cases group."""
    text = QUOTED.sub('"..."', shorten(why, 400))
    text = BRACKETS.sub("[...]", text)
    return shorten(NUMBER.sub("#", text), 120)


# ablate -------------------------------------------------------------------------------


@dataclass
class Trial:
    """How an item ended without some fix-ups, as far as the tape knows."""

    accepted: bool = False
    value: str = "null"  # as JSON
    correct: bool = False
    error: str = ""  # what the task raised
    calls: int = 0
    known: bool = True  # false: it would have asked what is not on the tape
    ends: dict[str, Any] = field(
        default_factory=dict
    )  # of its runs, as end_of has them
    active: frozenset[str] = frozenset()  # fix-ups that made a move or a call


class TrialTape(batch.Recording):
    """A tape that answers from a file, and leaves fix-ups out of the runs on it."""

    left_out: frozenset[str] = frozenset()

    def __init__(self, path: str):
        super().__init__(path)
        self.events: list[Event] = []

    def recall(self, state: loop.State) -> Any:
        """Return what the tape has; this sees each run, and each question of a hook."""
        state.fixes = [it for it in state.fixes if name_of(it) not in self.left_out]
        state.faults = [it for it in state.faults if name_of(it) not in self.left_out]
        return super().recall(state)

    def write(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)


class Bench:
    """A task, and the items of a tape to try it on without a call."""

    def __init__(self, path: str, task: Hook, truth: Hook | None):
        self.records = read_tape(path)
        self.tape = TrialTape(path)
        self.task, self.truth = task, truth
        self.items = self.tape.items or self.tape.starts
        self.trials: dict[tuple[str, frozenset[str]], Trial] = {}
        self.ends: dict[str, dict[str, Any]] = defaultdict(dict)  # on the tape, by item
        for run in self.tape.starts:
            end = self.tape.before.get(run)
            item = batch.item_of(run, self.items)
            self.ends[item][run] = end_of(end) if end else None

    def outcome(self, name: str, without: frozenset[str] = frozenset()) -> Trial:
        """Return how an item ends without these fix-ups.

        Those that are not active make no difference, so that few sets have to be tried.
        """
        left_out: frozenset[str] = frozenset()
        while True:
            trial = self.trial(name, left_out)
            # With these left out, others may act that did not before.
            more = trial.active & (without - left_out)
            if not more:
                return trial
            left_out |= more

    def trial(self, name: str, left_out: frozenset[str]) -> Trial:
        """Return how an item ends when exactly these fix-ups are left out."""
        if (name, left_out) not in self.trials:
            self.trials[name, left_out] = self.try_item(name, left_out)
        return self.trials[name, left_out]

    def try_item(self, name: str, left_out: frozenset[str]) -> Trial:
        """Do the task for an item without these fix-ups."""
        event, trial = self.items[name], Trial()
        self.tape.left_out, self.tape.events = left_out, []
        call = partial(batch.make_no_call, **event["settings"])
        if event["event"] == "item":
            item = event["item"]
            run: Any = batch.bind(item, name=name, call=call, tape=self.tape)
        else:
            item = event["task"]
            run = partial(loop.run, name=name, call=call, tape=self.tape)
        try:
            result = self.task(item, run)
            trial.accepted, trial.value = result.accepted, as_json(result.value)
        except Exception as error:  # noqa: BLE001, as in `each`: it ends this item
            trial.error = f"{type(error).__name__}: {error}"
        self.note_events(trial)
        if trial.accepted and trial.known and self.truth:
            trial.correct = is_true(self.truth, item, json.loads(trial.value))
        return trial

    def note_events(self, trial: Trial) -> None:
        """Note in a trial what the events of its runs say."""
        active = set[str]()
        for event in self.tape.events:
            active |= {event["hook"], event.get("fix", "")}
            if event["event"] != "end":
                continue
            if event["why"].startswith("diverged: "):  # be it a question of a hook
                trial.known = False
            if not event["hook"]:
                trial.calls += event["calls"]
                trial.ends[event["run"]] = end_of(event)
        trial.active = frozenset(active - {""})

    def known_fixes(self) -> list[str]:
        """Return the fix-ups that were in the list of a run, or made a move.

        The lists of the questions that hooks ask are not on the tape, only their moves.
        """
        known: dict[str, None] = {}
        for times_begun in self.records.runs.values():
            for event in chain(*times_begun):
                known |= dict.fromkeys(event.get("fixes", ()))
                if event["event"] == "decide":
                    known[event["fix"]] = None
        return list(known)


def end_of(event: Event) -> tuple[bool, str]:
    """Return how a run ended: whether it was accepted, and its value as JSON."""
    return event["accepted"], as_json(event["value"])


def as_json(value: Any) -> str:
    """Return a value as a tape has it."""
    return json.dumps(value, default=repr, skipkeys=True)


def ablate(options: Any) -> tuple[Facts, int]:
    """Return what each fix-up is worth: left out alone, then one after the other."""
    truth = load_function(options.truth) if options.truth else None
    bench = Bench(options.tape, load_function(options.task), truth)
    known = bench.known_fixes()
    for name in options.fix:
        if name not in known:
            raise ValueError(f"there is no fix-up {name!r}; {suggest(name, known)}")
    trials = {name: bench.outcome(name) for name in bench.items}
    same = {}
    for name, trial in trials.items():
        if trial.known and trial.ends == bench.ends[name]:
            same[name] = trial
    facts: Facts = {"items": len(trials), "as_on_tape": len(same)}
    facts["errors"] = sorted({trial.error for trial in trials.values()} - {""})
    facts["accepted"] = share(sum(it.accepted for it in same.values()), len(same))
    if truth:
        facts["correct"] = share(sum(it.correct for it in same.values()), len(same))
    fixes = (options.fix or known) if same else []
    facts["alone"] = [compare(bench, same, frozenset(), fix) for fix in fixes]
    return facts | remove_in_turn(bench, same, fixes), 0


def remove_in_turn(bench: Bench, same: dict[str, Trial], fixes: list[str]) -> Facts:
    """Return which fix-ups can be removed together, and which carry the result.

    The least missed one goes first, then the least missed of the others. For of two
    that do the same, each alone can go, and not both.
    """
    removed: list[Facts] = []
    remaining = list(fixes)
    while remaining:
        gone = frozenset(row["fix"] for row in removed)
        # Of equals the last in the list goes.
        rows = [compare(bench, same, gone, fix) for fix in reversed(remaining)]
        least = min(rows, key=lambda row: (row["hurt"], row["saved"]))
        if least["hurt"]:
            return {"removed": removed, "remain": remaining, "next": [least]}
        removed.append(least)
        remaining.remove(least["fix"])
    return {"removed": removed, "remain": [], "next": []}


def compare(
    bench: Bench, same: dict[str, Trial], gone: frozenset[str], fix: str
) -> Facts:
    """Return how items end without these fix-ups and this one, next to the tape.

    active: of so many items, with the others gone. saved: calls, at least.
    """
    counts: Counter[str] = Counter()
    for name, before in same.items():
        after = bench.outcome(name, gone | {fix})
        if not after.known:
            kind = "unknown"
        elif before.accepted != after.accepted:
            kind = "lost" if before.accepted else "gained"
        else:
            kind = "same" if before.value == after.value else "changed"
        # A changed value does harm where it was correct; without --truth, who knows.
        harmful = bench.truth is None or before.correct > after.correct
        counts[kind] += 1
        counts["hurt"] += kind in ("lost", "unknown") or (kind == "changed" and harmful)
        counts["active"] += fix in bench.outcome(name, gone).active
        counts["saved"] += max(0, after.calls - before.calls)
        counts["correct"] += after.correct
    row: Facts = {"fix": fix, "active": counts["active"]}
    for kind in ("lost", "unknown"):
        row[kind] = share(counts[kind], len(same))
    for kind in ("changed", "gained", "saved", "hurt"):
        row[kind] = counts[kind]
    if bench.truth:
        row["correct"] = counts["correct"]
    return row


# replay -------------------------------------------------------------------------------


def replay(options: Any) -> tuple[Facts, int]:
    """Return which runs of the tape end otherwise with the task as it is now."""
    task, records = load_function(options.task), read_tape(options.tape)
    errors: list[str] = []

    def noted_task(item: Any, run: Hook) -> Any:
        try:
            return task(item, run)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            raise

    changed = batch.replay(options.tape, noted_task)
    for change in changed:
        change["lost"] = (
            change["before"]["accepted"] and not change["after"]["accepted"]
        )
    ended = 0
    for run, times_begun in records.runs.items():
        of_item = records.item_name(run) in records.items
        replayed = of_item or not records.items
        ended += replayed and outcome_of(times_begun[-1]).end is not None
    lost = sum(change["lost"] for change in changed)
    facts: Facts = {"runs": ended, "same": ended - len(changed), "lost": lost}
    return facts | {"errors": errors, "changed": changed}, int(lost > 0)


# show ---------------------------------------------------------------------------------


def show(options: Any) -> tuple[Facts, int]:
    """Return one run of the tape, event by event, each reused reply with its text."""
    records = read_tape(options.tape)
    run = choose_run(options.run, records)
    replies: dict[str, list[Event]] = defaultdict(list)  # of all its beginnings, by key
    for events in records.runs[run]:
        for event in events:
            if event["event"] == "reply":
                replies[event["key"]].append(event)
    shown: list[Event] = []
    for event in records.runs[run][-1]:
        same = replies[event["key"]] if event["event"] in ("reply", "reused") else []
        shown.append(same.pop(0) | event if same else event)
    facts: Facts = {"tape": options.tape, "run": run, "item": records.item_of(run)}
    facts["events"] = shown
    if options.svg:
        write_svg(options.svg, facts)
    return facts, 0


def choose_run(wanted: str, records: Records) -> str:
    """Return the name of the run that is meant; of several, the most instructive one.

    That is one with many moves which was accepted in the end.
    """
    runs = list(records.runs)
    meant = [run for run in runs if wanted in ("", run, records.item_name(run))]
    meant = meant or [run for run in runs if run.startswith(wanted)]
    items = sorted({records.item_name(run) for run in meant})
    if wanted and len(items) > 1:
        raise ValueError(f"{wanted!r} may be {', '.join(items[:4])} ...")
    if not meant:
        known = {*runs, *map(records.item_name, runs)}
        raise ValueError(f"there is no run {wanted!r}; {suggest(wanted, known)}")

    def instructive(run: str) -> tuple[bool, int, int]:
        events = records.runs[run][-1]
        moves = sum(event["event"] == "decide" for event in events)
        accepted = any(event.get("accepted") for event in events)
        return accepted and moves > 0, moves, len(events)

    return max(meant, key=instructive)


def write_svg(path: str, facts: Facts) -> None:
    """Write the run as a picture that loads nothing from elsewhere."""
    out = Console(**PLAIN, record=True, file=io.StringIO(), width=92)
    print_run(out, facts)
    svg = out.export_svg(title=shorten(Path(facts["tape"]).name))
    svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*;", "font-family: monospace;", svg)
    Path(path).write_text(svg, encoding="utf-8")


# What is printed ----------------------------------------------------------------------

PLAIN: Facts = {"highlight": False, "markup": False, "emoji": False}  # hostile text
TITLES = {
    "ended": "Why the others ended",
    "fixes": "What their moves led to, in %",
    "costs": "What their moves cost, and when the last one was",
    "silent": "Fix-ups without a move, and how many runs may need them, at most",
    "complaints": "Complaints and faults",
    "errors": "The task raised",
    "alone": "Each left out alone; unknown: the model would be asked; saved: at least",
    "removed": "Removed one after the other, the least missed first",
    "remain": "These carry the result",
    "next": "The least missed of these would be",
}


def shorten(value: Any, most: int = 60) -> str:
    """Return a value on one line, safe to show, without its middle where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > 2 * most:  # first roughly, as a text may have megabytes
        text = text[:most] + text[-most:]
    text = visible(text).replace("\n", "\\n").replace("\t", " ")
    half = max(2, most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def cell(fact: Any, unit: str = "") -> str:
    """Return a fact in a few words; a share in per cent, with its interval."""
    if isinstance(fact, dict):
        low, high = fact["interval"]
        digits = 1 if high - low < 0.03 else 0
        ends = f"{100 * low:.{digits}f}-{100 * high:.{digits}f}"
        return f"{100 * (fact['share'] or 0):.{digits}f} {ends:>6}"
    if isinstance(fact, str):
        return fact
    if fact is None or math.isnan(fact):
        return "unknown"
    if unit == "at_most":
        return f"{100 * fact:.3g} %"
    if isinstance(fact, float):
        digits = {"dollars": 4, "seconds": 1}.get(unit, 2)
        return f"{fact:,.{digits}f}"
    return f"{fact:,}"


def print_table(
    out: Console, title: str, rows: Sequence[Facts], most: int = 20
) -> None:
    """Print rows under a title; the first fact of each is a name, cut to fit."""
    if not rows:
        return
    name, *keys = rows[0]
    head = [re.sub("_(next|end)$", "", key) for key in keys]
    lines = [head, *([cell(row[key], key) for key in keys] for row in rows[:most])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = " " if len(keys) > 5 else "  "  # so that it fits in 80 columns
    room = out.width - sum(widths) - len(gap) * len(widths)
    names = ["", *(shorten(row[name], room) for row in rows[:most])]
    name_width = max(map(cell_len, names))
    out.print(f"\n{title}", style="bold")
    for first, line in zip(names, lines, strict=True):
        if not first and not keys:  # there is nothing to say of the columns
            continue
        others = [it.rjust(width) for it, width in zip(line, widths, strict=True)]
        style = "" if first else "dim"
        out.print(gap.join([set_cell_size(first, name_width), *others]), style=style)
    if len(rows) > most:
        out.print(f"and {len(rows) - most:,} more lines, in --json", style="dim")


def print_figures(out: Console, facts: Facts) -> None:
    """Print what `report` and `ablate` found: figures in lines, lists as tables."""
    for key, fact in facts.items():
        title = TITLES.get(key, key.replace("_", " "))
        if isinstance(fact, list):
            rows = [row if isinstance(row, dict) else {"": row} for row in fact]
            print_table(out, title, rows)
        elif isinstance(fact, dict) and "share" in fact:
            line = f"{title:13}{fact['count']:9,}  {cell(fact)} %"
            out.print(line, style="green")
        elif isinstance(fact, dict):
            parts = [f"{cell(n, u)} {u}" for u, n in fact.items() if n or u == "calls"]
            out.print(
                f"{title:13}{parts[0]:>15}" + "".join(f", {it}" for it in parts[1:])
            )
        else:
            out.print(f"{title:13}{cell(fact):>9}")


def print_changes(out: Console, facts: Facts) -> None:
    """Print what `replay` found."""
    head = "{runs:,} runs: {same:,} end as they did, {lost:,} accepted ones are lost"
    out.print(head.format(**facts), style="bold red" if facts["lost"] else "bold green")
    print_table(out, TITLES["errors"], [{"": error} for error in facts["errors"]])
    for change in facts["changed"]:
        out.print(f"\n{shorten(change['run'])}", style="bold")
        for when in ("before", "after"):
            accepted = change[when]["accepted"]
            words = shorten(change[when]["value" if accepted else "why"], 300)
            out.print(f"{when:6}  {words}", style="green" if accepted else "red")


def print_run(out: Console, facts: Facts) -> None:
    """Print what `show` found."""
    out.print(shorten(facts["run"], 70), style="bold")
    grid = Table(box=None, show_header=False, pad_edge=False, expand=True)
    grid.add_column()
    grid.add_column(ratio=1, overflow="fold")
    grid.add_column(justify="right", style="dim", no_wrap=True)
    task = ""
    for event in facts["events"]:
        if event["event"] == "sent" and not task:
            task = text_of(event["messages"][-1])
            grid.add_row("", f"\n{block(task)}", style="dim")
            continue
        mark, words, seconds, style = row_of(event, task)
        if words and event["hook"]:
            words = f"[{shorten(event['hook'])}] {words}"
        if words:
            grid.add_row(mark, words, seconds, style=style)
        if event["event"] == "end" and not event["hook"]:
            spent = "{calls} calls, {tokens:,} tokens, {seconds:.1f} s".format(**event)
            grid.add_row("", spent, style="dim")
    out.print(grid)


def row_of(event: Event, task: str) -> tuple[str, str, str, str]:
    """Return what `show` prints of an event: mark, words, seconds and style."""
    kind, n = event["event"], str(event["n"])
    seconds = f"{event.get('seconds') or 0:.1f} s"
    row = ("", "", "", "")
    if kind == "sent":
        row = ("", describe_request(text_of(event["messages"][-1]), task), "", "dim")
    elif kind in ("reply", "reused"):
        if kind == "reused":
            seconds = "on the tape before"
        elif event["finish"] == "length":
            seconds = f"cut off, {seconds}"
        row = (n, block(event.get("text", "")) or "(an empty reply)", seconds, "")
    elif kind == "fault":
        row = (n, shorten(f"failed: {event['why']}", 300), seconds, "red")
    elif kind == "inspect" and event["complaint"]:
        row = ("", shorten(f"rejected: {event['complaint']}", 300), "", "red")
    elif kind == "decide":
        row = ("->", shorten(describe_move(event), 300), "", "cyan")
    elif kind == "end" and not event["hook"]:
        words = shorten(event["why"], 300)
        if event["accepted"]:
            words = f"{words}: {shorten(event['value'], 300)}"
        row = ("=", words, "", "green" if event["accepted"] else "red")
    return row


def describe_request(words: str, task: str) -> str:
    """Return what was asked; of the task with a note, the note alone."""
    if not words.startswith(task):
        return block(words)
    note = shorten(words.removeprefix(task).strip(), 240)
    return f"the task again, with: {note}" if note else "the task again"


def describe_move(event: Event) -> str:
    """Return which fix-up did what."""
    does = {"Use": "repairs the reply", "Ask": "asks again", "Stop": "stops"}
    settings = ", ".join(f"{name} {it}" for name, it in event["settings"].items())
    words = f"{event['fix']} {does.get(event['move'], '')}"
    return f"{words} with {settings}" if settings else words


def block(text: str) -> str:
    """Return a text as some lines, safe to show: where it is long, both ends of it."""
    if len(text) > 2000:
        text = f"{text[:1400]} ... {text[-600:]}"
    lines = visible(text.expandtabs(4)).strip("\n").split("\n")
    if len(lines) > 8:
        lines = [*lines[:4], "...", *lines[-3:]]
    return "\n".join(shorten(line, 240) for line in lines)


# The command line ---------------------------------------------------------------------

ARGUMENTS: dict[str, Facts] = {
    "tapes": {"nargs": "+", "metavar": "TAPE"},
    "tape": {"metavar": "TAPE"},
    "task": {"metavar": "FILE:TASK", "help": "task(item, run)"},
    "run": {"nargs": "?", "default": "", "help": "a run or an item, or how it begins"},
    "--truth": {"metavar": "FILE:FUNCTION", "help": "function(item, value) -> bool"},
    "--fix": {"action": "append", "default": [], "help": "only this; may be repeated"},
    "--svg": {"metavar": "FILE", "help": "write it as a picture, too"},
    "--json": {"action": "store_true", "help": "one JSON object on stdout"},
}
COMMANDS = (
    (report, print_figures, "tapes --truth --json"),
    (ablate, print_figures, "tape task --truth --fix --json"),
    (replay, print_changes, "tape task --json"),
    (show, print_run, "tape run --svg --json"),
)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> Any:
        """Say what is wrong, and end with status 2."""
        self.exit(2, f"{self.prog}: {shorten(message, 400)}\n")


def parse_arguments() -> Any:
    """Return the options of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=shape)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, view, names in COMMANDS:
        about = (command.__doc__ or "").partition("\n")[0]
        one = commands.add_parser(command.__name__, help=about, description=about)
        one.set_defaults(command=command, view=view, error=one.error)
        for name in names.split():
            one.add_argument(name, **ARGUMENTS[name])
    return parser.parse_args()


def main() -> int:
    """Do one command; print what it found."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # what the locale cannot show
    options = parse_arguments()
    waiting = Console(stderr=True, force_terminal=sys.stderr.isatty())
    try:
        # What a task prints is not our output. On a terminal, it is seen to work.
        with waiting.status("reading and replaying"), redirect_stdout(sys.stderr):
            facts, status = options.command(options)
    except (OSError, ValueError) as error:
        options.error(str(error))
    except KeyboardInterrupt:
        return 130
    if options.json:  # NaN is no JSON
        print(json.dumps(json.loads(json.dumps(facts), parse_constant=lambda _: None)))
    else:
        out = Console(**PLAIN)
        out.width = min(out.width, 100)
        options.view(out, facts)
    return status


if __name__ == "__main__":
    with suppress(AttributeError):  # there is none on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as of `| head`: just end
    raise SystemExit(main())
