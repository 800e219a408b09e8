#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich"]
# ///
"""Situation: runs on a tape, and the question which special cases earn their place.

    uv run examples/ledger.py report TAPE...          outcomes, fix-ups, complaints
    uv run examples/ledger.py show TAPE [RUN]         one run, told step by step
    uv run examples/ledger.py ablate TAPE FILE:TASK   each fix-up left out, no call made
    uv run examples/ledger.py replay TAPE FILE:TASK   what an edit of it changes

A tape is what run(tape=...) and each(tape=...) write. TASK is task(item, run) in FILE,
as `each` takes it. --truth FILE:FUNCTION, function(item, value) -> bool, gives every
accepted figure twice: accepted, and correct as well. --json puts one JSON object on
stdout. You see shares with their 95 % intervals (Wilson). A run that was resumed counts
once, as it went last; what was paid counts always. Where a run without a fix-up would
ask the model something new, the outcome is not known, and is not guessed.
Exit status: 0; 1 if `replay` lost an accepted run; 2 for a wrong argument or tape; 130
after Ctrl-C.
"""

import argparse
import difflib
import importlib.util
import json
import math
import os
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

import loop
from loop import Hook, Tape, name_of, visible

Facts = dict[str, Any]  # an event, or figures for --json


class Wrong(Exception):
    """What the user gave cannot be used: shown as one line, status 2."""


# Reading the tape ---------------------------------------------------------------------

ALL = {"run", "n", "hook", "at"}
NEEDS = {  # what is read of an event; one without is passed over, like a torn line
    "item": ALL | {"item", "settings"},
    "start": ALL | {"task", "settings", "fixes"},
    "sent": ALL | {"messages", "settings"},
    "reply": ALL | {"text", "key", "cost", "seconds", "input_tokens", "output_tokens"},
    "reused": ALL | {"key"},
    "fault": ALL | {"why", "status", "code", "wait", "billed", "key", "seconds"},
    "decide": ALL | {"fix", "move", "settings", "why"},
    "end": ALL | {"accepted", "why", "value", "calls", "tokens", "seconds"},
}


def events_of(path: str) -> Iterator[Facts]:
    """Yield the events of a tape; raise Wrong where it is none, or has none."""
    tape: Any = SimpleNamespace(path=path)  # a Tape would read all of it once more
    there = False
    try:
        for _, event in Tape.events(tape):
            needed = NEEDS.get(event.get("event", ""))
            if needed and event.keys() >= needed:
                there = True
                yield event
    except ValueError as error:  # it begins as no tape does
        raise Wrong(str(error)) from None
    except OSError as error:
        raise Wrong(f"{path}: {error.strerror or error}") from None
    if not there:
        raise Wrong(f"{path}: no events: an empty tape")


def item_of(run: str, items: Any) -> str:
    """Return the name of the item that a run belongs to; "" where there is none."""
    while (run := run.rpartition("/")[0]) and run not in items:
        pass  # the name of an item may have slashes of its own
    return run


