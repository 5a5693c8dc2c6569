"""What embeddings are worth to a ranker, and by which way of using them."""
