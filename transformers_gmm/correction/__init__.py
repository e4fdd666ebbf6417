"""From a mixture that is nearly right to answers that are: weights, tempering, Markov chains, and when to use them."""
