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
as `each` takes it. With --truth FILE:FUNCTION, function(item, value) -> bool, accepted
figures come twice: accepted, and correct as well. --json: one JSON object on stdout.
Shares have their 95 % intervals (Wilson). A resumed run counts once, as it went last;
what was paid counts always. Where a run without a fix-up would ask the model something
new, the outcome is unknown, and is not guessed. Exit status: 0; 1 if `replay` lost an
accepted run; 2 for a wrong argument or tape; 130 after Ctrl-C.
"""

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
from contextlib import redirect_stdout, suppress
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

import loop
from loop import Hook, name_of, visible

Facts = dict[str, Any]  # an event, or figures for --json
Lives = list[list[Facts]]  # the events of a run, for each time that it began

# What the user gave. ValueError and OSError: it cannot be used ------------------------


def read(path: str) -> tuple[Facts, dict[str, Lives]]:
    """Return the items of a tape, or what began its runs if it has none; the runs."""
    items, runs = Facts(), defaultdict[str, Lives](list)
    for _, event in loop.Tape.events(path):
        kind, run = event.get("event"), event.get("run")
        if kind == "item":
            items[run] = event
        elif event.keys() >= {"event", "run", "n", "hook", "at"}:  # it is ours
            if kind == "start" or run not in runs:
                runs[run].append([])
            runs[run][-1].append(event)
    if not items and not runs:
        raise ValueError(f"{path}: no events: an empty tape")
    starts = {run: lives[-1][0] for run, lives in runs.items()}
    return items or {k: it | {"item": it.get("task")} for k, it in starts.items()}, runs


def item_of(run: str, items: Facts) -> str:
    """Return the name of the item that a run belongs to; "" where there is none."""
    while run and run not in items:
        run = run.rpartition("/")[0]  # the name of an item may have slashes, too
    return run


def loaded(where: str) -> Hook:
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
        raise ValueError(f"{path}: there is another module {path.stem}; rename it")
    made = [k for k, v in vars(module).items() if callable(v) and k[0] != "_"]
    if name not in made:
        raise ValueError(f"{file} has no function {name!r}{nearest(name, made)}")
    return vars(module)[name]


def nearest(name: str, names: Any) -> str:
    """Return the end of an error: what was perhaps meant, else what there is."""
    there = sorted(names)
    near = difflib.get_close_matches(name, there, 1, 0.4)
    return f"; nearest: {near[0]}" if near else f"; there is {', '.join(there[:5])}"


def is_true(truth: Hook, item: Any, value: Any) -> bool:
    """Return what the user's function says of a value."""
    try:
        return bool(truth(item, value))
    except Exception as error:  # noqa: BLE001
        about = f"{name_of(truth)}({clipped(item)}, {clipped(value)})"
        raise ValueError(f"{about} fails: {type(error).__name__}: {error}") from None


# report -------------------------------------------------------------------------------


def share(count: int, of: int) -> Facts:
    """Return a share with its 95 % interval (Wilson: honest for few and for none)."""
    if not of:
        return {"count": 0, "of": 0, "share": None, "interval": (0.0, 1.0)}
    z, p, root = 1.959964, count / of, 1 + 1.959964**2 / of
    middle = (p + z * z / (2 * of)) / root
    half = z * (p * (1 - p) / of + (z / of / 2) ** 2) ** 0.5 / root
    ends = (middle - half if count else 0.0, middle + half if count < of else 1.0)
    return {"count": count, "of": of, "share": p, "interval": ends}


QUOTED = re.compile(r"""(?<!\w)(["'`])(?:\\.|(?!\1).)*\1(?!\w)""", re.DOTALL)
BRACKETS = re.compile(r"\{.*\}|\[.*\]", re.DOTALL)
NUMBER = re.compile(  # or a place in JSON, or what may be the id of a request
    r"line \d+ column \d+ \(char \d+\)|(?<![^\W_])-?\d\w*|\b(?=\w*\d)\w{12,}"
)


