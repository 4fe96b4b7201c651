"""From the records of runs to a report: cells, intervals and tests, figures, and the document.

Enters: code that reads records only; it never trains. The same records give the same report, byte for byte.
Open first: `gather.py` (what is read), then `cells.py` and `document.py`.
"""
