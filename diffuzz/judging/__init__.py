"""Judging: what is asked of a target, and what a case says about it."""
