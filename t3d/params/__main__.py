"""Prints the schema of an experiment file."""

import sys

from t3d.params import schema

sys.stdout.write(schema())
