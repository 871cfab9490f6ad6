"""What Sphinx is told; ``build.py`` beside it lays out the pages and calls it."""

import re

from sphinx.application import Sphinx

import diffuzz

project = "diffuzz"
author = "the authors of diffuzz"
copyright = author
version = release = diffuzz.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]

html_theme = "furo"
root_doc = "README"
html_title = f"diffuzz {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
# Anchors as GitHub makes them of headings, so that a link is right in both places; a wrong one is an error.
myst_heading_anchors = 4
# "--fix" stays as it is typed.
smartquotes = False
# Only what is typed, and not the prompt and what is printed.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
add_module_names = False

# A line of the columns that docstrings have: a name, at least two spaces, and what it is.
COLUMNS = re.compile(r"(\S+(?: \S+)*) {2,}(\S.*)")


def as_written(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Columns of a docstring as definitions, and its indented lines, which are code or formulas, literally."""
    written, column, literal = [], False, False
    if what == "property":
        # Else napoleon takes what comes before a colon in the first line for its type.
        lines.insert(0, "")
    for before, line in zip(["", *lines], lines, strict=False):
        columns = COLUMNS.fullmatch(line)
        indented = line.startswith("    ")
        if columns and not literal:
            # A term that holds commas or brackets is still one term.
            written += [f"``{columns[1]}``", f"    {columns[2]}"]
            column = True
        elif column and indented:
            written.append(f"    {line.strip()}")
        else:
            if indented and not before.strip() and not literal:
                written += ["::", ""]
                literal = True
            elif line.strip() and not indented:
                literal = column = False
            written.append(line)
    lines[:] = written


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    # Before napoleon's.
    app.connect("autodoc-process-docstring", as_written, priority=400)
