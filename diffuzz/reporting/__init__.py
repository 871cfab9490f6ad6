"""Reports for CI: what commands found, as SARIF, as annotations of GitHub, and as a summary in Markdown.

A report is made of the objects that commands print with ``--json``, and of nothing else: so a job can search now, keep
the lines in a file, and report all of them at its end.

    finding         Finding, Place: one thing that was examined, how bad it is, and where
    reading         from the objects of search, replay and check to findings
    sarif           a log in SARIF 2.1.0, for code scanning
    annotations     workflow commands of GitHub, which it shows beside the lines of a change
    summary         Markdown, for the page of a job or a comment on a pull request
"""
