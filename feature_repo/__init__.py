"""The feature repo that ships with provender: copy it, or let `provender demo` lay it out."""
