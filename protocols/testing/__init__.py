"""What tests of protocols need: a network in memory, schedules of drops, deterministic randomness, malformed messages.

Nothing here is fit for anything but tests: the randomness is predictable and `plain` keeps no secret.
"""
