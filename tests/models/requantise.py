"""Requantise a GGUF model by llama.cpp, as a model to check that others can make again.

    python tests/models/requantise.py SmolLM2-135M-Instruct.Q4_1.gguf SmolLM2-135M-Instruct.Q4_K_M.gguf

Of SmolLM2, in Q4_K_M, 16 ffn_down are Q4_K and the other 14 Q6_K; rows of 576 are no whole super-blocks, so they are
Q5_0 and Q8_0. The bytes are those of one version of llama.cpp, on any machine. Needs llama-cpp-python, whose structures
match its library.
"""

import ctypes
import sys

import llama_cpp


def requantise(source: str, made: str, format: str = "Q4_K_M") -> None:
    """Write the model in ``source`` to ``made`` in a mixture of llama.cpp. Raises RuntimeError where it cannot."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{format}")
    parameters.allow_requantize = True
    status = llama_cpp.llama_model_quantize(source.encode(), made.encode(), ctypes.byref(parameters))
    if status:
        raise RuntimeError(f"llama_model_quantize returns {status}")


if __name__ == "__main__":
    requantise(*sys.argv[1:])
