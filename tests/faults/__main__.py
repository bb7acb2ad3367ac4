"""python -m tests.faults [FAULTS [FOLDER [SEED]]]: a hundred random faults on a Ray cluster of three nodes."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from tests.faults.campaign import Campaign

UNDISTURBED = 3
"""Undisturbed runs, each with a seed of its own, that the disturbed run is compared with."""


def main() -> None:
    """Make faults until Ctrl-C, report, compare with undisturbed runs; exits with 1 if anything is left behind."""
    faults = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="faults-")).resolve()
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    shared = set(os.listdir("/dev/shm"))
    campaign = Campaign(folder, seed, nodes_wanted=2)
    try:
        campaign.start()
        campaign.wait(lambda: campaign.frames() > 0, "the first frames")
        with contextlib.suppress(KeyboardInterrupt):  # ends the campaign early
            for number, kind in enumerate(campaign.plan(faults), 1):
                print(f"{number:4} {kind:12}", end="", flush=True)
                campaign.hit(kind)
                print(f" {campaign.deaths[-1].recovered_s:6.1f} s", flush=True)
        campaign.wait(campaign.whole, "all actors and ranks")
        code = campaign.stop()
        frames, leaks = campaign.frames(), campaign.leaks()
    finally:
        campaign.close()
    leaks += [f"shared memory {name}" for name in set(os.listdir("/dev/shm")) - shared]
    print(campaign.report())
    print(f"exit code {code}, {frames:,} frames; left behind: {leaks or 'nothing'}")
    print(f"nodes that Ray ended by itself: {campaign.nodes_ended}")
    runs = {"disturbed": campaign.run}
    for other in range(1, UNDISTURBED + 1):
        runs[f"undisturbed, seed {other}"] = campaign.undisturbed(frames, other)
    for name, run in runs.items():
        score, low, high = campaign.score(run)
        first = ", ".join(f"{m} at {at:,}" for m, at in campaign.milestones(run).items() if at is not None)
        print(f"{name}: {score:.1f} ({low:.1f} to {high:.1f}); score {first} frames")
    sys.exit(bool(leaks) or code != 130)


if __name__ == "__main__":
    main()
