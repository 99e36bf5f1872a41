"""Order, and the outside world."""
