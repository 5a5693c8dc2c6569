"""LinkSage: embeddings of the landing pages behind pins, in the space of the pins."""
