import pytest

from tests.fuzz.campaign import campaign


@pytest.mark.slow
def test_random_input_is_accepted_or_refused_in_one_line():
    tally = campaign(500)
    assert tally.wrong == {}
    assert tally.tried >= 500
    assert tally.clear["0"] > 10  # hypothesis also draws from the constants of modules that are loaded
    assert tally.clear["2"] > 200
