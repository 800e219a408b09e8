#!/usr/bin/env python3
"""Which small changes of loop.py, and of batch.py and replay.py in examples/parts, does
no test notice?

    python="$(uv python find --script test_loop.py)"   # it has what the tests need
    $python .ci/mutants.py -n 300                      # 300 of them, drawn at random
    $python .ci/mutants.py -n 50 --sections 5 --tests "-k special_case"
    $python .ci/mutants.py --numbers 812,1040          # these again

A mutant is the code with one change: another comparison or arithmetic operator, `and`
for `or`, a `not` more or less on a condition, a number plus 1, True for False, another
string, a statement replaced by `pass`, None returned, `break` for `continue`, or one
element of a list, tuple, set or dict or one keyword argument left out. Each change is
as likely. Left out are docstrings, annotations and other types, __version__, strings
within a `raise` or assigned to `cure` (the wording of errors), `if TYPE_CHECKING` and
`if __name__`. Some mutants do what the original does: no test can notice these.

Each runs in a copy of the tree, as byte code in its __pycache__: so all processes that
a test starts run it, too, and a test that reads the text of loop.py sees the original.
The tests are the quick part of the suite: first those on the mutant's own section that
took at most 0.5 s of processor time in a first run, then others that took at most 0.02;
no properties, and none of the sections on the examples and the ledger. The first
failure ends it. A test that takes 20 s hangs, which kills the mutant, too.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import faulthandler
import json
import marshal
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.util import MAGIC_NUMBER, cache_from_source
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import httpx  # noqa: F401  here, so that a forked process need not import it
import hypothesis.strategies  # noqa: F401
import pydantic  # noqa: F401
import pytest
import rich.live  # noqa: F401

LOOP, BATCH = "loop.py", "examples/parts/batch.py"
REPLAY = "examples/parts/replay.py"  # its tests are in the section on batches
HEADING = re.compile(r"# (\d+)\. (.*?) -+$")
SLOW_SECTIONS = re.compile("The examples|The ledger")
STRESSED = ("8", BATCH)  # what the section of stress tests is about, too
# Seconds of processor time that a test may take: one on the mutant's section, another.
QUICK, QUICKER = 0.5, 0.02
HANGS = 20  # seconds after which one hangs
MEMORY = 4 * 2**30  # bytes that a mutant may use

# Mutants ------------------------------------------------------------------------------

# Each operator, and what may stand in its place.
OPERATORS = dict(
    pair.split(": ")
    for pair in (
        "Lt: LtE GtE, LtE: Lt Gt, Gt: GtE LtE, GtE: Gt Lt, Eq: NotEq, NotEq: Eq, "
        "Is: IsNot, IsNot: Is, In: NotIn, NotIn: In, And: Or, Or: And, Add: Sub, "
        "Sub: Add, Mult: Div, Div: Mult, FloorDiv: Div, Mod: Mult, Pow: Mult, "
        "BitOr: BitAnd, BitAnd: BitOr"
    ).split(", ")
)
SIMPLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Raise, ast.Delete)
TYPES = ("annotation", "returns", "bases", "format_spec")  # fields of nodes


def places(parent: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Yield each node that may be changed, and before it its place: the node that it is
    in, the field, and the index in that, if it is a list."""
    for field, value in ast.iter_fields(parent):
        is_list = isinstance(value, list)
        for index, node in enumerate(value if is_list else [value]):
            if isinstance(node, ast.AST) and not left_out(parent, field, index, node):
                yield parent, field, index if is_list else None, node
                yield from places(node)


def left_out(parent: ast.AST, field: str, index: int, node: Any) -> bool:
    """Return whether a node is none of the program's behaviour, or only wording."""
    out = field in TYPES or getattr(node, "name", "") == "demo"
    if isinstance(parent, ast.Subscript) and field == "slice":
        out |= ast.unparse(parent.value) in ("list", "dict", "set", "defaultdict")
    if isinstance(parent, ast.Call):
        out |= field == "args" and index == 0 and ast.unparse(parent.func) == "cast"
    if isinstance(node, ast.Expr):
        out |= isinstance(node.value, ast.Constant)  # a docstring
    if isinstance(node, ast.If):
        out |= ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
    if isinstance(node, ast.Assign):
        name = ast.unparse(node.targets[0])
        out |= name in ("__version__", "cure")
        is_type = name == "T" or (name[0].isupper() and not name.isupper())
        out |= is_type and isinstance(parent, ast.Module)
    return out


