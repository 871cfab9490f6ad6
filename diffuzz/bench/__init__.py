"""Benchmarks of diffuzz itself: which bugs it kills, and how its search compares with others."""
