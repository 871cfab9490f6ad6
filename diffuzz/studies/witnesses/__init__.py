"""The sizes of minimised cases, beside those that others make."""
