"""Cost at scale: a roofline model, published figures, and what is measured."""
