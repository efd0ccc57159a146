"""`secfl audit`: conformance of the noise on known inputs, and lower bounds on epsilon. Neither is a proof."""
