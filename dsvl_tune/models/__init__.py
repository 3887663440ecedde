"""Weights and modules. Nothing in this package knows a row of data."""

import logging

# peft imports bitsandbytes if it is installed, which warns about a missing inference kernel:
# that kernel would not be used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
