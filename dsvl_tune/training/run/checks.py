"""Checks of a run before its folder is written."""

from __future__ import annotations

import lightning as L

from dsvl_tune.core.errors import UserError
