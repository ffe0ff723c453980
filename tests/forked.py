"""The command in processes that are forked from one which has imported everything, so that each starts at once."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import tiny_model  # noqa: F401  it registers TinyIML

import diffiml_plugin.codec.distill
import diffiml_plugin.datasets.prepare
import diffiml_plugin.evaluation.robust
import diffiml_plugin.evaluation.test
import diffiml_plugin.prediction.files
import diffiml_plugin.training.engine  # noqa: F401
from diffiml_plugin.cli.main import main


def start(
    words: list[str], output: Path, killed_at: int = 0, among: str | Path = "", **environment: str
) -> multiprocessing.Process:
    """Runs `diffiml WORDS`, what it says in a file.

    Args:
        killed_at: the process kills itself when it is about to do something with a file in the folder `among` (open,
            rename, remove or make it) for so many times; 0: never.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["forked"])
    process = processes.Process(target=_run, args=(words, output, environment, killed_at, str(among)))
    process.start()
    return process


def _run(words: list[str], output: Path, environment: dict[str, str], killed_at: int, among: str) -> None:
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as the command's own; this process inherits the server's
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if killed_at:
        _kill_at(killed_at, among)
    sys.exit(main(words))


def _kill_at(count: int, among: str) -> None:
    def seen(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(among):
            count -= 1
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(seen)
