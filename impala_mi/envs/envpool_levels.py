"""Levels of the suite `envpool` that have scores, and the lists of them that `env.levels` takes by name.

Random scores of MiniGrid and BabyAI are means of 1,000 episodes (`benchmarks/envpool_scores.py`). Reference scores
of BabyAI are means of 200 episodes of its own bot, which knows the whole map, in the Python package `minigrid`
(`benchmarks/babyai_scores.py`); the reward of MiniGrid is at most 1. Both scores of Procgen are those with which
Cobbe et al. (2020, appendix C) normalise returns. Both scores of Atari are those of DQN Zoo
(`dqn_zoo/atari_data.py`).
"""

from collections.abc import Mapping

from impala_mi.envs.base import Level

PROCGEN_RANGE = 10.0
"""Scaled return of the range by which Procgen's returns are normalised."""

_BABYAI = {
    "GoToRedBallGrey-v0": (0.119, 0.915),
    "GoToRedBall-v0": (0.145, 0.922),
    "GoToRedBallNoDists-v0": (0.11, 0.929),
    "GoToRedBlueBall-v0": (0.133, 0.919),
    "GoToObj-v0": (0.144, 0.928),
    "GoToObjS4-v0": (0.148, 0.857),
    "GoToObjS6-v1": (0.169, 0.913),
    "GoToLocalS5N2-v0": (0.164, 0.894),
    "GoToLocalS6N3-v0": (0.156, 0.904),
    "GoToLocalS7N4-v0": (0.167, 0.92),
    "GoToLocalS8N7-v0": (0.162, 0.931),
    "GoToLocal-v0": (0.166, 0.927),
    "GoToDoor-v0": (0.459, 0.989),
    "GoToObjDoor-v0": (0.502, 0.991),
    "OpenDoor-v0": (0.242, 0.989),
    "OpenDoorColor-v0": (0.186, 0.988),
    "OpenDoorLoc-v0": (0.304, 0.989),
    "OpenRedDoor-v0": (0.084, 0.919),
    "OpenTwoDoors-v0": (0.086, 0.983),
    "OpenRedBlueDoors-v0": (0.084, 0.983),
    "OpenDoorsOrderN2-v0": (0.196, 0.987),
    "OpenDoorsOrderN4-v0": (0.163, 0.986),
    "ActionObjDoor-v0": (0.343, 0.987),
    "PickupLoc-v0": (0.084, 0.913),
    "PickupDist-v0": (0.085, 0.903),
    "PickupAbove-v0": (0.02, 0.91),
    "PutNextLocalS5N3-v0": (0.01, 0.875),
    "PutNextLocalS6N4-v0": (0.005, 0.895),
    "PutNextLocal-v0": (0.006, 0.914),
    "PutNextS4N1-v0": (0.028, 0.946),
    "PutNextS5N1-v0": (0.008, 0.954),
    "UnlockLocal-v0": (0.011, 0.978),
    "UnlockLocalDist-v0": (0.012, 0.974),
    "UnlockPickup-v0": (0, 0.756),
    "KeyCorridorS3R1-v0": (0.019, 0.94),
    "KeyCorridorS3R2-v0": (0.002, 0.854),
    "FindObjS5-v0": (0.091, 0.946),
    "OneRoomS8-v0": (0.077, 0.919),
    "GoToObjMazeS4R2-v0": (0.117, 0.844),
    "GoToSeqS5R2-v0": (0.117, 0.916),
}
"""Random and reference score by name, without the prefix "BabyAI-"."""

_MINIGRID = {
    "Empty-Random-6x6-v0": 0.269,
    "Empty-16x16-v0": 0.043,
    "DoorKey-5x5-v0": 0.035,
    "DoorKey-6x6-v0": 0.022,
    "DoorKey-8x8-v0": 0.009,
    "DistShift1-v0": 0.01,
    "DistShift2-v0": 0.012,
    "LavaCrossingS9N1-v0": 0.006,
    "LavaCrossingS9N2-v0": 0,
    "SimpleCrossingS9N1-v0": 0.016,
    "SimpleCrossingS9N2-v0": 0.014,
    "SimpleCrossingS9N3-v0": 0.009,
    "SimpleCrossingS11N5-v0": 0.008,
    "LavaGapS5-v0": 0.038,
    "LavaGapS6-v0": 0.025,
    "LavaGapS7-v0": 0.011,
    "Fetch-5x5-N2-v0": 0.332,
    "Fetch-6x6-N2-v0": 0.299,
    "Fetch-8x8-N3-v0": 0.238,
    "FourRooms-v0": 0.02,
    "GoToDoor-5x5-v0": 0.056,
    "GoToDoor-6x6-v0": 0.026,
    "GoToDoor-8x8-v0": 0.028,
    "GoToObject-6x6-N2-v0": 0.093,
    "GoToObject-8x8-N2-v0": 0.042,
    "KeyCorridorS3R1-v0": 0.014,
    "KeyCorridorS3R2-v0": 0.003,
    "KeyCorridorS3R3-v0": 0,
    "MemoryS7-v0": 0.165,
    "MemoryS9-v0": 0.161,
    "MemoryS11-v0": 0.197,
    "MultiRoom-N2-S4-v0": 0.009,
    "PutNear-6x6-N2-v0": 0.006,
    "RedBlueDoors-6x6-v0": 0.054,
    "Unlock-v0": 0.021,
    "UnlockPickup-v0": 0.001,
}
"""Random score by name, without the prefix "MiniGrid-"."""

