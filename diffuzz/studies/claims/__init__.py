"""The published claims: reproduced, searched and judged."""
