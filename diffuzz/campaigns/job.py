"""A job: one question of a campaign, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import attrs

from diffuzz import kernels, targets
from diffuzz.judging.question import Claim, Compare, Judge, Keep, Question
from diffuzz.targets.target import Target

# The types of what is not a text, or nothing.
_KINDS: dict[str, tuple[type, ...]] = {
    "target": (str,), "engine": (str,), "params": (tuple,), "kernels": (tuple,), "required": (bool,),
    "spelled": (bool,), "timeout": (int, float), "threshold": (int, float, type(None)),
}  # fmt: skip


class JobError(ValueError):
    """A job that is none; one line."""


@attrs.frozen
class Job:
    """One question of a target, as a user writes it: names and files are those of the command line.

    ``kernels`` are two that are compared, or the one whose property ``keeps`` is asked for. ``called`` is what messages
    and entries call the candidate, without one its own name. Of a property that is ``required`` it is a finding that it
    is not kept, and of another that it is broken.
    """

    target: str
    params: tuple[tuple[str, str], ...] = ()
    candidate: str | None = None
    called: str | None = None
    kernels: tuple[str, ...] = ()
    keeps: str | None = None
    required: bool = False
    library: str | None = None
    arrays: str | None = None
    device: str | None = None
    timeout: float = 10.0
    threshold: float | None = None
    engine: str = "auto"
    # Whether files and builds are part of the name, because another job of the plan has the same name without them.
    spelled: bool = False

    @property
    def name(self) -> str:
        """Sixteen hexadecimal digits that follow from what is asked, and not from where a build of it is or how long it
        may take.
        """
        builds = [self.candidate, list(self.kernels), self.library, self.engine] if self.spelled else []
        asked = [
            self.target,
            sorted(self.params),
            self.called or self.candidate,
            list(map(kernels.base, self.kernels)),
            self.keeps,
            self.arrays,
            self.device,
            self.threshold,
            *builds,
        ]
        return sha256(json.dumps(asked).encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """The job in words: what is asked of what."""
        settings = " ".join(f"{name}={value}" for name, value in self.params)
        who = self.called or self.candidate or " against ".join(map(kernels.unlocated, self.kernels))
        build = ""
        if self.spelled:
            said = (self.candidate if self.called else None, *self.kernels, self.library, self.engine)
            build = f"({', '.join(filter(None, said))})"
        return " ".join(filter(None, (self.target, settings, who, self.keeps, build)))

    def loaded(self) -> Target:
        """The target, after what the job names in files is made known. Raises RegistryError, UnknownNameError."""
        return targets.get(targets.load(self.target))

    def question(self) -> Question:
        """What is asked of a value. Raises QuestionError, RegistryError, HandingError."""
        if self.kernels:
            a, b = map(kernels.load, self.kernels)
            return Compare(a, b, self.library)
        if self.candidate is None:
            return Claim()
        judge = Judge(self.candidate, timeout=self.timeout, arrays=self.arrays, device=self.device)
        return judge if self.called is None else attrs.evolve(judge, name=self.called)

    def keep(self) -> Keep:
        """What is asked of a property. Raises RegistryError, HandingError."""
        if self.keeps is None:
            raise JobError(f"job {self.title}: asks for no property")
        wanted = (self.keeps,)
        if self.kernels:
            (name,) = self.kernels
            return Keep(kernels=kernels.located(kernels.load(name), self.library), properties=wanted)
        return Keep(
            self.candidate, properties=wanted, timeout=self.timeout, arrays=self.arrays, device=self.device,
            called=self.called,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Plain data, without what is as it is by default."""
        given = attrs.asdict(self, filter=lambda field, value: value != field.default)
        return given | {"params": dict(self.params)} if self.params else given

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Job:
        """Inverse of ``as_json``. Raises JobError."""
        try:
            given = dict(stored)
            given["params"] = tuple((str(name), str(value)) for name, value in given.get("params", {}).items())
            given["kernels"] = tuple(map(str, given.get("kernels", ())))
            found = cls(**given)
        except (TypeError, AttributeError) as error:
            raise JobError(f"a job is not as it is written down: {error}") from error
        for field in attrs.fields(cls):
            kinds = _KINDS.get(field.name, (str, type(None)))
            if not isinstance(getattr(found, field.name), kinds):
                raise JobError(f"a job is not as it is written down: {field.name}")
        return found
