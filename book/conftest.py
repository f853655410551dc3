"""Chapters are checked in their short form, with or without a GPU."""

import os

os.environ["WNLIB_QUICK"] = "1"