@lru_cache(maxsize=4096)
def kind_of(why: str) -> str:
    """Return a complaint without what differs from case to case, so that it groups."""
    text = QUOTED.sub('"..."', clipped(why, 400))
    return clipped(NUMBER.sub("#", BRACKETS.sub("[...]", text)), 120)


UNITS = ("calls", "failed", "tokens", "estimated", "seconds", "dollars")


def bill_of(event: Facts, asked: int) -> Counter[str]:
    """Return what a call cost, as Run.cost does; dollars are NaN without a price."""
    bill = Counter[str](calls=1, seconds=event["seconds"] or 0.0)
    if event["event"] == "fault":
        return bill + Counter(failed=1)
    came = (len(event["text"]) + len(event["reasoning"])) // 4
    for unit, guess in ("input_tokens", asked), ("output_tokens", came):
        told = event[unit]
        bill["tokens"] += guess if told is None else max(told, 0)
        bill["estimated"] += guess if told is None else 0
    bill["dollars"] = math.nan if event["cost"] is None else event["cost"]
    return bill


def account(lives: Lives, bills: dict[str, Counter[str]], maybe: Counter[str]) -> Facts:
    """Add what a run cost to the bills, by fix-up and "" of all; return how it went."""
    run: Facts = {"fixes": []}
    for life in lives:
        run |= {"moves": [], "end": None, "accepted": False, "correct": False}
        sent, moved, before = Facts(), Facts(), Facts()
        for event in life:
            kind, hook = event["event"], event["hook"]
            if kind == "start":
                run |= {"task": event["task"], "fixes": event["fixes"]}
            elif kind == "sent":  # if a kill comes now, the model may work all the same
                size = sum(len(str(it.get("content"))) for it in event["messages"])
                sent[hook] = Counter(calls=1, tokens=size // 4)
                maybe.update(sent[hook])
            elif kind in ("reply", "fault"):
                asked = sent.pop(hook, Counter())
                maybe.subtract({} if event.get("billed") else asked)
                own = {"fix": hook} if hook in run["fixes"] else moved.get("", {})
                for fix in {"", moved.get(hook, own).get("fix", "")}:
                    bills[fix].update(bill_of(event, asked["tokens"]))
            elif kind == "decide":
                why = kind_of(event["why"])
                moved[hook] = {"fix": event["fix"], "complaint": why, "next": False}
                moved[hook]["at"] = event["at"]
                run["moves"].append(moved[hook])
            elif kind == "end":
                moved.pop(hook, {})["next"] = event["accepted"]
                if not hook:
                    run |= {"end": event, "accepted": event["accepted"]}
                    why = event["why"].partition("; at last: ")[2]
                    # A decision told it already; of a repair, Use, it is another one.
                    spoke = before.get("event") == "decide" and before["move"] != "Use"
                    if why and not spoke and not event["accepted"]:
                        it = {"fix": "", "complaint": kind_of(why), "next": False}
                        run["moves"].append(it)
            before = before if hook else event
    return run


def report(options: Any) -> tuple[Facts, int]:
    """Return what the tapes say of outcomes, fix-ups and complaints."""
    truth = loaded(options.truth) if options.truth else None
    bills, maybe = defaultdict[str, Counter[str]](Counter), Counter[str]()
    told, whys = list[Facts](), Counter[str]()
    for path in dict.fromkeys(options.tapes):
        items, runs = read(path)
        for name, lives in runs.items():
            told.append(run := account(lives, bills, maybe))
            if not run["end"]:
                whys["no end on the tape: killed, not done yet, or an error"] += 1
            elif not run["accepted"]:
                whys[kind_of(run["end"]["why"].partition("; at last: ")[0])] += 1
            elif truth:
                first = items.get(item_of(name, items), {"item": run.get("task")})
                run["correct"] = is_true(truth, first["item"], run["end"]["value"])
    facts: Facts = {"runs": len(told)}
    for kind in ("accepted", "correct") if truth else ("accepted",):
        facts[kind] = share(sum(run[kind] for run in told), len(told))
    good, ends = facts["accepted"]["count"], [run["end"] for run in told if run["end"]]
    spent = {unit: sum(end[unit] for end in ends) for unit in ("calls", "tokens")}
    facts["per_accepted"] = {u: n / good if good else None for u, n in spent.items()}
    paid = {fix: {unit: bill[unit] for unit in UNITS} for fix, bill in bills.items()}
    facts["paid"] = paid.pop("", dict.fromkeys(UNITS, 0))
    facts["maybe_billed"] = {unit: maybe[unit] for unit in spent}
    facts["ended"] = [{"why": why, "runs": n} for why, n in whys.most_common()]
    facts["fixes"] = outcomes(told, "fix", bool(truth))
    free, last = dict.fromkeys(UNITS, 0), last_moves(told)
    facts["costs"] = [
        {"fix": fix} | paid.get(fix, free) | {"last": last.get(fix, "never")}
        for fix in sorted(
            {*paid, *last}, key=lambda fix: -paid.get(fix, free)["tokens"]
        )
    ]
    listed = Counter(fix for run in told for fix in run["fixes"])
    for row in facts["fixes"]:
        listed.pop(row["fix"], 0)
    facts["silent"] = [  # the rule of three: 95 % sure that no more runs need them
        {"fix": fix, "runs": n, "at_most": min(1.0, 3 / n)} for fix, n in listed.items()
    ]
    facts["complaints"] = outcomes(told, "complaint", bool(truth))
    return facts, 0


def last_moves(runs: list[Facts]) -> dict[str, str]:
    """Return the day on which each fix-up spoke last."""
    last = dict[str, float]()
    for move in (move for run in runs for move in run["moves"] if move["fix"]):
        last[move["fix"]] = max(move["at"], last.get(move["fix"], 0.0))
    return {fix: str(date.fromtimestamp(when)) for fix, when in last.items()}


def outcomes(runs: list[Facts], by: str, truth: bool) -> list[Facts]:
    """Return, for each fix-up ("fix") or complaint, how it went on from it."""
    rows = defaultdict[str, Counter[str]](Counter)
    for run in runs:
        for move in run["moves"]:
            right = move["next"] and run["correct"]
            rows[move[by]].update(fired=1, next=move["next"], correct_next=right)
        for name in {move[by] for move in run["moves"]}:
            rows[name].update(runs=1, end=run["accepted"], correct_end=run["correct"])
    rows.pop("", None)
    told = list[Facts]()
    for name, row in sorted(rows.items(), key=lambda it: -it[1]["fired"]):
        told.append({by: name, "fired": row["fired"], "runs": row["runs"]})
        for when, of in ("next", row["fired"]), ("end", row["runs"]):
            told[-1][when] = share(row[when], of)
            if truth:
                told[-1][f"correct_{when}"] = share(row[f"correct_{when}"], of)
    return told


# ablate -------------------------------------------------------------------------------

as_kept = partial(json.dumps, default=repr, skipkeys=True)  # as a tape has a value


def ends_of(events: list[Facts]) -> Facts:
    """Return how runs ended, by name: accepted, and the value."""
    ends = (it for it in events if it["event"] == "end" and not it["hook"])
    return {it["run"]: (it["accepted"], as_kept(it["value"])) for it in ends}


class Bench:
    """A task, and the items of a tape to try it on without a call."""

    def __init__(self, path: str, task: Hook, truth: Hook | None):
        self.items, runs = read(path)
        self.task, self.truth, self.fixes = task, truth, Facts()  # those listed
        self.tape: Any = loop.Tape(path, replaying=True)
        self.tried = lru_cache(maxsize=None)(self.replayed)
        self.ends = defaultdict[str, Facts](dict)  # by item, on the tape
        for run, lives in runs.items():
            self.ends[item_of(run, self.items)] |= ends_of(lives[-1]) or {run: None}

    def replayed(self, name: str, gone: frozenset[str]) -> Facts:
        """Return how an item ends when exactly these fix-ups are left out."""
        first, call, events = self.items[name], loop.script(), list[Facts]()
        vars(call).update(settings=first["settings"])
        self.tape.names.clear()  # each trial is the first
        self.tape.write = events.append
        run = partial(loop.run, name=name, call=call, tape=self.tape)
        if first["event"] == "item":
            run = loop.bound(first["item"], name, call, self.tape)
        it = {"accepted": False, "value": "null", "correct": False, "error": ""}
        try:
            result = self.task(first["item"], partial(without, run, gone))
            it |= {"accepted": result.accepted, "value": as_kept(result.value)}
        except Exception as raised:  # noqa: BLE001, as in `each`: it ends this item
            it["error"] = f"{type(raised).__name__}: {raised}"
        whys = [event.get("why", "") for event in events if event["event"] == "end"]
        it["known"] = not any(
            why.startswith("diverged: ") for why in whys
        )  # hooks' too
        if it["accepted"] and it["known"] and self.truth:
            it["correct"] = is_true(self.truth, first["item"], json.loads(it["value"]))
        self.fixes |= dict.fromkeys(fix for e in events for fix in e.get("fixes", ()))
        it["calls"] = sum(e.get("calls", 0) for e in events if not e["hook"])
        it["spoke"] = {e.get("fix") or e["hook"] for e in events}  # or made a call
        return it | {"ends": ends_of(events) if it["known"] else None}

    def outcome(self, name: str, gone: frozenset[str] = frozenset()) -> Facts:
        """Return how an item ends without these; the silent ones make no difference."""
        out = frozenset[str]()
        while more := self.tried(name, out)["spoke"] & gone - out:
            out |= more  # with these left out, others may speak that did not before
        return self.tried(name, out)


def without(run: Hook, gone: frozenset[str], *asked: Any, **own: Any) -> Any:
    """Do what `run` does, with the fix-ups of these names left out."""
    for key, default in ("fixes", loop.FIXES), ("faults", loop.FAULTS):
        hooks = own.get(key, default)
        own[key] = [hook for hook in hooks if name_of(hook) not in gone]
    return run(*asked, **own)


def ablate(options: Any) -> tuple[Facts, int]:
    """Return what each fix-up carries: left out alone, then one after the other."""
    truth = loaded(options.truth) if options.truth else None
    bench = Bench(options.tape, loaded(options.task), truth)
    trials = {name: bench.outcome(name) for name in bench.items}
    same = {name: it for name, it in trials.items() if it["ends"] == bench.ends[name]}
    for name in options.fix:
        if name not in bench.fixes:
            raise ValueError(f"no fix-up {name!r}{nearest(name, bench.fixes)}")
    facts: Facts = {"items": len(trials), "as_on_tape": len(same)}
    facts["errors"] = sorted({it["error"] for it in trials.values()} - {""})
    for kind in ("accepted", "correct") if truth else ("accepted",):
        facts[kind] = share(sum(it[kind] for it in same.values()), len(same))
    fixes = [*(options.fix or bench.fixes)] if same else []
    facts["alone"] = [measured(bench, same, frozenset(), fix) for fix in fixes]
    facts |= {"removed": [], "remain": fixes, "next": []}
    while fixes and not facts["next"]:
        gone = frozenset(row["fix"] for row in facts["removed"])
        last_first = (measured(bench, same, gone, fix) for fix in reversed(fixes))
        least = min(last_first, key=lambda row: (row["hurt"], row["saved"]))
        facts["next" if least["hurt"] else "removed"].append(least)
        fixes = [fix for fix in fixes if least["hurt"] or fix != least["fix"]]
    return facts | {"remain": fixes}, 0


def measured(bench: Bench, same: Facts, gone: frozenset[str], fix: str) -> Facts:
    """Return how items end without these fix-ups and this one, next to the tape."""
    told = Counter[str]()
    for name, was in same.items():
        now = bench.outcome(name, gone | {fix})
        if not now["known"]:
            kind = "unknown"
        elif was["accepted"] != now["accepted"]:
            kind = "lost" if was["accepted"] else "gained"
        else:
            kind = "same" if was["value"] == now["value"] else "changed"
        # A changed value is harm where it was correct; without --truth, who knows.
        wrong = not bench.truth or was["correct"] > now["correct"]
        told[kind] += 1
        told["hurt"] += kind in ("lost", "unknown") or (kind == "changed" and wrong)
        told["spoke"] += fix in bench.outcome(name, gone)["spoke"]
        told["saved"] += max(0, now["calls"] - was["calls"])
        told["correct"] += now["correct"]
    facts: Facts = {"fix": fix, "spoke": told["spoke"]}
    facts |= {kind: share(told[kind], len(same)) for kind in ("lost", "unknown")}
    facts |= {k: told[k] for k in ("changed", "gained", "saved", "hurt")}
    return facts | ({"correct": told["correct"]} if bench.truth else {})


def replay(options: Any) -> tuple[Facts, int]:
    """Return which runs of the tape end otherwise with the task as it is now."""
    task, errors, (_, runs) = loaded(options.task), list[str](), read(options.tape)
    count = sum(any(ends_of(life) for life in lives) for lives in runs.values())

    def calm(item: Any, run: Hook) -> Any:
        try:  # as in `each`: what it raises ends this item, and no more
            return task(item, run)
        except Exception as error:  # noqa: BLE001
            errors.append(f"{type(error).__name__}: {error}")

    changed = loop.replay(options.tape, calm)
    for it in changed:
        sure = it["after"]["accepted"] and "diverged: " not in it["after"]["why"]
        it["lost"] = bool(it["before"]["accepted"] and not sure)
    lost = sum(it["lost"] for it in changed)
    facts: Facts = {"runs": count, "same": count - len(changed), "lost": lost}
    return facts | {"errors": errors, "changed": changed}, int(lost > 0)


def show(options: Any) -> tuple[Facts, int]:
    """Return one run of the tape, event by event, each reused reply with its text."""
    items, runs = read(options.tape)
    name = chosen(options.run, runs, items)
    came, told = defaultdict[str, list[Facts]](list), list[Facts]()
    for event in (event for life in runs[name] for event in life):
        if event["event"] == "reply":
            came[event["key"]].append(event)
    for event in runs[name][-1]:
        known = event["event"] in ("reply", "reused") and came[event["key"]]
        told.append(known.pop(0) | event if known else event)
    item = items.get(item_of(name, items), {}).get("item")
    facts: Facts = {"tape": options.tape, "run": name, "item": item, "events": told}
    if options.svg:
        write_svg(options.svg, facts)
    return facts, 0


def chosen(wanted: str, runs: dict[str, Lives], items: Facts) -> str:
    """Return the name of the run that is meant; of several, the most instructive."""
    among = [run for run in runs if wanted in ("", run, item_of(run, items))]
    among = among or [run for run in runs if run.startswith(wanted)]
    whole = sorted({item_of(run, items) or run for run in among})
    if wanted and len(whole) > 1:
        raise ValueError(f"{wanted!r} may be {', '.join(whole[:4])} ...")
    if not among:
        raise ValueError(f"no run {wanted!r}{nearest(wanted, {*runs, *items})}")

    def worth(run: str) -> tuple[bool, int, int]:  # accepted at last, after much
        moves = sum(event["event"] == "decide" for event in runs[run][-1])
        good = any(event.get("accepted") for event in runs[run][-1])
        return moves > 0 and good, moves, len(runs[run][-1])

    return max(among, key=worth)


def write_svg(path: str, facts: Facts) -> None:
    """Write the run as a picture that loads nothing from elsewhere."""
    out = Console(**PLAIN, record=True, file=io.StringIO(), width=92)
    told_run(out, facts)
    svg = out.export_svg(title=clipped(facts["run"]))
    svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*;", "font-family: monospace;", svg)
    Path(path).write_text(svg, encoding="utf-8")


# What is printed ----------------------------------------------------------------------

PLAIN: Facts = {"highlight": False, "markup": False, "emoji": False}  # hostile text
MOVES = {"Use": "mends the text", "Ask": "asks again", "Stop": "stops"}
DIGITS = {"dollars": 4, "seconds": 1}
TITLES = {
    "ended": "Why the others ended",
    "fixes": "What came of their moves, in %",
    "costs": "What their moves cost, and when they spoke last",
    "silent": "Fix-ups that never spoke, and how many runs may need them, at most",
    "complaints": "Complaints and faults",
    "errors": "The task raised",
    "alone": "Each left out alone; unknown: the model would be asked; saved: at least",
    "removed": "Removed one after the other, the least missed first",
    "remain": "These carry the result",
    "next": "The least missed of these would be",
}


def clipped(value: Any, most: int = 60) -> str:
    """Return a value on one line, safe to show, without its middle where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text if len(text) <= 2 * most else text[:most] + text[-most:]
    text = visible(text).replace("\n", "\\n").replace("\t", " ")
    half = max(2, most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def cell(it: Any, key: str = "") -> str:
    """Return a fact in a few words; a share in per cent, with its interval."""
    if isinstance(it, dict):
        low, high = it["interval"]
        digits = int(high - low < 0.03)
        ends = "-".join(f"{100 * end:.{digits}f}" for end in (low, high))
        return f"{100 * (it['share'] or 0):.{digits}f} {ends:>6}"
    if isinstance(it, str):
        return it
    if it is None or math.isnan(it):
        return "unknown"
    if key == "at_most":
        return f"{100 * it:.3g} %"
    return f"{it:,.{DIGITS.get(key, 2)}f}" if isinstance(it, float) else f"{it:,}"


def table(out: Console, title: str, rows: list[Facts], most: int = 20) -> None:
    """Print rows under a title; the first fact is a name, clipped to the room left."""
    if not rows:
        return
    first, *keys = rows[0]
    cells = [[cell(row[key], key) for key in keys] for row in rows[:most]]
    lines = [[re.sub("_(next|end)$", "", key) for key in keys], *cells]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = " " if len(keys) > 5 else "  "  # so that it fits in 80 columns
    room = out.width - sum(wide) - len(gap) * len(wide)
    names = ["", *(clipped(row[first], room) for row in rows[:most])]
    out.print(f"\n{title}", style="bold")
    for name, line in zip(names, lines, strict=True):
        padded = [c.rjust(width) for c, width in zip(line, wide, strict=True)]
        left = set_cell_size(name, max(map(cell_len, names)))
        out.print(gap.join([left, *padded]), style="" if name else "dim")
    if len(rows) > most:
        out.print(f"and {len(rows) - most:,} more lines, in --json", style="dim")


def overview(out: Console, facts: Facts) -> None:
    """Print what `report` and `ablate` found: figures in lines, lists as tables."""
    for key, it in facts.items():
        title = TITLES.get(key, key.replace("_", " "))
        if isinstance(it, list):
            table(out, title, [x if isinstance(x, dict) else {"": x} for x in it])
        elif isinstance(it, dict) and "share" in it:
            out.print(f"{title:13}{it['count']:9,}  {cell(it)} %", style="green")
        elif isinstance(it, dict):
            told = [f"{cell(n, u)} {u}" for u, n in it.items() if n or u == "calls"]
            out.print(", ".join([f"{title:13}{told[0]:>15}", *told[1:]]))
        else:
            out.print(f"{title:13}{cell(it):>9}")


def changes(out: Console, facts: Facts) -> None:
    """Print what `replay` found."""
    told = "{runs:,} runs: {same:,} end as they did, {lost:,} accepted ones are lost"
    out.print(told.format(**facts), style="bold red" if facts["lost"] else "bold green")
    table(out, "The task raised", [{"": error} for error in facts["errors"]])
    for it in facts["changed"]:
        out.print(f"\n{clipped(it['run'])}", style="bold")
        for when in ("before", "after"):
            good = it[when]["accepted"]
            words = clipped(it[when]["value" if good else "why"], 300)
            out.print(f"{when:6}  {words}", style="green" if good else "red")


def block(text: str) -> str:
    """Return a text as some lines, safe to show: where it is long, both ends of it."""
    text = text if len(text) <= 2000 else f"{text[:1400]} ... {text[-600:]}"
    lines = visible(text.expandtabs(4)).strip("\n").split("\n")
    lines = lines if len(lines) <= 8 else [*lines[:4], "...", *lines[-3:]]
    return "\n".join(clipped(line, 240) for line in lines)


def told_run(out: Console, facts: Facts) -> None:
    """Print what `show` found."""
    out.print(clipped(facts["run"], 70), style="bold")
    grid = Table(box=None, show_header=False, pad_edge=False, expand=True)
    grid.add_column()
    grid.add_column(ratio=1, overflow="fold")
    grid.add_column(justify="right", style="dim", no_wrap=True)
    task = ""
    for event in facts["events"]:
        kind, hook, n = event["event"], clipped(event["hook"]), str(event["n"])
        spent = "cut off, " if event.get("finish") == "length" else ""
        spent += f"{event.get('seconds') or 0:.1f} s"
        why, good = clipped(event.get("why", ""), 300), event.get("accepted")
        if kind == "sent":
            words = str(event["messages"][-1].get("content"))
            more = clipped(words.removeprefix(task).strip(), 240)
            again = f"the task again, with: {more}" if more else "the task again"
            again = again if task and words.startswith(task) else block(words)
            task = task or words
            grid.add_row("", f"\n{again}", style="dim")
        elif kind in ("reply", "reused"):
            words = block(event.get("text", "")) or "(an empty reply)"
            words = f"{hook} was told: {words}" if hook else words
            grid.add_row(n, words, spent if kind == "reply" else "on the tape before")
        elif kind == "fault":
            grid.add_row(n, why, spent, style="red")
        elif kind == "decide":
            settings = " ".join(f"{k} {v}" for k, v in event["settings"].items())
            move = f"{event['fix']} {MOVES.get(event['move'], '')} {settings}"
            grid.add_row("", why, style="red")
            grid.add_row("->", clipped(move, 300), style="cyan")
        elif kind == "end" and not hook:
            words = f"{why}: {clipped(event['value'], 300)}" if good else why
            spent = "{calls} calls, {tokens:,} tokens, {seconds:.1f} s".format(**event)
            grid.add_row("=", words, spent, style="green" if good else "red")
    out.print(grid)


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
    (report, overview, "tapes --truth --json"),
    (ablate, overview, "tape task --truth --fix --json"),
    (replay, changes, "tape task --json"),
    (show, told_run, "tape run --svg --json"),
)


def main() -> int:
    """Do one command; print what it found."""
    shape = argparse.RawDescriptionHelpFormatter
    parser: Any = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.error = lambda why: parser.exit(2, f"{parser.prog}: {clipped(why, 400)}\n")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, view, names in COMMANDS:
        about = (command.__doc__ or "").partition("\n")[0]
        one = commands.add_parser(command.__name__, help=about, description=about)
        one.set_defaults(does=command, view=view)
        one.error = parser.error
        for name in names.split():
            one.add_argument(name, **ARGUMENTS[name])
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # what the locale cannot show
    options = parser.parse_args()
    error = Console(stderr=True, force_terminal=sys.stderr.isatty())
    try:
        # What a task prints is not our output. On a terminal, it is seen to work.
        with error.status("reading and replaying"), redirect_stdout(sys.stderr):
            facts, status = options.does(options)
    except (OSError, ValueError) as wrong:
        parser.error(str(wrong))
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
