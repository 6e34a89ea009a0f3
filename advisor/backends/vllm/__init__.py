"""vLLM: its options, the kernels it chooses, and its failures."""
