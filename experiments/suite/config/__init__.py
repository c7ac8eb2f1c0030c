"""Every configuration key and its rules."""
