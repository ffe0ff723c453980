"""Who a process is among those of its run, by the variables of torchrun or SLURM."""

import re
from collections.abc import Mapping, MutableMapping

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.stored import shown

# Variables of torchrun's: of several processes each has all of them.
_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join_slurm(environment: MutableMapping[str, str]) -> None:
    """Under `srun` with several tasks, says in torchrun's variables what SLURM says in its own.

    Raises:
        DiffIMLError: a variable is missing of those by which processes find one another, or is no number, or outside
            of its range.
    """
    if "RANK" in environment or slurm_tasks(environment) <= 1:
        _require_group(environment)
        return
    nodes = environment.get("SLURM_STEP_NODELIST") or _said(environment, "SLURM_NODELIST")
    job, step = (_number(environment, name, 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))  # steps run at once
    joined = {
        "MASTER_ADDR": _first_node(nodes),
        "MASTER_PORT": str(20000 + (job + step) % 20000),
        **environment,
        "RANK": _said(environment, "SLURM_PROCID"),
        "LOCAL_RANK": _said(environment, "SLURM_LOCALID"),
        "WORLD_SIZE": _said(environment, "SLURM_STEP_NUM_TASKS"),
        "LOCAL_WORLD_SIZE": _tasks_here(environment),
    }
    _require_group(joined)
    environment.update(joined)


def is_of_group(environment: Mapping[str, str]) -> bool:
    """Whether torchrun or SLURM started several processes, of which this is one."""
    return environment.keys() >= set(_GROUP)


def _require_group(environment: Mapping[str, str]) -> None:
    """Raises DiffIMLError unless torchrun's variables are of a group of processes, or of one alone."""
    rank, processes = _number(environment, "RANK", 0), _number(environment, "WORLD_SIZE", 1)
    local_rank, here = _number(environment, "LOCAL_RANK", 0), _number(environment, "LOCAL_WORLD_SIZE", processes)
    if missing := [name for name in _GROUP if name not in environment]:
        if "LOCAL_RANK" in missing and rank == 0 and processes == 1:
            return
        some = " and ".join(f"{name}={environment[name]}" for name in _GROUP[:3] if name in environment)
        raise DiffIMLError(
            f"the environment has {some}, but no {', '.join(missing)}; torchrun sets all of them, and one process "
            "alone wants none: unset what is there"
        )
    for name, value, of, count in (
        ("RANK", rank, "WORLD_SIZE", processes),
        ("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", here),
    ):
        if not 0 <= value < count:
            raise DiffIMLError(
                f"the environment has {name}={value} and {of}={count}, but such ranks are 0 to {count - 1}; torchrun "
                "sets both, and one process alone wants neither"
            )
    if not 0 < (port := _number(environment, "MASTER_PORT", 0)) < 65_536:  # Kubernetes has another variable of the name
        raise DiffIMLError(f"the environment has MASTER_PORT={port}, expected a port, 1 to 65535; torchrun sets it")


def _tasks_here(environment: Mapping[str, str]) -> str:
    """How many tasks of the step are on this node, of "8(x2),4": two nodes with eight, and one with four."""
    node, said = _number(environment, "SLURM_NODEID", 0), _said(environment, "SLURM_STEP_TASKS_PER_NODE")
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", said):
        nodes = int(times or 1)
        if node < nodes:
            return str(tasks)
        node -= nodes
    raise DiffIMLError(
        f"the environment has SLURM_STEP_TASKS_PER_NODE={shown(said)}, which says nothing of the node SLURM_NODEID="
        f"{environment.get('SLURM_NODEID', 0)}; srun sets both, and one process alone wants neither"
    )


def _said(environment: Mapping[str, str], name: str) -> str:
    if name not in environment:
        raise DiffIMLError(
            f"srun started several processes, but {name} is not in the environment; pass SLURM's variables on, or for "
            "one process alone unset SLURM_PROCID"
        )
    return environment[name]


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment.get(name, default))
    except ValueError as error:
        raise DiffIMLError(
            f"the environment has {name}={shown(environment[name])}, expected a number; torchrun or SLURM sets it, and "
            "one process alone wants none"
        ) from error


def rank(environment: Mapping[str, str]) -> int:
    """0 of the first process of a run, or of one alone."""
    return _number(environment, "RANK", 0)


def local_rank(environment: Mapping[str, str]) -> int:
    """This process's number among those of its computer, as far as any launcher says it."""
    of_slurm = _number(environment, "SLURM_LOCALID", 0) if slurm_tasks(environment) > 1 else 0
    return _number(environment, "LOCAL_RANK", of_slurm)


def processes_here(environment: Mapping[str, str], unknown: int = 1) -> int:
    """Of this run, on this computer; `unknown` where the launcher does not say it of a group."""
    return max(1, _number(environment, "LOCAL_WORLD_SIZE", unknown)) if is_of_group(environment) else 1


def slurm_tasks(environment: Mapping[str, str]) -> int:
    """How many processes `srun` started for this step; 1 without it."""
    return _number(environment, "SLURM_STEP_NUM_TASKS", 1) if "SLURM_PROCID" in environment else 1


def _first_node(nodes: str) -> str:
    """`gpu[03-05,9],cpu1` → `gpu03`."""
    return "".join(re.findall(r"^([^\[,]+)(?:\[(\d+))?", nodes)[0])
