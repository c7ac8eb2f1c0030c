"""The studies behind the README: what each draws, and how its numbers come from what it has stored."""
