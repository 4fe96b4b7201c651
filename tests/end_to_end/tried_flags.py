"""XLA_FLAGS of the tests, tried once in the server that children come from: each would start a process to try them."""

import os

from fjt.training import placement

placement._check_flags(os.environ.get("XLA_FLAGS", ""))
