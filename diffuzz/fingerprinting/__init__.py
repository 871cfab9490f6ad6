"""Fingerprinting: the arithmetic of a black box, recovered from its results.

tree           which number is added to which
masks          from results to a tree
sums           sums in NumPy in any tree and precision, to the bit
words          a tree in one line
box            an implementation, of which nothing is known but its results
reading        how summands are chosen, and their sum read, for each operation
measuring      tree, significands, fused products, rounding, subnormal numbers
finishing      what an operation makes of a sum
exponentials   which exp it is
blocks         products of quantised weights: lanes, blocks, the quantiser of activations
verifying      a simulation of what was recovered against the box, on random inputs
fingerprint    all of these
differing      in what two fingerprints differ
sharpness      how much sharper the bound of an order is than that of any
"""
