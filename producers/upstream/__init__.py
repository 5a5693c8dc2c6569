"""Decoupled upstream towers: user and pin embeddings from many sources, refreshed on their own."""
