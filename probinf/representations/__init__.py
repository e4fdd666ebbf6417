"""Data that stands for a measure: mixtures, populations, beliefs."""
