"""Independent derivatives that decide who is right."""
