"""One run: settings become a prepared experiment, programs are compiled, steps are executed, results are written.

Enters: code about a single run and its work directory. Several runs are the business of `study/`.
Open first: `prepare.py`, then `execute.py`.
"""
