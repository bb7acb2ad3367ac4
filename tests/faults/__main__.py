"""python -m tests.faults [KILLS [FOLDER [SEED]]]: a hundred random kills on a Ray cluster of three nodes."""

import os
import sys
import tempfile
from pathlib import Path

from tests.faults.campaign import Campaign
from tests.integration.cluster import Cluster


def main() -> None:
    """Kill processes, report, compare with an undisturbed run; exits with 1 if anything is left behind."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="faults-")).resolve()
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    shared = set(os.listdir("/dev/shm"))
    cluster = Cluster(head_cpus=1, env={"TMPDIR": str(folder / "tmp")})
    try:
        campaign = Campaign(folder, seed, cluster)
        campaign.nodes = [cluster.add_node(4), cluster.add_node(4)]
        campaign.start()
        campaign.wait(lambda: campaign.frames() > 0, "the first frames")
        for number, kind in enumerate(campaign.plan(kills), 1):
            campaign.kill(kind)
            print(f"{number:4} {kind:12} {campaign.deaths[-1].recovered_s:6.1f} s", flush=True)
        frames, code = campaign.frames(), campaign.stop()
        leaks = campaign.leaks()
    finally:
        cluster.close()
    leaks += [f"shared memory {name}" for name in set(os.listdir("/dev/shm")) - shared]
    print(campaign.report())
    print(f"exit code {code}, {frames:,} frames; left behind: {leaks or 'nothing'}")
    print("score {:.1f} ({:.1f} to {:.1f})".format(*campaign.score(campaign.run)))
    print("undisturbed {:.1f} ({:.1f} to {:.1f})".format(*campaign.score(campaign.undisturbed(frames, 1))))
    sys.exit(bool(leaks) or code != 130)


if __name__ == "__main__":
    main()
