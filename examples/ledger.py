#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: runs on a tape, and the question which special cases earn their keep.

    uv run examples/ledger.py report TAPE... [FILE:TASK]   a row for each special case
    uv run examples/ledger.py show TAPE [RUN]              one run, step by step

A tape is what run(tape=...) writes, and `each` of parts/batch.py. TASK is the function
task(item, run) in FILE that made the runs. With it, `report` does them once more from
the tape, each case left out in turn. No call is made: where a run would ask the model
what the tape does not have, its outcome is not known, and is not guessed. It also says
which runs end otherwise with TASK as it is now. A run that was resumed counts once, as
it went the last time; what was paid counts always.

report --more: also why runs ended, complaints and bills. --json: everything, as one
JSON object on stdout. --truth FILE:FUNCTION, function(item, value) -> bool: what it
denies does not count as accepted. --svg FILE: a picture, too. Exit status: 0; 1 if TASK
as it is now loses a run that was accepted; 2 for a wrong argument or tape; 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import re
import signal
import sys
from collections import Counter, defaultdict
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

from parts import replay

import loop
from loop import Hook, line_of, name_of, text_of, visible

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
        name = replay.item_of(run, self.items)
        return name if name in self.items else run


def read_tape(path: str, say: Hook) -> Records:
    """Return what is on a tape. Lines that are torn or unknown are passed over."""
    loop.check_tape(path)
    records = Records()
    for number, (place, line) in enumerate(loop.whole_lines(path)):
        if number % 1000 == 0:
            say(f"reading: {place / 1e6:,.0f} MB")
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
    function: Any = getattr(module, name, None)
    if function is None or not callable(function):
        own = [key for key, it in vars(module).items() if is_of(module, it)]
        there = f"there is {', '.join(own[:20])}"
        raise ValueError(f"{file} has no function {name!r}: {there}")
    return function


def is_of(module: Any, it: Any) -> bool:
    """Return whether a function is defined in a module, not imported there."""
    return callable(it) and getattr(it, "__module__", "") == module.__name__


def is_accepted(end: Event, item: Any, truth: Hook | None) -> bool:
    """Return whether a run ended accepted; what --truth denies is not."""
    if not end["accepted"] or truth is None:
        return bool(end["accepted"])
    try:
        return bool(truth(item, end["value"]))
    except Exception as error:  # noqa: BLE001
        about = f"{name_of(truth)}({shorten(item)}, {shorten(end['value'])})"
        raise ValueError(f"{about} fails: {type(error).__name__}: {error}") from None


# report -------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How a run went, the last time that it was begun."""

    cases: list[str]  # the special cases in its lists
    happened: list[Happened]
    end: Event | None = None  # None: killed, or still going on
    accepted: bool = False  # not if --truth denies it


@dataclass
class Happened:
    """A move of a special case; or a complaint, or a fault."""

    kind: str  # "case" or "complaint"
    name: str
    accepted_next: bool = False  # what came of it was accepted


def report(options: Any) -> tuple[Facts, int]:
    """Return which special cases earn their keep, and how the runs ended."""
    truth = load_function(options.truth) if options.truth else None
    paths, task = split_arguments(options.tapes)
    outcomes: list[Outcome] = []
    bills: Bills = defaultdict(lambda: Counter(dict.fromkeys(UNITS, 0)))
    for path in paths:
        records = read_tape(path, options.say)
        for run, times_begun in records.runs.items():
            for events in times_begun:
                charge_calls(events, bills)
            outcome = outcome_of(times_begun[-1])
            if outcome.end:
                item = records.item_of(run)
                outcome.accepted = is_accepted(outcome.end, item, truth)
            outcomes.append(outcome)
    facts: Facts = {"runs": len(outcomes)}
    facts["accepted"] = sum(bool(it.end and it.end["accepted"]) for it in outcomes)
    if truth:
        facts["correct"] = sum(it.accepted for it in outcomes)
    facts["ended"] = reasons_not_accepted(outcomes)
    facts["bills"] = [{"case": name} | bills[name] for name in (ALL, UNANSWERED)]
    facts["cases"] = case_figures(outcomes, bills)
    complaints = tally(outcomes, "complaint").items()
    facts["complaints"] = [{"complaint": name} | row for name, row in complaints]
    benches = [Bench(path, task, truth, options.say) for path in paths if task]
    facts["delete"] = judge_cases(facts["cases"], benches)
    if not benches:
        return facts, 0
    facts["replayed"] = sum(
        len(trial.runs) for bench in benches for trial in bench.same.values()
    )
    facts["changed"] = [change for bench in benches for change in bench.changed]
    lost = [
        change["before"]["accepted"] and not change["after"]["accepted"]
        for change in facts["changed"]
    ]
    return facts, int(any(lost))


