#!/usr/bin/env python3
"""Does each special case earn its place: do its rows of the table fail without it?

    python="$(uv python find --script test_loop.py)"  # it has what the tests need
    $python .ci/without_each.py                       # each of them
    $python .ci/without_each.py json_slips escalate   # these
    $python .ci/without_each.py --drawn 3             # three, others each day

The cases are those of FIXES and FAULTS, `escalate`, and the fix-ups of more_fixes.py.
In a copy of the tree, each in turn makes no move any more: its function returns None,
or the one that it makes. It stays in the lists, so that only what it does is missing.
Then the quick part of the suite runs (see mutants.py). At least one row of the case has
to fail, of `test_special_case[json_slips: ...]`, and nothing else, but for the tests in
WHOLE_RUNS. `--rows` prints the rows that pass: they should say that it does nothing.
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

ANY = ""
# Other tests that fail without a special case: which case, and why it is theirs, too.
WHOLE_RUNS = {
    "test_special_case": (ANY, "rows of a case that leaves the reply to this one"),
    "test_reader_of_json": ("json_slips", "the reader is seen through it"),
    "test_comment_above_the_reader_says_what_it_finds": ("json_slips", "likewise"),
    "test_header_has_the_contents_the_version_and_an_example_that_works": (
        "json_slips",
        "the example",
    ),
    "test_readme_code_prints_what_its_comments_say": (
        "json_slips label_in_talk escalate",
        "the examples",
    ),
    "test_hook_may_ask_a_model_and_its_question_has_a_judge_and_fix_ups": (
        "json_slips",
        "the answer to the question is repaired",
    ),
    "test_show_prints_what_was_wrong_before_what_was_done": (
        "label_in_talk",
        "a repair is shown",
    ),
    "test_run_ends_where": (
        "tools_wanted ask_with_complaint",
        "runs that end by the default fix-ups",
    ),
    "test_default_fix_ups_bring_round_a": (
        "cut_by_length ask_with_complaint",
        "models that only these bring round",
    ),
    "test_default_fix_ups_stop_a_hopeless_model_at_its_third_equal_reply": (
        "ask_with_complaint",
        "the third reply is asked for by it",
    ),
    "test_re_asks_are_the_task_and_the_complaint_in_turn_and_never_the_bad_reply": (
        "ask_afresh ask_with_complaint",
        "the two in turn",
    ),
    "test_complaint_stands": ("ask_with_complaint", "its note, in tasks of all kinds"),
    "test_call_may_change_its_messages_without_changing_what_is_recorded": (
        "ask_afresh",
        "it asks a second time",
    ),
    "test_fix_up_may_replace_the_task_so_that_no_tool_runs_twice": (
        "ask_afresh",
        "it asks the task that was replaced",
    ),
    "test_replay_returns_what_ends_otherwise_and_makes_no_call": (
        "ask_afresh",
        "a replayed run goes on with it",
    ),
    "test_batch_whose_first_items_all_fail_alike_is_given_up_and_no_result_is_lost": (
        "bad_request",
        "a refusal that all items share",
    ),
    "test_renamed_parameter_is_the_runs_alone_so_the_next_run_fails_once_again": (
        "rename_parameter",
        "two runs in a row",
    ),
    "test_person_who_answers_is_on_the_tape_sees_each_complaint_and_costs_nothing": (
        "json_slips ask_with_complaint person_answers",
        "what a person types has slips, and complaints",
    ),
    "test_arguments_of_a_tool_call_are_the_answer_and": (
        "json_slips",
        "arguments that are repaired",
    ),
    "test_answer_that_is_rejected_is_asked_for_again_and_no_tool_runs_twice": (
        "ask_afresh ask_with_complaint",
        "an agent goes on with them",
    ),
    "test_paused_turn_is_never_an_answer": ("tools_wanted", "it ends such a run"),
    "test_paused_turn_goes_on_where_it_paused_and_is_judged_as_a_whole": (
        "ask_afresh",
        "the turn is rejected once",
    ),
    "test_thinking_goes_back_before_its_tool_calls_also_from_a_tape": (
        "ask_afresh",
        "likewise",
    ),
    "test_hopeless_reply_is_asked_for_again_with_the_reason_also_from_a_tape": (
        "ask_with_complaint",
        "the reason is a note",
    ),
    "test_reply_that_its_call_rejects_is_not_judged_and_not_repaired": (
        "ask_with_complaint",
        "likewise",
    ),
    "test_what_waits_is_refused_where_an_event_loop_would_wait": (
        "person_answers",
        "under arun",
    ),
}


def special_cases(tree: Path) -> dict[str, str]:
    """Return the file of each special case, by its name."""
    loop = run_path(str(tree / LOOP), run_name="loop")
    hooks = [*loop["FIXES"], loop["escalate"], *loop["FAULTS"]]
    files = {hook.__name__: LOOP for hook in hooks}
    node: Any
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
    listed = {
        it for it, (of, _) in WHOLE_RUNS.items() if of == ANY or name in of.split()
    }
    wrong = sorted(others - listed)
    failing = len(rows.intersection(failed))
    also = f"{len(others & listed)} tests of WHOLE_RUNS"
    print(f"{name}: {failing} of its {len(rows)} rows fail, and {also}", flush=True)
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
