"""Runs that survive interruptions, crashes and non-finite values."""
