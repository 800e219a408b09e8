#!/usr/bin/env python3
"""Does each special case earn its place: do its rows of the table fail without it?

    python="$(uv python find --script test_loop.py)"  # it has what the tests need
    $python .ci/without_each.py                       # each of them
    $python .ci/without_each.py json_slips escalate   # these
    $python .ci/without_each.py --drawn 3             # three, others each day

The cases are those of FIXES and FAULTS, `escalate`, and the fix-ups of more_fixes.py.
In a copy of the tree, each in turn makes no move any more: its function returns None,
or the one that it makes does. It stays in the lists, so that only what it does is
missing. Then the quick part of the suite runs (see mutants.py). At least one row of the
case has to fail, of `test_special_case[json_slips: ...]`, and nothing else, but for the
tests in WHOLE_RUNS. `--rows` prints the rows that pass: they should say that it does
nothing.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from runpy import run_path
from typing import Any

from mutants import LOOP, Copy, Quick

MORE_FIXES = "examples/parts/more_fixes.py"

# Tests of whole runs that fail without a special case, each with the reason why.
WHOLE_RUNS: dict[str, str] = {}


def special_cases(tree: Path) -> dict[str, str]:
    """Return the file of each special case, by its name."""
    loop = run_path(str(tree / LOOP), run_name="loop")
    hooks = [*loop["FIXES"], loop["escalate"], *loop["FAULTS"]]
    files = {hook.__name__: LOOP for hook in hooks}
    for node in ast.parse((tree / MORE_FIXES).read_text(encoding="utf-8")).body:
        returns = isinstance(node, ast.FunctionDef) and ast.unparse(
            node.returns or node
        )
        if returns and re.search(r"\b(Hook|Ask|Use|Stop)\b", returns):
            files[node.name] = MORE_FIXES
    return files


def without(source: str, name: str) -> ast.Module:
    """Return a module in which a special case makes no move."""
    tree = ast.parse(source)
    named = [node for node in ast.walk(tree) if getattr(node, "name", "") == name]
    inmost: Any = named[-1]  # what a function makes has its name
    docstring = [it for it in inmost.body[:1] if isinstance(it, ast.Expr)]
    inmost.body = docstring + ast.parse("return None").body
    return ast.fix_missing_locations(tree)


def faults_without(name: str, outcome: str, lines: list[Any], show: bool) -> list[str]:
    """Return what is wrong with the tests that failed without a case; print a line on
    it, and where wanted the rows that passed."""
    failed = [test for test, event, _ in lines if event == "failed"]
    if outcome == "hung":
        failed.append(lines[-1][0])
    row = re.compile(rf"\[(?:a?run-)?{name}\w*: ")
    rows = {test for test, *_ in lines if row.search(test)}
    others = {re.sub(r".*::|\[.*", "", test) for test in failed if test not in rows}
    listed, wrong = others & WHOLE_RUNS.keys(), sorted(others - WHOLE_RUNS.keys())
    failing = len(rows.intersection(failed))
    also = f", and {', '.join(sorted(listed))}" if listed else ""
    print(f"{name}: {failing} of its {len(rows)} rows fail{also}", flush=True)
    for test in sorted(rows.difference(failed)) if show else ():
        print(f"    passes: {row.split(test)[1][:-1]}")
    if not lines:
        wrong.append("every test, as the file of the tests cannot be imported")
    faults = [f"fails too, and is not in WHOLE_RUNS: {it}" for it in wrong]
    return faults if failing else ["no row of the table fails", *faults]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("case", nargs="*", help="a special case (all)")
    parser.add_argument("--drawn", type=int, metavar="N", help="N of them, by the date")
    parser.add_argument("--rows", action="store_true", help="print the rows that pass")
    parser.add_argument("--tree", type=Path, default=here, help="a folder with loop.py")
    chosen = parser.parse_args()
    files = special_cases(chosen.tree)
    names = chosen.case or [*files]
    if unknown := set(names) - files.keys():
        parser.error(f"no special case: {', '.join(unknown)}")
    if chosen.drawn:
        today = datetime.now(timezone.utc).date().isoformat()
        names = random.Random(today).sample(names, min(chosen.drawn, len(names)))
    is_well = True
    with tempfile.TemporaryDirectory(prefix="without-each-") as folder:
        copied = Copy(chosen.tree, folder)
        seconds = copied.first_run([])
        for name in names:
            path = files[name]
            source = (copied.tree / path).read_text(encoding="utf-8")
            code = compile(without(source, name), path, "exec", dont_inherit=True)
            outcome, lines = copied.run([], Quick(seconds, "5"), path, code)
            for fault in faults_without(name, outcome, lines, chosen.rows):
                print(f"    {fault}", flush=True)
                is_well = False
    raise SystemExit(0 if is_well else 1)


if __name__ == "__main__":
    main()
