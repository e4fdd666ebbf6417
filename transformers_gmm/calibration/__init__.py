"""Whether answers are calibrated, and how far they are from the exact ones."""
