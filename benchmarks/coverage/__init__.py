"""Proposition 1, measured: joint actions visited against steps, by kind of bonus.

    python -m benchmarks.coverage                # run what is missing, then report
    python -m benchmarks.coverage --report-only  # report from the committed results

A matrix game of N agents with L actions has M = L**N joint actions and no payoff. Uniform random
play visits them all in M * H_M steps on average (https://arxiv.org/abs/2108.12581). docs/coverage.md
says what came out.

The stacked learner counts joint actions and plays no environment. After every step each agent
follows the entropy-regularized natural policy gradient of its expected bonus,

    logits_i <- (1 - rate * temperature) * logits_i + rate * A_i,
    A_i(k) = Q_i(k) - E_{pi_i} Q_i,    Q_i(k) = E_{a_-i ~ pi_-i} r_i(k, a_-i),

over all joint actions: MADDPG's gradient with an exact critic. All coefficients are 1; RND, whose
scale means nothing, is counted in its mean over the joint actions. Bonuses and autoencoder are the
package's, RND is TorchRL's, and repetitions are stacked. The rows "networks" are ``ALITA.update``
on replayed transitions of a ``MatrixGame``, with its defaults but for the coefficients.

Eq. 11's expected value for action k of teammate i is -c * (1 + |pi_i|**2 - 2 * pi_i(k)), where c,
the mean of exp(-omega * psi), is the same for all k as long as psi sees agent 0 alone: it pays for
the likeliest action. "in turns" lets each agent answer the policies that the agents before it have
just taken; "sharp" is the same learner without turns.

Each cell (method, L, N) has a line in results.jsonl. Their commands are of the time when this was
one script, benchmarks/coverage.py.
"""
