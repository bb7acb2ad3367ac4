"""What a killed run's Ray leaves behind is ended, and nothing else."""

import os
import subprocess
import sys
import time

from impala_mi.host import reaper


def sleeping(**env):
    return subprocess.Popen(["sleep", "600"], env=os.environ | env, start_new_session=True)


def test_processes_below_a_run_end_with_it_and_others_stay(tmp_path):
    folder = tmp_path / "session"
    folder.mkdir()
    (folder / "log").write_text("x")
    mine, other = sleeping(**{reaper.MARK: str(folder)}), sleeping(**{reaper.MARK: f"{folder}2"})
    held, life = os.pipe()
    process = subprocess.Popen([sys.executable, "-I", reaper.__file__, str(folder)], stdin=held)
    os.close(held)
    try:
        time.sleep(0.3)
        assert mine.poll() is None, "as long as the run lives"
        os.close(life)
        assert mine.wait(timeout=10) == -9
        assert other.poll() is None
        assert process.wait(timeout=10) == 0
        assert not folder.exists()
    finally:
        for p in (mine, other, process):
            p.kill()
            p.wait()
