"""Tests of models that `localize` cuts into blocks; a package, so that they share `models`."""