def changes(field: str, node: Any, in_raise: bool) -> Iterator[ast.AST]:
    """Yield what may stand in the place of a node."""

    def but(**fields: Any) -> Any:
        changed = copy.copy(node)
        vars(changed).update(fields)
        return changed

    def others(operator: ast.AST) -> list[Any]:
        names = OPERATORS.get(type(operator).__name__, "").split()
        return [getattr(ast, name)() for name in names]

    def shorter(*names: str) -> Iterator[Any]:
        for at in range(len(getattr(node, names[0]))):
            lists = [getattr(node, name) for name in names]
            fewer = [[*it[:at], *it[at + 1 :]] for it in lists]
            yield but(**dict(zip(names, fewer, strict=True)))

    value = getattr(node, "value", None)
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            for other in others(operator):
                yield but(ops=[*node.ops[:at], other, *node.ops[at + 1 :]])
    elif isinstance(node, (ast.BoolOp, ast.BinOp, ast.AugAssign)):
        yield from (but(op=other) for other in others(node.op))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant):
        if isinstance(value, bool):
            yield but(value=not value)
        elif isinstance(value, (int, float)):
            yield but(value=value + 1)
        elif isinstance(value, str) and not in_raise:
            yield but(value=f"XX{value}XX" if value else "XX")
        elif isinstance(value, bytes) and not in_raise:
            yield but(value=b"XX" + value)
    elif isinstance(node, (ast.Break, ast.Continue)):
        other = ast.Break if isinstance(node, ast.Continue) else ast.Continue
        yield ast.copy_location(other(), node)
    elif isinstance(node, ast.Return) and value and ast.unparse(value) != "None":
        yield but(value=ast.copy_location(ast.Constant(None), node))
    elif isinstance(node, ast.Dict):
        yield from shorter("keys", "values")
    elif isinstance(node, ast.Call):
        yield from shorter("keywords")
    elif isinstance(getattr(node, "ctx", None), ast.Store):
        pass
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        yield from shorter("elts")
    if isinstance(node, SIMPLE) and (value or not isinstance(node, ast.AnnAssign)):
        yield ast.copy_location(ast.Pass(), node)
    # To negate a comparison is to change its operator, which was done above.
    negated = (ast.Compare, ast.Constant, ast.UnaryOp)
    if field in ("test", "ifs") and not isinstance(node, negated):
        yield ast.copy_location(ast.UnaryOp(ast.Not(), node), node)


def mutants_of(tree: ast.Module) -> Iterator[tuple[int, Callable[[], list[str]]]]:
    """Yield each mutant of a module: its line, and what makes the tree into it and
    returns the difference."""
    raises = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    in_raises = {id(node) for it in raises for node in ast.walk(it)}

    def make(parent: ast.AST, field: str, index: int | None, new: ast.AST) -> list[str]:
        before = ast.unparse(tree).splitlines()
        if index is None:
            setattr(parent, field, new)
        else:
            getattr(parent, field)[index] = new
        after = ast.unparse(tree).splitlines()
        lines = difflib.unified_diff(before, after, n=0, lineterm="")
        return [line for line in lines if not line.startswith(("---", "+++", "@@"))]

    line = 0
    for parent, field, index, node in places(tree):
        line = getattr(node, "lineno", line)
        for new in changes(field, node, id(node) in in_raises):
            yield line, partial(make, parent, field, index, new)


# Running the tests --------------------------------------------------------------------


class Quick:
    """A plugin of pytest: it runs the quick tests, and logs a line of JSON for each.

    seconds: what each of the tests to run took in a first run; None in that. first: the
    section whose tests come first, or the path of the file that they are about.
    """

    def __init__(self, seconds: dict[str, float] | None = None, first: str = ""):
        self.seconds, self.first = seconds, first
        self.log = Path()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        lines = Path("test_loop.py").read_text(encoding="utf-8").splitlines()
        headings = [(n, it) for n, it in enumerate(map(HEADING.match, lines)) if it]
        chosen: list[tuple[bool, float, Any]] = []
        for item in items:
            above = [it.groups() for n, it in headings if n < item.location[1]]
            number, title = above[-1] if above else ("", "")
            about = re.search(r"\((.*)\)", title)  # a file or a folder
            is_first = number == self.first
            is_first |= bool(about and self.first.startswith(about[1]))
            is_first |= self.first == REPLAY and title.startswith("Batches")
            is_first |= self.first in STRESSED and title.startswith("Stress")
            is_property = getattr(item.obj, "is_hypothesis_test", False)
            taken = 0.0 if self.seconds is None else self.seconds.get(item.nodeid, 9.0)
            is_slow = taken > (QUICK if is_first else QUICKER)
            if not (is_property or is_slow or SLOW_SECTIONS.match(title)):
                chosen.append((not is_first, taken, item))
        items[:] = [item for *_, item in sorted(chosen, key=lambda it: it[:2])]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.note(nodeid, "started")
        limit = 600 if self.seconds is None else HANGS
        faulthandler.dump_traceback_later(limit, exit=True, file=2)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.note(report.nodeid, report.outcome)

    def note(self, nodeid: str, event: str) -> None:
        """Write a line to the log, with the processor time that was used so far."""
        with self.log.open("a", encoding="utf-8") as log:
            print(json.dumps([nodeid, event, sum(os.times()[:4])]), file=log)


