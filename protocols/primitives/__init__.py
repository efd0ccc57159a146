"""Cryptographic and arithmetic building blocks, one algorithm a file; no protocol, no state of a session."""
