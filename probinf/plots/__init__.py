"""Pictures: arrays and optional axes in, axes out."""
