"""The figures of the paper's tables (published.json), and the names by which runs fill rows of theirs."""

import json
from pathlib import Path

from diffiml_plugin.errors import DiffIMLError, nearest

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def require_tables(experiment: str, swept: bool = False) -> None:
    """Raises DiffIMLError unless each word of `--experiment` begins with a table that a test, or a sweep, can fill."""
    known = [name for name, table in PUBLISHED.items() if ("sweep" in table) == swept and name != "table4"]
    for table in (word.partition("/")[0] for word in experiment.split()):
        if table not in known:
            verb = "sweep" if swept else "test"
            raise DiffIMLError(f"--experiment {table}: no table that `benco {verb}` fills{nearest(table, known)}; "
                               f"those are {', '.join(known)}")
