"""Records of measurements in files, and comparisons with older records."""
