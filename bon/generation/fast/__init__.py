"""The same tokens faster: steps of a fixed shape, CUDA graphs, compiled steps, packed weights, fewer kernels."""
