from hypothesis import given
from hypothesis import strategies as st

from impala_mi.envs.seeds import EpisodeSeeds


@given(st.integers(0, 2**31 - 1), st.integers(1, 9), st.integers(1, 40))
def test_every_arrangement_of_environments_takes_the_same_list_of_seeds(root, stride, length):
    """The list has no seed twice, so no episode is played twice in a run."""
    listed = EpisodeSeeds([root], "a_level")
    expected = [listed.take() for _ in range(stride * length)]
    assignment = [EpisodeSeeds([root], "a_level", first, stride) for first in range(stride)]
    assert [seeds.take() for _ in range(length) for seeds in assignment] == expected
    assert len(set(expected)) == len(expected)
    assert all(0 <= seed < 2**31 for seed in expected)
    other = EpisodeSeeds([root], "another_level")
    assert [other.take() for _ in expected] != expected
