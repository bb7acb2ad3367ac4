"""Limits of control groups, read from trees of files like those of the kernel."""

import pytest

from impala_mi.host import cgroups, threads

V2 = "30 24 0:26 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
CPU = "33 32 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "34 32 0:30 {mounted} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
GIB = 2**30


def tree(root, own, mounts, files):
    """A file system whose process is in the groups `own`, with mounts of groups and files in them."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text("".join(line + "\n" for line in own))
    (proc / "mountinfo").write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n" + "".join(m + "\n" for m in mounts)
    )
    for name, content in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"a/b/cpu.max": "150000 100000"}, 1.5),
        ({"a/b/cpu.max": "max 100000"}, None),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"}, 0.5),  # the parent's holds too
        ({"a/other/cpu.max": "50000 100000"}, None),
        ({"a/b/cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_quotas_of_version_2(tmp_path, files, quota):
    root = tree(tmp_path, ["0::/a/b"], [V2.format(mounted="/")], files)
    assert cgroups.cpu_quota(root) == quota


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"a/b/memory.max": str(GIB)}, GIB),
        ({"a/b/memory.max": "max"}, None),
        ({"memory.max": str(GIB), "a/b/memory.max": str(2 * GIB)}, GIB),
    ],
)
def test_limits_of_memory_of_version_2(tmp_path, files, limit):
    root = tree(tmp_path, ["0::/a/b"], [V2.format(mounted="/")], files)
    assert cgroups.memory_limit(root) == limit


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"a/b/memory.max": str(4 * GIB), "a/b/memory.current": str(3 * GIB)}, GIB),
        ({"a/memory.max": str(8 * GIB), "a/memory.current": str(6 * GIB), "a/b/memory.max": str(4 * GIB),
          "a/b/memory.current": str(GIB)}, 2 * GIB),  # other groups fill the parent
        ({"a/b/memory.max": "max", "a/b/memory.current": str(GIB)}, None),
        ({"a/b/memory.max": str(GIB)}, GIB),
    ],
)  # fmt: skip
def test_free_memory_is_what_the_tightest_group_leaves(tmp_path, files, free):
    root = tree(tmp_path, ["0::/a/b"], [V2.format(mounted="/")], files)
    assert cgroups.memory_free(root) == free


def test_version_1_has_a_tree_for_each_controller(tmp_path):
    own = ["4:memory:/m", "1:cpu,cpuacct:/job", "0::/"]
    files = {
        "cpu,cpuacct/job/cpu.cfs_quota_us": "250000",
        "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/m/cpu.cfs_quota_us": "1",
        "memory/m/memory.limit_in_bytes": str(3 * GIB),
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    root = tree(tmp_path, own, [CPU.format(mounted="/"), MEMORY.format(mounted="/")], files)
    assert cgroups.cpu_quota(root) == 2.5
    assert cgroups.memory_limit(root) == 3 * GIB


@pytest.mark.parametrize("quota", ["-1", "0"])
def test_version_1_without_a_limit(tmp_path, quota):
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": quota,
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    mounts = [CPU.format(mounted="/"), MEMORY.format(mounted="/")]
    root = tree(tmp_path, ["4:memory:/", "1:cpu,cpuacct:/"], mounts, files)
    assert cgroups.cpu_quota(root) is None
    assert cgroups.memory_limit(root) is None


@pytest.mark.parametrize("mounted", ["/docker/123", "/"])
def test_a_container_that_sees_its_own_group_as_the_top(tmp_path, mounted):
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    root = tree(tmp_path, ["1:cpu,cpuacct:/docker/123"], [CPU.format(mounted=mounted)], files)
    assert cgroups.cpu_quota(root) == 0.5


def test_a_system_without_control_groups(tmp_path):
    assert cgroups.cpu_quota(tmp_path) is None
    assert cgroups.memory_limit(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 16), (0.5, 1), (2.0, 2), (2.5, 3), (64.0, 16)])
def test_cores_are_those_of_the_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(16)))
    assert threads.cores() == cores
    assert threads.default_threads() == max(1, min(8, cores // 2))


@pytest.mark.parametrize(("limit", "usable"), [(None, 8 * GIB), (GIB, GIB), (16 * GIB, 8 * GIB)])
def test_memory_is_the_smaller_limit(monkeypatch, limit, usable):
    monkeypatch.setattr(cgroups, "memory_limit", lambda: limit)
    monkeypatch.setattr(cgroups.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 8 * GIB}))
    assert cgroups.memory_bytes() == usable
