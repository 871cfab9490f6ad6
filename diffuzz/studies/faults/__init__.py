"""Faults planted in forward passes, and who names them: ``diffuzz check`` and what is used elsewhere."""
