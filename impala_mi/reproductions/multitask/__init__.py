"""Figure 4(b, c): the agent's heads on one suite by equal frames, and what each level gets alone (section 6.1).

Every head is trained from several seeds as separate runs of `impala-mi train`, and scored over complete episodes by
`impala-mi eval`. How much the levels stand in each other's way is measured apart: by agents of one level each, with
the shared head, that see as many frames of it as the shared head's run of that seed had. The paper has no such
agents; it takes the gain of one head per task as the sign of interference.
"""
