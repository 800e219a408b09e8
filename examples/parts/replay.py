"""Situation: a tape, and the question which of its runs end otherwise now.

Copy this file beside loop.py; for tapes of `each`, whose task is task(item, run), copy
batch.py as well. `python replay.py` shows it at work, without a model.

    def task(messages, run):  # `run` as in loop.py, with the call and the tape bound
        return run(messages, json_with(name=str))

    replay("runs.jsonl", task)  # the runs that end otherwise with the task as it is now

So the tape of a failure becomes a regression test: `assert replay(TAPE, task) == []`.

Promised: No call is made, nothing is written, and no run waits. Each run gets the
replies that it got, and the faults since its last start. A run that asks what is not on
the tape is returned, and says where it differs. What a task raises ends its item, and
is in the why of its runs.

Not promised: A run that did not end on the tape is not compared. An item that JSON
cannot hold comes as its repr. What a task does besides its runs, it does again.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from loop import (
    CallError,
    Reply,
    State,
    Tape,
    check_tape,
    digest,
    event_in,
    run,
    whole_lines,
)

Facts = dict[str, Any]  # an event of a tape
STOPPED = "the batch was stopped"  # why a run ended, as batch.py says it

# Replay -------------------------------------------------------------------------------


def replay(
    tape: str | os.PathLike[str], task: Callable[[Any, Any], object]
) -> list[dict[str, Any]]:
    """Do a task again from what a tape has; return the runs that end otherwise.

    Each is {"run": name, "before": end, "after": end}; an end has accepted, why, value.
    A tape of `each`: task(item, run) for each item. Any other: task(messages, run) for
    each run. No call is made: a run that asks what is not on the tape ends with
    "diverged", and what is nearest; one that the task does not do, with "not run".
    """
    recording = Recording(tape)
    if not recording.before:
        raise ValueError(f"{os.fspath(tape)} has no run that ended")
    begun, whys = recording.items or recording.starts, dict[str, str]()
    for name, event in begun.items():
        about = event["item" if recording.items else "task"]
        bound = bind_run(name, event, recording)
        try:
            task(about, bound)
        except Exception as error:  # noqa: BLE001
            whys[name] = f": {type(error).__name__}: {error}"
    for name, end in recording.after.items():
        if name not in recording.before:  # it asks something else, so it has a new name
            whys.setdefault(item_of(name, begun), f": {end['why']}")
    changes: list[dict[str, Any]] = []
    for name, before in sorted(recording.before.items()):
        item = item_of(name, begun)
        not_run = {
            "accepted": False,
            "why": f"not run{whys.get(item, '')}",
            "value": None,
        }
        after = recording.after.get(name, not_run)
        if item in begun and (after is not_run or ends_otherwise(before, after)):
            ends = [{key: end[key] for key in not_run} for end in (before, after)]
            changes.append({"run": name, "before": ends[0], "after": ends[1]})
    return changes


def bind_run(name: str, event: Facts, recording: Recording) -> Any:
    """Return `run` as a task gets it: for the run, or the item, that this event began.

    Raises ImportError for an item, if batch.py is not there.
    """
    call = partial(make_no_call, **event["settings"])
    if event["event"] == "start":
        return partial(run, name=name, call=call, tape=recording)
    try:
        from .batch import bind  # in a package
    except ImportError:
        from batch import bind
    return bind(event["item"], name=name, call=call, tape=recording)


def ends_otherwise(before: Facts, after: Facts) -> bool:
    """Return whether a run ends otherwise than on the tape, or may do so."""
    ends = [json.dumps([end["accepted"], end["value"]]) for end in (before, after)]
    diverged = "diverged: " in after["why"]
    if before["why"].startswith(("limit reached", STOPPED)):
        # It would have gone on; where it does so now, its task has not changed.
        diverged = diverged and before["tries"] != after["tries"]
    return ends[0] != ends[1] or diverged


def item_of(run_name: str, names: Facts) -> str:
    """Return which of these items a run belongs to; the names of both may have /."""
    while run_name not in names and "/" in run_name:
        run_name = run_name.rpartition("/")[0]
    return run_name


def make_no_call(*_messages: Any, **_settings: Any) -> Reply:
    """The call of a replay, which the tape answers."""
    raise NotImplementedError("a replay makes no call")


class Recording:
    """A tape, for `run`, that answers from a file and writes nothing.

    It repeats the replies of a run, and the faults since its last start. `.items` and
    `.starts` have the events that began items and runs, by name; `.before` the events
    that ended runs on the tape, and `.after` those that end them now.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.items, self.starts = dict[str, Facts](), dict[str, Facts]()
        self.before, self.after = dict[str, Facts](), dict[str, Facts]()
        self.asked: dict[
            tuple[str, int], str
        ] = {}  # digest of the request, by run and n
        self.requests: defaultdict[str, list[int]] = defaultdict(list)  # their places
        # Of replies and faults, by run: the place, the digest of the request, the kind.
        self.outcomes: defaultdict[str, list[tuple[int, str, str]]] = defaultdict(list)
        check_tape(self.path)
        for place, line in whole_lines(self.path):
            event = event_in(line)
            if event:
                self.note(event, place)

    def note(self, event: Facts, place: int) -> None:
        """Note an event of the file."""
        kind, name = event["event"], event["run"]
        if kind == "item":
            self.items[name] = event
        elif kind == "start":
            self.starts[name] = event
            self.before.pop(name, None)
            replies = [it for it in self.outcomes[name] if it[2] == "reply"]
            self.outcomes[name] = replies
        elif kind == "sent":
            self.requests[name].append(place)
            request = digest([event["messages"], event["settings"]])
            self.asked[name, event["n"]] = request
        elif kind in ("reply", "fault"):
            request = self.asked.get((name, event["n"]), "")
            self.outcomes[name].append((place, request, kind))
        elif kind == "end" and not event["hook"]:
            self.before[name] = event

    def name_run(self, task: Any) -> str:
        """Return a name for a nameless run."""
        return digest(task)

    def recall(self, state: State) -> Reply | CallError:
        """Return what came of the present request; raise CallError where none did."""
        request = [state.messages, state.settings]
        state.attempt.key = key = digest(request)
        number = sum(attempt.key == key for attempt in state.attempts) - 1
        outcomes = self.outcomes[state.name]
        places = [place for place, request, _ in outcomes if request == key]
        if number >= len(places):
            raise CallError(self.divergence(state.name, json.dumps(request)))
        event = self.event_at(places[number])
        if event["event"] == "fault":
            return CallError(**{it.name: event[it.name] for it in fields(CallError)})
        state.attempt.reused = True
        event["tool_calls"] = tuple(event["tool_calls"])
        return Reply(**{it: event[it] for it in Reply.__slots__ if it in event})

    def event_at(self, place: int) -> Facts:
        """Return the event at this place of the file."""
        _, line = next(whole_lines(self.path, place))
        event: Facts = json.loads(line)
        return event

    def divergence(self, run_name: str, asked: str) -> str:
        """Return where a request differs from the nearest of its run, or its item."""
        item = run_name.rpartition("/")[0] + "/"
        related = [name for name in self.requests if name.startswith(item)]
        nearest, same = "", -1
        for name in [run_name] if run_name in self.requests else related:
            for event in map(self.event_at, self.requests[name]):
                request = json.dumps([event["messages"], event["settings"]])
                length = len(os.path.commonprefix([asked, request]))
                if length > same:
                    nearest, same = request, length
        if nearest == asked:
            return f"diverged: asked once more than on the tape {asked:.80}"
        at = max(0, same - 20)
        found = f"{nearest[at : at + 80]!r}" if nearest else "nothing of this item"
        return f"diverged: asked {asked[at : at + 80]!r}, on the tape {found}"

    def write(self, event: Facts) -> None:
        """Note how a run ends, as a tape would have it."""
        if event["event"] == "end" and not event["hook"]:
            try:
                text = json.dumps(event, default=repr, skipkeys=True)
            except Exception:  # noqa: BLE001
                text = json.dumps(event | {"value": "not JSON"})
            self.after[event["run"]] = json.loads(text)


# An example ---------------------------------------------------------------------------


def demo(path: str) -> None:
    """Record three runs, then replay them with the same judge and with another."""

    def answer(messages: Any, **_settings: Any) -> str:
        return f"{len(messages[0]['content'])} letters"

    def measure(messages: Any, run: Any) -> Any:
        return run(messages, lambda text: int(text.split()[0]))

    def measure_strictly(messages: Any, run: Any) -> Any:
        return run(messages, int)

    tape = Tape(path)
    for word in ("inch", "foot", "yard"):
        measure(word, partial(run, name=word, call=answer, tape=tape))
    print("as it was:", replay(path, measure))
    for change in replay(path, measure_strictly):
        print(change)


if __name__ == "__main__":
    import argparse
    from tempfile import TemporaryDirectory

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    with TemporaryDirectory() as folder:
        demo(f"{folder}/runs.jsonl")
