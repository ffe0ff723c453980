import psutil
import pytest

from diffiml_plugin.prediction import memory


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/job/step", {"job/step/memory.max": "max", "job/memory.max": "3000", "memory.max": "4000"}, 3000),
        ("0::/", {"memory.max": "2000"}, 2000),  # as a container sees it
        ("4:memory:/docker/x\n0::/", {"memory/memory.limit_in_bytes": "5000"}, 5000),  # the host's name for it
        ("0::/", {}, None),
        (None, {}, None),  # no Linux
    ],
)
def test_what_a_container_or_a_job_is_held_to_is_all_there_is(tmp_path, monkeypatch, groups, limits, expected):
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / path.lstrip("/"))
    for name, limit in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    if groups:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(f"{groups}\n")
    assert memory.host_memory() == (expected or psutil.virtual_memory().total)
