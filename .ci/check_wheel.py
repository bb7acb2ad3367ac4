"""Build a wheel from a fresh clone and use it elsewhere: it must hold every module and YAML, and run.

The folder that it runs in has an `envs` and an `actors` of its own, which must not matter.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, cwd: Path, **env: str) -> str:
    """Standard output; ends the script where the command fails."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Exit with a message where anything is missing."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run("git", "clone", "--quiet", str(ROOT), "clone", cwd=work)
        clone = work / "clone"
        for link in ("actors", "learner", "envs", "configs"):
            assert (clone / link).is_symlink(), f"{link} is not a link"
            assert (clone / link).is_dir(), f"{link} does not lead to a folder"
        pinned = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
        run(sys.executable, "-m", "build", "--wheel", "--outdir", str(work), cwd=clone, **pinned)
        wheel = next(work.glob("*.whl"))
        tracked = run("git", "ls-files", "impala_mi", cwd=clone).split()
        with zipfile.ZipFile(wheel) as archive:
            packed = set(archive.namelist())
        missing = [f for f in tracked if f not in packed]
        alien = [f for f in packed if not f.startswith(("impala_mi/", "impala_mi-"))]
        assert not missing, f"the wheel lacks {missing}"
        assert not alien, f"the wheel also installs {alien}"

        site, user = work / "site", work / "user"
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(site),
            str(wheel),
            cwd=work,
        )
        user.mkdir()
        for name in ("envs", "actors", "learner", "configs"):
            (user / name).mkdir()
            (user / name / "__init__.py").write_text("raise RuntimeError('the wrong package was imported')\n")
        python = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": ""}
        where = run(sys.executable, "-c", "import impala_mi; print(impala_mi.__file__)", cwd=user, **python)
        assert str(site) in where, f"not the wheel: {where}"
        out = run(
            sys.executable, "-m", "impala_mi", "train", "cartpole", "run.name=x", "train.env_frames=2000",
            cwd=user, **python,
        )  # fmt: skip
        assert "done after" in out, out
        assert (user / "runs" / "x" / "metrics.jsonl").read_text(), "no metrics were written"
    print(f"the wheel holds all {len(tracked)} files and trains beside a user's own envs and actors")


if __name__ == "__main__":
    main()
