"""Conformance vectors: cases of an operation with their exact results, in files that any language can read.

arrays_file   .safetensors files, read and written here
vectors       what a file of vectors holds, and how it is laid out; see docs/vectors.md
making        a case, its exact result and what each element may be off by, from a contract
verifying     results that were computed elsewhere, held against a file
"""
