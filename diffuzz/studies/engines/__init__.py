"""The engines against each other, and against what people use instead."""
