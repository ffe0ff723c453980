"""The command line's parser."""

import argparse
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from diffiml_plugin.errors import DiffIMLError, nearest

_COMMON = ("help", "config", "dry_run")  # never keys of a config file


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations, suggests the nearest flag, and raises `DiffIMLError` in place of exiting.

    Args:
        hidden: settings whose flags cannot matter here: `--help` leaves them out, but they are taken all the same.
        options: as argparse takes them.
    """

    def __init__(self, hidden: Collection[str] = (), **options: Any):
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **options)
        self.hidden = hidden

    def error(self, message: str) -> NoReturn:
        raise DiffIMLError(f"{message} (`{self.prog} --help` explains the flags)")

    def titled(self, title: str) -> argparse._ActionsContainer:
        """The group of that title, made at its first use; the parser itself if the title is empty."""
        if not title:
            return self
        groups = {group.title: group for group in self._action_groups}
        return groups.get(title) or self.add_argument_group(title)

    def flags(self) -> dict[str, argparse.Action]:
        """Flag -> action, for the long flags."""
        return {flag: action for action in self._actions for flag in action.option_strings if flag.startswith("--")}

    def settings(self) -> dict[str, argparse.Action]:
        """Config key -> action: the flag without its dashes, or the name of what has no flag."""
        keys = {flag[2:]: action for flag, action in self.flags().items()}
        keys |= {action.dest: action for action in self._actions if not action.option_strings}
        return {key: action for key, action in keys.items() if key not in _COMMON}

    def defaults(self) -> dict[str, Any]:
        """Attribute -> value where nothing sets it; None is no value."""
        return {action.dest: action.default for action in self._actions if action.dest != "help"}

    def shown(self) -> set[str]:
        """The settings whose flags `--help` shows."""
        return {
            action.dest for action in self._actions if action.help != argparse.SUPPRESS and action.dest not in _COMMON
        }

    def explain(self, settings: Mapping[str, Any]) -> NoReturn:
        """Prints the help, with what files set as defaults, and exits."""
        self.set_defaults(**settings)
        self.print_help()
        self.exit()

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """The attributes that a command line itself sets; what is required may be missing, since a file may say it.

        Raises:
            DiffIMLError: an unknown flag, with the nearest one; a wrong value.
        """
        flags = self.flags()
        for flag in (word.partition("=")[0] for word in argv if word.startswith("--")):
            if flag not in flags:
                raise DiffIMLError(f"unknown flag {flag}{nearest(flag, flags)} (`{self.prog} --help` lists the flags)")
        kept = [(action.default, action.required) for action in self._actions]
        for action in self._actions:
            action.default, action.required = argparse.SUPPRESS, False  # what no word sets is left out
        try:
            return vars(self.parse_args(argv))
        finally:
            for action, values in zip(self._actions, kept, strict=True):
                action.default, action.required = values

    def require(self, known: Container[str]) -> None:
        """Raises DiffIMLError if what is required is not among the known attributes."""
        required = [action for action in self._actions if action.required and action.nargs != "*"]  # which may be none
        missing = ["/".join(action.option_strings) or action.dest for action in required if action.dest not in known]
        if missing:
            self.error(f"the following arguments are required: {', '.join(missing)}")


def split_flags(argv: Sequence[str], known: Container[str]) -> tuple[list[str], list[list[str]]]:
    """The words that do not belong to an unknown long flag, and each of those with the words up to the next flag."""
    words: list[str] = []
    others: list[list[str]] = []
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
    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: Any, prefix: str | None = None
    ) -> None:
        needed = [action for action in actions if action.required or not action.option_strings]
        usage = self._format_usage(None, needed, [], "").strip().replace("%", "%%") + " [flags]"
        super().add_usage(usage, actions, groups, prefix)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default is None or action.default is False or action.default == ""
        return action.help if unset else super()._get_help_string(action)
