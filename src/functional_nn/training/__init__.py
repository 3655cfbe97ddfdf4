"""Training: state, step, epoch and whole run as pure functions, and the host's loop around them."""
