"""Figure 4(b, c): the agent's heads on one suite by equal frames, and each level on its own (section 6.1).

Every head is trained from several seeds as separate runs of `impala-mi train`, and scored over complete episodes by
`impala-mi eval`. Interference between levels is measured separately, by agents of one level each with the shared
head. They see as many frames of their level as the shared head's run with that seed. The paper has no such agents;
it takes the gain of one head per task as the sign of interference.
"""
