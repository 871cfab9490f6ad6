"""Wrong kernels and correct ones, and who tells them apart."""