class Copy:
    """A copy of a tree, in which one process at a time runs tests."""

    def __init__(self, tree: Path, folder: str):
        self.folder = Path(folder, str(os.getpid()))
        self.tree = self.folder / "tree"
        others = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache")
        shutil.copytree(tree, self.tree, ignore=others)

    def run(
        self, arguments: list[str], plugin: Quick, path: str = LOOP, code: Any = None
    ) -> tuple[str, list[Any]]:
        """Run the tests, with this byte code in the place of a file's. Return "passed",
        "failed" or "hung", and the lines of the log."""
        cached = Path(cache_from_source(str(self.tree / path)))
        if code is not None:
            cached.parent.mkdir(exist_ok=True)
            # By the second word, it is not checked against the source (PEP 552).
            head = MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
            cached.write_bytes(head + marshal.dumps(code))
        plugin.log = self.folder / "log"
        plugin.log.write_text("", encoding="utf-8")
        pid = os.fork()
        if not pid:
            try:
                self.run_here(arguments, plugin)
            finally:
                os._exit(99)
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # and what the tests left behind
            cached.unlink(missing_ok=True)
        lines = plugin.log.read_text(encoding="utf-8").splitlines()
        outcome = {100: "passed", 1: "hung"}.get(status, "failed")
        return outcome, [json.loads(line) for line in lines]

    def run_here(self, arguments: list[str], plugin: Quick) -> None:
        """Run the tests in this process, and end it."""
        os.setsid()
        os.chdir(self.tree)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        printed = os.open("../printed", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, opened in enumerate([os.open(os.devnull, 0), printed, printed]):
            os.dup2(opened, number)
        sys.argv, sys.path[0] = ["test_loop.py"], str(self.tree)
        sys.dont_write_bytecode = False  # a module is compiled once
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        faulthandler.dump_traceback_later(100, exit=True)  # also of the import
        command = "test_loop.py -q -p no:cacheprovider --basetemp=../tmp -W error -W"
        arguments = [*command.split(), "ignore:Module already imported", *arguments]
        os._exit(100 + pytest.main(arguments, plugins=[plugin]))

    def first_run(self, arguments: list[str]) -> dict[str, float]:
        """Return how long each test takes that passes."""
        _, lines = self.run(arguments, Quick())
        took: defaultdict[str, float] = defaultdict(float)
        for before, (name, _, now) in pairwise(lines):
            took[name] += now - before[2]
        failed = {name for name, event, _ in lines if event == "failed"}
        for name in sorted(failed):
            print(f"fails as it is, so it is left out: {name}", flush=True)
        if len(took) == len(failed):
            print((self.folder / "printed").read_text(encoding="utf-8")[-3000:])
            raise SystemExit("no test passes")
        return {name: it for name, it in took.items() if name not in failed}


# The command line ---------------------------------------------------------------------


def candidates(tree: Path, only: str | None, sections: set[str]) -> list[Any]:
    """Return each mutant: its file, its number in that, its line and its section."""
    found: list[Any] = []
    for path in [only] if only else [LOOP, BATCH, REPLAY]:
        source = (tree / path).read_text(encoding="utf-8")
        section, by_line = path, [""]
        for line in source.splitlines():
            heading = HEADING.match(line) if path == LOOP else None
            section = heading[1] if heading else section
            by_line.append(section)
        for number, (at, _) in enumerate(mutants_of(ast.parse(source))):
            if path != LOOP or by_line[at] in sections:
                found.append((path, number, at, by_line[at]))
    return found


ours: list[Any] = []  # the copy of this process, and the tests


def prepare(tree: Path, folder: str, *tests: Any) -> None:
    """Make the copy of a process that runs mutants."""
    ours[:] = [Copy(tree, folder), *tests]


def run_mutant(mutant: tuple[str, int, int, str]) -> dict[str, Any]:
    """Run the tests against a mutant; return what became of it."""
    path, number, line, section = mutant
    copied, arguments, seconds = ours
    began = time.monotonic()
    tree = ast.parse((copied.tree / path).read_text(encoding="utf-8"))
    _, make = next(islice(mutants_of(tree), number, None))
    diff = make()
    code = compile(tree, path, "exec", dont_inherit=True)
    plugin = Quick(seconds, section)
    outcome, lines = copied.run([*arguments, "-x"], plugin, path, code)
    last = lines[-1][0] if lines else "the import"
    return {
        "file": path,
        "number": number,
        "line": line,
        "section": section,
        "outcome": {"passed": "SURVIVED", "failed": "killed"}.get(outcome, outcome),
        "by": "" if outcome == "passed" else last.partition("::")[2] or last,
        "seconds": round(time.monotonic() - began, 1),
        "diff": diff,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = Path(__file__).resolve().parents[1]
    add = partial(parser.add_argument, metavar="...")
    add("-n", type=int, default=100, help="how many mutants (100)")
    add("--seed", type=int, default=1, help="of the draw (1)")
    add("--sections", default="1,2,3,4,5,8", help="of loop.py (1,2,3,4,5,8)")
    add("--only", help=f"a file: {LOOP}, {BATCH}, {REPLAY} or another")
    add("--numbers", help="these mutants of that file (loop.py), instead of a draw")
    add("--tests", default="", help="options of pytest, as '-k special_case'")
    add("--jobs", type=int, default=1, help="how many at a time (1)")
    add("--json", help="a file, for a line of JSON on each mutant")
    add("--tree", type=Path, default=here, help="a folder with loop.py (this one)")
    chosen = parser.parse_args()
    only = LOOP if chosen.numbers and not chosen.only else chosen.only
    sections = set("123456789" if chosen.numbers else chosen.sections.split(","))
    drawn = candidates(chosen.tree, only, sections)
    print(f"{len(drawn)} mutants are possible", end=", ")
    if chosen.numbers:
        numbers = set(map(int, chosen.numbers.split(",")))
        drawn = [it for it in drawn if it[1] in numbers]
    else:
        chance = random.Random(chosen.seed)
        drawn = chance.sample(drawn, min(chosen.n, len(drawn)))
    print(f"{len(drawn)} are run")
    arguments = shlex.split(chosen.tests)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        began = time.monotonic()
        seconds = Copy(chosen.tree, folder).first_run(arguments)
        quick = [it for it in seconds.values() if it <= QUICK]
        took = time.monotonic() - began
        print(
            f"{len(quick)} quick tests: {sum(quick):.0f} s; the first run: {took:.0f} s"
        )
        began, counts = time.monotonic(), defaultdict[str, Counter[str]](Counter)
        of = chosen.tree, folder, arguments, seconds
        with multiprocessing.get_context("fork").Pool(chosen.jobs, prepare, of) as pool:
            for it in pool.imap_unordered(run_mutant, drawn):
                counts[it["section"]][it["outcome"]] += 1
                show(it)
                if chosen.json:
                    with open(chosen.json, "a", encoding="utf-8") as file:
                        print(json.dumps(it), file=file)
    for section, count in sorted(counts.items()):
        print(f"{section:>24}: {summary(count)}")
    total = sum(counts.values(), Counter[str]())
    took = (time.monotonic() - began) / max(1, len(drawn))
    print(f"{'all':>24}: {summary(total)}; {took:.1f} s for each")


def show(it: dict[str, Any]) -> None:
    """Print what became of a mutant, and the change where it survived."""
    place = f"{it['file']}:{it['line']} (#{it['number']})"
    print(f"{place}: {it['outcome']} in {it['seconds']} s  {it['by'][:90]}".rstrip())
    if it["outcome"] == "SURVIVED":
        print(*it["diff"], sep="\n    ")
    sys.stdout.flush()


def summary(count: Counter[str]) -> str:
    """Return how many mutants were killed, and how many of these hung."""
    number = sum(count.values())
    killed = number - count["SURVIVED"]
    hung = f" ({count['hung']} hung)" if count["hung"] else ""
    return f"{killed} of {number} killed{hung}, {killed / number:.0%}"


if __name__ == "__main__":
    main()
