import os

import pytest
import torch

from diffiml_plugin import launch, launchers
from diffiml_plugin.cli.main import main
from diffiml_plugin.errors import DiffIMLError

SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "gpu[03-05,9],cpu1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
}
GROUP = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_slurm_is_joined():
    environment = dict(SLURM)
    launchers.join_slurm(environment)
    joined = {name: environment[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")}
    assert joined == {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "gpu03"}
    assert 1024 < int(environment["MASTER_PORT"]) < 65536
    beside = {**SLURM, "SLURM_STEP_ID": "3"}  # another step of the job, at the same time
    launchers.join_slurm(beside)
    assert beside["MASTER_PORT"] != environment["MASTER_PORT"]


@pytest.mark.parametrize(("node", "tasks"), [("0", "4"), ("1", "8"), ("2", "8"), ("3", "1")])
def test_nodes_may_have_other_numbers_of_tasks(node, tasks):
    environment = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4,8(x2),1", "SLURM_NODEID": node, "SLURM_LOCALID": "0"}
    launchers.join_slurm(environment)
    assert environment["LOCAL_WORLD_SIZE"] == tasks


def test_a_library_works_under_any_launcher(alone):
    """As PyTorch Lightning's, which sets no RANK."""
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}.items():
        alone.setenv(name, value)
    alone.setattr(torch.cuda, "is_available", lambda: True)
    alone.setattr(torch.cuda, "device_count", lambda: 2)
    assert launch.one_device("auto") == torch.device("cuda", 1) and launch.one_device("cpu").type == "cpu"
    for rank in ("-1", "5"):  # of no group, and where each process sees one GPU
        alone.setenv("LOCAL_RANK", rank)
        assert launch.one_device("auto") == torch.device("cuda", 0)
    alone.setenv("LOCAL_RANK", "1")
    with pytest.raises(DiffIMLError, match="has LOCAL_RANK=1 and WORLD_SIZE=2, but no RANK"):
        launch.is_main_process()
    alone.delenv("LOCAL_RANK")
    for name, value in SLURM.items():
        alone.setenv(name, value)
    assert launch.one_device("auto") == torch.device("cuda", 1), "the task's own"


@pytest.mark.parametrize(("group", "here"), [(GROUP, 8), ({}, 1)])
def test_the_processes_of_this_computer_are_those_of_a_group(alone, group, here):
    for name, value in {**group, "LOCAL_WORLD_SIZE": "8"}.items():
        alone.setenv(name, value)
    assert launchers.processes_here(os.environ) == here


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # a batch script, not a step of srun
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},
        {**SLURM, "RANK": "0"},
    ],
)
def test_without_a_step_of_several_tasks_slurm_is_left_alone(environment):
    before = dict(environment)
    launchers.join_slurm(environment)
    assert environment == before


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        *(
            ({name: "x"}, f"the environment has {name}='x', expected a number")
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        ),
        ({**GROUP, "MASTER_PORT": "tcp://10.0.0.1:80"}, "has MASTER_PORT='tcp:.*, expected a number"),
        ({**GROUP, "RANK": "2"}, "has RANK=2 and WORLD_SIZE=2, but such ranks are 0 to 1"),
        ({**GROUP, "RANK": "-1"}, "has RANK=-1 and WORLD_SIZE=2, but"),
        ({**GROUP, "LOCAL_WORLD_SIZE": "1"}, "has LOCAL_RANK=1 and LOCAL_WORLD_SIZE=1, but"),
        ({**GROUP, "MASTER_PORT": "99999999"}, "has MASTER_PORT=99999999, expected a port, 1 to 65535"),
        ({"RANK": "8"}, "has RANK=8, but no LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; .* unset"),
        ({"LOCAL_RANK": "0"}, "has LOCAL_RANK=0, but no RANK, WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "has RANK=1 and WORLD_SIZE=2, but no LOCAL_RANK"),
        ({name: value for name, value in GROUP.items() if name != "LOCAL_RANK"}, "but no LOCAL_RANK;"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "x"}, "has SLURM_STEP_NUM_TASKS='x', expected a number"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "but SLURM_NODELIST is not in the environment"),
        (
            {**SLURM, "SLURM_NODEID": "4"},
            "has SLURM_STEP_TASKS_PER_NODE='2\\(x4\\)', which says nothing of the node SLURM_NODEID=4",
        ),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "many"}, "has SLURM_STEP_TASKS_PER_NODE='many', which says nothing of"),
    ],
)
def test_variables_that_no_launcher_sets_are_refused(alone, environment, told):
    for name, value in environment.items():
        alone.setenv(name, value)
    with pytest.raises(DiffIMLError, match=told) as refused:
        launch.start_inference("cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("beside", [{}, {"RANK": "0"}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_master_port_of_others_does_not_matter_to_one_process(beside):
    launchers.join_slurm({"MASTER_PORT": "tcp://10.0.0.1:80", **beside})


def test_a_rank_of_no_group_claims_its_folder_or_is_refused(tiny_dataset, tmp_path, alone, capsys):
    """As a script has it, of another meaning: a process that took itself for the ninth would write without a claim."""
    alone.setenv("RANK", "8")
    words = [
        "test",
        "--checkpoint_path",
        "small",
        "--test_data_path",
        str(tiny_dataset / "list.json"),
        "--device",
        "cpu",
    ]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 2
    assert "has RANK=8, but no LOCAL_RANK" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("nodes", "first"), [("n7", "n7"), ("a-[1,4]", "a-1"), ("n1,n2", "n1"), ("g[08-10]", "g08")])
def test_first_node(nodes, first):
    environment = {**SLURM, "SLURM_STEP_NODELIST": nodes}
    launchers.join_slurm(environment)
    assert environment["MASTER_ADDR"] == first
