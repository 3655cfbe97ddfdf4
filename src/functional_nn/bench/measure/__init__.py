"""Measurements: compile time, run time, memory, and the peak speed of the device."""
