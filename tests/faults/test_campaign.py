"""Short form of `python -m tests.faults`: one kill of each kind, except nodes."""

import pytest

from tests.faults.campaign import Campaign

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_one_of_each_kind_is_killed_and_the_run_goes_on(tmp_path):
    campaign = Campaign(tmp_path)
    campaign.start()
    try:
        campaign.wait(lambda: campaign.frames() > 0, "the first frames")
        for kind in campaign.plan(0):
            campaign.kill(kind)
        assert campaign.stop() == 130
        assert campaign.leaks() == []
    finally:
        campaign.driver.kill()
    print(campaign.report())
