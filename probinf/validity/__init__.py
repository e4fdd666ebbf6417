"""The executable validity suite: claims of transformations and kernels, checked exactly or at a stated error rate."""
