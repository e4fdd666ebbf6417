"""Particle inference for black boxes: an opaque generator proposes, an opaque judge scores."""
