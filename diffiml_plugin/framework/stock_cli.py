"""The framework's own command."""


def framework_main() -> int | None:
    """The framework's own `benco`."""
    from IMDLBenCo.cli import main

    return getattr(main, "__wrapped__", main)()
