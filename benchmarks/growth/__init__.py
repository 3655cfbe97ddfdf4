"""How cost grows: time, compile time and memory against the sizes of data, networks and sweeps."""