def split_arguments(arguments: list[str]) -> tuple[list[str], Hook | None]:
    """Return the tapes, each once, and the function that a FILE:TASK among them is."""
    tasks = [it for it in arguments if re.fullmatch(r"(?s).+\.py:\w+", it)]
    paths = list(dict.fromkeys(it for it in arguments if it not in tasks))
    if not paths or len(tasks) > 1:
        raise ValueError("give a tape or several, and at most one FILE:TASK")
    return paths, load_function(tasks[0]) if tasks else None


def outcome_of(events: list[Event]) -> Outcome:
    """Return how a run went.

    What came of a request is its reply, repaired or not. What a hook asks is a loop of
    its own within the run, so each is followed alone.
    """
    outcome = Outcome(events[0].get("fixes", []), [])
    # By hook: what happened since the last move; that move, with what led to it; and
    # the last of them that was a request.
    since: dict[str, list[Happened]] = defaultdict(list)
    moved: dict[str, list[Happened]] = defaultdict(list)
    asked: dict[str, list[Happened]] = defaultdict(list)
    for event in events:
        kind, hook = event["event"], event["hook"]
        complaint = event["why"] if kind == "fault" else event.get("complaint", "")
        if kind == "decide":
            move = Happened("case", event["fix"])
            outcome.happened.append(move)
            moved[hook] = [*since.pop(hook, []), move]
            if event["move"] == "Ask":
                asked[hook] = moved[hook]
        elif kind == "fault" or complaint:
            since[hook].append(Happened("complaint", generalize(complaint)))
            outcome.happened.append(since[hook][-1])
        elif kind == "inspect":
            for it in (*since[hook], *moved[hook], *asked[hook]):
                it.accepted_next = True
        elif kind == "end":
            outcome.end = None if hook else event
            for noted in (since, moved, asked):
                noted.pop(hook, None)
    return outcome


UNITS = ("calls", "failed", "tokens", "estimated", "seconds", "dollars")
ALL, UNANSWERED = "all calls", "perhaps billed, no reply"  # beside the names of cases
Bills = dict[str, Counter[str]]


def charge_calls(events: list[Event], bills: Bills) -> None:
    """Add the calls of a run to the bill of all, and to that of a case.

    A call is charged to the case whose move led to it, or that asked it itself.
    """
    fixes = events[0].get("fixes", [])
    sent: dict[str, int] = {}  # estimated tokens of the request under way, by hook
    moved: dict[str, str] = {}  # the case that moved last, by hook
    for event in events:
        kind, hook = event["event"], event["hook"]
        if kind == "sent":
            sent[hook] = sum(len(text_of(it)) for it in event["messages"]) // 4
        elif kind in ("reply", "fault"):
            tokens = sent.pop(hook, 0)
            asked_by = hook if hook in fixes else moved.get("", "")
            for case in (ALL, moved.get(hook, asked_by)):
                bills[case].update(bill_of(event, tokens))
            if event.get("billed"):
                bills[UNANSWERED].update(calls=1, tokens=tokens)
        elif kind == "decide":
            moved[hook] = event["fix"]
        elif kind == "end":
            moved.pop(hook, None)
    # After a kill the model may have worked all the same.
    bills[UNANSWERED].update(calls=len(sent), tokens=sum(sent.values()))


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


def reasons_not_accepted(outcomes: list[Outcome]) -> list[Facts]:
    """Return why runs ended without an accepted reply, the most frequent first."""
    reasons: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.end is None:
            reasons["no end on the tape: killed, or not done yet"] += 1
        elif not outcome.end["accepted"]:
            reason = outcome.end["why"].partition("; at last: ")[0]
            reasons[generalize(reason)] += 1
    return [{"why": why, "runs": runs} for why, runs in reasons.most_common()]


