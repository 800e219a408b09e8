"""Situation: the model is confidently wrong now and then, and several answers to one
question are cheaper than a wrong one. Copy this file beside loop.py.

    result = agree("In which year ...?", int, call=call, times=5)
    result.why  # "accepted: 4 of 5 agree"

`agree` is no judge but a function that returns a Result, as `run` does. In a task of
batch.py: agree(ask, judge, run=run). Run this file to see a vote, offline.

Promised: a vote is a run of its own, with a name and a seed of its own; silence is no
vote, and a tie no agreement; the Result has the attempts of all runs and what they cost
together. Not promised: that what most answers say is true.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import (
    Account,
    Ask,
    Attempt,
    Hook,
    Limits,
    Messages,
    Result,
    Spent,
    run,
    scripted,
    settings_of,
)


def agree(
    ask: str | Messages | Ask,
    judge: Hook,
    *,
    call: Hook | None = None,
    times: int = 5,
    at_least: float = 0.5,
    name: str = "",
    run: Hook = run,
    limits: Limits | None = None,
    account: Account | None = None,
    **options: Any,
) -> Result[Any]:
    """Return the value that most of several runs accept, with the share in its `why`.

    Accepted where at least this share of `times` is for it, and more than for any
    other: a tie is no agreement, and a run that gave up is a vote for nothing. `best`
    is the most frequent value. Values are equal where their JSON is: "Yes" is not
    "yes", and an object with an odd key is another one, so let the judge return one
    form. Each run has a seed of its own, if there is one. The limits are of all runs
    together. It stops early only where agreement is out of reach: what you pay for is
    the share. In a batch's task give run=run, and no call. It is not async. Raises
    ValueError at temperature 0: all would be alike. (wave#1198)
    """
    ask = ask if isinstance(ask, Ask) else Ask(ask)
    seed = check_votes(ask, call, run, times, at_least).get("seed")
    if limits is not None and account is not None:
        raise ValueError("limits and account: give account=Account(limits)")
    account = Account(limits) if limits is not None else account
    given = {"call": call, "account": account}
    options |= {key: it for key, it in given.items() if it is not None}
    votes = Votes(times, at_least)
    while votes.are_open():
        number = len(votes.results)
        options |= {"name": f"{name}/{number + 1}"} if name else {}
        try:
            votes.add(run(with_seed(ask, seed, number), judge, **options))
        except BaseException as error:  # what was paid for before is not lost
            votes.attempts += getattr(error, "attempts", ())
            error.attempts = votes.attempts  # type: ignore[attr-defined]
            raise
    return votes.outcome()


def with_seed(ask: Ask, seed: Any, number: int) -> Ask:
    """Return what the vote of this number asks: with another seed, if there is one."""
    changed: dict[str, Any] = dict(ask.settings)
    if type(seed) is int:  # a re-ask takes the next: leave room for many
        changed["seed"] = seed + 1000 * number
    return Ask(ask.messages, ask.wait, ask.call, **changed)


def check_votes(
    ask: Ask, call: Hook | None, run: Hook, times: int, at_least: float
) -> dict[str, Any]:
    """Return the settings of the votes; raise ValueError where a vote is pointless."""
    if times < 2 or not 0 < at_least <= 1:
        raise ValueError(f"times is {times}, at_least {at_least}: 2 or more, 0 to 1")
    # Of a batch's bound run, or of a partial of `run`:
    bound = getattr(run, "options", None) or getattr(run, "keywords", {})
    caller = ask.call or call or bound.get("call")
    settings = (settings_of(caller) if caller else {}) | ask.settings
    if settings.get("temperature") == 0:
        raise ValueError("a vote at temperature 0 asks for one answer again and again")
    return settings


def json_key(value: Any) -> str:
    """Return a value as a text that is the same for equal values."""
    try:
        return json.dumps(value, sort_keys=True, default=repr)
    except (TypeError, ValueError):  # keys of several types, or a ring
        return repr(value)


class Votes:
    """The runs of a vote, and what they say."""

    def __init__(self, times: int, at_least: float):
        self.times, self.at_least = times, at_least
        self.results, self.attempts = list[Result[Any]](), list[Attempt]()
        self.counts, self.values = Counter[str](), dict[str, Any]()
        self.spent = Spent()

    def are_open(self) -> bool:
        """Return whether a further run may lead to agreement."""
        left = self.times - len(self.results)
        most = max(self.counts.values(), default=0)
        return left > 0 and (most + left) / self.times >= self.at_least

    def add(self, result: Result[Any]) -> None:
        """Count the vote of a run, and what it spent."""
        self.results.append(result)
        self.attempts += result.attempts
        for it in fields(Spent):
            total, more = getattr(self.spent, it.name), getattr(result.spent, it.name)
            total = None if total is None or more is None else total + more
            setattr(self.spent, it.name, total)
        if result:
            key = json_key(result.value)
            self.values.setdefault(key, result.value)
            self.counts[key] += 1

    def outcome(self) -> Result[Any]:
        """Return one result of all runs."""
        ranking = self.counts.most_common(2)
        rejected = [result for result in self.results if not result]
        if not ranking:
            runs = f"none of {len(self.results)} runs, of {self.times},"
            why = f"{runs} was accepted: {rejected[-1].why}"
            best = rejected[-1].best
            return Result(None, False, why, best, self.attempts, self.spent)
        key, most = ranking[0]
        value, share = self.values[key], f"{most} of {self.times} agree"
        if most / self.times < self.at_least:
            why = f"no agreement: {share}, {self.at_least:.0%} must"
        elif len(ranking) > 1 and ranking[1][1] == most:
            why = f"no agreement: {share}, and as many on another"
        else:
            why = f"accepted: {share}"
            return Result(value, True, why, value, self.attempts, self.spent)
        if rejected:
            why += f"; {len(rejected)} gave up, as in: {rejected[0].why}"
        return Result(None, False, why, value, self.attempts, self.spent)


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    call = scripted("Friday", "friday", "Monday", "Friday", "Friday")
    print(agree("When did it open?", str.capitalize, call=call))
