import argparse
import sys
from types import ModuleType

import pytest

from diffiml_plugin.cli import main as command


class ProbeVerb(ModuleType):
    """A verb for the tests of the command line; calling it runs `diffiml probe WORDS`."""

    USES_MODEL = True

    def __init__(self):
        super().__init__("diffiml_plugin.cli.probe", "A verb for tests.")
        self.args: argparse.Namespace | None = None  # of the last run
        self.fault: BaseException | None = None  # raised by the next run

    def __call__(self, *words: object) -> int:
        return command.main(["probe", *map(str, words)])

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("paths", nargs="*")
        parser.add_argument("--data_path", required=True, help="where the images are")
        parser.add_argument("--lr", type=float, default=1e-4, help="learning rate")
        parser.add_argument("--epochs", type=int, default=200)
        parser.add_argument("--sizes", type=int, nargs="+", default=[512])
        parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
        parser.add_argument("--if_resizing", action="store_true")

    def run(self, args: argparse.Namespace) -> int:
        self.args = args
        if self.fault:
            raise self.fault
        return 0


@pytest.fixture
def probe(monkeypatch) -> ProbeVerb:
    verb = ProbeVerb()
    monkeypatch.setitem(command.VERBS, "probe", ("probe", "a verb for tests"))
    monkeypatch.setitem(sys.modules, verb.__name__, verb)
    monkeypatch.setattr(sys, "argv", ["diffiml"])
    return verb
