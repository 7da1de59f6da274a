"""Figure 1 of the paper, redone with an exact truth: how far the estimates of F are off.

    python -m benchmarks.influence_bias                    # make what is missing, then report
    python -m benchmarks.influence_bias --parts spread_full --seeds 0 1
    python -m benchmarks.influence_bias --report-only      # report from the committed results

Part "games": random Markov games, where F is known exactly. Part "spread": cooperative navigation
with N=6, where the truth is a Monte Carlo one: environments restarted from the states of the replay
buffer. In both, the policies learn by MADDPG and every estimator is trained beside it on the same
data, without a trace in the learner. docs/influence.md says what the rows are and what came out.

The truth is F of the same policies on the states of the batch. At the next state, Eq. 7, it takes
s' as the influencer's and the others' policies lead there, while the estimate reads s' from the
buffer, where older and exploring actions led: that difference is the part "off_policy".

Each run has a line in results.jsonl when it has finished, the costs of an update another. Their
commands are of the time when this was one script, benchmarks/influence_bias.py.

Source: Fig. 1 and Sec. 3.1 of https://arxiv.org/abs/2108.12581.
"""
