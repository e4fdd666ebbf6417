"""Transformers whose tokens are Gaussian mixtures: learned inference from beliefs and data to posterior beliefs.

The package will hold the Distribution Transformer and what belongs to it: tokens for priors and observations, training
on simulated joint draws, and a streaming method that answers the same protocol as the filters. Nothing is in it yet.
It may import `probinf` and `smc`, and never `continual`.
"""
