"""The command: `benco VERB ...` (through the start-up hook) and `diffiml VERB ...` are this one program.

A verb is a row of `verbs.VERBS` and a module of `diffiml_plugin.cli` with
    add_arguments(parser) -> None    adds its flags; imports nothing heavy, so that `--help` answers at once
    run(args) -> int                 does the work and returns the exit status; imports late
    USES_MODEL = True                if it takes `--model` and that model's constructor flags (added by this program)
    RESTORES = True                  if that model is a checkpoint's, which has a value for each of those flags
    IRRELEVANT = ("seed", ...)       what its flags set and it does not use; `--help` leaves them out
    CONFIG = "benco_configs/x.yaml"  if its defaults stand in a config file
    dry_run(args) -> str             what --dry_run prints, if that is not the settings
    PASSES_ON = True                 if `args.passed_on` is to hold the flags that are not its own, each with its values
and with its help text as docstring. Every verb gets `--config FILE` and `--dry_run` here. With USES_MODEL, `args` has
    model: str                       the registered name
    model_flags: dict                the values of those flags of its constructor that a flag or a config file sets
and every one
    settings: dict                   by name each setting that has a value, and who says it (`settings.Setting`)
    names: list                      of the settings that --dry_run prints: those that matter, or that someone said
A flag that is both the verb's and the model constructor's is the verb's alone. `arguments.add_fields` makes a flag of
every field of a dataclass.

What a user can mend is raised as `DiffIMLError` or `OSError`: one line on stderr and exit status 2.
"""

import importlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from diffiml_plugin import __version__, signals
from diffiml_plugin.cli.command_line import parse_arguments, resolved_settings
from diffiml_plugin.cli.messages import messages_on_stderr
from diffiml_plugin.cli.verbs import VERBS
from diffiml_plugin.errors import DiffIMLError, device_failed, nearest, wanted_memory
from diffiml_plugin.imports import kept_away

_logger = logging.getLogger(__name__)
FRAMEWORK_VERBS = {
    "init": "write the framework's scripts into this folder",
    "env": "versions of the framework and its environment",
}
FRAMEWORK_WORDS = (*FRAMEWORK_VERBS, "-v", "--version")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (default: `sys.argv`) and returns the exit status.

    0 done, 1 done but with faults found, 2 a mistake of the user's, 130 interrupted, 143 ended by SIGTERM. `init`,
    `env` and `-v` are the framework's own.
    """
    with kept_away(is_ours=argv is None):
        argv = list(sys.argv[1:] if argv is None else argv)
        if next((word for word in argv if word in VERBS or word in FRAMEWORK_WORDS), None) in FRAMEWORK_WORDS:
            from diffiml_plugin.framework.stock_cli import framework_main

            sys.argv[1:] = argv
            return framework_main() or 0
        with messages_on_stderr():  # not around the framework, which prints in colours
            return _main(argv)


def _main(argv: list[str]) -> int:
    if hasattr(sys.stdout, "reconfigure"):  # a file's name need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            with signals.raised():
                return _run(argv)
        finally:
            sys.stdout.flush()  # while a broken pipe can still be caught
    except KeyboardInterrupt as stopped:
        print(str(stopped) or "interrupted", file=sys.stderr)
        return getattr(stopped, "status", 130)
    except BrokenPipeError:  # of `| head`; what is still buffered must not be flushed into the pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as the shell reports SIGPIPE
    except (RuntimeError, MemoryError) as error:
        if (mend := _mend(error)) is None:
            raise
        _logger.error(mend)
        return 2
    except (DiffIMLError, OSError) as error:
        of_worker = re.match(r"Caught \w+ in .*^[\w.]*DiffIMLError: ", str(error), re.DOTALL | re.MULTILINE)
        _logger.error(str(error)[of_worker.end() if of_worker else 0 :])  # a loader's worker sends its traceback along
        return 2


def _mend(error: RuntimeError | MemoryError) -> str | None:
    """What a user can do about an error of torch's, which is told by its text: importing torch takes seconds."""
    first, text = str(error).partition("\n")[0], f"{error}\n{error.__cause__}"
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "the GPU's memory is full: lower --test_batch_size, --ensemble_size or --image_size, shrink the images, or "
            f"compute on --device cpu; {wanted_memory(error)}"
        )
    if device_failed(error):
        return (
            f"the device failed: {first}; what is done is kept: start it again when the device works, a training with "
            "--resume auto"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return (
            "the memory is full: lower --test_batch_size, --batch_size, --num_workers or --image_size, or shrink the "
            f"images ({first or 'MemoryError'})"
        )
    if re.search(r"shared memory|</torch_\d", text):
        size = shutil.disk_usage("/dev/shm").total >> 20
        return (
            f"the processes that load images have no shared memory left (/dev/shm holds {size} MB); start the "
            "container with --shm-size 2g or --ipc host, or pass --num_workers 0"
        )
    if re.search(r"DataLoader worker .*(killed by signal|exited unexpectedly)", text):
        return f"a process that loads images was killed; was memory full? Lower --num_workers ({first})"
    if re.search(r"gloo|NCCL|closed by peer", first):
        return (
            f"another process of this run has ended, and this one with it ({first}); start it again, a training "
            "with --resume auto"
        )
    return None


def _run(argv: list[str]) -> int:
    program = "benco" if Path(sys.argv[0]).stem == "benco" else "diffiml"
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(program))
        return 0
    verb = argv[0]
    if verb not in VERBS:
        raise DiffIMLError(
            f"unknown verb {verb!r}{nearest(verb, (*VERBS, *FRAMEWORK_WORDS))} (`{program} --help` lists the verbs)"
        )
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise DiffIMLError("the current folder was removed; start from another one") from error
    module = importlib.import_module(f"{__package__}.{VERBS[verb][0]}")
    args = parse_arguments(f"{program} {verb}", module, argv[1:])
    if args.dry_run:
        print(getattr(module, "dry_run", resolved_settings)(args), end="")
        return 0
    return module.run(args)


def _help(program: str) -> str:
    lines = [
        f"usage: {program} VERB [flags]        ({program} VERB --help lists a verb's flags)",
        "",
        f"DiffIML {__version__}: image manipulation localization by sampling masks, on IMDL-BenCo.",
        "",
        "verbs:",
    ]
    lines += [f"  {verb:<14}{text}" for verb, (_, text) in VERBS.items()]
    lines += ["", "of the framework:"]
    lines += [f"  {verb:<14}{text}" for verb, text in FRAMEWORK_VERBS.items()]
    lines += [f"  {'-v':<14}the framework's version"]
    return "\n".join(lines)
