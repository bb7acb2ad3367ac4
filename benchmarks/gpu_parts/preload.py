"""Imports that every part needs, done once by the process from which the parts are forked.

Nothing here may start CUDA: a process forked after that cannot use the GPU.
"""

import torch  # noqa: F401

import impala_mi.bench.parts
import impala_mi.learner.update  # noqa: F401