_PROCGEN = {
    "Bigfish": (1, 40, 0, 40),
    "Bossfight": (0.5, 13, 0.5, 13),
    "Caveflyer": (3.5, 12, 2, 13.4),
    "Chaser": (0.5, 13, 0.5, 14.2),
    "Climber": (2, 12.6, 1, 12.6),
    "Coinrun": (5, 10, 5, 10),
    "Dodgeball": (1.5, 19, 1.5, 19),
    "Fruitbot": (-1.5, 32.4, -0.5, 27.2),
    "Heist": (3.5, 10, 2, 10),
    "Jumper": (3, 10, 1, 10),
    "Leaper": (3, 10, 1.5, 10),
    "Maze": (5, 10, 4, 10),
    "Miner": (1.5, 13, 1.5, 20),
    "Ninja": (3.5, 10, 2, 10),
    "Plunder": (4.5, 30, 3, 30),
    "Starpilot": (2.5, 64, 1.5, 35),
}
"""Lowest and highest score by game, of the easy and of the hard distribution."""

_ATARI = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "Assault": (222.4, 742),
    "Asterix": (210, 8503.3),
    "Asteroids": (719.1, 47388.7),
    "Atlantis": (12850, 29028.1),
    "BankHeist": (14.2, 753.1),
    "BattleZone": (2360, 37187.5),
    "BeamRider": (363.9, 16926.5),
    "Berzerk": (123.7, 2630.4),
    "Bowling": (23.1, 160.7),
    "Boxing": (0.1, 12.1),
    "Breakout": (1.7, 30.5),
    "Centipede": (2090.9, 12017),
    "ChopperCommand": (811, 7387.8),
    "CrazyClimber": (10780.5, 35829.4),
    "Defender": (2874.5, 18688.9),
    "DemonAttack": (152.1, 1971),
    "DoubleDunk": (-18.6, -16.4),
    "Enduro": (0, 860.5),
    "FishingDerby": (-91.7, -38.7),
    "Freeway": (0, 29.6),
    "Frostbite": (65.2, 4334.7),
    "Gopher": (257.6, 2412.5),
    "Gravitar": (173, 3351.4),
    "Hero": (1027, 30826.4),
    "IceHockey": (-11.2, 0.9),
    "Jamesbond": (29, 302.8),
    "Kangaroo": (52, 3035),
    "Krull": (1598, 2665.5),
    "KungFuMaster": (258.5, 22736.3),
    "MontezumaRevenge": (0, 4753.3),
    "MsPacman": (307.3, 6951.6),
    "NameThisGame": (2292.3, 8049),
    "Phoenix": (761.4, 7242.6),
    "Pitfall": (-229.4, 6463.7),
    "Pong": (-20.7, 14.6),
    "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455),
    "Riverraid": (1338.5, 17118),
    "RoadRunner": (11.5, 7845),
    "Robotank": (2.2, 11.9),
    "Seaquest": (68.4, 42054.7),
    "Skiing": (-17098.1, -4336.9),
    "Solaris": (1236.3, 12326.7),
    "SpaceInvaders": (148, 1668.7),
    "StarGunner": (664, 10250),
    "Surround": (-10, 6.5),
    "Tennis": (-23.8, -8.3),
    "TimePilot": (3568, 5229.2),
    "Tutankham": (11.4, 167.6),
    "UpNDown": (533.4, 11693.2),
    "Venture": (0, 1187.5),
    "VideoPinball": (16256.9, 17667.9),
    "WizardOfWor": (563.5, 4756.5),
    "YarsRevenge": (3092.9, 54576.9),
    "Zaxxon": (32.5, 9173.3),
}
"""Random and human score by game."""


def _procgen(distribution: str, column: int) -> tuple[Level, ...]:
    source = f"highest return, {distribution.lower()} distribution (Cobbe et al. 2020)"
    ranges = {game: row[column : column + 2] for game, row in _PROCGEN.items()}
    return tuple(
        Level(f"{game}{distribution}-v0", low, high, source, PROCGEN_RANGE / (high - low))
        for game, (low, high) in ranges.items()
    )


_BY_LIST: Mapping[str, tuple[Level, ...]] = {
    "babyai40": tuple(
        Level(f"BabyAI-{name}", *scores, "BabyAI's bot, 200 episodes") for name, scores in _BABYAI.items()
    ),
    "minigrid36": tuple(
        Level(f"MiniGrid-{name}", score, 1.0, "bound of the reward") for name, score in _MINIGRID.items()
    ),
    "procgen16": _procgen("Easy", 0),
    "procgen16_hard": _procgen("Hard", 2),
    "atari57": tuple(
        Level(f"{name}-v5", *scores, "human, no-op starts (DQN Zoo)") for name, scores in _ATARI.items()
    ),
}
LISTS = {name: tuple(level.name for level in levels) for name, levels in _BY_LIST.items()}
"""Ids of the levels by name of the list."""
LEVELS = {level.name: level for levels in _BY_LIST.values() for level in levels}
"""Levels by id."""