def tokens_of(event: Facts, messages: Any) -> tuple[int, int]:
    """Return the tokens of a call, and how many of them are guessed, as in Run.cost."""
    asked = sum(len(str(message.get("content"))) for message in messages or ())
    came = len(event.get("text", "")) + len(event.get("reasoning", ""))
    told = (event.get("input_tokens"), event.get("output_tokens"))
    both = [*zip(told, (asked // 4, came // 4), strict=True)]
    used = sum(guess if n is None else max(n, 0) for n, guess in both)
    return used, sum(guess for n, guess in both if n is None)


def loaded(where: str) -> Hook:
    """Return the function that FILE:NAME means; raise Wrong with what there is."""
    file, _, name = where.rpartition(":")
    path = Path(file).resolve()
    if not file or not path.is_file():
        raise Wrong(f"{where}: expected FILE:NAME; there is no file {file or where}")
    module: Any = sys.modules.get(path.stem)
    if getattr(module, "__file__", None) != str(path):
        module = imported(path, path.stem if module is None else f"{path.stem}_file")
    made = {k for k, v in vars(module).items() if callable(v) and not k.startswith("_")}
    if name not in made:
        own = {k for k in made if vars(module)[k].__module__ == module.__name__}
        raise Wrong(f"{file} has no function {name!r}{nearest(name, own or made)}")
    return vars(module)[name]


def imported(path: Path, name: str) -> Any:
    """Return a file as a module, known by this name to those who ask for it later."""
    spec: Any = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise Wrong(f"{path} is no Python file")
    sys.path.insert(0, str(path.parent))  # its neighbours; `loop` is already there
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        raise Wrong(f"{path} fails: {type(error).__name__}: {error}") from None
    return module


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of an error: what was perhaps meant, else what there is."""
    there = sorted(names)
    if near := difflib.get_close_matches(name, there, 1, 0.4):
        return f"; nearest: {near[0]}"
    return f"; there is {', '.join(there[:5])}{' ...' * (len(there) > 5)}"


# Figures ------------------------------------------------------------------------------


def wilson(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, which is honest for few and for none."""
    if not of:
        return 0.0, 1.0
    z, p, root = 1.959964, count / of, 1 + 1.959964**2 / of
    middle = (p + z * z / (2 * of)) / root
    half = z * (p * (1 - p) / of + (z / of / 2) ** 2) ** 0.5 / root
    low, high = middle - half, middle + half
    return (low if count else 0.0), (high if count < of else 1.0)


def share(count: int, of: int) -> Facts:
    """Return a count as a share of the whole, with its interval."""
    part = count / of if of else None
    return {"count": count, "of": of, "share": part, "interval": wilson(count, of)}


@lru_cache(maxsize=4096)
def kind_of(why: str) -> str:
    """Return a complaint without what differs from case to case, so that it groups."""
    text = QUOTED.sub('"..."', why)
    for _ in range(3):  # lists in lists, from within
        text = re.sub(r"\{[^{}]+\}", "{...}", re.sub(r"\[[^][]+\]", "[...]", text))
    return middle_out(NUMBER.sub("#", text), 120)


QUOTED = re.compile(
    r""""(?:[^"\\]|\\.)*"|(?<!\w)'(?:[^'\\]|\\.)*'(?!\w)|“[^”]*”|`[^`]*`"""
)
NUMBER = re.compile(  # or what is a number to somebody: the id of a request, a digest
    r"(?<![\w.])-?\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?(?:ms|s)?(?!\w)"
    r"|(?<![^\W_])(?=[^\W_]*\d)(?:[0-9a-f]{8,}|[^\W_]{16,})(?![^\W_])"
)


def middle_out(text: str, most: int) -> str:
    """Return a text with its middle left out where it is longer than this."""
    head, tail = most - most // 3 - 5, most // 3
    return text if len(text) <= most else f"{text[:head]} ... {text[-tail:]}"


UNITS = ("calls", "failed", "tokens", "estimated", "seconds", "cost", "unknown")


class Bill(Counter[str]):
    """What calls cost: their number, how many failed; tokens, and how many of these are
    estimated; seconds, waits included; dollars, and how many calls without a price."""

    def charge(self, event: Facts, messages: Any) -> None:
        """Add a reply, or a fault."""
        failed = event["event"] != "reply"
        if failed and not event["billed"]:
            tokens, estimated, cost = 0, 0, 0.0
        else:
            (tokens, estimated), cost = tokens_of(event, messages), event.get("cost")
        used = (1, failed, tokens, estimated, event["seconds"] or 0.0)
        used = (*used, cost or 0.0, cost is None)
        for unit, more in zip(UNITS, used, strict=True):
            self[unit] += more

    def facts(self) -> Facts:
        """Return it for --json."""
        return {unit: self[unit] for unit in UNITS}


@dataclass(slots=True)
class Record:
    """A run as it went last."""

    task: Any = None
    fixes: list[str] = field(default_factory=list)  # listed, not those that spoke
    decisions: list[Facts] = field(default_factory=list)
    moved: Facts = field(default_factory=dict)  # by hook: the last decision
    sent: Facts = field(default_factory=dict)  # by hook: messages without an answer yet
    end: Facts | None = None
    correct: bool = False
    fresh: bool = True  # there was a text or a fault since the last decision

    @property
    def accepted(self) -> bool:
        """Tell whether it ended well."""
        return bool(self.end and self.end["accepted"])


class Books:
    """What some tapes say, added up event by event: a method for each kind."""

    def __init__(self, paths: Iterable[str]):
        self.records: dict[tuple[str, str], Record] = {}
        self.items = defaultdict[str, Facts](dict)  # by tape and name
        self.paid, self.maybe, self.bills = Bill(), Bill(), defaultdict[str, Bill](Bill)
        self.last, self.events = dict[str, float](), 0
        for path in dict.fromkeys(paths):
            for event in events_of(path):
                self.events += 1
                kind, key = event["event"], (path, event["run"])
                if kind == "item":
                    self.items[path][event["run"]] = event["item"]
                elif kind == "start":
                    self.unanswered(self.records.get(key, Record()))
                    self.records[key] = Record(event["task"], event["fixes"])
                else:
                    record = self.records.setdefault(key, Record())
                    getattr(self, kind)(record, event, event["hook"])
        for record in self.records.values():
            self.unanswered(record)

    def unanswered(self, record: Record, *hooks: str) -> None:
        """Note requests without an answer: a kill came between, the model may work."""
        for hook in hooks or [*record.sent]:
            if (messages := record.sent.pop(hook, None)) is not None:
                lost = {"event": "fault", "billed": True, "seconds": 0}
                self.maybe.charge(lost, messages)

    def sent(self, record: Record, event: Facts, hook: str) -> None:
        """A request is on its way."""
        self.unanswered(record, hook)
        record.sent[hook] = event["messages"]

    def reply(self, record: Record, event: Facts, hook: str) -> None:
        """A reply or a fault: charge it to the whole, and to the fix-up it is for."""
        messages = record.sent.pop(hook, None)
        if event["event"] == "fault" and event["billed"]:
            self.maybe.charge(event, messages)
            event["billed"] = False  # below, only its time counts
        mover = {"fix": hook} if hook in record.fixes else record.moved.get("")
        mover = (record.moved.get(hook) if hook else None) or mover
        for bill in (self.paid, *([self.bills[mover["fix"]]] if mover else ())):
            bill.charge(event, messages)
        record.fresh = record.fresh or not hook

    fault = reply

    def reused(self, record: Record, _: Facts, hook: str) -> None:
        """A reply was on the tape: paid for before, and not now."""
        record.fresh = record.fresh or not hook

    def decide(self, record: Record, event: Facts, hook: str) -> None:
        """A fix-up spoke; unless an accepted end comes next, another refusal does."""
        move = {
            "fix": event["fix"],
            "complaint": kind_of(event["why"][:400]),
            "next": False,
        }
        record.decisions.append(move)
        record.moved[hook] = move
        self.last[event["fix"]] = max(event["at"], self.last.get(event["fix"], 0))
        if not hook:
            record.fresh = event["move"] == "Use"

    def end(self, record: Record, event: Facts, hook: str) -> None:
        """A run ended, or a call that a hook made."""
        record.moved.pop(hook, {})["next"] = event["accepted"]
        if hook:
            return
        record.end = event
        why = event["why"].partition("; at last: ")[2]
        if record.fresh and why and not event["accepted"]:  # nothing spoke about it
            kind = kind_of(why[:400])
            record.decisions.append({"fix": "", "complaint": kind, "next": False})


# report -------------------------------------------------------------------------------


def report(options: Any) -> tuple[Facts, int]:
    """Return what the tapes say of outcomes, fix-ups and complaints."""
    books = Books(options.tapes)
    truth = loaded(options.truth) if options.truth else None
    for (path, name), record in books.records.items():
        if truth and record.end and record.accepted:
            items = books.items[path]
            about = items.get(item_of(name, items), record.task)
            record.correct = is_true(truth, about, record.end["value"])
    records = [*books.records.values()]
    good = sum(record.accepted for record in records)
    facts: Facts = {"tapes": options.tapes, "events": books.events}
    facts |= {"runs": len(records), "accepted": share(good, len(records))}
    if truth:
        facts["correct"] = share(sum(r.correct for r in records), len(records))
    ends = [record.end for record in records if record.end]
    spent = {unit: sum(end[unit] for end in ends) for unit in ("calls", "tokens")}
    facts["per_accepted"] = {u: n / good if good else None for u, n in spent.items()}
    facts |= {"paid": books.paid.facts(), "possibly_billed": books.maybe.facts()}
    facts |= endings(records)
    facts["fixes"] = outcomes(records, "fix", bool(truth))
    for row in facts["fixes"]:
        name = row["fix"]
        row |= {"bill": books.bills[name].facts(), "last": books.last[name]}
    facts["silent"] = silent(books, {row["fix"] for row in facts["fixes"]})
    facts["complaints"] = outcomes(records, "complaint", bool(truth))
    return facts, 0


def is_true(truth: Hook, item: Any, value: Any) -> bool:
    """Return what the user's function says of a value; raise Wrong where it fails."""
    try:
        return bool(truth(item, value))
    except Exception as error:  # noqa: BLE001
        about = f"{name_of(truth)}({clipped(item)}, {clipped(value)})"
        raise Wrong(f"{about} fails: {type(error).__name__}: {error}") from None


def endings(records: list[Record]) -> Facts:
    """Return why runs were not accepted, and apart from that their last complaints."""
    whys, lasts = Counter[str](), Counter[str]()
    told: Facts = {"ended": whys, "last_complaints": lasts}
    for record in records:
        if not record.end:
            whys["no end on the tape: killed, not done yet, or an error"] += 1
        elif not record.accepted:
            why, _, last = record.end["why"].partition("; at last: ")
            whys[kind_of(why[:400])] += 1
            lasts.update([kind_of(last[:400])] if last else [])
    for name, counts in told.items():
        told[name] = [{"why": why, "runs": n} for why, n in counts.most_common()]
    return told


def outcomes(records: list[Record], by: str, truth: bool) -> list[Facts]:
    """Return, for each fix-up ("fix") or complaint, how it went on from it."""
    rows = defaultdict[str, Counter[str]](Counter)
    for record in records:
        for decision in record.decisions:
            then = decision["next"]
            counts = {"fired": 1, "next": then, "right": then and record.correct}
            rows[decision[by]].update(counts)
        for name in {decision[by] for decision in record.decisions}:
            rows[name].update(runs=1, end=record.accepted, true=record.correct)
    rows.pop("", None)
    told = list[Facts]()
    for name, row in sorted(rows.items(), key=lambda it: -it[1]["fired"]):
        fired, runs = row["fired"], row["runs"]
        facts: Facts = {by: name, "fired": fired, "runs": runs}
        facts |= {"next": share(row["next"], fired), "end": share(row["end"], runs)}
        if truth:
            facts["correct_next"] = share(row["right"], fired)
            facts["correct_end"] = share(row["true"], runs)
        told.append(facts)
    return told


def silent(books: Books, spoke: set[str]) -> list[Facts]:
    """Return the fix-ups that never spoke, and by the rule of three how rare a need of
    them still may be: with 95 % certainty, at most in 3 of so many runs."""
    listed = Counter(name for record in books.records.values() for name in record.fixes)
    rows: list[Facts] = [
        {"fix": k, "runs": n} for k, n in listed.items() if k not in spoke
    ]
    for row in rows:
        row |= {"at_most": min(1.0, 3 / row["runs"])}
        row |= {"bill": books.bills[row["fix"]].facts()}
    return rows


# ablate -------------------------------------------------------------------------------


class Memory(Tape):
    """A tape that is replayed, for one item, from memory. `missed` tells of requests
    that are not there, also where a hook catches the error."""

    def __init__(self, replies: Any):
        super().__init__(os.devnull, replaying=True)
        self.places, self.calls = replies, 0
        self.kept, self.spoke, self.listed = Facts(), set[str](), Facts()

    def at(self, place: Any) -> Facts:
        """Return the event at a place, which is the event itself."""
        return place

    def recall(self, run: Any) -> Any:
        """Return what came of a run's present request; the error where it is new."""
        self.calls += 1
        return super().recall(run)

    def write(self, event: Facts) -> None:
        """Keep how the runs ended, and which hooks took part."""
        self.spoke.update(filter(None, [event["hook"], event.get("fix")]))
        if event["event"] == "start":
            self.listed |= dict.fromkeys(event["fixes"])
        elif event["event"] == "end" and not event["hook"]:
            self.kept[event["run"]] = (event["accepted"], as_kept(event["value"]))


def as_kept(value: Any) -> str:
    """Return a value as the text that a tape has of it."""
    return json.dumps(value, default=repr, skipkeys=True)


@dataclass(frozen=True)
class Outcome:
    """How a task ended for an item."""

    accepted: bool
    value: str  # as_kept
    error: str  # of the task
    memory: Memory

    @property
    def known(self) -> bool:
        """Tell whether no request was a new one."""
        return not self.memory.missed


class Bench:
    """A task, and the cases of a tape to try it on without a call."""

    def __init__(self, path: str, task: Hook, truth: Hook | None):
        self.task, self.truth = task, truth
        self.replies = defaultdict[tuple[str, str], list[Facts]](list)
        self.ends, kept = dict[str, Any](), {"item": Facts(), "start": Facts()}
        self.seen: dict[tuple[str, frozenset[str]], Outcome] = {}
        self.judged: dict[tuple[str, str], bool] = {}
        for event in events_of(path):
            kind, run = event["event"], event["run"]
            if kind in ("reply", "fault"):
                self.replies[run, event["key"]].append(event)
            elif kind in kept:
                kept[kind][run] = event
                self.ends.pop(run, None)  # it began again
            elif kind == "end" and not event["hook"]:
                self.ends[run] = (event["accepted"], as_kept(event["value"]))
        self.cases: Facts = kept["item"] or kept["start"]
        self.ran = defaultdict[str, list[str]](list)  # by case: runs on the tape
        for run in kept["start"]:
            self.ran[item_of(run, kept["item"]) or run].append(run)

    def tried(self, name: str, gone: frozenset[str]) -> Outcome:
        """Return how a case ends when exactly these fix-ups are left out."""
        if (name, gone) in self.seen:
            return self.seen[name, gone]
        event, memory, call = self.cases[name], Memory(self.replies), loop.script()
        vars(call).update(settings=event["settings"])
        about = event.get("item", event.get("task"))
        if event["event"] == "item":
            run = loop.bound(about, name, call, memory)
        else:
            run = partial(loop.run, name=name, call=call, tape=memory)
        try:
            result = self.task(about, partial(without, run, gone))
            end = bool(result.accepted), as_kept(result.value), ""
        except Exception as error:  # noqa: BLE001, as in `each`: it ends this item
            end = False, as_kept(None), f"{type(error).__name__}: {error}"
        outcome = Outcome(*end, memory)
        self.seen[name, gone] = outcome
        return outcome

    def outcome(self, name: str, gone: frozenset[str]) -> Outcome:
        """Return how a case ends without these. Most would not speak in it, and what
        passes makes no difference: so few sets of them need a replay."""
        out: frozenset[str] = frozenset()
        while more := self.tried(name, out).memory.spoke & gone - out:
            out |= more  # with these left out, others may speak that did not before
        return self.tried(name, out)

    def correct(self, name: str, it: Outcome) -> bool:
        """Tell whether this outcome is accepted, and as true as it can be told."""
        if not self.truth or not it.accepted or not it.known:
            return False
        if (name, it.value) not in self.judged:
            about = self.cases[name].get("item", self.cases[name].get("task"))
            value = json.loads(it.value)
            self.judged[name, it.value] = is_true(self.truth, about, value)
        return self.judged[name, it.value]


def without(run: Hook, gone: frozenset[str], ask: Any, judge: Hook, **own: Any) -> Any:
    """Do what `run` does, with the fix-ups of these names left out."""
    for listed, default in ("fixes", loop.FIXES), ("faults", loop.FAULTS):
        hooks = own.get(listed, default)
        own[listed] = [hook for hook in hooks if name_of(hook) not in gone]
    return run(ask, judge, **own)


def ablate(options: Any) -> tuple[Facts, int]:
    """Return what each fix-up carries: left out alone, then one after the other."""
    truth = loaded(options.truth) if options.truth else None
    bench = Bench(options.tape, loaded(options.task), truth)
    facts, names, fixes = reproduced(bench)
    for name in options.fix:
        if name not in fixes:
            raise Wrong(f"no fix-up {name!r}{nearest(name, fixes)}")
    fixes = [name for name in fixes if name in (options.fix or fixes)]
    measure = partial(measured, bench, names)
    rows = [measure(frozenset([name]), name) for name in fixes if names]
    facts["fixes"] = rows
    facts["removed"], facts["next"] = list[Facts](), None
    while fixes and names:  # those that are left
        gone = frozenset(row["fix"] for row in facts["removed"])
        row = least_missed(measure, [row for row in rows if row["fix"] in fixes], gone)
        if row["hurt"]:
            facts["next"] = row
            break
        fixes.remove(row["fix"])
        facts["removed"].append(row)
    progress("")
    return facts | {"remain": fixes}, 0


def least_missed(measure: Hook, rows: list[Facts], gone: frozenset[str]) -> Facts:
    """Return what becomes of the cases without the fix-up that hurts least, of equals
    without the one that saved fewest calls, then the last listed. rows: each alone."""
    best, least = Facts(), (math.inf, math.inf)
    # Those that alone hurt least come first: as a rule the first is it, and ends this.
    last_first = rows[::-1]
    for row in sorted(last_first, key=missed):
        if now := measure(gone | {row["fix"]}, row["fix"], least):
            best, least = now, missed(now)
        if least == (0, 0):
            break
    return best


def missed(row: Facts) -> tuple[int, int]:
    """Return how much a fix-up is missed."""
    return row["hurt"], row["calls_saved"]


def reproduced(bench: Bench) -> tuple[Facts, list[str], list[str]]:
    """Replay with nothing left out: what to tell of it, the cases that end as they did
    on the tape, and the fix-ups that were listed."""
    counts, names, errors, listed = Counter[str](), list[str](), list[str](), Facts()
    for done, name in enumerate(bench.cases):
        progress(f"replay {done:,} of {len(bench.cases):,}")
        it, ran = bench.tried(name, frozenset()), bench.ran[name]
        listed |= it.memory.listed
        errors += [it.error] if it.error else []
        ended = [bench.ends.get(run) for run in ran]
        if not all(ended) or not ran:
            counts["not_ended"] += 1
        elif it.known and ended == [*map(it.memory.kept.get, ran)]:
            names.append(name)
        else:
            counts["differ"] += 1
    base = {name: bench.tried(name, frozenset()) for name in names}
    facts: Facts = {"runs": len(bench.cases), "reproduced": len(names)}
    facts |= {"not_ended": counts["not_ended"], "differ": counts["differ"]}
    facts |= {"errors": len(errors), "error": errors[0] if errors else ""}
    facts["accepted"] = share(sum(it.accepted for it in base.values()), len(names))
    if bench.truth:
        right = sum(bench.correct(name, it) for name, it in base.items())
        facts["correct"] = share(right, len(names))
    return facts, names, [*listed]


def measured(
    bench: Bench, names: list[str], gone: frozenset[str], fix: str, most: Any = ()
) -> Facts:
    """Return how the cases end without these fix-ups, this one the last; nothing once
    it is clear that it is missed as much as `most`."""
    progress(f"without {clipped(fix)}; {len(bench.seen):,} replays")
    told = Counter[Any]()
    for name in names:
        told["spoke"] += fix in bench.outcome(name, gone - {fix}).memory.spoke
        was, now = bench.tried(name, frozenset()), bench.outcome(name, gone)
        right, still = bench.correct(name, was), bench.correct(name, now)
        told["calls_saved"] += max(0, now.memory.calls - was.memory.calls)
        if not now.known:
            kind = "unknown"
        elif was.accepted != now.accepted:
            kind = "lost" if was.accepted else "gained"
        else:
            kind = "same" if was.value == now.value else "changed"
        told[kind] += 1
        told["right", kind] += right
        told["still", kind] += still
        # A changed value is harm where it was correct; without --truth, who knows.
        harm = not bench.truth or (right and not still)
        told["hurt"] += kind in ("lost", "unknown") or (kind == "changed" and harm)
        if most and (told["hurt"], told["calls_saved"]) >= most:
            return {}
    facts: Facts = {"fix": fix}
    facts |= {k: told[k] for k in "spoke same changed gained calls_saved hurt".split()}
    facts |= {k: share(told[k], len(names)) for k in ("lost", "unknown")}
    if bench.truth:
        facts["correct_before"] = {k: told["right", k] for k in KINDS}
        facts["correct_after"] = {k: told["still", k] for k in KINDS}
    return facts


KINDS = ("same", "lost", "unknown", "changed", "gained")


SAID = [time.monotonic()]  # when progress was shown; one more where it is on screen


def progress(line: str) -> None:
    """Show on a terminal how far it is, once a second; "" wipes it."""
    now, there = time.monotonic(), len(SAID) > 1
    if sys.stderr.isatty() and (there if not line else now > SAID[0] + 1):
        print(f"\r{line:70.70}", end="" if line else "\r", file=sys.stderr, flush=True)
        SAID[:] = [now, now] if line else [now]


# replay -------------------------------------------------------------------------------


def replay(options: Any) -> tuple[Facts, int]:
    """Return which runs of the tape end otherwise with the task as it is now."""
    task, errors, ended = loaded(options.task), list[str](), set[str]()
    for event in events_of(options.tape):
        if event["event"] == "end" and not event["hook"]:
            ended.add(event["run"])

    def calm(item: Any, run: Hook) -> Any:
        """Do the task; what it raises ends this item, as in `each`, and no more."""
        try:
            return task(item, run)
        except Exception as error:  # noqa: BLE001
            errors.append(f"{type(error).__name__}: {error}")

    changes = loop.replay(options.tape, calm)
    for it in changes:
        was, now = it["before"], it["after"]
        sure = now["accepted"] and "diverged: " not in now["why"]
        it["lost"] = bool(was["accepted"] and not sure)
        ends = ("accepted", "why", "value")
        it |= {when: {k: it[when][k] for k in ends} for when in ("before", "after")}
    lost = sum(it["lost"] for it in changes)
    facts: Facts = {"runs": len(ended), "same": len(ended) - len(changes), "lost": lost}
    facts |= {"errors": len(errors), "error": errors[0] if errors else ""}
    return facts | {"changed": changes}, int(lost > 0)


# show ---------------------------------------------------------------------------------


def show(options: Any) -> tuple[Facts, int]:
    """Return one run of the tape, event by event."""
    items, runs = dict[str, Any](), dict[str, Counter[str]]()
    for event in events_of(options.tape):
        run = event["run"]
        if event["event"] == "item":
            items[run] = event["item"]
        elif event["event"] == "start":
            runs[run] = Counter()
        elif not event["hook"]:
            told = runs.setdefault(run, Counter())
            told[event["event"]] += 1
            told["accepted"] = told["accepted"] or bool(event.get("accepted"))
    name = chosen(options.run, runs, items)
    facts: Facts = {"tape": options.tape, "run": name}
    if (item := item_of(name, items)) in items:
        facts["item"] = items[item]
    facts["events"] = record_of(options.tape, name)
    if options.svg:
        write_svg(options.svg, facts)
    return facts, 0


def chosen(wanted: str, runs: dict[str, Counter[str]], items: Facts) -> str:
    """Return the name of the run that is meant; of several, the most instructive."""
    among = [run for run in runs if wanted in (run, item_of(run, items))]
    if not among and wanted:
        among = [run for run in runs if run.startswith(wanted)]
        whole = {item_of(run, items) or run for run in among}
        if len(whole) > 1:
            raise Wrong(f"{wanted!r} may be {', '.join(sorted(whole)[:4])} ...")
        if not whole:
            raise Wrong(f"no run {wanted!r}{nearest(wanted, {*runs, *items})}")
    if not wanted:
        among = [*runs]
    if wanted in among:
        return wanted
    if not among:
        raise Wrong("no run began on this tape")

    def worth(run: str) -> tuple[bool, int, int]:
        """Rank a run: accepted at last, after much."""
        told = runs[run]
        calls = told["reply"] + told["reused"] + told["fault"]
        return bool(told["accepted"] and told["decide"]), told["decide"], calls

    return max(among, key=worth)


def record_of(path: str, name: str) -> list[Facts]:
    """Return the events of a run as it went last, each reused reply with its text."""
    record, sent = list[Facts](), Facts()
    came, before = defaultdict[str, list[Facts]](list), Counter[str]()
    for event in events_of(path):
        if event["run"] != name or event["event"] == "item":
            continue
        kind = event["event"]
        if kind == "start":
            record, before = [], Counter()
        elif kind == "sent":
            sent[event["hook"]] = event["messages"]
        elif kind == "reply":
            event["tokens"], _ = tokens_of(event, sent.get(event["hook"]))
            came[event["key"]].append(event)
        elif kind == "reused" and before[event["key"]] < len(came[event["key"]]):
            record.append(came[event["key"]][before[event["key"]]] | event)
        before[event.get("key", "")] += kind in ("reply", "reused")
        record += [event] if kind != "reused" else []
    return record


def write_svg(path: str, facts: Facts) -> None:
    """Write the run as a picture that loads nothing from elsewhere."""
    import io

    from rich.console import Console

    console = Console(
        record=True, file=io.StringIO(), width=92, force_terminal=True,
        color_system="truecolor", no_color=False, legacy_windows=False,
    )  # fmt: skip
    for part in show_view(facts):
        console.print(part)
    svg = console.export_svg(title=clipped(facts["run"], 60))
    svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*;", "font-family: monospace;", svg)
    try:
        Path(path).write_text(svg, encoding="utf-8")
    except OSError as error:
        raise Wrong(f"{path}: {error.strerror or error}") from None


# What is printed ----------------------------------------------------------------------


def clipped(value: Any, most: int = 60) -> str:
    """Return a value on one line, safe to show, without its middle where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = visible(middle_out(text, 2 * most)).replace("\n", "\\n").replace("\t", " ")
    return middle_out(text, most)


def block(text: str) -> str:
    """Return a text as some lines, safe to show: where it is long, both ends of it."""
    lines = visible(middle_out(text, 2000).expandtabs(4)).strip("\n").split("\n")
    lines = lines if len(lines) <= 8 else [*lines[:4], "...", *lines[-3:]]
    return "\n".join(middle_out(line, 240) for line in lines)


def text(words: Any, style: str = "") -> Any:
    """Return words or a number as rich shows them: no markup in them acts."""
    from rich.text import Text

    return Text(f"{words:,}" if isinstance(words, int) else words, style)


def heading(words: str) -> Any:
    """Return a heading, with an empty line before it."""
    return text(f"\n{words}", "bold")


def table(heads: str, rows: Iterable[Iterable[Any]], body: int = 0) -> Any:
    """Return a table without lines: one column is text, the others are short, as are
    numbers. heads: the headings, by `|`; a cell is a text, a number or a rich Text."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="dim", expand=body > 0)
    right = 1 if heads.count("|") > 6 else 2  # so that it fits in 80 columns
    grid.padding, grid.show_header = (0, right, 0, 0), bool(heads.strip("|"))
    for n, head in enumerate(heads.split("|")):
        if n == body:
            grid.add_column(head, ratio=1 if body else None, overflow="fold")
        else:
            grid.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(*(text(c) if isinstance(c, str | int) else c for c in row))
    return grid


def spread(it: Facts) -> str:
    """Return the interval of a share in per cent, with a decimal where it is narrow."""
    low, high = it["interval"]
    ends = (f"{100 * end:.{int(high - low < 0.03)}f}" for end in (low, high))
    return "-".join(end.removesuffix(".0") for end in ends)


def percent(it: Facts, style: str = "") -> Any:
    """Return a share and its interval."""
    if it["share"] is None:
        return text("-", "dim")
    low, high = spread(it).split("-")
    told = text(f"{100 * it['share']:.{int('.' in low + high)}f} %", style)
    return told.append(f" {low:>4}-{high:<4}", "dim")


def money(bill: Facts) -> str:
    """Return what is known of the dollars of some calls."""
    known = f"{bill['cost']:.4f}" if bill["calls"] > bill["unknown"] else "unknown"
    return known if bill["unknown"] in (0, bill["calls"]) else f"over {known}"


def accepted_lines(facts: Facts) -> Iterator[Any]:
    """Yield the lines of what was accepted and, where that is known, correct."""
    for name, label in ("accepted", "accepted"), ("correct", "and correct"):
        if name in facts:
            told = text(f"{label:13} {facts[name]['count']:7,}   ")
            yield told + percent(facts[name], "green")


def section(title: str, heads: str, rows: list[Any], most: int = 999) -> Iterator[Any]:
    """Yield a heading and the rows under it; nothing where there are none."""
    if rows:
        yield heading(title)
        yield table(heads, rows[:most])
    if len(rows) > most:
        yield text(f"and {len(rows) - most:,} more lines, in --json", "dim")


def report_view(facts: Facts) -> Iterator[Any]:
    """Yield what `report` prints."""
    paid, maybe, mean = facts["paid"], facts["possibly_billed"], facts["per_accepted"]
    yield text(f"runs          {facts['runs']:7,}", "bold")
    yield from accepted_lines(facts)
    if mean["calls"] is not None:
        told = "per accepted  {calls:7.2f} calls, {tokens:,.1f} tokens, of all runs"
        yield text(told.format(**mean))
    told = "paid          {calls:7,} calls ({failed:,} failed), {tokens:,} tokens ("
    told += "{estimated:,} estimated)\n" + " " * 15 + "{seconds:6,.1f} s, dollars "
    yield text(told.format(**paid) + money(paid))
    if maybe["calls"]:
        told = "maybe billed  {calls:7,} calls without a reply, {tokens:,} tokens or so"
        yield text(told.format(**maybe), "yellow")
    titles = {"ended": "Why the others ended", "last_complaints": "At last"}
    for name, title in titles.items():
        rows = [[clipped(row["why"], 120), row["runs"]] for row in facts[name]]
        yield from section(title, "|runs", rows, 10)
    heads = "|fired|runs|accepted next |in the end    "
    rows = [line for row in facts["fixes"] for line in outcome_lines(row, "fix")]
    yield from section("What came of the moves of the fix-ups", f"{heads}|last", rows)
    rows = [bill_line(row) for row in facts["fixes"] + facts["silent"]]
    title = "What these moves cost; the others, nothing"
    yield from section(title, "|calls|tokens|seconds|dollars", [*filter(None, rows)])
    rows = [[clipped(row["fix"]), row["runs"], rare(row)] for row in facts["silent"]]
    yield from section("Fix-ups that never spoke", "|in runs|so in at most", rows)
    rows = [ln for row in facts["complaints"] for ln in outcome_lines(row, "complaint")]
    heads = heads.replace("fired", "times")
    yield from section("Complaints and faults", heads, rows, 20)


def rare(row: Facts) -> str:
    """Return in how many runs a fix-up may still be needed, in per cent."""
    return f"{100 * row['at_most']:.3g} % of them"


def outcome_lines(row: Facts, by: str) -> Iterator[list[Any]]:
    """Yield how it went on from a fix-up or a complaint, as lines of a table."""
    line = [clipped(row[by], 120), row["fired"], row["runs"]]
    line += [percent(row["next"]), percent(row["end"])]
    if "last" in row:
        line.append(time.strftime("%Y-%m-%d", time.localtime(row["last"])))
    yield line
    if "correct_end" in row:
        right = percent(row["correct_next"]), percent(row["correct_end"])
        yield [text("  and correct", "dim"), "", "", *right]


def bill_line(row: Facts) -> list[Any]:
    """Return what a fix-up cost, as a line of a table; nothing where it was free."""
    bill, seconds = row["bill"], f"{row['bill']['seconds']:,.1f}"
    line = [clipped(row["fix"]), bill["calls"], bill["tokens"], seconds, money(bill)]
    return line if bill["calls"] else []


def ablate_view(facts: Facts) -> Iterator[Any]:
    """Yield what `ablate` prints."""
    told = "items         {runs:7,}   replayed without a call"
    yield text(told.format(**facts), "bold")
    told = "as on tape    {reproduced:7,}   {differ:,} differ, {not_ended:,} had no end"
    yield text(told.format(**facts))
    yield from raised(facts)
    yield from accepted_lines(facts)
    if not facts["reproduced"]:
        yield text("\nNone ends as on the tape: nothing to compare with.", "yellow")
        return
    heads = "|spoke|lost|%|unknown|%|changed|gained|saved"
    last = "Removed one after the other, the least missed first"
    for name, title in ("fixes", "Each left out alone"), ("removed", last):
        spoke = [row for row in facts[name] if row["spoke"]]
        rows = [line for row in spoke for line in removal_lines(row)]
        yield heading(title if facts[name] else f"{title}: none can go")
        if rows:
            yield table(heads, rows)
        if quiet := [clipped(row["fix"]) for row in facts[name] if not row["spoke"]]:
            yield text(f"never spoke: {', '.join(quiet)}", "dim")
    if facts["next"]:
        yield heading("These carry the result")
        yield text("  ".join(clipped(name) for name in facts["remain"]), "green")
        title = "The least missed of these would be"
        yield from section(title, heads, [*removal_lines(facts["next"])])
    told = "\nunknown: the model would be asked something new; saved: calls, at least"
    yield text(told, "dim")


def removal_lines(row: Facts) -> Iterator[list[Any]]:
    """Yield what becomes of the items without a fix-up, as lines of a table."""
    cells: list[Any] = [clipped(row["fix"], 40), row["spoke"]]
    for kind, style in ("lost", "red"), ("unknown", "yellow"):
        count = row[kind]["count"]
        cells.append(text(count, style if count else "dim"))
        cells.append(text(spread(row[kind]), "dim"))
    for kind in ("changed", "gained", "calls_saved"):
        cells.append(text(row[kind], "" if row[kind] else "dim"))
    yield cells
    if any(row.get("correct_before", {}).get(k, 0) for k in KINDS[1:]):
        was, now = row["correct_before"], row["correct_after"]
        turned = f"{was['changed']:,}>{now['changed']:,}"
        told = ["", was["lost"], "", was["unknown"], "", turned, now["gained"], ""]
        yield [text(cell, "dim") for cell in ["  correct", *told]]


def raised(facts: Facts) -> Iterator[Any]:
    """Yield a line about what the task raised, if it did."""
    if facts["errors"]:
        told = f"the task raised in {facts['errors']:,}: {clipped(facts['error'], 200)}"
        yield text(told, "yellow")


def replay_view(facts: Facts) -> Iterator[Any]:
    """Yield what `replay` prints."""
    told = "{runs:,} runs: {same:,} end as they did, {lost:,} accepted ones are lost"
    yield text(told.format(**facts), "bold red" if facts["lost"] else "bold green")
    yield from raised(facts)
    for it in facts["changed"]:
        rows = list[Any]()
        for when in ("before", "after"):
            good = it[when]["accepted"]
            words = clipped(it[when]["value" if good else "why"], 300)
            rows.append([when, text(words, "green" if good else "red")])
        yield heading(clipped(it["run"]))
        yield table("|", rows, body=1)


def show_view(facts: Facts) -> Iterator[Any]:
    """Yield what `show` prints."""
    events = facts["events"]
    yield text(clipped(facts["run"], 70), "bold")
    if "item" in facts:
        yield text(f"item {clipped(facts['item'], 200)}", "dim")
    if events[0]["event"] == "start":
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(events[0]["at"]))
        yield text(f"{when}  {clipped(worded(events[0]['settings']), 120)}\n", "dim")
        yield text(block(content_of(events[0]["task"])) + "\n", "italic")
    yield table("||calls|tokens|seconds", told_lines(events), body=1)


def told_lines(events: list[Facts]) -> Iterator[list[Any]]:
    """Yield the lines of a run, with what was spent until then at the right."""
    tokens, seconds, task = 0, 0.0, events[0].get("task")
    asked, shown = task, ""
    for event in events:
        kind, spent = event["event"], list[Any]()
        if kind in ("reply", "reused", "fault"):
            tokens += event.get("tokens", 0)
            seconds += event["seconds"] if kind != "reused" else 0.0
            spent = [event["n"], tokens, seconds]
        elif kind == "end":
            spent = [event["calls"], event["tokens"], event["seconds"]]
        for mark, words, style in story(event, task, asked):
            if kind == "decide" and words == shown:
                continue  # what is wrong with a call that failed is shown already
            if shown and mark not in ("", "->") and not event["hook"]:
                yield [""]
            cells = f"{spent[0]:,} {spent[1]:,} {spent[2]:,.1f}" if spent else ""
            right = (text(cell, "dim") for cell in cells.split())
            yield [text(mark, style or "dim"), text(words, style), *right]
            shown, spent = words, []
        if kind == "sent" and not event["hook"]:
            asked = event["messages"]


def story(event: Facts, task: Any, asked: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what there is to tell of an event, line by line: a mark, words, a style."""
    kind, hook = event["event"], clipped(event["hook"])
    if kind in ("reply", "reused"):
        words = block(event.get("text", "")) or "(an empty reply)"
        words, style = (f"{hook} was told: {words}", "dim") if hook else (words, "")
        yield str(event["n"]), words, style
        if kind == "reused":
            yield "", "on the tape before, and not paid again", "dim"
        if event.get("finish") == "length":
            yield "", "cut off at the token limit", "dim"
    elif kind == "fault":
        yield str(event["n"]), clipped(event["why"], 300), "red"
    elif kind == "decide":
        did = {"Use": "mends the text", "Ask": "asks again", "Stop": "stops"}
        move = [event["fix"], did.get(event["move"], ""), worded(event["settings"])]
        yield "", clipped(event["why"], 300), "red"
        yield "->", " ".join(map(clipped, move)).rstrip(), "cyan"
    elif kind == "sent" and event["messages"] != asked and not hook:
        note = content_of(event["messages"]).removeprefix(content_of(task)).strip()
        note = f"the task, with: {clipped(note, 240)}" if note else "the task alone"
        yield "", note, "dim"
    elif kind == "end" and not hook:
        good = event["accepted"]
        value = f": {clipped(event['value'], 300)}" * good
        yield "=", f"{clipped(event['why'], 300)}{value}", "green" if good else "red"


def worded(settings: Facts) -> str:
    """Return settings as a person writes them; None removes one."""
    told = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
    words = (f"no {k}" if v == "null" else f"{k} {v}" for k, v in told.items())
    return ", ".join(words)


def content_of(messages: Any) -> str:
    """Return the text of the last message."""
    content = messages[-1].get("content") if messages else ""
    return content if isinstance(content, str) else json.dumps(content)


# The command line ---------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> Any:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {clipped(message, 400)}\n")


def parsed() -> argparse.Namespace:
    """Return what the command line says."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=shape)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    told = {"report": report, "ablate": ablate, "replay": replay, "show": show}
    for name, command in told.items():
        about = (command.__doc__ or "").partition("\n")[0]
        one = commands.add_parser(name, help=about, description=about)
        help_ = "one JSON object on stdout"
        one.add_argument("--json", action="store_true", help=help_)
        if name == "report":
            one.add_argument("tapes", nargs="+", metavar="TAPE")
        else:
            one.add_argument("tape", metavar="TAPE")
        if name in ("ablate", "replay"):
            one.add_argument("task", metavar="FILE:TASK", help="task(item, run)")
        if name in ("ablate", "report"):
            help_ = "function(item, value) -> bool"
            one.add_argument("--truth", metavar="FILE:FUNCTION", help=help_)
        if name == "ablate":
            help_ = "only this one; may be repeated"
            one.add_argument("--fix", action="append", default=[], help=help_)
        if name == "show":
            one.add_argument("run", nargs="?", default="", metavar="RUN")
            one.add_argument("--svg", metavar="FILE", help="write it as a picture, too")
        view: Callable[[Facts], Iterator[Any]] = globals()[f"{name}_view"]
        one.set_defaults(does=command, view=view, prog=one.prog)
    return parser.parse_args()


def main() -> int:
    """Do one command; print what it found."""
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")  # what the locale cannot show
    options = parsed()
    try:
        with redirect_stdout(sys.stderr):  # what a task prints is not our output
            facts, status = options.does(options)
        if options.json:
            plain = json.loads(json.dumps(facts), parse_constant=str)  # NaN is no JSON
            print(json.dumps(plain))
            return status
        from rich.console import Console

        console = Console(highlight=False)
        console.width = min(console.width, 100)
        for shown in options.view(facts):
            console.print(shown)
    except Wrong as error:
        progress("")
        print(f"{options.prog}: {clipped(str(error), 400)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        progress("")
        return 130
    return status


if __name__ == "__main__":
    with suppress(AttributeError):  # there is none on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as of `| head`: just end
    raise SystemExit(main())
