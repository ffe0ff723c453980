"""The command line's parser."""

import argparse
from collections.abc import Container, Sequence
from typing import Any

from diffiml_plugin.errors import DiffIMLError, nearest

_COMMON = ("help", "config", "dry_run")  # never keys of a config file


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations, suggests the nearest flag, and raises `DiffIMLError` in place of exiting."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **options)

    def error(self, message: str) -> None:
        raise DiffIMLError(f"{message} (`{self.prog} --help` explains the flags)")

    def flags(self) -> dict[str, argparse.Action]:
        """Flag -> action, for the long flags."""
        return {flag: action for action in self._actions for flag in action.option_strings if flag.startswith("--")}

    def settings(self) -> dict[str, argparse.Action]:
        """Config key -> action: the flag without its dashes, or the name of what has no flag."""
        keys = {flag[2:]: action for flag, action in self.flags().items()}
        keys |= {action.dest: action for action in self._actions if not action.option_strings}
        return {key: action for key, action in keys.items() if key not in _COMMON}

    def given(self, argv: list[str]) -> set[str]:
        """The attributes that a command line sets by long flags; an unknown flag is an error."""
        flags = self.flags()
        used = [word.partition("=")[0] for word in argv if word.startswith("--")]
        for flag in used:
            if flag not in flags:
                raise DiffIMLError(f"unknown flag {flag}{nearest(flag, flags)} (`{self.prog} --help` lists the flags)")
        return {flags[flag].dest for flag in used}


def split_flags(argv: Sequence[str], known: Container[str]) -> tuple[list[str], list[list[str]]]:
    """The words that do not belong to an unknown long flag, and each of those with the words up to the next flag."""
    words, others = [], []
    group = words
    for word in argv:
        if word.startswith("--"):
            group = words
            if word.partition("=")[0] not in known:
                group = []
                others.append(group)
        group.append(word)
    return words, others


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default is None or action.default is False or action.default == ""
        return action.help if unset else super()._get_help_string(action)
