"""Where the checkout is: examples, documents and the product's own files lie there."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
