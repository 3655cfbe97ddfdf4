"""Counting and timing what a program does."""
