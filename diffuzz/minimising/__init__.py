"""Minimising: a simpler case that shows the same."""
