"""The operations of forward passes, one file each: what they compute in each known arithmetic, and its error bound.

An error bound counts roundings: u = 2^-24 is the unit roundoff of float32, gamma_n = n u / (1 - n u), and a sum of n
products in any order, with or without fused multiply-adds, is off by at most gamma_n sum |products| (Higham, Accuracy
and Stability, section 3.1). Functions have the budgets of diffuzz.analysis.arithmetic.
"""
