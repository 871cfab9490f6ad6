"""The rows about a model. Those with a published name stand where it is in the table; the others follow at its end.

A variant asks the claim of a row about every block there is, about an activation that is carried on, or in another
measure.
"""

from __future__ import annotations

from diffuzz.studies.claims import acceptance, blocks, carried, decomposition
from diffuzz.studies.claims.row import Row

ROWS = (
    Row(
        "FFN-GGUF-014", "a real weight block amplifies by more than 5x", "5.56x: PARTIAL",
        from_model=blocks.first_of_layer,
    ),
    Row(
        "FFN-GGUF-014", "the same of every block of that layer's ffn_down", "not looked at",
        from_model=blocks.all_of_layer, variant=True,
    ),
    Row(
        "FFN-GGUF-014", "the same of every block of the model", "not looked at",
        from_model=blocks.all_of_model, variant=True,
    ),
    Row(
        "FFN-GGUF-014", "the same, relative to ||w||_1 max|x|", "not looked at",
        from_model=blocks.normalised, variant=True,
    ),
    Row(
        "FFN-GGUF-016", "some layer of the first 5 drifts by more than 5 x 0.077 %", "0.029 % to 0.780 %",
        from_model=lambda subject: blocks.first_of_layers(subject, 5),
    ),
    Row(
        "FFN-GGUF-016", "the same of every block of ffn_down of these layers", "not looked at",
        from_model=lambda subject: blocks.all_of_layers(subject, 5), variant=True,
    ),
    Row(
        "FFN-GGUF-017", "some layer of 28 drifts by more than 5 x 0.077 %", "0.030 % to 442 %",
        from_model=lambda subject: blocks.first_of_layers(subject, 28),
    ),
    Row(
        "FFN-GGUF-017", "the same of every block of ffn_down of these layers", "not looked at",
        from_model=lambda subject: blocks.all_of_layers(subject, 28), variant=True,
    ),
    Row(
        "FFN-GGUF-017", "a chain of all layers that carries its activation amplifies by more than 5x", "not looked at",
        from_model=carried.through_blocks, variant=True,
    ),
    Row(
        "FFN-GGUF-017", "the layers of the model, with all they carry, amplify by more than 5x", "not looked at",
        from_model=carried.through_model, variant=True,
    ),
    Row(
        "decomposition", "without a chosen factor the product misses the drift by more than 1.1x",
        "0.077 % x 5.70 x 50 x 5.56 x 14 = 1715 %, 14 chosen",
        from_model=decomposition.product, threshold=decomposition.CLOSES,
    ),
    Row(
        "decomposition", "shares by telescoping miss the drift by more than 1e-6", "not looked at",
        from_model=decomposition.telescoped, threshold=decomposition.ADDS_UP, variant=True,
    ),
    Row(
        "option A", "the GGUF path misses the cosine of 0.9999 against itself: last token", "cosine >= 0.9999 expected",
        from_model=acceptance.cosine_of_last, threshold=1 - acceptance.COSINE,
    ),
    Row(
        "option A", "the same of the worst token", "not looked at",
        from_model=acceptance.cosine_of_worst, threshold=1 - acceptance.COSINE, variant=True,
    ),
    Row(
        "option A", "without it some layer's std-ratio is above 1.1, like for like", "1.2154x before, 1.2452x after",
        from_model=acceptance.like_for_like, threshold=acceptance.WITHIN, variant=True,
    ),
    Row(
        "pooling", "in one run the std of all tokens is above 18.23x that of the last one", "18.23x between two runs",
        from_model=acceptance.pooled, threshold=acceptance.PUBLISHED_RATIO,
    ),
)  # fmt: skip
