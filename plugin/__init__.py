"""The part of provender that plugs into Feast: contracts, embedding views, stores, command line."""
