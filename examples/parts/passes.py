"""Situation: the model writes code, and tests say whether it is right. Copy this file.

    from passes import passes
    run("Write a Python function f that doubles.", passes("assert f(2) == 4"), ...)

`python passes.py` shows it at work, without a model. A file of its own, as it starts
processes: read all of it before you let it run what a model wrote.

Promised, on Linux: The code runs in a process of its own and in an empty folder, with
limits of time, memory, processes, files, disk and output, without your environment (no
keys), without stdin, and as user nobody where you are root. It passes only where all
tests ran to their end: to print "ok", to exit or to be killed is no pass. At the end,
all that it started is killed, also what left its process group. The complaint is one
short line, the same each time. Where the tests cannot be run, that is an OSError, which
`run` raises: it never counts against the model.

Not promised: This limits accidents, no attackers. The code shares an interpreter with
the tests, so it can pass by looking for them there, or with objects that claim to equal
anything. Where you are not root it can read and write your files, and kill your
processes. It can use the network, write to /tmp, and hide a process by starting it with
another environment. The limits of memory and CPU are of each process. macOS has none of
memory and processes, and only the process group is killed there; Windows has only those
of time, files and output, and only the process itself is killed. (Neither was tried.)
As root, nobody has to be able to read the Python that runs (command=). Against all of
that, a container, in one command (docker itself was not tried):

    box = "docker run --rm -i --init --network none --memory 256m --pids-limit 64 "
    box += "--read-only --tmpfs /tmp -w /tmp python:3 timeout 20 python -I"
    passes(tests, command=box.split(), user=0, seconds=30)

or, on Linux without docker, namespaces of its own for processes and the network:
"unshare -rn --pid --fork --kill-child /usr/bin/python3 -I".split().

It blocks for as long as the code runs, so `arun` refuses it: there, let an async judge
await asyncio.to_thread(passes(tests), text).
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import getsource
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Any

if __name__ == "__main__":  # in examples/parts, loop.py is two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from loop import REPAIRS, Hook, Reject, run, scripted, visible

NOBODY = 65534
MEGABYTE = 2**20
MOST_OUTPUT = MEGABYTE  # bytes
MOST_FILES = 1_000


def passes(
    tests: str | Sequence[str],
    *,
    seconds: float = 10,
    memory: int = 512 * MEGABYTE,
    processes: int = 32,
    disk: int = 16 * MEGABYTE,
    command: Sequence[str] = (sys.executable, "-I"),
    user: int = NOBODY,
) -> Hook:
    """Judge: the text is Python code that passes these tests; returns the text.

    tests: source with asserts, which sees the names of the code. A bare assert that
    fails is shown to the model; of `assert f(2) == 4, "f is wrong"` it sees only the
    message. Or a command, as ["node", "--test", "/my/test.js"]: it runs in a folder
    where the text is in the file answer.py, and passes with exit status 0 (also where
    code that it imports forges that, by os._exit). seconds: of real time, and twice as
    many of CPU. memory, disk: bytes. processes: of this user, beyond those that run
    already. command: how to start Python. user: whom the code runs as, if you are root;
    0: as you. Raises SyntaxError or ValueError for tests that are none.
    """
    if isinstance(tests, str) and not compile(tests, "tests", "exec").co_names:
        raise ValueError(f"tests is {tests!r}: that tests nothing of the code")
    if not tests or not command:
        raise ValueError("tests, or command, is empty")
    # More CPU than that is for several threads; it ends what hides from us.
    limits = {"CPU": 2 * math.ceil(seconds) + 2, "AS": memory, "NPROC": processes}
    limits |= {"FSIZE": disk, "CORE": 0, "NOFILE": 256}

    def passes(text: str) -> str:
        task = {"answer": text, "tests": tests, "limits": limits}
        complaint = complaint_of_tests(task, command, user, seconds)
        if complaint:
            raise Reject(visible(complaint), value=text)
        return text

    passes.blocks = True  # type: ignore[attr-defined]
    return passes


# Outside: the process and its end -----------------------------------------------------


def complaint_of_tests(
    task: dict[str, Any], command: Sequence[str], user: int, seconds: float
) -> str:
    """Return why the tests do not pass, or "": the same each time, as a complaint is
    part of the next request. Raise OSError where they cannot be run."""
    token, mark = secrets.token_hex(16), secrets.token_hex(16)
    with work_folder(user) as folder:
        task = task | {"token": token}
        process = start(command, task, folder, mark=mark, user=user)
        output = Output(process)
        try:
            complaint = watch(process, folder, output, seconds, task["limits"]["FSIZE"])
        finally:
            kill_all(process, mark)
        found = report_in(output.text(), token, complaint)
    too_early = f"it ended too early, {ending(process.returncode)}"
    complaint = complaint or found.get("complaint", too_early)
    return complaint.replace(folder, ".").replace(mark, "").replace(token, "")


def is_other(user: int) -> bool:
    """Return whether we can run as this user, and are another one."""
    return user != 0 and hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def work_folder(user: int) -> Iterator[str]:
    """Give an empty folder that this user owns, and delete it at the end."""
    outer = Path(mkdtemp())  # it is ours, so that no link can take the folder's place
    folder = outer / "work"
    try:
        folder.mkdir(0o700)
        if is_other(user):
            outer.chmod(0o711)
            os.chown(folder, user, user)
        yield str(folder)
    finally:
        if os.name == "posix":  # rmtree fails at folders that are nested too deeply
            for delete in ("chmod -R u+rwx", "rm -rf"):
                words = [*delete.split(), str(outer)]
                subprocess.run(words, check=False, stderr=subprocess.DEVNULL)
        else:
            shutil.rmtree(outer, ignore_errors=True)


def start(
    command: Sequence[str],
    task: dict[str, Any],
    folder: str,
    *,
    mark: str,
    user: int,
) -> subprocess.Popen[bytes]:
    """Start Python on `launch`, which gets the task from its stdin."""
    inside = (set_limits, try_answer, complaint_of, launch)
    head = "from __future__ import annotations"  # so that no type is looked up
    program = "\n".join([head, *[getsource(it) for it in inside]])
    executable = shutil.which(command[0]) or command[0]
    environment = {"MARK": mark, "HOME": folder, "TMPDIR": folder}
    if "SYSTEMROOT" in os.environ:  # without it, Python does not start on Windows
        environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    options: dict[str, Any] = {"cwd": folder, "env": environment}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    options["start_new_session"] = True
    if is_other(user):
        options |= {"user": user, "group": user, "extra_groups": []}
    with TemporaryFile() as stdin:
        stdin.write(json.dumps(task).encode())
        stdin.seek(0)
        words = [executable, *command[1:], "-c", f"{program}\nlaunch()"]
        try:
            return subprocess.Popen(words, stdin=stdin, **options)
        except PermissionError as error:
            cure = "give command=['/usr/bin/python3', '-I'], or another that it can run"
            why = f"user {user} cannot run {executable}: {cure}"
            raise PermissionError(error.errno, why) from None


class Output:
    """What a process prints, as far as it is read: by a thread, from a pipe, as the
    process could cut a file."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.pipe: Any = process.stdout
        self.read = bytearray()
        self.thread = threading.Thread(target=self.collect, daemon=True)
        self.thread.start()

    def collect(self) -> None:
        """Read to the end, or until it is too much."""
        with self.pipe:
            while chunk := self.pipe.read1(65536):
                self.read += chunk
                if self.is_too_much():
                    return

    def is_too_much(self) -> bool:
        """Return whether more was printed than is allowed."""
        return len(self.read) > MOST_OUTPUT

    def text(self) -> str:
        """Return what was printed, once all that could print is dead."""
        self.thread.join(1)
        return self.read.decode(errors="replace")


