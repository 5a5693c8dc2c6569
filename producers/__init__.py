"""What computes embeddings: event logs in, snapshots out."""
