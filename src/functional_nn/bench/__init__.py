"""What a program costs, how near that is to what the device can do, and what makes it slow."""
