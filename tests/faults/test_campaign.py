"""Short form of `python -m tests.faults`: one fault of each of five kinds, without a cluster."""

import pytest

from impala_mi.runs import checkpoint as checkpoints
from tests.faults.campaign import Campaign
from tests.faults.kinds import KINDS

pytestmark = pytest.mark.integration
ORDER = ["inference", "learner", "environment", "actor", "checkpoint"]


@pytest.mark.slow
def test_the_run_goes_on_after_one_fault_of_each_of_five_kinds(tmp_path):
    campaign = Campaign(
        tmp_path, overrides=("env.suite=tests.games:paced_processes", "inference.workers=2", "actors.count=2")
    )
    assert set(ORDER) <= set(campaign.plan(0)) < set(KINDS)

    def events(name):
        return [event for event in campaign.lines("events.jsonl") if event["event"] == name]

    campaign.start()
    try:
        campaign.wait(lambda: campaign.frames() > 0, "the first frames")
        for kind in ORDER:
            before = campaign.frames()
            campaign.hit(kind)
            last = campaign.lines("metrics.jsonl")[-1]
            if kind == "inference":
                assert last["actors/restarts"] == 1
                assert events("actor_died") == []
                campaign.wait(lambda: len(campaign.victims("actor")) == 2, "both actors")
                campaign.wait(lambda: len(campaign.victims("inference")) == 2, "another inference worker")
            if kind == "learner":
                assert campaign.deaths[-1].frames_lost == 0, "the other rank held the newest state"
                assert events("learner_restarted")[0]["env_frames"] >= before
                assert (last["learner/restarts"], len(campaign.victims("learner"))) == (1, 2)
        frames = campaign.frames()
        assert campaign.stop() == 130
        assert campaign.leaks() == []
    finally:
        campaign.driver.kill()
    print(campaign.report())
    assert checkpoints.load(campaign.run / "checkpoints", "last").meta["env_frames"] >= frames