def tally(outcomes: list[Outcome], kind: str) -> dict[str, Facts]:
    """Return for each case or complaint how often it came, and what followed it.

    runs: those in which it came. next: what came of it was accepted. end: of the runs,
    those that were accepted at last.
    """
    rows: dict[str, Facts] = {}
    for outcome in outcomes:
        found = [it for it in outcome.happened if it.kind == kind]
        denied = outcome.end and outcome.end["accepted"] and not outcome.accepted
        for it in found:
            row = rows.setdefault(it.name, dict.fromkeys(FOLLOWED, 0))
            row["used"] += 1
            row["next"] += it.accepted_next and not denied
        for name in {it.name for it in found}:
            rows[name]["runs"] += 1
            rows[name]["end"] += outcome.accepted
    return dict(sorted(rows.items(), key=lambda it: -it[1]["used"]))


FOLLOWED = ("used", "runs", "next", "end")


def case_figures(outcomes: list[Outcome], bills: Bills) -> list[Facts]:
    """Return the figures of each special case that a run had in its lists, or used.

    may_need: the share of runs that may need it, at most, to 95 %. For one that was
    not used in n runs, that is 3/n (the rule of three).
    """
    listed = Counter(case for outcome in outcomes for case in outcome.cases)
    used = tally(outcomes, "case")
    not_used = dict.fromkeys(FOLLOWED, 0)
    rows: list[Facts] = []
    for case in dict.fromkeys([*listed, *used]):
        row = {"case": case} | used.get(case, not_used) | bills[case]
        row["may_need"] = None if case in used else min(1.0, 3 / listed[case])
        rows.append(row)
    return rows


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


# What the runs would have been without a case -----------------------------------------


@dataclass
class Ending:
    """How a run ended in a trial, as far as the tape knows."""

    accepted: bool = False  # not if --truth denies it
    end: Event = field(default_factory=lambda: {"calls": 0, "tokens": 0})
    known: bool = True  # false: it would have asked what is not on the tape
    waits: tuple[str, ...] = ()  # the cases that waited, in their order


@dataclass
class Trial:
    """How the runs of an item ended without some cases."""

    runs: dict[str, Ending] = field(default_factory=dict)  # by name
    active: set[str] = field(default_factory=set)  # cases that made a move or a call


class Bench(replay.Recording):
    """A tape on which a task is done again, without a call and without some cases."""

    def __init__(self, path: str, task: Hook, truth: Hook | None, say: Hook):
        super().__init__(path)
        self.task, self.truth, self.say = task, truth, say
        self.left_out: frozenset[str] = frozenset()
        self.events: list[Event] = []
        self.hooks: dict[str, Hook] = {}  # the cases that were seen
        self.trials: dict[tuple[str, frozenset[str]], Trial] = {}
        self.changed = replay.replay(path, task)
        self.same: dict[str, Trial] = {}  # items whose runs still end as they did
        names = self.items or self.starts
        runs = Counter(replay.item_of(run, names) for run in self.starts)
        not_ended = self.starts.keys() - self.before
        others = not_ended.union(change["run"] for change in self.changed)
        for name in names.keys() - {replay.item_of(run, names) for run in others}:
            trial = self.outcome(name)
            if is_known(trial) and len(trial.runs) == runs[name]:
                self.same[name] = trial

    def recall(self, state: loop.State) -> Any:
        """Return what the tape has; this sees each run, and each question of a hook."""
        self.hooks |= {name_of(it): it for it in (*state.fixes, *state.faults)}
        state.fixes = [it for it in state.fixes if name_of(it) not in self.left_out]
        state.faults = [it for it in state.faults if name_of(it) not in self.left_out]
        return super().recall(state)

    def write(self, event: Event) -> None:
        """Keep an event."""
        super().write(event)
        self.events.append(event)

    def outcome(self, name: str, without: frozenset[str] = frozenset()) -> Trial:
        """Return how the runs of an item end without these cases.

        Those that are not active make no difference, so that few sets have to be tried.
        """
        left_out: frozenset[str] = frozenset()
        while True:
            if (name, left_out) not in self.trials:
                self.trials[name, left_out] = self.try_item(name, left_out)
                self.say(f"replayed: {len(self.trials):,}")
            trial = self.trials[name, left_out]
            # With these left out, others may act that did not before.
            more = trial.active & (without - left_out)
            if not more:
                return trial
            left_out |= more

    def try_item(self, name: str, left_out: frozenset[str]) -> Trial:
        """Do the task for an item when exactly these cases are left out."""
        trial, start = Trial(), (self.items or self.starts)[name]
        self.left_out, self.events = left_out, []
        about = start["item" if self.items else "task"]
        run = replay.bind_run(name, start, self)
        with suppress(Exception):  # as in `each`: it ends this item
            self.task(about, run)
        for event in self.events:
            if event["event"] != "item":
                self.note_event(trial, event, about)
        return trial

    def note_event(self, trial: Trial, event: Event, about: Any) -> None:
        """Note in a trial what an event of one of its runs says."""
        run = trial.runs.setdefault(event["run"], Ending())
        fix, hook = event.get("fix", ""), event["hook"]
        trial.active |= {fix, hook}
        if event["event"] == "decide" and event["move"] == "Ask" and run.known:
            run.waits += (fix,) if event["wait"] else ()
        elif event["event"] == "end":
            if run.known and event["why"].startswith("diverged: "):
                run.known = False
            if not hook:
                run.end = self.after[event["run"]]
                run.accepted = is_accepted(run.end, about, self.truth)


