"""KernelBench level 1, judged by bounds that are derived from its references."""
