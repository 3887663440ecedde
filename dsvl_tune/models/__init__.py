"""Weights and modules. Nothing in this room knows a row of data."""

import logging

# Where bitsandbytes is installed peft imports it, and it warns that a faster kernel for inference was not downloaded;
# that kernel would not be used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
