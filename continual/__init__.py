"""Learning that goes on while data arrive: predictive-coding networks and Bayesian learners that must not forget.

The package will hold hierarchical Gaussian filters, predictive-coding networks and continual learners, each a method of
the same streaming protocol as the filters, with a row or task index as time where there is no clock. Nothing is in it
yet. It may import `probinf` and `smc`, and never `transformers_gmm`.
"""
