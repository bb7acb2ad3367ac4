"""When a head pays: heads of the agent on tasks that contradict each other by a chosen degree.

The suite `interference` is played with every head, number of tasks and share of contradiction, from several seeds.
Each run is one part of the study: one process, the actors and the learner in turns, the same network, loss and
optimiser as `impala-mi train`. The paper has no such experiment; it explains the gain of multiplicative heads by
interference between tasks (section 6.1), and this study sets its strength.
"""
