"""Puts this directory on the import path, for what the tests of several packages share (`small_study`)."""
