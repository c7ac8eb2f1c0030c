"""Policies and rewards: from a configuration to models on a device."""
