"""Which cases are worth a place in a file of vectors, and how much such files see."""
