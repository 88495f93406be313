"""Images by source, and episodes drawn from them."""
