"""The command in processes that are forked from one which has imported everything, so that each starts at once."""

import multiprocessing
import os
import sys
from pathlib import Path

import tiny_model  # noqa: F401  it registers TinyIML

import diffiml_plugin.codec.distill
import diffiml_plugin.evaluation.test
import diffiml_plugin.training.engine  # noqa: F401
from diffiml_plugin.cli.main import main


def start(words: list[str], output: Path, **environment: str) -> multiprocessing.Process:
    """Runs `diffiml WORDS`, what it says in a file."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["forked"])
    process = processes.Process(target=_run, args=(words, output, environment))
    process.start()
    return process


def _run(words: list[str], output: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as the command's own; this process inherits the server's
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(main(words))