def is_known(trial: Trial) -> bool:
    """Return whether no run asked what is not on the tape."""
    return all(run.known for run in trial.runs.values())


def leave_out(benches: list[Bench], *cases: str) -> Facts:
    """Return what becomes of the runs without these cases.

    fewer, more: accepted ones. changed: accepted with another value; with --truth, that
    does not matter. tokens: more of them. unknown: the runs that would ask what is not
    on the tape, and are in none of the others. once_more: accepted runs of these, which
    would ask so after all that they asked.
    """
    found: Counter[str] = Counter()
    for bench in benches:
        for name, before in bench.same.items():
            after = bench.outcome(name, frozenset(cases))
            for run, old in before.runs.items() if after is not before else ():
                new = after.runs.get(run, Ending(known=is_known(after)))
                # What an endpoint does after another wait is not known, either.
                if not new.known or (new.accepted and new.waits != old.waits):
                    once_more = new.end["calls"] > old.end["calls"]
                    found.update(unknown=1, once_more=old.accepted and once_more)
                    continue
                both = new.accepted and old.accepted and not bench.truth
                found.update(
                    fewer=old.accepted and not new.accepted,
                    more=new.accepted and not old.accepted,
                    changed=both and replay.ends_otherwise(old.end, new.end),
                    tokens=new.end["tokens"] - old.end["tokens"],
                )
    return {it: found[it] for it in DIFFERENCES}


DIFFERENCES = ("fewer", "more", "changed", "tokens", "unknown", "once_more")


def judge_cases(rows: list[Facts], benches: list[Bench]) -> list[str]:
    """Add to the rows of cases what the runs would have been without it, and a verdict.

    Returns the cases that can be deleted together: no run is known to be worse.
    """
    hooks = dict(vars(loop))  # its cases are known without a task
    for bench in benches:
        hooks |= bench.hooks
    gone: list[str] = []
    # One that was not used goes first: it may do the same as one that was.
    for row in sorted(rows, key=lambda row: (is_used(row), -rows.index(row))):
        doc = str(getattr(hooks.get(row["case"]), "__doc__", ""))
        _, mark, words = doc.partition("Unexplained:")
        row["unexplained"] = " ".join((mark + words).split())
        replayed = any(bench.same for bench in benches)
        row["without"] = leave_out(benches, row["case"]) if replayed else None
        row["kind"], row["verdict"] = verdict_of(row)
        together = leave_out(benches, *gone, row["case"])
        harm = [together[it] for it in ("fewer", "changed", "tokens", "unknown")]
        if max(harm) <= 0 and (replayed or not is_used(row)):
            gone.append(row["case"])
    rows.sort(key=lambda row: (VERDICTS.index(row["kind"]), -row["used"]))
    return [row["case"] for row in rows if row["case"] in gone]


