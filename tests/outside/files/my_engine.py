"""Rows of two numbers: one everywhere, another at one place."""

import numpy as np

from diffuzz.cases.draws import uniform


def rounds(objective, rng):
    while True:
        batch = uniform(objective.space, rng, objective.rows)
        for spec in objective.space.of_kind("activations", "logits"):
            array = batch[spec.name].reshape(objective.rows, -1)
            place = np.arange(array.shape[1]) == rng.integers(0, array.shape[1], (objective.rows, 1))
            array[:] = np.where(place, array[:, :1], array[:, 1:2])
        objective.evaluate(batch)
        yield
