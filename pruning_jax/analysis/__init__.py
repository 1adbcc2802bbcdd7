"""Readings of trained and pruned networks, and the statistics that decide a claim."""
