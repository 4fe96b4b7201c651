"""The pure step and the loop around it: optimizer, hyper-parameters as data, lanes, evaluation, checkpoints, devices.

Enters: functions of arrays (`step optim hyper lanes`) and the host code that calls them (`loop stop evaluate checkpoint
placement`, and `protocols`: what the loop asks of others). Nothing here knows a config file or a work directory.
Open first: `step.py`, then `loop.py`.
"""