def is_used(row: Facts) -> bool:
    """Return whether a case made a move, or a call."""
    return bool(row["used"] or row["calls"])


def verdict_of(row: Facts) -> tuple[str, str]:
    """Return whether a case earns its keep: without its figure, and with it.

    That is the first of these whose figure is above 0.
    """
    without = row["without"] or Counter(unknown=1)
    kept, tokens = without["fewer"] - without["more"], without["tokens"]
    for count, words in (
        (not is_used(row), "never used here"),
        (kept, "keeps # runs"),
        (-kept, "costs more than it brings"),
        (without["once_more"], "saves # requests"),
        (without["unknown"], "not known"),
        (without["changed"], "changes # values"),
        (tokens, "saves # tokens"),
        (-tokens, "costs more than it brings"),
    ):
        if count > 0:
            one = "#" in words and count == 1
            figure = (words[:-1] if one else words).replace("#", f"{count:,}")
            return words, figure
    return "makes no difference", "makes no difference"


VERDICTS = (  # in the order of the table
    "keeps # runs",
    "saves # requests",
    "saves # tokens",
    "changes # values",
    "not known",
    "makes no difference",
    "costs more than it brings",
    "never used here",
)


# show ---------------------------------------------------------------------------------


def show(options: Any) -> tuple[Facts, int]:
    """Return one run of the tape, event by event, each reused reply with its text."""
    records = read_tape(options.tape, options.say)
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
    return {"run": run, "item": records.item_of(run), "events": shown}, 0


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
        raise ValueError(f"there is no run {wanted!r}; there is {runs[0]}")

    def instructive(run: str) -> tuple[bool, int]:
        events = records.runs[run][-1]
        moves = sum(event["event"] == "decide" for event in events)
        return moves > 0 and any(event.get("accepted") for event in events), moves

    return max(meant, key=instructive)


# What is printed ----------------------------------------------------------------------

PLAIN: Facts = {"highlight": False, "markup": False, "emoji": False}  # hostile text
ROWS = 40  # of a table; --json has all of them


