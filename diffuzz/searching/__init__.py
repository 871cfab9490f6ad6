"""Searching: the largest value of a problem."""
