"""Cached pools of candidates, and the engines that draw them."""
