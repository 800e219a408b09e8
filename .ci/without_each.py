"""Delete each special case in turn from a copy, and run the tests of sections 1 to 8.

    uv run --no-project --with httpx --with httpx2 --with rich --with pydantic \\
        --with pytest --with hypothesis python .ci/without_each.py [NAME ...]

Prints the tests that fail without it, or that wait for minutes. Exit status 1 if none
of its own name does, or if one of another case's name does.
"""

import ast
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

import loop

SOURCE, TESTS = (
    (HERE / name).read_text(encoding="utf-8") for name in ("loop.py", "test_loop.py")
)
CASES = [fix.__name__ for fix in [*loop.FIXES, *loop.FAULTS]]


def without(name):
    """Return loop.py without this function, and without its name in the lists."""
    lines = SOURCE.splitlines(keepends=True)
    node = next(n for n in ast.parse(SOURCE).body if getattr(n, "name", "") == name)
    text = "".join(lines[: node.lineno - 1] + lines[node.end_lineno :])
    return re.sub(rf"\b{name}, |, {name}(?=\])", "", text)


def failing(name):
    """Return the names of the tests that fail without a special case."""
    with tempfile.TemporaryDirectory() as folder:
        cut = TESTS[: TESTS.index("# 9. The file as a whole")]
        (Path(folder) / "test_loop.py").write_text(cut, encoding="utf-8")
        (Path(folder) / "loop.py").write_text(without(name), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-v", "--tb=no", folder]
        with subprocess.Popen(
            command, cwd=folder, text=True, stdout=subprocess.PIPE
        ) as tests:
            late = threading.Timer(150, tests.kill)  # without it, a run may wait long
            late.start()
            told = tests.stdout.read()
            late.cancel()
    return sorted(set(re.findall(r"::(\w+)\S* (?:FAILED|$)", told, re.MULTILINE)))


def main():
    """Print a line for each special case."""
    wrong = 0
    for name in sys.argv[1:] or CASES:
        failed = failing(name)
        own = [test for test in failed if name in test]
        others = [test for test in failed if any(c in test for c in CASES if c != name)]
        strange = not own or [test for test in others if name not in test]
        wrong += bool(strange)
        print(f"{name:20} {'WRONG ' * bool(strange)}{', '.join(failed)}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
