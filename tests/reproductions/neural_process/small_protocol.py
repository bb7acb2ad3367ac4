"""A protocol of eight steps."""

from impala_mi.reproductions.neural_process.decoder_training import NeuralProcessProtocol

SMALL = NeuralProcessProtocol(
    networks=2, steps=8, every=4, learning_rate=1e-4, draws=5, samples=3, curve_draws=2, curve_samples=2
)
