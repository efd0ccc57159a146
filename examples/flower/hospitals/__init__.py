"""Four hospitals: a Flower app."""
