"""Figure 1 of the paper, redone with an exact truth: how far the estimates of F are off.

    python -m benchmarks.influence_bias                    # make what is missing, then report
    python -m benchmarks.influence_bias --parts spread_full --seeds 0 1
    python -m benchmarks.influence_bias --report-only      # report from the committed results

Part "games": random Markov games, where F is known exactly. Part "spread": cooperative
navigation with N=6, where the truth is a Monte Carlo one: environments restarted from the
states of the replay buffer, as exactly as the observations tell. In both, the policies learn
by MADDPG and every estimator is trained beside it on the same data, without a trace in the
learner, so that the estimators are compared on the same policies, critics and states.

A row of the table is a source of the influenced value, what D_t it is trained on, and over
how many draws of the others' actions it is averaged:

* ``marginal_1`` is Q_i at one draw of all policies, ``marginal_all`` is averaged over all joint
  actions of the others with their probabilities. The square of a gap that holds one draw is
  on average too large by the variance of that draw.
* ``clones`` and ``centralized`` are the paper's, at one draw, on D_t; ``_uniform`` are the same
  on uniform batches, the control; ``_all`` averages them over the others' actions.

The truth is F of the same policies on the same states: those of the batch. At the next
state, Eq. 7, it takes s' as the influencer's and the others' policies lead there, while the
estimate reads s' from the buffer, where older and exploring actions led: that difference is a
part of the bias, given as "off_policy".

Each run has a line in results.jsonl when it has finished; it is not made again. The costs, measured
apart and in turns, are another line there. The commands in both are of the time when this was one
script, benchmarks/influence_bias.py. The report writes docs/figures/influence_bias.png and the
tables between the markers of docs/influence.md.

Source: Fig. 1 and Sec. 3.1 of https://arxiv.org/abs/2108.12581.
"""
