"""The parts of `tests.benchmarks.accelerator`: what a GPU or a TPU must show.

Open `plan.py` first: it lists the cases.

`plan.py`, `store.py` and `tables.py` need neither JAX nor a device.  A part is a module with a function `run(options,
context)`, which returns the row of a case; it is imported in the process that runs the case.
"""
