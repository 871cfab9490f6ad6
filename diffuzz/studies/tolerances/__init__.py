"""How sharp the derived bounds are, and what tables of tolerances make of the same cases."""
