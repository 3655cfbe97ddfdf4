"""Plans on paper: what training on many devices and sweeps of many models would cost, from rates of one device."""