def shorten(value: Any, most: int = 60) -> str:
    """Return a value on one line, safe to show, without its middle where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > 2 * most:  # first roughly, as a text may have megabytes
        text = text[:most] + text[-most:]
    text = visible(text).replace("\n", "\\n").replace("\t", " ")
    half = max(2, most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def print_report(out: Console, facts: Facts) -> None:
    """Print a row for each special case, how to read it, and what to delete."""
    runs, accepted, bill = facts["runs"], facts["accepted"], facts["bills"][0]
    good = "correct" if "correct" in facts else "accepted"
    head = f"{runs:,} runs: {accepted:,} accepted ({accepted / runs:.0%})"
    if good == "correct":
        head += f", {facts[good]:,} of these correct"
    head += f", with {bill['calls']:,} requests and {tokens_of(bill)} tokens"
    out.print(f"{head}\n", style="bold")
    heads = ["special case", "used", "in runs", f"{good}\nafter it"]
    heads += ["tokens\nit cost", "without it", "verdict"]
    rows: list[list[str]] = []
    for row in facts["cases"]:
        next_accepted = f"{row['next']:,} of {row['used']:,}"
        cells = [f"{row['used']:,}", f"{row['runs']:,}", next_accepted]
        cells += [tokens_of(row), difference(row["without"], good)]
        cells = cells if is_used(row) else [""] * 5
        rows.append([shorten(row["case"], 24), *cells, row["verdict"]])
    print_table(out, heads, rows, words=("without it", "verdict"))
    for row in facts["cases"]:
        if row["unexplained"]:
            words = f"{row['case']} {row['verdict']}. {row['unexplained']}"
            out.print(f"\n{shorten(words, 300)}")
    out.print(f"\n{how_to_read(facts, good)}\n\n{what_to_delete(facts)}")


def tokens_of(bill: Facts) -> str:
    """Return how many tokens were used: ~ where some of them are an estimate."""
    return f"{'~' if bill['estimated'] else ''}{bill['tokens']:,}"


def difference(without: Facts | None, good: str) -> str:
    """Return in words what becomes of the runs without a case."""
    if without is None:
        return "not known"
    unknown = without["unknown"] - without["once_more"]
    parts = [
        f"{abs(count):,} {words}"
        for count, words in (
            (without["fewer"], f"fewer {good}"),
            (without["more"], f"more {good}"),
            (without["changed"], "with another value"),
            (max(0, without["tokens"]), "more tokens"),
            (min(0, without["tokens"]), "fewer tokens"),
            (without["once_more"], "need a request more"),
            (unknown, "runs not known"),
        )
        if count
    ]
    return ",\n".join(parts) or "nothing changes"


def how_to_read(facts: Facts, good: str) -> str:
    """Return two sentences: what the columns of the table mean."""
    uses = (
        f'"{good.title()} after it" counts the uses after which the repaired text, or '
        f"the next reply, was {good}."
    )
    unknown = "How the runs would have ended without a case is not known"
    changed = facts.get("changed", ())
    if "replayed" not in facts:
        return f"{uses} {unknown}: give FILE:TASK, the function that made them."
    if not facts["replayed"]:
        why = f": {shorten(changed[0]['after']['why'], 200)}" if changed else ""
        return f"{uses} {unknown}, as none ends with this TASK as it did before{why}."
    but = ""
    if changed:
        but = f", but for {len(changed):,} that TASK now ends otherwise (see --more)"
    return (
        f'{uses} "Without it" is how the {facts["replayed"]:,} runs end when they are '
        f"done again with the recorded replies and without the case{but}; a run that "
        'would then ask the model something new is "not known".'
    )


def what_to_delete(facts: Facts) -> str:
    """Return a sentence: which cases can go, as far as the tape tells."""
    used = [
        shorten(row["case"], 24)
        for row in facts["cases"]
        if row["case"] in facts["delete"] and is_used(row)
    ]
    words = f"As far as these runs tell, you can delete {', '.join(used) or 'nothing'}"
    may_need = [row["may_need"] for row in facts["cases"] if not is_used(row)]
    if may_need:
        words += (
            ". Of what was never used here they tell little: each may be needed in "
        )
        words += f"up to {max(may_need):.0%} of later runs"
    return f"{words}."


def print_table(
    out: Console, heads: list[str], rows: list[list[str]], words: tuple[str, ...] = ()
) -> None:
    """Print rows under heads: a name, then figures, or under some heads words."""
    gap = (0, 2 if out.width > 90 else 1, 0, 0)
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=gap)
    grid.add_column(heads[0], no_wrap=bool(words), overflow="fold")
    for head in heads[1:]:
        if head.startswith(words):
            grid.add_column(head, overflow="fold")
        else:
            grid.add_column(head, justify="right", no_wrap=True)
    for row in rows[:ROWS]:
        grid.add_row(*row, style=STYLES.get(row[-1].partition(" ")[0], ""))
    out.print(grid)
    if len(rows) > ROWS:
        out.print(f"and {len(rows) - ROWS:,} more, in --json", style="dim")


STYLES = {"keeps": "green", "saves": "green", "never": "dim"}
STYLES |= {"makes": "yellow", "costs": "yellow"}  # by the first word of a verdict


def print_more(out: Console, facts: Facts) -> None:
    """Print what else is known: reasons, bills, complaints, runs that changed."""
    cases = [row for row in facts["cases"] if is_used(row)]
    for title, names, rows in (
        ("Why the others ended", "why runs", facts["ended"]),
        ("What was paid", f"case {' '.join(UNITS)}", facts["bills"] + cases),
        ("Complaints and faults", "complaint used runs next end", facts["complaints"]),
    ):
        name, *keys = names.split()
        out.print(f"\n{title}", style="bold")
        cells = [
            [shorten(it[name], 120), *(cell(it[k], k) for k in keys)] for it in rows
        ]
        print_table(out, [name, *keys], cells)
    for change in facts.get("changed", ()):
        run = shorten(change["run"])
        out.print(f"\n{run} ends otherwise with TASK as it is now", style="bold")
        for when in ("before", "after"):
            accepted = change[when]["accepted"]
            words = shorten(change[when]["value" if accepted else "why"], 300)
            out.print(f"{when:6}  {words}", style="green" if accepted else "red")


def cell(figure: float, unit: str) -> str:
    """Return a figure in a few words."""
    if math.isnan(figure):
        return "unknown"
    digits = {"dollars": 4, "seconds": 1}.get(unit, 0)
    return f"{figure:,.{digits}f}"


def print_run(out: Console, facts: Facts) -> None:
    """Print what `show` found."""
    out.print(shorten(facts["run"], 70), style="bold")
    grid = Table(box=None, show_header=False, pad_edge=False, expand=True)
    grid.add_column()
    grid.add_column(ratio=1, overflow="fold")
    grid.add_column(justify="right", style="dim", no_wrap=True)
    task = ""
    for event in facts["events"]:
        kind = event["event"]
        words, style = line_of(event)
        mark, words, late = "", words.strip(), ""
        tag = f"[{shorten(event['hook'])}] " if event["hook"] else ""
        if kind == "start":
            continue
        if kind == "sent":
            asked = text_of(event["messages"][-1])
            words, style = f"{tag}{describe_request(asked, task)}", "dim"
            task = task or asked
        elif kind in ("reply", "reused"):
            text = block(event.get("text", "")) or "(an empty reply)"
            mark, words, style = str(event["n"]), f"{tag}{text}", ""
            late = f"{event['seconds']:.1f} s"
            if kind == "reused":
                late = "on the tape before"
            elif event["finish"] == "length":
                late = f"cut off, {late}"
        elif kind == "end" and event["accepted"] and words:
            words += f"\n{shorten(event['value'], 300)}"
        if words:
            grid.add_row(mark, words, late, style=style)
    out.print(grid)


def describe_request(words: str, task: str) -> str:
    """Return what was asked; of the task with a note, the note alone."""
    if not task or not words.startswith(task):
        return block(words)
    note = shorten(words.removeprefix(task).strip(), 240)
    return f"the task again, with: {note}" if note else "the task again"


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
    "tapes": {"nargs": "+", "metavar": "TAPE... [FILE:TASK]"},
    "tape": {"metavar": "TAPE"},
    "run": {"nargs": "?", "default": "", "help": "a run or an item, or how it begins"},
    "--truth": {"metavar": "FILE:FUNCTION", "help": "function(item, value) -> bool"},
    "--more": {"action": "store_true", "help": "all figures, not only the table"},
    "--svg": {"metavar": "FILE", "help": "write it as a picture, too"},
    "--json": {"action": "store_true", "help": "one JSON object on stdout"},
}
COMMANDS = (
    (report, print_report, "tapes --truth --more --svg --json"),
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


def write_svg(options: Any, facts: Facts) -> None:
    """Write what is printed as a picture that loads nothing from elsewhere."""
    out = Console(**PLAIN, record=True, file=io.StringIO(), width=WIDTH - 5)
    options.view(out, facts)
    out.width = WIDTH  # as the letters of some fonts are wider
    svg = out.export_svg(title=f"ledger.py {options.command.__name__}")
    svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*;", "font-family: monospace;", svg)
    Path(options.svg).write_text(svg, encoding="utf-8")


WIDTH = 100  # of the screen, at most


def main() -> int:
    """Do one command; print what it found."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # what the locale cannot show
    options = parse_arguments()
    waiting = Console(stderr=True, force_terminal=sys.stderr.isatty())
    try:
        # What a task prints is not our output. On a terminal, it is seen to work.
        with waiting.status("reading") as status_line, redirect_stdout(sys.stderr):
            options.say = status_line.update
            facts, status = options.command(options)
        if options.svg:
            write_svg(options, facts)
    except (OSError, ValueError) as error:
        options.error(str(error))
    except KeyboardInterrupt:
        return 130
    if options.json:  # NaN is no JSON
        print(json.dumps(json.loads(json.dumps(facts), parse_constant=lambda _: None)))
        return status
    out = Console(**PLAIN)
    out.width = min(out.width, WIDTH)
    options.view(out, facts)
    if getattr(options, "more", False):
        print_more(out, facts)
    return status


if __name__ == "__main__":
    with suppress(AttributeError):  # there is none on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as of `| head`: just end
    raise SystemExit(main())
