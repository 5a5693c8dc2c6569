"""What uses embeddings: training joins, online fetch, attention head, rankers."""
