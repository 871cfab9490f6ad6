"""Pages: one HTML file that says what a command found, to be sent to a colleague.

A page is made of the object that the command prints with ``--json``, and of nothing else:

    pages.check.page(check_json(...), "python -m diffuzz check --model ...")      the text of the file

It needs no network, no script and no font, is as wide as the screen, and has its own tables of the numbers behind each
picture. Whatever comes from outside is a string, and strings are escaped where they become markup: see
diffuzz.pages.markup. The object of a search, or of an entry, also has what is drawn of its case (see
diffuzz.cli.drawn_json).

    markup      elements, and the one place where text is escaped
    document    the frame of a page, and the parts that all pages are made of
    figures     numbers as a page writes them; scales and steps of colour
    charts/     one file for each kind of picture
    checked     what a check found: culprits, steps, arithmetics
    found       what a search found, or an entry has
    witness     its case drawn, and where in the result the error sits
    check, trace, search, matrix, claims    a page for each command
    index       several results, with filters
"""
