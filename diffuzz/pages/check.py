"""The page of ``diffuzz check``."""

from __future__ import annotations

from diffuzz.pages import checked
from diffuzz.pages.document import Data, document, ending, heading, section, sentence
from diffuzz.pages.markup import Child, Markup, element

_KIND = "diffuzz check: every step of a run, recomputed from the run’s own inputs"


def page(data: Data, command: str) -> str:
    """The text of the file, of the object that ``check --json`` prints; ``command`` makes it again."""
    words, tone = checked.verdict_of(data)
    facts: list[tuple[str, Child]] = [
        ("model", f"{data['model']['file']} ({data['model']['architecture']})"),
        *checked.run_facts(data),
        ("tokens", str(len(data["tokens"]))),
    ]
    if data["unknown"]:
        facts.append(("ignored", f"{', '.join(data['unknown'])}: names that are not understood"))
    answer = data["answer"].partition(": ")[2]
    return document(
        f"diffuzz check: {answer}",
        heading(
            _KIND,
            sentence(answer),
            words,
            tone,
            facts,
        ),
        section("What is off", checked.culprits(data, data["texts"])) if data["culprits"] else None,
        section("Every step beside its bound", checked.steps(data)),
        section("Arithmetic, as it was found", checked.arithmetics({"": data["policies"]})),
        section("Tokens", _tokens(data)),
        ending(command, "diffuzz-check.json", data),
    )


def _tokens(data: Data) -> Markup:
    """All tokens in a row; those in which a step is off stand out."""
    off = {token for each in data["culprits"] for token in each["tokens"]}
    texts = data["texts"] or [str(token) for token in data["tokens"]]
    return element(
        "ul",
        [
            element("li", element("small", str(place)), text, class_="bad" if place in off else None,
                    title=f"token {token}{', a step is off here' if place in off else ''}")
            for place, (token, text) in enumerate(zip(data["tokens"], texts, strict=True))
        ],
        class_="chips",
    )  # fmt: skip
