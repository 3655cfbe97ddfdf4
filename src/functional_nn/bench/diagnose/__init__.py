"""Reasons why a program is slow."""
