"""The page of ``diffuzz search``, and of an entry of a corpus."""

from __future__ import annotations

from diffuzz.pages import found
from diffuzz.pages.document import Data, document, footer, heading

_KIND = "diffuzz search: the largest value of a question, and the case that has it"
_ENTRY = "diffuzz: an entry of a corpus, measured again"


def page(data: Data) -> str:
    """The text of the file, of the object that ``search --json`` prints with what is drawn of the case (see
    diffuzz.pages.found), or of an entry.
    """
    answer = found.answer_of(data)
    kind = _ENTRY if data.get("entry") and not data.get("history") else _KIND
    title = answer if found.kind_of(data) != "claim" else f"Claim: {answer}"
    return document(
        f"diffuzz: {answer}",
        heading(kind, title, *found.verdict_of(data), found.facts(data)),
        found.parts(data),
        footer("diffuzz-search.json", data),
    )
