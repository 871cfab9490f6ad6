"""A process of its own for code that may crash, hang, or take all memory."""
