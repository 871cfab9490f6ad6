"""The graph of a function of torch tensors, and the rules for its operations."""
