"""Proposition 1, measured: joint actions visited against steps, by kind of bonus.

    python -m benchmarks.coverage                # run what is missing, then report
    python -m benchmarks.coverage --report-only  # report from the committed results

A matrix game of N agents with L actions has M = L**N joint actions and no payoff:
whoever learns there learns to explore. Proposition 1 of https://arxiv.org/abs/2108.12581
gives the mean steps of uniform random play to visit them all: M * H_M, above M ln M.
No team visits them in fewer than M steps.

The stacked learner. Each agent has a softmax policy of its own. After every step it
follows the entropy-regularized natural policy gradient of its expected bonus,

    logits_i <- (1 - rate * temperature) * logits_i + rate * A_i,
    A_i(k) = Q_i(k) - E_{pi_i} Q_i,    Q_i(k) = E_{a_-i ~ pi_-i} r_i(k, a_-i),

where the expectation runs over all joint actions: it is MADDPG's gradient with an exact
critic, so that what a row loses is lost by its bonus. All coefficients are
1: psi is counted in bits of the action, and RND, whose scale means nothing, in its mean
over the joint actions. The bonuses are the package's functions, the
autoencoder is its module (narrower than the paper's: the inputs are a few bits), RND is
TorchRL's loss on the joint action, and repetitions are stacked. Since the game's observation is
always 1 and its payoff 0, this learner counts joint actions and plays no environment. The rows
"networks" are ``ALITA.update`` itself, on replayed transitions of a ``MatrixGame``: actors, sampled
actions, learned critics, the package's defaults but for the coefficients, which are 1.

Why Eq. 11 cannot help here: its expected value for action k of teammate i is
-c * (1 + |pi_i|**2 - 2 * pi_i(k)), where c, the mean of exp(-omega * psi), is the same for
all k as long as psi sees agent 0 alone. So it says nothing of what is new, pays for the
likeliest action, and makes that likelier still. "in turns" lets each agent answer the
policies that the agents before it have just taken: together they then move towards one
joint action, and not each towards a half of another. "sharp" is the same learner without
turns.

Each cell (method, L, N) has a line in results.jsonl; an existing one is not run again. Their
commands are of the time when this was one script, benchmarks/coverage.py. The report writes
docs/figures/coverage.png and the part between the markers of docs/coverage.md.
"""