def watch(
    process: subprocess.Popen[bytes],
    folder: str,
    output: Output,
    seconds: float,
    disk: int,
) -> str:
    """Wait for the end of a process; return which limit it went beyond, or ""."""
    end = time.monotonic() + seconds
    while True:
        running = process.poll() is None
        if output.is_too_much():
            return f"it printed more than {MOST_OUTPUT} bytes"
        if is_too_full(folder, disk):
            return f"it wrote more than {disk} bytes or {MOST_FILES} files"
        if not running:
            return ""
        if time.monotonic() > end:
            return f"no end within {seconds:g} s"
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def is_too_full(folder: str, disk: int) -> bool:
    """Return whether a folder has more in it than is allowed, or cannot be read."""
    size, number, folders = 0, 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    number += 1
                    size += entry.stat(follow_symlinks=False).st_size
                    if size > disk or number > MOST_FILES:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue  # it was deleted meanwhile
        except OSError:  # its name is too long, or its mode forbids it
            return True
    return False


def kill_all(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill a process and all that it started: on Linux whatever has its mark."""
    process.kill()
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    end, known = time.monotonic() + 10, set[int]()
    while sys.platform == "linux":
        found, ended = kill_marked(mark)
        late = time.monotonic() > end
        if found and late:
            raise OSError("what the code started could not be killed within 10 s")
        if late or not (found or ended - known):
            return
        known |= ended


def kill_marked(mark: str) -> tuple[int, set[int]]:
    """Kill each process whose environment has this mark. Return how many had it, and
    which ended before we could see that: these may have started others meanwhile."""
    found, ended = 0, set[int]()
    numbers = [int(it.name) for it in Path("/proc").iterdir() if it.name.isdigit()]
    for number in sorted(numbers, reverse=True):  # first those that just began
        folder = Path(f"/proc/{number}")
        try:
            environment = (folder / "environ").read_bytes()
            if mark.encode() in environment:
                found += 1
                os.kill(number, signal.SIGKILL)
            elif not environment:  # it is dead, and not buried, or of the kernel
                ended.add(number)
        except OSError:  # of another user, or gone
            if not folder.exists():
                ended.add(number)
    return found, ended


def report_in(printed: str, token: str, complaint: str) -> dict[str, str]:
    """Return the report in what was printed, {} for none; raise OSError where the tests
    did not even start."""
    report = re.search(rf"^{token} (\{{.*)", printed, re.MULTILINE)
    found: dict[str, str] = json.loads(report[1]) if report else {}
    if f"{token} ready" not in printed or "broken" in found:
        words = (printed.replace(token, "") or complaint or "no output").split()
        raise OSError(f"the tests cannot be run: {visible(' '.join(words))[:300]}")
    return found


def ending(status: int) -> str:
    """Return in words how a process ended."""
    with suppress(ValueError):
        return f"by {signal.Signals(-status).name}"
    return f"with exit status {status}"


# Inside: what the other Python runs ---------------------------------------------------
# These functions get there as text: they use nothing of this file but each other.


def launch() -> None:
    """Read the task from stdin, run the answer and its tests, and report."""
    import json
    import os
    import sys

    task = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    report, write, leave, pid = os.dup(1), os.write, os._exit, os.getpid()
    set_limits(task["limits"])
    token = task.pop("token")
    write(report, f"{token} ready\n".encode())
    found = try_answer(task)
    line = f"\n{token} {json.dumps(found)}\n".encode()
    if os.getpid() == pid:  # a copy that the answer made by fork has no say
        write(report, line)
    leave(0)  # threads may still run


def set_limits(limits: dict[str, int]) -> None:
    """Limit this process and those that it starts, as far as the system can."""
    import os
    import sys
    from pathlib import Path

    try:
        import resource
    except ImportError:  # on Windows
        return
    if sys.platform == "linux":  # the limit counts what this user runs already
        for process in Path("/proc").iterdir():
            tasks = process / "task"
            try:  # it may end at any time
                if process.name.isdigit() and tasks.stat().st_uid == os.geteuid():
                    limits["NPROC"] += len([*tasks.iterdir()])
            except OSError:
                continue
    else:
        del limits["AS"], limits["NPROC"]
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        hard = most if hard == resource.RLIM_INFINITY else min(most, hard)
        soft = hard - 1 if name == "CPU" else hard  # SIGXCPU comes first, then SIGKILL
        resource.setrlimit(kind, (soft, hard))


def try_answer(task: dict[str, Any]) -> dict[str, str]:
    """Return {"complaint": ...} of the tests about the answer; "" where they pass."""
    import subprocess
    import sys
    import types

    sources = {"the code": task["answer"], "the tests": task["tests"]}
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    try:
        with open("answer.py", "w", encoding="utf-8") as file:
            file.write(task["answer"])
        if isinstance(task["tests"], str):
            for name, source in sources.items():
                exec(compile(source, name, "exec"), vars(module))  # noqa: S102
            return {"complaint": ""}
    except BaseException as error:  # noqa: BLE001  # SystemExit, too
        return {"complaint": complaint_of(error, sources)}
    try:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(task["tests"], check=False, **options)  # type: ignore
    except OSError as error:
        return {"broken": str(error)}
    lines = done.stdout.decode(errors="replace").strip().splitlines() or [""]
    failed = f"exit status {done.returncode}: {lines[-1][:200]}"
    return {"complaint": failed if done.returncode else ""}


def complaint_of(error: BaseException, sources: dict[str, Any]) -> str:
    """Return an error in one line, with the line of the code or the tests it is from.
    An assert with a message of its own is only that message."""
    message = str(error).strip().partition("\n")[0][:200]
    if isinstance(error, AssertionError) and message:
        return message
    place, number, at = "", 0, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename in sources:
            place, number = at.tb_frame.f_code.co_filename, at.tb_lineno
        at = at.tb_next
    if isinstance(error, SyntaxError) and error.filename in sources:
        place, number, message = str(error.filename), error.lineno or 0, error.msg
    complaint = f"{type(error).__name__}: {message}".removesuffix(": ")
    lines = sources.get(place, "").split("\n")
    if 0 < number <= len(lines):
        complaint += f" (line {number} of {place}: {lines[number - 1].strip()[:80]})"
    return complaint


if __name__ == "__main__":
    import argparse

    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()

    python = shutil.which("python3", path="/usr/bin") or sys.executable
    judge = passes("assert f(2) == 4", seconds=2, command=[python, "-I"])
    for answer in (
        "def f(x):\n    return 2 * x",
        "```python\ndef f(x):\n    return x * 2\n```",
        "def f(x):\n    return x + 1",
        "def f(x): return 4\nwhile True: pass",
        "print('all tests passed'); exit()",
    ):
        result = run("Double it.", judge, call=scripted(answer), fixes=REPAIRS)
        print(f"{answer!r}\n    {result.why}")
