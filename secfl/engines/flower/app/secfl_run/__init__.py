"""The Flower app of `secfl run --engine flower`: all of it is in `secfl.engines.flower`."""
